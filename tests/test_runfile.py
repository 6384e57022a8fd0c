"""The run file: every mistake gets one line, what is accepted travels unchanged, the docs are true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coppice.errors import CoppiceError
from coppice.runfile import RunFile, RunFileError, load_run_file, parse_run_file
from coppice.runfile_docs import document, meaning

ROOT = Path(__file__).parent.parent
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
quick = settings(deadline=None, max_examples=100)


def complaint_about(text: str | bytes, folder: Path) -> str:
    """The one line that answers a run file; it begins with the file's name."""
    path = folder / "run.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(RunFileError) as raised:
        load_run_file(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        # A missing key, unknown keys, at the top and inside.
        ("seed: 3", ": name: missing; this key has no default"),
        ("{}", ": name: missing"),
        ("name: a\nnames: b", ": names: unknown key; expected one of name, work, seed, model,"),
        ("name: a\nsearch: {sigmas: 1}", ": search.sigmas: unknown key; expected one of method, population,"),
        ("name: a\nsurgery: {weights: x}", ": surgery.weights: unknown key; expected one of batch,"),
        ("name: a\nmodel.name: mlp", ": model.name: unknown key; expected one of name, work,"),
        ('name: a\ndata: {"a.b": 1}', ": data.a.b: unknown key; expected one of name, folder,"),
        ('name: a\nsearch: {"a\\nb": 1}', ": search.a b: unknown key"),
        ("name: a\n1: 2", ": 1: Keys should be strings"),
        ("name: a\nsearch: {2: 3}", ": search.2: Keys should be strings"),
        # Values of the wrong kind.
        ("name: a\nseed: one", ": seed: Input should be a valid integer"),
        ("name: a\nseed: 1.5", ": seed: Input should be a valid integer"),
        ("name: a\nseed: null", ": seed: Input should be a valid integer"),
        ("name: [a]", ": name: Input should be a valid string, found ['a']"),
        ("name: 5", ": name: Input should be a valid string, found 5"),
        ("name: a\nsearch: 3", ": search: expected keys and values, found 3"),
        ("name: a\nmodel:", ": model: expected keys and values, found None"),
        ("name: a\nrounds: [1, 2]", ": rounds: expected keys and values, found [1, 2]"),
        ("name: a\nmodel: {layers: fc1}", ": model.layers: Input should be a valid list"),
        ("name: a\nmodel: {layers: [1]}", ": model.layers.0: Input should be a valid string, found 1"),
        ("name: a\nmodel: {arguments: [1]}", ": model.arguments: Input should be a valid dictionary"),
        ("name: a\nmodel: {arguments: {a: 2020-01-01}}", ": model.arguments: only text, finite numbers,"),
        ("name: a\nmodel: {arguments: {a: .nan}}", ": model.arguments: only text, finite numbers,"),
        ("name: a\nmodel: {arguments: {a: {1: 2}}}", ": model.arguments: only text, finite numbers,"),
        ("name: a\nmodel: {arguments: {a: !!set {b}}}", ": model.arguments: only text, finite numbers,"),
        # Values out of range.
        ("name: a\nseed: -1", ": seed: Input should be greater than or equal to 0, found -1"),
        ("name: a\nseed: 9223372036854775808", ": seed: Input should be less than 9223372036854775808"),
        ("name: ''", ": name: letters, digits,"),
        ("name: a/b", ": name: letters, digits, '_', '.' and '-' only"),
        ("name: ../a", ": name: letters, digits,"),
        ("name: 'a\n\n  b'", ": name: letters, digits,"),
        (f"name: {'a' * 101}", ": name: letters, digits,"),
        ("name: a\nreference: {batch: 0}", ": reference.batch: Input should be greater than or equal to 1"),
        ("name: a\nreference: {learning_rate: 0}", ": reference.learning_rate: Input should be greater than"),
        ("name: a\nsurgery: {momentum: 1}", ": surgery.momentum: Input should be less than 1, found 1"),
        ("name: a\nsurgery: {gamma: .inf}", ": surgery.gamma: Input should be a finite number, found inf"),
        ("name: a\nsearch: {sigma: .nan}", ": search.sigma: Input should be a finite number, found nan"),
        (
            "name: a\nsearch: {population: 1}",
            ": search: population must be at least 2 for ncs",
        ),
        ("name: a\nsearch: {method: sgd}", ": search.method: Input should be 'ncs', 'cmaes' or 'random'"),
        (
            "name: a\nsurgery: {schedule: steps}",
            ": surgery.schedule: Input should be 'constant', 'cosine', ",
        ),
        (
            "name: a\nconstraint: {accuracy_drop: 0.02, search_drop: 0.01}",
            ": constraint: search_drop must not be below accuracy_drop",
        ),
        ("name: a\ndata: {name: cifar}", ": data.name: Input should be 'digits', 'mnist' or 'arrays'"),
        (
            "name: a\nconstraint: {accuracy_drop: 2}",
            ": constraint.accuracy_drop: Input should be less than or",
        ),
        (
            "name: a\nevaluators: {lease_s: 0}",
            ": evaluators.lease_s: Input should be greater than 0, found 0",
        ),
        *(
            (
                f"name: a\n{key}: {{{inner}: 1.0e+200}}",
                f": {key}.{inner}: Input should be less than or equal to",
            )
            for key, inners in {
                "reference": ("learning_rate", "weight_decay"),
                "surgery": ("learning_rate", "weight_decay", "cut_decay"),
                "polish": ("learning_rate", "weight_decay"),
                "refine": ("learning_rate", "weight_decay", "cut_decay"),
                "distill": ("temperature",),
                "search": ("sigma", "lower", "upper"),
            }.items()
            for inner in inners
        ),
        ("name: a\nsearch: {lower: -1.0e+200}", ": search.lower: Input should be greater than or equal to"),
        (
            "name: a\ndistill: {temperature: 1.0e-200}",
            ": distill.temperature: Input should be greater than or equal to 0.001",
        ),
        # Keys that do not go together.
        ("name: a\ndata: {train: x}", ": data: train needs name: arrays, found {"),
        ("name: a\ndata: {name: mnist, test: x}", ": data: test needs name: arrays, found {"),
        ("name: a\ndata: {folder: x}", ": data: folder needs name: mnist, found {"),
        ("name: a\ndata: {name: arrays, test: x}", ": data: name: arrays needs train; <train>_x.npy and"),
        ("name: a\nreference: {iterations: 0}", ": reference: iterations: 0 needs weights, of a network"),
        ("name: a\nrefine: {until: 5000}", ": refine needs refine.begin; without it there is no refinement"),
        ("name: a\nrefine: {iterations: 10}", ": refine needs refine.begin"),
        ("name: a\nsearch: {lower: 5, upper: 5}", ": search: lower must be below upper, found {"),
        ("name: a\nsearch: {evaluations: 5}", ": search: evaluations must be at least population, found {"),
        # Several at once: the first, and how many more.
        ("name: a\nseed: x\nfoo: 1\nbar: 2", ": seed: Input should be a valid integer, unable to"),
        ("name: a\nfoo: 1\nbar: 2", ": foo: unknown key;"),
        # Not YAML, or not a mapping.
        ("", ": expected keys such as 'name:' and 'model:', found NoneType"),
        ("just words", ": expected keys such as 'name:' and 'model:', found str"),
        ("- name: a", ": expected keys such as 'name:' and 'model:', found list"),
        (
            "name: a\nmodel: {name: mlp",
            ", line 2: not valid YAML (expected ',' or '}', but got '<stream end>')",
        ),
        (
            "name: a\n\tseed: 1",
            ", line 2: not valid YAML (found character '\\t' that cannot start any token)",
        ),
        ("name: a\nwork: *there", ", line 2: not valid YAML (aliases such as *this are not taken)"),
        ("name: a\nmodel: {arguments: &a {b: *a}}", ", line 2: not valid YAML (aliases"),
        (
            "name: a\nsearch: {sigma: 1}\nsearch: {}",
            ", line 3: not valid YAML (the key 'search' is given twice)",
        ),
        (
            "name: a\nsearch: {sigma: 1, sigma: 2}",
            ", line 2: not valid YAML (the key 'sigma' is given twice)",
        ),
        ("? [1, 2]\n: 3", ", line 1: not valid YAML (found unhashable key)"),
        (
            "!!python/object/apply:os.abort []",
            ", line 1: not valid YAML (! begins a tag; put the value in quotes)",
        ),
        ("name: a\n---\nname: b", "line 2: not valid YAML (but found another document)"),
        ("name: !%0A a", ", line 1: not valid YAML (! begins a tag; put the value in quotes)"),
        ('name: a\n"\\r": 1', ":  : unknown key; expected one of name,"),
        ("{" * 2000, ": not valid YAML ("),
        (b"name: \xff\xfe", ": not valid YAML (not readable as text)"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", ": not valid YAML (not readable as text)"),
        (f"name: a\nseed: {'9' * 5000}", ": not valid YAML ("),
        ("name: a\nwork: 2020-13-45", ": not valid YAML ("),
    ],
)
def test_a_mistake_is_answered_in_one_line(text: str | bytes, complaint: str, tmp_path: Path) -> None:
    assert complaint in complaint_about(text, tmp_path)


