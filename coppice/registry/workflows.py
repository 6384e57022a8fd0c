"""What is ordered without anybody asking: models to train, scores to take, predictions, prunings.

Each pass looks at what there is and orders what is missing. Two passes at once agree, since a number is given
for what it is for (`Ids.the`), and an order is known by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeVar

from coppice.errors import CoppiceError
from coppice.registry import layout
from coppice.registry.orders import Order
from coppice.registry.records import ModelRecord
from coppice.registry.registry import GENERATES, Registry, SetKind
from coppice.store import TransientStoreError
from coppice.work.contents import json_from_bytes, json_to_bytes
from coppice.work.errors import BadContent
from coppice.work.limits import MAX_TEXT_BYTES

Workflow = Literal["train", "test", "predict", "prune"]
T = TypeVar("T")
EVERY_S: dict[Workflow, float] = {"train": 420.0, "test": 180.0, "predict": 30.0, "prune": 420.0}
"""How often, unless told otherwise, seconds."""


def run_pass(registry: Registry, workflow: Workflow, complain: Callable[[str], None]) -> list[Order]:
    """One pass; gives what it ordered. What is wrong with one task is told, and keeps no other waiting."""
    wanted: list[Order] = []
    for task in registry.tasks():
        try:
            wanted += _WANTED[workflow](registry, task, complain)
        except TransientStoreError:
            raise
        except CoppiceError as error:
            complain(f"{task}: {error}")
    if not wanted:
        return []
    kinds = {order.kind for order in wanted}
    there = {ticket.order for kind in kinds for ticket in registry.queues[kind].all()}
    return [order for order in wanted if order not in there and registry.queues[order.kind].put(order)]


def _unmade(registry: Registry, task: str, kind: SetKind) -> Iterator[Order]:
    """Sets whose number was given, and whose order was not written: who was about to do it died."""
    for name in registry.unmade(task, kind):
        yield Order(GENERATES[kind], (task, name))


def _train(registry: Registry, task: str, complain: Callable[[str], None]) -> Iterator[Order]:
    """Each train set with each architecture."""
    yield from _unmade(registry, task, "train")
    done = {record.model for record in _told(registry.models(task).read(), complain)}
    number = registry.ids.by_purpose("MDL")
    archs = registry.archs(task, "train")
    for train in registry.sets(task, "train"):
        for arch in archs:
            model = number({"task": task, "arch": arch, "train": train})
            if model not in done:
                yield Order("train", (task, arch, train, model))


def _test(registry: Registry, task: str, complain: Callable[[str], None]) -> Iterator[Order]:
    """Each model on each test set."""
    yield from _unmade(registry, task, "test")
    scored = {(record.model, record.test) for record in _told(registry.scores(task).read(), complain)}
    number = registry.ids.by_purpose("SCR")
    archs, sets = set(registry.archs(task, "test")), registry.sets(task, "test")
    for record in _told(registry.models(task).read(), complain):
        for test in sets:
            if record.arch in archs and (record.model, test) not in scored:
                score = number({"task": task, "model": record.model, "test": test})
                yield Order("test", (task, record.arch, record.model, test, score))


def _predict(registry: Registry, task: str, complain: Callable[[str], None]) -> Iterator[Order]:
    """Each predict set, with the model that is best on the newest test set when all are tested on it."""
    yield from _unmade(registry, task, "predict")
    done = {record.key for record in _told(registry.predictions(task).read(), complain)}
    new = [predict for predict in registry.sets(task, "predict") if predict not in done]
    if not new:
        return
    records = {record.model: record for record in _told(registry.models(task).read(), complain)}
    best = _best(registry, task, records)
    if best is None:
        _tell_failed_tests(registry, task, complain)
    for predict in new:
        model = _chosen(registry, predict, best)
        if model in records:
            yield Order("predict", (task, records[model].arch, model, predict))
        elif model is not None:
            path = _choice(predict)
            complain(f"{path}: {model} is no model of {task}; remove this file to have it decided anew")


def _best(registry: Registry, task: str, records: Mapping[str, ModelRecord]) -> str | None:
    """The best model on the newest test set, of those that can predict; None while it is being tested on."""
    newest = registry.newest_test(task)
    pending = [t for t in registry.queues["test"].all() if t.state in ("wait", "running")]
    if newest is None or any(newest in ticket.order.ids for ticket in pending):
        return None
    archs = set(registry.archs(task, "predict"))
    ranked = (candidate.model for candidate in registry.ranking(task, newest))
    return next((model for model in ranked if model in records and records[model].arch in archs), None)


def _tell_failed_tests(registry: Registry, task: str, complain: Callable[[str], None]) -> None:
    """Nothing else would say why predict sets wait for ever."""
    queue, newest = registry.queues["test"], registry.newest_test(task)
    failed = [ticket for ticket in queue.tickets("fail") if newest in ticket.order.ids]
    if failed:
        complain(
            f"{task}: no model has a score on {newest} yet, so predict sets wait; {len(failed)} of its tests "
            f"failed, see {failed[0].log}, then `coppice registry retry`"
        )


def _chosen(registry: Registry, predict: str, best: str | None) -> str | None:
    """The model for a predict set, decided once, whoever decides; None: there is none to be had yet."""
    path = _choice(predict)
    content = registry.store.read(path, MAX_TEXT_BYTES)
    if content is None and best is not None:
        if registry.store.create(path, json_to_bytes({"model": best})):
            return best
        content = registry.store.read(path, MAX_TEXT_BYTES)
    try:
        model = json_from_bytes(content, path).get("model") if content else None
    except BadContent:
        return best
    return model if isinstance(model, str) else None


def _choice(predict: str) -> str:
    return f"{layout.id_folder('PRD')}/{predict}.model.json"


def _prune(registry: Registry, task: str, complain: Callable[[str], None]) -> Iterator[Order]:
    """Each trained model that has a score, if the task wants that."""
    settings = registry.settings(task).prune
    if settings is None:
        return
    scored = {record.model for record in _told(registry.scores(task).read(), complain)}
    made = {record.model for record in registry.models(task).read()[0]}
    for record in _told(registry.models(task).read(), complain):
        if record.parent is None and record.model in scored:
            order = registry.pruning_of(task, record, settings)
            if order.makes not in made:
                yield order


def _told(read: tuple[list[T], list[str]], complain: Callable[[str], None]) -> list[T]:
    for complaint in read[1]:
        complain(complaint)
    return read[0]


_WANTED: dict[Workflow, Callable[[Registry, str, Callable[[str], None]], Iterator[Order]]] = {
    "train": _train,
    "test": _test,
    "predict": _predict,
    "prune": _prune,
}
