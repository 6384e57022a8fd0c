"""The report: one page for any run at any moment, that asks nothing of the network."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from coppice import plots
from coppice.pruning.contract import Export, ExportReport, Layer, Measure, Outcome, Timing
from coppice.report import write_report
from coppice.report_facts import read_facts
from coppice.roles.history import SearchHistory
from coppice.roles.result import write_result
from coppice.roles.rounds import keep_round
from coppice.runfile import RunFile, parse_run_file
from coppice.store import Store, open_store
from coppice.store.memory import MemoryHome
from coppice.work import names
from coppice.work.checkpoints import Checkpoints
from coppice.work.contents import array_to_bytes
from coppice.work.errors import BadContent
from coppice.work.sentinels import Report, RunRecord

RUN_ID = "0123abcd"
TOTAL = 50_610


@dataclass
class Made:
    """A run made up for a test, written by the code that writes real ones."""

    store: Store
    layers: tuple[str, ...] = ("fc1", "fc2", "fc3")
    workers: tuple[str, ...] = ("gpu-1-11-aaaa", "gpu-2-22-bbbb")
    settings: dict[str, Any] | None = None
    export: Export | None = None

    @property
    def run(self) -> RunFile:
        return parse_run_file({"name": "demo", **(self.settings or {})}, "demo")

    def record(self, state: str = "running", reason: str | None = None) -> None:
        record = RunRecord(
            RUN_ID, state, self.run.model_dump(mode="json"), "0.1.0", reason, "2026-01-02 03:04"
        )
        self.store.replace(names.RUN, record.to_bytes())

    def reference(self, accuracy: float = 0.97) -> None:
        self.store.replace(names.ACCURACY, array_to_bytes(np.array([accuracy])))

    def rounds(self, count: int, broken: tuple[int, ...] = ()) -> None:
        for number in range(1, count + 1):
            remaining = TOTAL // (2 * number)
            keep_round(
                self.store,
                Report(
                    run=RUN_ID,
                    round=number,
                    iterations=500,
                    iteration=500 * number,
                    searches=number,
                    parameters_remaining=remaining,
                    compression=TOTAL / remaining,
                    accuracy=0.9 if number in broken else 0.98,
                    feasible=number not in broken,
                    best_compression=TOTAL / remaining,
                    loss=None if number == 1 else 0.01,
                ),
            )

    def history(self, search: int, evaluations: int, seed: int = 0) -> SearchHistory:
        rng = np.random.default_rng([search, seed])
        history = SearchHistory(search, len(self.layers))
        for i in range(evaluations):
            fitness = float(1.0 + rng.random() if i % 3 == 0 else rng.random() / search)
            worker = self.workers[i % len(self.workers)]
            history.add(i // 10 + 1, rng.normal(size=len(self.layers)), fitness, 0.9, worker)
        return history

    def searches(self, count: int, evaluations: int = 20) -> None:
        for search in range(1, count + 1):
            self.store.replace(names.history(search), self.history(search, evaluations).to_bytes())

    def under_way(self, search: int, evaluations: int) -> None:
        progress = {"search": search, "budget": 500, "evaluations": evaluations, "over": False}
        Checkpoints(self.store, names.NCS, print).save(
            {
                "progress.json": json.dumps(progress).encode(),
                "history.zip": self.history(search, evaluations).to_bytes(),
            }
        )

    def result(self) -> None:
        shape = (100, 50)
        kept = tuple(100 * (i + 1) for i in range(len(self.layers)))
        weights = 5000 * len(self.layers)
        measure = Measure(TOTAL, 772, weights, sum(kept), kept, 0.99, True)
        write_result(
            self.store,
            run_id=RUN_ID,
            run=self.run,
            layers=tuple(Layer(name, shape) for name in self.layers),
            outcome=Outcome(measure, 0.9639, 0.9611, np.linspace(1, 2, len(kept)), b"model", self.export),
            searches=2,
            seconds=83.0,
        )

    def finished(self) -> None:
        self.record("over")
        self.reference()
        self.rounds(3)
        self.searches(2)
        self.result()

    def page(self) -> str:
        """The report, checked for what must hold of every one."""
        assert write_report(self.store) == f"{self.store.url}/{names.RESULT_REPORT}"
        written = self.store.read(names.RESULT_REPORT)
        assert written is not None
        page = written.decode()
        check_page(page)
        return page


@pytest.fixture
def made() -> Made:
    return Made(Store(MemoryHome()))


class Checker(HTMLParser):
    """Balanced tags, ids given once, nothing fetched."""

    VOID = frozenset(("meta", "br", "hr", "img", "input", "link"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.text: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self._look(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] == "style" and re.search(r"@import|url\((?!#)", data):
            self.faults.append("a style fetches something")

    def _look(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed", "base", "form"):
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            self.refers.extend(re.findall(r"url\(#([^)]+)\)", value))
            if name.startswith("on"):
                self.faults.append(f"{tag} {name}")
            if name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
                if value.startswith("#"):
                    self.refers.append(value[1:])
                elif not value.startswith("data:image/png;base64,"):
                    self.faults.append(f"{tag} fetches {value[:60]}")


def check_page(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.faults == []
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert set(checker.refers) <= set(checker.ids)
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(svg)
    figures = re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    assert len(figures) == page.count("<svg")
    for figure in figures:
        assert re.search(r'role="img" aria-label="[^"]{20,}"', figure)
        assert re.search(r"<figcaption>[^<]{20,}</figcaption>", figure)
    assert "$" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    for stand_in in (plots.INK, plots.MUTED, plots.LINE, plots.CARD):
        assert stand_in not in page


def words(page: str) -> str:
    """What a reader sees, without the figures."""
    checker = Checker()
    checker.feed(re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", page, flags=re.DOTALL))
    return " ".join(" ".join(checker.text).split())


def test_stages_stand_in_the_plot_of_the_rounds(made: Made) -> None:
    made.settings = {
        "rounds": {"tmax": 6000},
        "surgery": {"prune_until": 2000, "accuracy_drop": 0.08},
        "refine": {"begin": 3000, "until": 5000, "iterations": 400},
        "constraint": {"accuracy_drop": 0.02},
    }
    made.record()
    made.reference()
    made.rounds(12)
    page = made.page()
    check_page(page)
    assert "400 or 500 iterations each" in words(page)
    plot = page[page.index("masks stay, weights train") - 20000 :]
    assert "lowest allowed" in plot
    assert plots._stretches(range(1, 13), [4 < n <= 6 or n > 10 for n in range(1, 13)]) == [(5, 6), (11, 12)]


def test_a_finished_run_with_its_numbers_plots_and_tables(made: Made) -> None:
    made.finished()
    page = made.page()
    said = words(page)
    assert "not finished" not in said
    assert "65.6x smaller" in said
    assert "772 of 50,610 parameters remain" in said
    assert "right for 96.11% of the samples, the dense one for 96.39%" in said
    assert "evaluations 40 65% feasible, by 2 evaluators" in said
    assert "time 1 min 23 s" in said
    assert page.count("<figure>") == 5
    assert "fc2 100 × 50 5,000 200 4.00% 1.500" in said
    assert "all 15,000 600 4.00%" in said
    assert "2 1,000 2 12,652 4.00x 98.00% yes 0.0100" in said
    assert "population: 10" in said


def test_what_the_export_saves_and_where_it_is_slower(made: Made) -> None:
    dense = (Timing("dense", 1, 1, 0.05), Timing("dense", 256, 2, 2.0))
    narrow = (Timing("narrow.safetensors", 1, 1, 0.1), Timing("narrow.safetensors", 256, 2, 0.125))
    sizes = {"dense": 203_000, "model.safetensors": 5_000, "narrow.safetensors": 4_060}
    report = ExportReport(
        sizes, {}, dense + narrow, ("model.onnx: not written; <why>",), "2.9.0", "A <fast> one"
    )
    made.export = Export({"model.safetensors": b"small"}, report)
    made.finished()
    said = words(made.page())
    assert "Size and speed" in said
    assert "dense 203 kB 0.05 ms 2 ms" in said
    assert "model.safetensors 5 kB (40.6x smaller)" in said
    assert "narrow.safetensors 4.06 kB (50x smaller) 0.1 ms (2x SLOWER) 0.125 ms (16x faster)" in said
    assert "On A <fast> one, torch 2.9.0" in said
    assert "model.onnx: not written; <why>" in said
    assert made.store.read(names.exported("model.safetensors")) == b"small"


def test_the_settings_are_a_run_file(made: Made) -> None:
    import html

    import yaml

    made.settings = {"model": {"name": "mlp", "arguments": {"hidden": [3, 4]}}, "search": {"sigma": 1e-7}}
    made.record()
    settings = re.search(r"<pre[^>]*>(.*?)</pre>", made.page(), flags=re.DOTALL)
    assert settings is not None
    assert parse_run_file(yaml.safe_load(html.unescape(settings[1])), "page") == made.run


def test_a_run_that_has_only_begun(made: Made) -> None:
    made.record()
    said = words(made.page())
    assert "This run is not finished: 0 of 5,000 iterations in 0 rounds." in said
    assert "No round is done yet." in said
    assert made.page().count("<figure>") == 0


def test_an_unfinished_run_shows_what_there_is_also_of_the_search_under_way(made: Made) -> None:
    made.record()
    made.reference()
    made.rounds(2)
    made.searches(2)
    made.under_way(3, 15)
    page = made.page()
    said = words(page)
    assert "This run is not finished: 1,000 of 5,000 iterations in 2 rounds, search 3 under way." in said
    assert "4.0x smaller The best network so far" in said
    assert "evaluations 55" in said
    assert "55 evaluations in 3 searches" in said
    assert ">3 …</text>" in page
    assert "test accuracy" not in said


def test_a_checkpoint_of_a_finished_search_is_not_counted_twice(made: Made) -> None:
    made.record()
    made.searches(2)
    made.under_way(2, 20)
    assert "40 evaluations in 2 searches" in words(made.page())


def test_a_failed_run_says_why(made: Made) -> None:
    made.record("failed", "outer: the loss is <nan>")
    page = made.page()
    assert "This run failed: outer: the loss is <nan>" in words(page)
    assert "&lt;nan&gt;" in page


def test_a_failure_not_yet_recorded_by_the_master_is_told_too(made: Made) -> None:
    made.record()
    made.store.create(names.FAILED, b"ncs: no more\n")
    assert "This run failed: ncs: no more" in words(made.page())


def test_rounds_below_the_constraint_are_pointed_out(made: Made) -> None:
    made.record()
    made.rounds(4, broken=(2, 3))
    said = words(made.page())
    assert "Hollow red points (2) miss the constraint" in said
    assert "1,500 3 8,435 6.00x 90.00% no" in said


def test_searches_that_found_nothing_feasible(made: Made) -> None:
    made.record()
    history = SearchHistory(1, 3)
    for i in range(4):
        history.add(1, np.zeros(3), 2.0 if i == 2 else 1.3, float("nan"), "" if i else "w-1-aaaa")
    made.store.replace(names.history(1), history.to_bytes())
    said = words(made.page())
    assert "4 evaluations in 1 search; none is feasible. Red" in said
    assert "by hand" in made.page()  # in the plot of evaluators


def test_the_same_run_gives_the_same_bytes_wherever_it_lives(tmp_path: Path) -> None:
    pages = []
    for store in (Store(MemoryHome()), open_store(str(tmp_path / "work"))):
        made = Made(store)
        made.finished()
        pages.append(made.page())
    pages.append(made.page())
    assert len(set(pages)) == 1


def test_a_report_changes_nothing_else(made: Made) -> None:
    made.finished()
    before = {entry.name: entry for entry in made.store.list()}
    inside = made.store.list(names.RESULT)
    made.page()
    after = {entry.name: entry for entry in made.store.list()}
    assert after == before
    assert [e for e in made.store.list(names.RESULT) if e.name != "report.html"] == inside


HOSTILE = "</pre></text><script>alert('1')</script>\"--> ]]> & $x^2$ \x07 %s ${name}"


def test_text_from_outside_is_only_text(made: Made) -> None:
    made.layers = (HOSTILE, "_hidden", "$\\frac$")
    made.workers = (HOSTILE, "$")
    made.settings = {"model": {"name": HOSTILE}, "data": {"name": "mnist", "folder": HOSTILE}}
    made.finished()
    assert write_report(made.store)
    page = (made.store.read(names.RESULT_REPORT) or b"").decode()
    checker = Checker()
    checker.feed(page)
    assert checker.faults == []
    assert checker.open == []
    assert "<script" not in page
    assert "_hidden" in re.sub(r"<table.*?</table>", "", page, flags=re.DOTALL)  # also in the legend
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(svg)


def test_many_layers_are_a_map_and_many_evaluators_are_added_up(made: Made) -> None:
    made.layers = tuple(f"features.{i}.conv" for i in range(60))
    made.workers = tuple(f"gpu-{i}-1-aaaa" for i in range(50))
    made.record()
    made.searches(2, evaluations=100)
    page = made.page()
    assert "20 others" in page
    assert "data:image/png;base64," in page  # the map of crates


def test_many_evaluations_do_not_make_the_page_endless(made: Made) -> None:
    made.record()
    made.searches(3, evaluations=6000)
    page = made.page()
    assert "18,000 evaluations in 3 searches" in words(page)
    assert len(page) < 1_000_000


def test_a_finished_run_of_a_network_with_one_layer(made: Made) -> None:
    made.layers = ("only",)
    made.workers = ("w-1-aaaa",)
    made.finished()
    assert "by 1 evaluator " in words(made.page())


# Layers of an unfinished run, from the outer loop's checkpoint


def _checkpoint(made: Made, hidden: list[int], crates: list[float], paced: bool = False) -> Any:
    from coppice.pruning.pruner import TorchPruner

    made.settings = {
        "model": {"name": "mlp", "arguments": {"inputs": 64, "hidden": hidden, "classes": 10}},
        "reference": {"iterations": 2},
        "constraint": {"accuracy_drop": 1.0, "samples": 50, "compression": 1000.0},
        "surgery": {"pace_until": 100 if paced else None},
    }
    made.layers = tuple(f"fc{i + 1}" for i in range(len(hidden) + 1))
    made.record()
    pruner = TorchPruner(made.run)
    pruner.train_reference(2, lambda: None)
    pruner.apply(np.array(crates), 0.5)
    measure = pruner.measure(lambda: None)
    parts = {"progress.json": b'{"seconds": 12.5}', "pruner.safetensors": pruner.checkpoint()}
    Checkpoints(made.store, names.OUTER, print).save(parts)
    return measure


@pytest.mark.parametrize("paced", [False, True])
def test_the_layers_of_an_unfinished_run_come_from_the_checkpoint(made: Made, paced: bool) -> None:
    measure = _checkpoint(made, [30, 20], [0.5, 1.0, 0.25], paced)
    facts = read_facts(made.store)
    assert [layer.name for layer in facts.layers] == ["fc1", "fc2", "fc3"]
    assert [layer.shape for layer in facts.layers] == [(30, 64), (20, 30), (10, 20)]
    assert tuple(layer.remaining for layer in facts.layers) == measure.layer_remaining
    assert [layer.crate for layer in facts.layers] == [0.5, 1.0, 0.25]
    assert facts.seconds == 12.5
    assert "all 2,720" in words(made.page())


def test_where_layers_cannot_be_told_apart_no_crate_is_guessed(made: Made) -> None:
    _checkpoint(made, [20, 20, 20], [-9.0, -9.0, -9.0, -9.0])  # nothing is cut: two layers keep 400
    facts = read_facts(made.store)
    assert sorted(layer.remaining for layer in facts.layers) == [200, 400, 400, 1280]
    assert {layer.crate for layer in facts.layers} == {None}
    assert facts.layer_names == ["layer 1", "layer 2", "layer 3", "layer 4"]
    made.page()


def test_a_checkpoint_of_another_version_leaves_the_layers_out(made: Made) -> None:
    made.record()
    parts = {"progress.json": b"[1]", "pruner.safetensors": b"\x05\0\0\0\0\0\0\0hello"}
    Checkpoints(made.store, names.OUTER, print).save(parts)
    assert read_facts(made.store).layers == []
    made.page()


# What cannot be reported


def test_without_a_run_there_is_no_report(made: Made) -> None:
    with pytest.raises(BadContent, match=r"no run here \(no run\.json\)"):
        write_report(made.store)
    assert made.store.list() == []


def test_damage_is_named_not_papered_over(made: Made) -> None:
    made.finished()
    made.store.replace(names.history(2), b"PK damaged")
    with pytest.raises(BadContent, match=r"^history/search_0002\.zip: truncated or damaged"):
        write_report(made.store)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"compression": None}, "compression: Field required"),
        ({"seconds": "long"}, "seconds: Input should be a valid number"),
        ({"layers": [{"name": "fc1"}]}, "layers.0.shape: Field required"),
        ({"layers": 3}, "layers: Input should be a valid tuple"),
    ],
)
def test_a_result_that_somebody_changed_is_named(made: Made, change: dict[str, Any], complaint: str) -> None:
    made.finished()
    result = json.loads(made.store.read(names.RESULT_JSON) or b"")
    result.update(change)
    result = {key: value for key, value in result.items() if value is not None}
    made.store.replace(names.RESULT_JSON, json.dumps(result).encode())
    with pytest.raises(BadContent, match=f"^result/result.json: {complaint}"):
        write_report(made.store)


def test_a_round_that_somebody_changed_is_named(made: Made) -> None:
    made.finished()
    made.store.replace(names.round_record(2), b'{"round": 2}')
    with pytest.raises(BadContent, match=r"rounds/round_0002\.json: run: Field required"):
        write_report(made.store)


def test_the_result_of_another_run_is_not_this_ones(made: Made) -> None:
    made.finished()
    result = json.loads(made.store.read(names.RESULT_JSON) or b"")
    made.store.replace(names.RESULT_JSON, json.dumps({**result, "run_id": "ffffffff"}).encode())
    made.record("running")
    assert "test accuracy" not in words(made.page())