def test_how_many_mistakes_there_are_is_told(tmp_path: Path) -> None:
    assert complaint_about("seed: x\nfoo: 1", tmp_path).endswith("(and 2 more)")


def test_a_long_value_is_not_repeated_in_full(tmp_path: Path) -> None:
    assert len(complaint_about(f"name: a\nseed: {'x' * 10_000}", tmp_path)) < 300
    assert len(complaint_about(f"name: a\nsearch: {{{'x' * 10_000}: 1}}", tmp_path)) < 400


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "nowhere.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(
            RunFileError, match=rf"^{path}: cannot be read \({why}.*\); give the path of a run"
        ):
            load_run_file(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "run.yaml", "wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(RunFileError, match="larger than 50,000 bytes; this is not a run file"):
        load_run_file(tmp_path / "run.yaml")


# Whatever it is given

KEYS = st.sampled_from(
    [
        *RunFile.model_fields,
        *(
            key
            for field in RunFile.model_fields.values()
            for key in getattr(field.annotation, "model_fields", {})
        ),
    ]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
)
CONTENTS = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS | st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)
FILES = st.dictionaries(KEYS | st.text(max_size=5), CONTENTS, max_size=6)


def accepted(path: Path) -> RunFile | None:
    """The run file at `path`, None if it was refused as it should be."""
    try:
        return load_run_file(path)
    except CoppiceError as error:
        message = str(error)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    return None


