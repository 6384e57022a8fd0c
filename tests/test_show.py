"""What a person reads of an export: in 80 columns, and in a finished run's few lines."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from coppice.pruning.contract import ExportReport, Timing
from coppice.show import export_table, findings_table, result_lines, smaller_text, speed_text
from coppice.store.doctor import Finding, Verdict

SLOWER = "model.onnx: SLOWER than the dense network at batch 1 on 1 thread (2 ms against 1 ms)"


@pytest.mark.parametrize(
    ("dense_ms", "ms", "text"),
    [
        (10, 0.05, "200x faster"),
        (6.2, 1, "6.2x faster"),
        (1234, 1, "1,234x faster"),
        (1, 1.03, "1.03x SLOWER"),
        (1, 1.001, "as fast"),
        (1, 1, "as fast"),
    ],
)
def test_how_fast(dense_ms: float, ms: float, text: str) -> None:
    assert speed_text(dense_ms, ms) == text


def test_how_small() -> None:
    assert smaller_text(203_000, 10_700) == "19x smaller"
    assert smaller_text(1_000_000, 866) == "1,155x smaller"
    assert smaller_text(9_330, 9_420) == "1.01x larger"


def test_the_table_fits_a_terminal() -> None:
    sizes = {"dense": 1_066_824, "model.safetensors": 866, "narrow.safetensors": 14_123, "model.onnx": 10**6}
    faster = {"dense": 1.0, "narrow.safetensors": 0.97, "model.onnx": 1234.0}
    timings = tuple(
        Timing(form, batch, threads, 123.4 * batch / faster[form])
        for form in faster
        for batch in (1, 256)
        for threads in (1, 2)
    )
    report = ExportReport(sizes, {"model.onnx": 3.14e-7}, timings, (), "", "")
    out = io.StringIO()
    Console(file=out, width=80).print(export_table(report))
    said = out.getvalue()
    first = said.splitlines()[0].split()
    assert first == list(sizes)
    for text in ("1,232x smaller", "1.03x SLOWER", "1,234x faster", "31,590 ms", "2 threads", "3.1e-07"):
        assert text in said
    assert "…" not in said


def result(**export: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(("parameters_remaining", "parameters_total", "searches", "evaluations"), 1)
    rest = dict.fromkeys(("compression", "pruned_accuracy", "reference_accuracy", "seconds"), 1.0)
    return {**numbers, **rest, "evaluators": 1, "export": export or None}


def test_the_end_of_a_run_says_what_the_export_is_worth() -> None:
    sizes = {"dense": 9_330, "model.safetensors": 9_420}
    lines = result_lines(result(size_bytes=sizes, notes=["3 units were dead", SLOWER]), "work")
    (file,) = (line for line in lines if line.startswith("file "))
    assert "9.42 kB, 1.01x larger than the dense network's 9.33 kB" in file
    assert f"slower       {SLOWER}" in lines
    assert not any("3 units" in line for line in lines)


def test_the_end_of_a_run_says_why_there_is_no_export() -> None:
    why = "the export failed (KeyError: pop); see `coppice export`"
    assert f"file         {why}" in result_lines(result(size_bytes={}, notes=[why]), "work")
    assert not any(line.startswith("file") for line in result_lines(result(), "work"))


def test_one_of_a_thing_is_one() -> None:
    (line,) = (line for line in result_lines(result(), "work") if line.startswith("search "))
    assert line == "search       1 search, 1 evaluation by 1 evaluator, 1 s"
    several = {**result(), "searches": 2, "evaluations": 3000, "evaluators": 4}
    (line,) = (line for line in result_lines(several, "work") if line.startswith("search "))
    assert line == "search       2 searches, 3,000 evaluations by 4 evaluators, 1 s"


def test_advice_may_name_a_folder_with_square_brackets() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(
        findings_table([Finding("reached", Verdict.OK, advice="look at x[/y]")])
    )
    assert "look at x[/y]" in out.getvalue()
