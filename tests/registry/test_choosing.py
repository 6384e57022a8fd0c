"""Which model is best, and what is ordered when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from coppice.models.builtin import mlp
from coppice.registry import layout
from coppice.registry.errors import OrderFailed, RegistryError
from coppice.registry.models import ModelInfo, read_info, with_info
from coppice.registry.pruning import pruned_info
from coppice.registry.records import ModelRecord, ScoreRecord
from coppice.registry.registry import GENERATES, Registry, SetKind
from coppice.registry.scripting import load_model, save_model
from coppice.registry.workflows import Workflow, run_pass
from coppice.store import Store
from tests.registry.support import add_task, new_registry

WHEN = "2026-12-06 19:37:43.802650"
X = np.zeros((2, 2))


@pytest.fixture
def registry(store: Store) -> Registry:
    return new_registry(store)


def add_model(registry: Registry, task: str, parameters: int | None, **scores: float) -> str:
    """A model's records; scores by test set."""
    model = registry.ids.new("MDL", {"task": task})
    arch = (registry.archs(task) or ["ARC000001"])[0]
    registry.models(task).add(ModelRecord(WHEN, arch, "TRD000001", model, parameters))
    for test, value in scores.items():
        score = registry.ids.new("SCR", {"task": task})
        registry.scores(task).add(ScoreRecord(WHEN, model, test, layout.score_file(score), value))
    return model


def ranked(registry: Registry, task: str, test: str = "TST000001") -> list[str]:
    return [candidate.model for candidate in registry.ranking(task, test)]


def test_the_highest_score_wins(registry: Registry) -> None:
    task = add_task(registry)
    models = [add_model(registry, task, 10, TST000001=score) for score in (0.5, 0.9, 0.7)]
    assert ranked(registry, task) == [models[1], models[2], models[0]]


def test_or_the_lowest_if_the_task_says_so(registry: Registry) -> None:
    task = add_task(registry, better="lower")
    models = [add_model(registry, task, 10, TST000001=score) for score in (0.5, 0.9, 0.7)]
    assert ranked(registry, task) == [models[0], models[2], models[1]]


def test_of_those_that_tie_the_smaller_wins(registry: Registry) -> None:
    task = add_task(registry, tolerance=0.01)
    large = add_model(registry, task, 1000, TST000001=0.99)
    small = add_model(registry, task, 10, TST000001=0.985)
    unknown = add_model(registry, task, None, TST000001=0.99)
    smallest = add_model(registry, task, 1, TST000001=0.97)
    assert ranked(registry, task) == [small, large, unknown, smallest]


def test_the_newest_test_set_decides(registry: Registry) -> None:
    task = add_task(registry)
    x, y = _arrays()
    for _ in range(2):
        registry.add_set(task, "test", (x, y))
    older = add_model(registry, task, 10, TST000001=0.9, TST000002=0.1)
    newer = add_model(registry, task, 10, TST000001=0.1, TST000002=0.9)
    best = registry.best(task)
    assert best is not None
    assert (best[0], best[1].model) == ("TST000002", newer)
    registry.add_set(task, "predict", (x,))
    (order,) = run_pass(registry, "predict", print)
    assert order.ids == (task, "ARC000001", newer, "PRD000001")
    assert older in ranked(registry, task)


def test_a_predict_set_waits_for_a_score(registry: Registry) -> None:
    task = add_task(registry)
    x, y = _arrays()
    registry.add_set(task, "predict", (x,))
    assert run_pass(registry, "predict", print) == []
    registry.add_set(task, "test", (x, y))
    assert run_pass(registry, "predict", print) == []
    first = add_model(registry, task, 10, TST000001=0.5)
    (order,) = run_pass(registry, "predict", print)
    assert order.ids[2] == first
    add_model(registry, task, 10, TST000001=0.9)  # better, and too late for this set
    assert run_pass(registry, "predict", print) == []
    assert run_pass(Registry.open(registry.store), "predict", print) == []


def test_only_a_task_that_asks_is_pruned(registry: Registry) -> None:
    task = add_task(registry)
    model = add_model(registry, task, 10, TST000001=0.5)
    assert run_pass(registry, "prune", print) == []
    asks = registry.settings(task).model_copy(update={"prune": {"rounds": {"tmax": 50}}})
    registry.store.replace(layout.settings_file(task), asks.to_bytes())
    add_model(registry, task, 10)  # has no score yet
    (order,) = run_pass(registry, "prune", print)
    assert order.ids[3] == model
    text = (registry.store.read(layout.run_file(order.makes)) or b"").decode()
    assert "tmax: 50" in text


