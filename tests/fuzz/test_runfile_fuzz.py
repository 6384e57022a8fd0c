"""Run files: the one thing that people write by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coppice.runfile import MAX_RUN_FILE_BYTES, RunFileError, load_run_file, parse_run_file
from tests.fuzz.damage import NUMBERS, content, read_or_refuse

VALID = (Path(__file__).parents[2] / "jobs" / "digits.yaml").read_bytes()
FULL = yaml.safe_dump(parse_run_file({"name": "x"}, "x").model_dump(mode="json")).encode()
fuzz = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**9, 10**400, float("nan"), float("inf"), "\0", "\ud800"])
    | st.integers(10_000, 20_000).map(lambda bits: -1 << bits)  # which Python does not write out
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner),
    max_leaves=6,
)
KEYS = ["name", "seed", "work", "model", "data", "reference", "rounds", "surgery", "search", "constraint"]


@fuzz
@given(data=content(VALID, FULL))
def test_any_bytes_are_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "run.yaml").write_bytes(data)
    error = read_or_refuse(lambda: load_run_file(tmp_path / "run.yaml"))
    assert error is None or (isinstance(error, RunFileError) and "run.yaml" in str(error))


SCALARS = [
    *NUMBERS,
    ":".join("1" * 3000),
    ":".join("1" * 3000) + ".5",
    *(f"!!{tag} {text}" for tag in ("int", "float", "bool", "timestamp", "binary", "set", "omap", "pairs")
      for text in ("''", "maybe", "[1]", "{a: b}", "'1:2'")),
    "!!python/object/apply:os.system ['true']",
    "9999-12-31 23:59:59 -14:00",
    "2001-02-31",
    "=",
    "? [a]\n: b",
    '"\\0"',
    '"\\ud800"',
    "&a [*a]",
    "[[[" * 100,
    "|" + "\n  x" * 1000,
]  # fmt: skip


@fuzz
@given(key=st.sampled_from(["name", "seed", "work", "model", "data.folder", "search.sigma", "rounds.tmax"]),
       value=st.sampled_from(SCALARS))  # fmt: skip
def test_any_scalar_is_refused_in_one_line(tmp_path: Path, key: str, value: str) -> None:
    section, _, inner = key.partition(".")
    line = f"{section}: {value}" if not inner else f"{section}:\n  {inner}: {value}"
    (tmp_path / "run.yaml").write_bytes(f"name: x\n{line}\n".encode("utf-8", "surrogatepass"))
    read_or_refuse(lambda: load_run_file(tmp_path / "run.yaml"))


@fuzz
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), VALUES, max_size=4), VALUES)
def test_any_value_is_refused_in_one_line(given_content: dict[Any, Any], value: Any) -> None:
    """What run.json may hold where somebody has changed it."""
    read_or_refuse(lambda: parse_run_file({"name": "x", **given_content}, "run.json"))
    read_or_refuse(lambda: parse_run_file({"name": "x", "model": {"arguments": {"a": value}}}, "run.json"))
    read_or_refuse(lambda: parse_run_file({"name": "x", "rounds": value}, "run.json"))


# What was found


@pytest.mark.parametrize(
    "line",
    [
        "seed: !!int ''",
        "seed: !!bool maybe",
        "seed: !!timestamp maybe",
        f"seed: 0x{'f' * 5000}",
        f"0x{'f' * 5000}: 1",
        f"seed: {':'.join('1' * 1000)}.5",
        "work: \"a\\0b\"",
        "work: \"\\ud800\"",
        "rounds: {tmax: 10000000000000000}",
        "evaluators: {tries: 10000}",
        f"model: {{arguments: {{a: 0x{'f' * 300}}}}}",
        f"model: {{arguments: {{a: {'[' * 70 + ']' * 70}}}}}",
        f"model: {{arguments: {{a: [{','.join(['[' * 40 + ']' * 40] * 500)}]}}}}",
        f"work: !{'x' * 40_000} a",
    ],
    ids=lambda line: line[:20],
)  # fmt: skip
def test_these_came_out_as_something_else_or_went_in(tmp_path: Path, line: str) -> None:
    (tmp_path / "run.yaml").write_text(f"name: x\n{line}\n")
    with pytest.raises(RunFileError) as caught:
        load_run_file(tmp_path / "run.yaml")
    assert len(str(caught.value)) < 600
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "line", ["a: ", "- a\n", "? ", "{a: ", "[a, ", "&a ", "'", "1:", "a b ", "# c\n", "\t"], ids=repr
)
def test_the_largest_run_file_is_refused_soon(tmp_path: Path, line: str) -> None:
    (tmp_path / "run.yaml").write_text("seed: " + (line * MAX_RUN_FILE_BYTES)[: MAX_RUN_FILE_BYTES - 10])
    assert isinstance(read_or_refuse(lambda: load_run_file(tmp_path / "run.yaml")), RunFileError)