def travels_unchanged(run: RunFile) -> bool:
    """Through run.json, as the other roles get it."""
    sent = json.dumps(run.model_dump(mode="json"), allow_nan=False)
    return parse_run_file(json.loads(sent), "run.json") == run


@quick
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    run = accepted(path)
    assert run is None or travels_unchanged(run)


@quick
@given(st.text(st.sampled_from("nameork: \n-{}[]&*!|>'\"#?,%@`\t.e1"), max_size=60))
@example("name: a\n? !!set {a}\n: b")
def test_any_text_that_looks_like_yaml(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "text.yaml"
    path.write_text(f"name: a\n{text}")
    run = accepted(path)
    assert run is None or travels_unchanged(run)


@quick
@given(FILES)
def test_any_content(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "content.yaml"
    path.write_text(yaml.safe_dump({"name": "a", **content}))
    run = accepted(path)
    assert run is None or travels_unchanged(run)


@quick
@given(st.data())
def test_a_shipped_job_with_a_few_wrong_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray((ROOT / "jobs/digits.yaml").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_bytes(damaged)
    run = accepted(path)
    assert run is None or travels_unchanged(run)


# What is right


def test_there_are_shipped_jobs_and_each_is_named_like_its_file() -> None:
    assert {"digits.yaml", "lenet300-mnist.yaml"} <= {job.name for job in JOBS}
    for job in JOBS:
        run = load_run_file(job)
        assert run.name == job.stem
        assert travels_unchanged(run)


def test_only_the_name_must_be_given() -> None:
    assert parse_run_file({"name": "a"}, "here") == RunFile(name="a")


def test_a_run_file_cannot_be_changed_once_it_is_checked() -> None:
    run = RunFile(name="a")
    with pytest.raises(ValueError, match="frozen"):
        run.seed = 2


# docs/runfile.md


def test_the_documentation_is_up_to_date() -> None:
    shipped = (ROOT / "docs/runfile.md").read_text()
    assert shipped == document(), "write it again: python -m coppice.runfile_docs > docs/runfile.md"


def test_every_key_is_documented_with_its_meaning() -> None:
    page = document()
    for place, field in RunFile.model_fields.items():
        section: Any = field.annotation
        if not hasattr(section, "model_fields"):
            assert f"| `{place}` |" in page
            assert meaning("", place, RunFile)
            continue
        for key in section.model_fields:
            assert f"| `{place}.{key}` |" in page
            assert meaning(place, key, section), f"{place}.{key} has no docstring"