def test_one_broken_task_keeps_no_other_waiting(registry: Registry) -> None:
    broken, sound = add_task(registry), add_task(registry)
    x, y = _arrays()
    for task in (broken, sound):
        registry.add_set(task, "test", (x, y))
        registry.add_set(task, "predict", (x,))
        add_model(registry, task, 10, TST000001=0.5, TST000002=0.5)
    registry.store.replace(layout.settings_file(broken), b"better: [")
    complaints: list[str] = []
    (order,) = run_pass(registry, "predict", complaints.append)
    assert order.task == sound
    assert any(line.startswith(f"{broken}: ") and "not valid YAML" in line for line in complaints)


def test_broken_lines_are_told_by_workflows(registry: Registry) -> None:
    task = add_task(registry)
    registry.store.create(layout.table_file(task, "model"), b"time, arch, train, model\nrubbish\n")
    complaints: list[str] = []
    run_pass(registry, "test", complaints.append)
    assert complaints == [
        f"task/{task}_model.csv, line 2: left out, for it is no line of time, arch, train, model, "
        "parameters, parent, compression, run: b'rubbish'"
    ]


def test_pruning_with_what_is_no_run_file(registry: Registry) -> None:
    task = add_task(registry)
    model = add_model(registry, task, 10)
    with pytest.raises(Exception, match=r"the pruning of MDL000001: rounds\.tmax"):
        registry.pruning_of(task, registry.model(task, model), {"rounds": {"tmax": -1}})
    assert list(registry.ids.all("MDL")) == [model]


def _arrays() -> tuple[bytes, bytes]:
    import io

    x, y = io.BytesIO(), io.BytesIO()
    np.save(x, X)
    np.save(y, np.zeros(2, int))
    return x.getvalue(), y.getvalue()


def test_a_model_comes_back_from_its_file(tmp_path: object) -> None:
    path = f"{tmp_path}/model.safetensors"
    torch.manual_seed(1)
    network = mlp(6, [4], 3)
    save_model(path, network, "mlp", inputs=6, hidden=[4], classes=3)
    x = torch.randn(5, 6)
    assert torch.equal(load_model(path)(x), network(x))
    with open(path, "rb") as file:
        content = file.read()
    info = read_info(content, path)
    assert (info.architecture, info.arguments["hidden"], info.parameters) == (
        "mlp",
        [4],
        6 * 4 + 4 + 4 * 3 + 3,
    )
    pruned = ModelInfo("mlp", info.arguments, 7, "MDL000001", 6.14, "0123abcd")
    assert read_info(with_info(content, pruned, path), path) == pruned


def test_how_many_times_fewer_parameters_than_its_parent() -> None:
    result = {"parameters_total": 6000, "parameters_remaining": 500, "run_id": "0123abcd"}
    dense = ModelInfo("mlp", {}, 6010)  # with buffers
    assert pruned_info(dense, "MDL000001", result).compression == 12
    again = pruned_info(ModelInfo("mlp", {}, 600, "MDL000001", 10.0, ""), "MDL000002", result)
    assert (again.parent, again.parameters, again.compression) == ("MDL000002", 500, 1.2)
    for parent in (
        ModelInfo("mlp", {}, 500, "MDL000001", 12.0, ""),
        ModelInfo("mlp", {}, 400, "MDL000001", 15.0, ""),
    ):
        with pytest.raises(OrderFailed, match="nothing could be cut"):
            pruned_info(parent, "MDL000002", result)


