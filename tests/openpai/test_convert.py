"""Any v1 job becomes a v2 job that does the same, as far as v2 can."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coppice.openpai.convert import convert, parse_v1
from coppice.openpai.errors import JobFileError
from coppice.openpai.text import from_json, from_yaml
from coppice.yamlfile import to_yaml
from tests.openpai.schema import faults

SEED_JOBS = json.loads(Path(__file__).with_name("seed_jobs.json").read_text())
"""The original four jobs; only the host of their image is another."""
ROLE = {"name": "main", "taskNumber": 2, "cpuNumber": 2, "memoryMB": 8192, "gpuNumber": 1, "command": "true"}


def turned(**more: Any) -> tuple[dict[str, Any], list[str]]:
    """A small v1 job with `more`, converted; what a server would read."""
    done = convert(parse_v1({"jobName": "demo", "image": "coppice:1", "taskRoles": [ROLE], **more}, "demo"))
    job = from_yaml(to_yaml(done.job), "demo")
    assert faults(job) == []
    return job, done.notes


def with_role(**more: Any) -> dict[str, Any]:
    job, _ = turned(taskRoles=[{**ROLE, **more}])
    (role,) = job["taskRoles"].values()
    assert isinstance(role, dict)
    return role


@pytest.mark.parametrize("original", SEED_JOBS, ids=lambda job: job["jobName"])
def test_the_original_jobs(original: dict[str, Any]) -> None:
    done = convert(parse_v1(original, "seed"))
    assert faults(done.job) == []
    assert done.notes == []
    (role,) = original["taskRoles"]
    (converted,) = done.job["taskRoles"].values()
    assert done.job["name"] == original["jobName"]
    assert done.job["prerequisites"][0]["uri"] == original["image"]
    assert done.job["defaults"] == {"virtualCluster": original["virtualCluster"]}
    assert converted["instances"] == role["taskNumber"]
    assert converted["resourcePerInstance"] == {
        "cpu": role["cpuNumber"], "memoryMB": role["memoryMB"], "gpu": role["gpuNumber"],
    }  # fmt: skip
    assert converted["commands"] == [role["command"].strip()]


def test_there_are_four_of_them() -> None:
    assert len(SEED_JOBS) == 4


def test_policies_mean_what_they_meant() -> None:
    assert with_role()["completion"] == {"minFailedInstances": 1, "minSucceededInstances": -1}
    role = with_role(minFailedTaskCount=None, minSucceededTaskCount=2)
    assert role["completion"] == {"minFailedInstances": -1, "minSucceededInstances": 2}


def test_ports_whose_labels_would_be_the_same() -> None:
    ports = [{"label": "a-b"}, {"label": "a_b", "portNumber": 3}]
    job, notes = turned(taskRoles=[{**ROLE, "portList": ports}])
    assert job["taskRoles"]["main"]["resourcePerInstance"]["ports"] == {"a_b": 1, "a_b_2": 3}
    assert len(notes) == 2


def test_the_rest_of_a_role() -> None:
    ports = [{"label": "web.ui", "portNumber": 2}, {"label": "ssh", "beginAt": 22}]
    job, notes = turned(taskRoles=[{**ROLE, "shmMB": 512, "portList": ports}])
    role = job["taskRoles"]["main"]
    assert role["extraContainerOptions"] == {"shmMB": 512}
    assert role["resourcePerInstance"]["ports"] == {"web_ui": 2, "ssh": 1}
    assert notes == [
        "portList: web.ui is now web_ui, also in variables with its name",
        "portList: ssh: v2 chooses ports itself; beginAt is left out",
    ]


def test_names_that_v2_does_not_know() -> None:
    job, notes = turned(
        jobName="demo.v1~x",
        taskRoles=[{**ROLE, "name": "a.b"}, {**ROLE, "name": "a_b"}, {**ROLE, "name": "1"}],
    )
    assert job["name"] == "demo-v1-x"
    assert list(job["taskRoles"]) == ["a_b", "a_b_2", "_1"]
    assert len(notes) == 4


@pytest.mark.parametrize(("count", "retries"), [(0, None), (3, 3), (-1, 1000), (-2, 0)])
def test_retries(count: int, retries: int | None) -> None:
    job, notes = turned(retryCount=count)
    assert job.get("jobRetryCount") == retries
    assert len(notes) == (count < 0)


def test_folders() -> None:
    job, notes = turned(
        dataDir="$PAI_DEFAULT_FS_URI/data", outputDir="hdfs://nn:9000/out", codeDir="hdfs://c"
    )
    assert [(each["type"], each["uri"]) for each in job["prerequisites"][1:]] == [
        ("data", ["$PAI_DEFAULT_FS_URI/data"]), ("output", "hdfs://nn:9000/out"), ("script", "hdfs://c"),
    ]  # fmt: skip
    role = job["taskRoles"]["main"]
    assert {role[kind] for kind in ("data", "output", "script")} == {"data", "output", "script"}
    assert role["commands"][0].splitlines()[0] == 'export PAI_DATA_DIR="<% $data.uri[0] %>"'
    assert [note.partition(":")[0] for note in notes] == [
        "codeDir",
        "$PAI_DEFAULT_FS_URI is empty since OpenPAI 1.0, which has no HDFS; mount a storage",
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"authFile": "hdfs://nn/auth"},
        {"gpuType": "K80"},
        {"killAllOnCompletedTaskNumber": 1},
        {"jobEnvs": {"not a name": 1}},
    ],
)
def test_what_is_lost_is_told(more: dict[str, Any]) -> None:
    _, notes = turned(**more)
    assert [note.partition(":")[0] for note in notes] == list(more)


def test_envs_reach_the_command() -> None:
    job, _ = turned(
        jobEnvs={"A": "it's $HOME", "B": 3, "C": True, "D": None},
        taskRoles=[{**ROLE, "command": 'printf "%s|" "$A" "$B" "$C" "$D" & wait'}],
    )
    assert shell(job) == "it's $HOME|3|true||"


COMMANDS = [
    "echo a; echo b",
    "echo a & wait # and a comment",
    "cat <<END\ntwo\nlines\nEND",
    "  echo 'quoted  <% $secrets.x %>' \"$((1 + 1))\"  ",
    "false || echo '<%'",
    'x="$(echo in; echo ner)" && echo "$x" | tr a-z A-Z',
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_it_did(command: str) -> None:
    job, _ = turned(jobEnvs={"A": "<% b %>"}, taskRoles=[{**ROLE, "command": command}])
    before = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert "<%" not in job["taskRoles"]["main"]["commands"][0]  # v2 would take it for one of its own
    assert shell(job) == before


def shell(job: dict[str, Any]) -> str:
    """What the first role prints, its entries joined as OpenPAI does it."""
    (role,) = job["taskRoles"].values()
    command = " && ".join(each.strip() for each in role["commands"])
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
COUNT = st.integers(1, 99)
ROLES = st.fixed_dictionaries(
    {"name": st.from_regex(r"\A[A-Za-z0-9._~]{1,9}\Z"), "command": TEXT},
    optional={
        "taskNumber": COUNT | COUNT.map(str),
        "cpuNumber": COUNT,
        "memoryMB": COUNT,
        "gpuNumber": st.integers(0, 8),
        "shmMB": COUNT,
        "minFailedTaskCount": COUNT | st.none(),
        "minSucceededTaskCount": COUNT | st.none(),
        "portList": st.lists(
            st.fixed_dictionaries({"label": st.from_regex(r"\A[A-Za-z0-9._~]{1,5}\Z")}), max_size=2
        ),
    },
)
JOBS = st.fixed_dictionaries(
    {
        "jobName": st.from_regex(r"\A[A-Za-z0-9\-._]{1,300}\Z"),
        "image": TEXT,
        "taskRoles": st.lists(ROLES, min_size=1, max_size=4),
    },
    optional={
        "retryCount": st.integers(-2, 50),
        "virtualCluster": st.just("") | TEXT,
        "dataDir": st.just("") | TEXT,
        "outputDir": TEXT,
        "codeDir": TEXT,
        "authFile": TEXT,
        "gpuType": TEXT,
        "jobEnvs": st.dictionaries(TEXT, TEXT | st.integers() | st.booleans(), max_size=3),
        "extras": st.dictionaries(st.from_regex(r"\A[a-z]{9}\Z"), TEXT, max_size=2),
    },
)


@pytest.mark.parametrize("character", ["\r", "\x85", "\u2028", "\u2029", "\ufeff", "\t"])
def test_every_line_break_of_yaml_comes_back(character: str) -> None:
    content = {"a": character, "b": f"one\n{character}two {character} ", f"c{character}": f"'{character}\n"}
    assert from_yaml(to_yaml(content), "any") == content


@settings(max_examples=60)
@given(JOBS)
def test_any_job_is_valid_afterwards(original: dict[str, Any]) -> None:
    done = convert(parse_v1(original, "any"))
    written = from_yaml(to_yaml(done.job), "any")
    assert written == done.job
    assert faults(written) == []
    assert len(done.job["taskRoles"]) == len(original["taskRoles"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "expected one job"),
        ({"jobName": "a b", "image": "x", "taskRoles": [ROLE]}, "demo: jobName: "),
        ({"jobName": "a", "taskRoles": [ROLE]}, "demo: image: Field required"),
        ({"jobName": "a", "image": "x", "taskRoles": []}, "demo: taskRoles: "),
        ({"jobName": "a", "image": "x", "taskRoles": [{"name": "m"}]}, "demo: taskRoles.0.command: "),
        (
            {"jobName": "a", "image": "x", "taskRoles": [{**ROLE, "taskNumber": "two"}]},
            "taskRoles.0.taskNumber",
        ),
    ],
)
def test_what_is_no_job(content: Any, complaint: str) -> None:
    with pytest.raises(JobFileError) as raised:
        parse_v1(content, "demo")
    assert complaint in str(raised.value)


def test_lines_that_are_comments() -> None:
    text = '// a job\n{\n  // its image, from http://x\n  "image": "http://x//y"\n}'
    assert from_json(text, "demo") == {"image": "http://x//y"}
    with pytest.raises(JobFileError, match=r"demo\.json, line 2: not valid JSON"):
        from_json('{\n"image": }', "demo.json")


@pytest.mark.parametrize("text", ["83914e27", "1e3", "-1.5e3", ".5E3", "0o17", "y", "N"])
def test_text_that_other_readers_of_yaml_take_for_a_number_is_quoted(text: str) -> None:
    assert to_yaml({"a": text}) == f"a: '{text}'\n"
