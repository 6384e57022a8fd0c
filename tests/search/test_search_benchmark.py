"""The benchmark runs, writes what it printed, and gives every method the same means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import search_cec2005


def test_it_writes_every_error_of_every_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new folder" / "results.json"
    small = ["--functions", "1", "9", "--dimensions", "2", "--evaluations", "65", "--seeds", "2"]
    search_cec2005.main([*small, "--out", str(out)])
    (table,) = json.loads(out.read_text())["tables"]
    assert set(table["errors"]) == {"F1", "F9"}
    printed = capsys.readouterr().out
    for name, row in table["errors"].items():
        assert set(row) == set(search_cec2005.METHODS)
        for method, errors in row.items():
            assert len(errors) == 2
            assert min(errors) >= search_cec2005.SMALLEST_ERROR
            assert len(set(errors)) == 2, "seeds must differ"
            assert f"{np.median(errors):.4g}" in printed, (name, method)
    assert table["error_ratio_to_ncs"]["ncs"] == 1.0
    assert table["error_ratio_to_ncs"]["random"] == pytest.approx(
        np.prod([np.median(row["random"]) / np.median(row["ncs"]) for row in table["errors"].values()]) ** 0.5
    )


def test_all_methods_begin_at_the_same_start() -> None:
    setting = search_cec2005.Setting("", 2, 20, 1, (1,))
    firsts = [
        search_cec2005.search(method, setting, np.array([0.3, -2.0]), -100, 100, 1).ask()[0]
        for method in search_cec2005.METHODS
    ]
    np.testing.assert_array_equal(firsts, [[0.3, -2.0]] * len(search_cec2005.METHODS))


def test_functions_that_do_not_exist_are_answered() -> None:
    with pytest.raises(SystemExit, match="F10 in 4 dimensions"):
        search_cec2005.main(["--functions", "1", "10", "--dimensions", "4"])