def test_buffers_are_no_parameters(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(str(path), torch.nn.BatchNorm1d(3), "torch.nn:BatchNorm1d", num_features=3)
    assert read_info(path.read_bytes(), "m").parameters == 6
    content = bytes(save({"weight": np.zeros(4)}, {"architecture": "mlp", "parameters": "many"}))
    assert read_info(content, "m").parameters == 4


def test_a_network_of_the_script_itself(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{tmp_path}/model.safetensors"
    with open(f"{tmp_path}/ARC000001_train.py", "w") as file:
        file.write("from torch import nn\n\ndef build(width):\n    return nn.Linear(2, width)\n")
    save_model(path, torch.nn.Linear(2, 5), "arch/ARC000001_train.py:build", width=5)
    monkeypatch.setenv("COPPICE_SCRIPTS", str(tmp_path))
    assert load_model(path)(torch.zeros(1, 2)).shape == (1, 5)
    monkeypatch.delenv("COPPICE_SCRIPTS")
    with pytest.raises(RegistryError, match="which only a worker has at hand"):
        load_model(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 64, b"\x02" + b"\x00" * 7 + b"{}x"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(RegistryError, match="model/MDL000001"):
        read_info(content, "model/MDL000001.safetensors")


def test_an_architecture_without_scripts_is_asked_for_nothing(registry: Registry) -> None:
    task = add_task(registry, archs=0)
    x, y = _arrays()
    registry.add_set(task, "train", (x, y))
    registry.add_set(task, "test", (x, y))
    registry.add_set(task, "predict", (x,))
    arch = registry.add_arch(task, {})
    assert run_pass(registry, "train", print) == []
    registry.store.create(layout.arch_file(arch, "train"), b"")
    (order,) = run_pass(registry, "train", print)
    assert order.kind == "train"
    model = add_model(registry, task, 1)
    assert run_pass(registry, "test", print) == []
    registry.store.create(layout.arch_file(arch, "test"), b"")
    assert [order.ids[2] for order in run_pass(registry, "test", print)] == [model]
    (ticket,) = registry.queues["test"].tickets("wait")
    registry.store.delete(ticket.path)
    registry.scores(task).add(ScoreRecord(WHEN, model, "TST000001", "score/SCR000001.txt", 0.5))
    assert run_pass(registry, "predict", print) == []
    registry.store.create(layout.arch_file(arch, "predict"), b"")
    assert [order.ids[2] for order in run_pass(registry, "predict", print)] == [model]


def test_a_predict_set_waits_while_models_are_being_tested(registry: Registry) -> None:
    task = add_task(registry)
    x, y = _arrays()
    registry.add_set(task, "test", (x, y))
    registry.add_set(task, "predict", (x,))
    add_model(registry, task, 10, TST000001=0.1)
    better = add_model(registry, task, 10)
    (test,) = run_pass(registry, "test", print)
    assert run_pass(registry, "predict", print) == []
    registry.scores(task).add(ScoreRecord(WHEN, better, "TST000001", layout.score_file(test.makes), 0.9))
    registry.store.delete(registry.queues["test"].tickets("wait")[0].path)
    assert [order.ids[2] for order in run_pass(registry, "predict", print)] == [better]


def test_predict_sets_that_wait_for_tests_that_failed_are_told_of(registry: Registry) -> None:
    task = add_task(registry)
    x, y = _arrays()
    registry.add_set(task, "test", (x, y))
    registry.add_set(task, "predict", (x,))
    add_model(registry, task, 10)
    queue = registry.queues["test"]
    assert len(run_pass(registry, "test", print)) == 1
    told: list[str] = []
    assert run_pass(registry, "predict", told.append) == []
    assert told == []
    ticket = queue.claim(queue.tickets("wait")[0], "worker")
    assert ticket is not None
    assert queue.finish(ticket, False, b"no memory\n")
    assert run_pass(registry, "predict", told.append) == []
    (line,) = told
    assert line.startswith(f"{task}: no model has a score on TST000001 yet, so predict sets wait; 1 of its")
    assert "see wo/test/fail/test_TSK000001_" in line


def test_a_set_whose_number_was_given_and_that_was_never_ordered(registry: Registry) -> None:
    task = add_task(registry)
    kinds: tuple[tuple[SetKind, Workflow], ...] = (
        ("train", "train"),
        ("test", "test"),
        ("predict", "predict"),
    )
    for kind, workflow in kinds:
        name = registry.order_set(task, kind)
        (ticket,) = registry.queues[GENERATES[kind]].tickets("wait")
        registry.store.delete(ticket.path)
        assert [order.makes for order in run_pass(registry, workflow, print)] == [name]
        assert run_pass(registry, workflow, print) == []


def test_a_model_that_names_a_file_of_the_machine_is_refused(tmp_path: object) -> None:
    evil = f"{tmp_path}/evil.py"
    for name in (f"{evil}:network", "evil.py:network", "arch/../evil.py:network", "arch/ARC000001_train.py"):
        with pytest.raises(RegistryError, match="is neither a built-in one, nor module:callable, nor arch/"):
            read_info(with_info(_model_bytes(), ModelInfo(name), "m"), "m")
    for name in ("lenet-300-100", "torchvision.models:resnet18", "arch/ARC000001_train.py:make.it"):
        assert read_info(with_info(_model_bytes(), ModelInfo(name), "m"), "m").architecture == name


def _model_bytes() -> bytes:
    return bytes(save({"weight": np.zeros((2, 2), np.float32)}))


@pytest.mark.parametrize(
    "said",
    [
        {"parent": "MDL000001", "parameters": "-5", "compression": "2.0", "run": ""},
        {"parent": "nobody", "parameters": "5", "compression": "2.0", "run": ""},
        {"parent": "MDL000001", "parameters": "5", "compression": "nan", "run": ""},
        {"parent": "MDL000001", "parameters": "5", "compression": "2.0", "run": "a\nb"},
        {"parent": "MDL000001"},
    ],
)
def test_what_could_not_be_recorded_is_refused(said: dict[str, str]) -> None:
    content = bytes(save({"weight": np.zeros(2)}, {"architecture": "mlp", **said}))
    with pytest.raises(RegistryError, match="what it says of its network is damaged"):
        read_info(content, "model/MDL000002.safetensors")
