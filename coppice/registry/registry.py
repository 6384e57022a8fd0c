"""A registry: one store, and what stands where in it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coppice.clock import Clock, SystemClock
from coppice.registry import layout
from coppice.registry.arrays import check_set, publish_set
from coppice.registry.errors import OrderFailed, RegistryError
from coppice.registry.ids import Ids, Purpose
from coppice.registry.orders import KINDS, Kind, Order
from coppice.registry.queue import Queue, make_folders
from coppice.registry.records import ModelRecord, PredictRecord, ScoreRecord, Table
from coppice.registry.tasks import TaskSettings, read_settings
from coppice.runfile import parse_run_file
from coppice.store import Store
from coppice.work.contents import json_from_bytes, json_to_bytes
from coppice.work.limits import MAX_TEXT_BYTES
from coppice.yamlfile import to_yaml

_FORMAT = 1
SetKind = Literal["train", "test", "predict"]
SET_PREFIX: dict[SetKind, layout.Prefix] = {"train": "TRD", "test": "TST", "predict": "PRD"}
_MADE_BY, _SCRIPT = "made by", "script"
_SETTINGS = "settings"
GENERATES: dict[SetKind, Kind] = {"train": "traingen", "test": "testgen", "predict": "predictgen"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model as it did on a test set."""

    model: str
    score: float
    parameters: int | None


class Registry:
    """Tasks, sets, architectures, models, scores and orders; safe to use from any number of processes."""

    def __init__(self, store: Store, uid: str, clock: Clock) -> None:
        self.store = store
        self.uid = uid
        """Tells this registry from one that stood at the same place before."""
        self.clock = clock
        self.ids = Ids(store)
        self.queues: dict[Kind, Queue] = {kind: Queue(store, kind) for kind in KINDS}

    @classmethod
    def open(cls, store: Store, clock: Clock | None = None) -> Registry:
        """The registry that stands in a store. Raises `RegistryError` if there is none."""
        content = store.read(layout.REGISTRY, MAX_TEXT_BYTES)
        if content is None:
            raise RegistryError(
                f"{store.url}: there is no registry; begin one: coppice registry init --at {store.url}"
            )
        said = json_from_bytes(content, f"{store.url}/{layout.REGISTRY}")
        if said.get("format") != _FORMAT or not isinstance(said.get("uid"), str):
            raise RegistryError(f"{store.url}/{layout.REGISTRY}: not of this version of Coppice")
        return cls(store, said["uid"], clock or SystemClock())

    @classmethod
    def init(cls, store: Store, clock: Clock | None = None) -> Registry:
        """Begin one; the one that is there is left as it is."""
        for folder in layout.FOLDERS:
            store.make_folder(folder)
        make_folders(store)
        store.create(layout.REGISTRY, json_to_bytes({"format": _FORMAT, "uid": secrets.token_hex(8)}))
        return cls.open(store, clock)

    # What there is

    def tasks(self) -> list[str]:
        """All whose settings are there."""
        there = {entry.name for entry in self.store.list("task")}
        return [task for task in self.ids.all("TSK") if f"{task}.yaml" in there]

    def settings(self, task: str) -> TaskSettings:
        """See `read_settings`."""
        return read_settings(self.store, task)

    def archs(self, task: str, verb: SetKind = "train") -> list[str]:
        """A task's architectures that have a script to train, test or predict."""
        there = {entry.name for entry in self.store.list("arch")}
        return [
            arch
            for arch, purpose in self.ids.all("ARC").items()
            if purpose.get("task") == task and f"{arch}_{verb}.py" in there
        ]

    def sets(self, task: str, kind: SetKind) -> list[str]:
        """A task's sets whose arrays are there, oldest first."""
        there = {entry.name for entry in self.store.list(kind)}
        of_task = (
            name for name, purpose in self.ids.all(SET_PREFIX[kind]).items() if purpose.get("task") == task
        )
        return [
            name
            for name in of_task
            if all(path.rpartition("/")[2] in there for path in layout.set_files(name))
        ]

    def unmade(self, task: str, kind: SetKind) -> list[str]:
        """A task's sets that its own script should have made, and that are not there (yet)."""
        ids, there = self.ids.all(SET_PREFIX[kind]).items(), self.sets(task, kind)
        wanted = {"task": task, _MADE_BY: _SCRIPT}
        return [name for name, purpose in ids if purpose == wanted and name not in there]

    def made_by_script(self, name: str) -> bool:
        """Whether a set was ordered from its task's script; False: its arrays were given."""
        return (self.ids.find(name) or {}).get(_MADE_BY) == _SCRIPT

    def models(self, task: str) -> Table[ModelRecord]:
        """The task's models."""
        return Table(self.store, task, ModelRecord)

    def scores(self, task: str) -> Table[ScoreRecord]:
        """Their scores."""
        return Table(self.store, task, ScoreRecord)

    def predictions(self, task: str) -> Table[PredictRecord]:
        """What was predicted."""
        return Table(self.store, task, PredictRecord)

    def ranking(self, task: str, test: str) -> list[Candidate]:
        """The task's models on a test set, the best first; of those that tie, the smaller."""
        settings = self.settings(task)
        sizes = {record.model: record.parameters for record in self.models(task).read()[0]}
        scores = {record.model: record.score for record in self.scores(task).read()[0] if record.test == test}
        better = {model: score if settings.better == "higher" else -score for model, score in scores.items()}

        def size(model: str) -> float:
            known = sizes.get(model)
            return float("inf") if known is None else known

        left, ranked = dict(better), []
        while left:
            best = max(left.values())
            tie = [model for model, score in left.items() if score >= best - settings.tolerance]
            chosen = min(tie, key=lambda model: (size(model), -better[model], model))
            ranked.append(Candidate(chosen, scores[chosen], sizes.get(chosen)))
            del left[chosen]
        return ranked

    def newest_test(self, task: str) -> str | None:
        """The test set that decides which model is best; None: there is none yet."""
        sets = self.sets(task, "test")
        return sets[-1] if sets else None

    def best(self, task: str) -> tuple[str, Candidate] | None:
        """The newest test set and the best model on it; None: nothing has been tested on it yet."""
        test = self.newest_test(task)
        ranked = self.ranking(task, test) if test else []
        return (test, ranked[0]) if test and ranked else None

    # What is added by hand

    def add_task(self, settings: TaskSettings, scripts: Mapping[SetKind, bytes]) -> str:
        """A task, with the scripts that make its sets (each may be missing)."""
        task = self.ids.new("TSK", {"name": settings.name})
        for kind, script in scripts.items():
            self.store.create(layout.generator_file(task, kind), script, durable=True)
        self.store.create(layout.settings_file(task), settings.to_bytes(), durable=True)
        return task

    def add_arch(self, task: str, scripts: Mapping[SetKind, bytes], name: str = "") -> str:
        """An architecture: the scripts that train, test and predict."""
        self.settings(task)
        arch = self.ids.new("ARC", {"task": task, "name": name})
        for verb in sorted(scripts, key=lambda verb: verb == "train"):  # last: by it the others see it
            self.store.create(layout.arch_file(arch, verb), scripts[verb], durable=True)
        return arch

    def order_set(self, task: str, kind: SetKind) -> str:
        """A new set, to be made by the task's own script; its id. Raises `RegistryError` without one."""
        self.settings(task)
        script = layout.generator_file(task, kind)
        if self.store.stat(script) is None:
            raise RegistryError(
                f"{self.store.url}/{script}: there is no such script; put it there, or give the arrays"
            )
        name = self.ids.new(SET_PREFIX[kind], {"task": task, _MADE_BY: _SCRIPT})
        self.order(Order(GENERATES[kind], (task, name)))
        return name

    def add_set(self, task: str, kind: SetKind, arrays: tuple[bytes, ...]) -> str:
        """A new set of given arrays (.npy: x, and y unless it is a predict set); its id."""
        self.settings(task)
        name = layout.make_id(SET_PREFIX[kind], 1)
        if len(arrays) != len(layout.set_files(name)):
            raise RegistryError(f"a {kind} set has {len(layout.set_files(name))} arrays, found {len(arrays)}")
        check_set(dict(zip(("x", "y"), arrays, strict=False)))
        name = self.ids.new(SET_PREFIX[kind], {"task": task})
        publish_set(self.store, name, dict(zip(layout.set_files(name), arrays, strict=True)))
        return name

    # Orders

    def order(self, order: Order) -> bool:
        """Put an order unless there is one of its name in any state; True: this call did."""
        queue = self.queues[order.kind]
        if any(ticket.order == order for ticket in queue.all()):
            return False
        return queue.put(order)

    def check_purpose(self, order: Order) -> None:
        """Raises `OrderFailed` for an order, written by hand, to make what its number was not given for: it
        would be recorded as what it is not."""
        given = self.ids.find(order.makes) or order.purpose
        known = {key: value for key, value in given.items() if key not in (_MADE_BY, _SETTINGS)}
        if known != order.purpose:
            said = ", ".join(f"{key} {value}" for key, value in known.items())
            raise OrderFailed(f"{order.makes} was given for {said}, not for what this order says")

    def pruning_of(self, task: str, parent: ModelRecord, settings: Mapping[str, Any]) -> Order:
        """The prune order for a model, its run file written; the same settings give the same order.

        settings: a run file's; name, work, model and data in it do not count. Raises `CoppiceError` if they
        are none.
        """
        wanted = {
            key: value for key, value in settings.items() if key not in ("name", "work", "model", "data")
        }
        parse_run_file({"name": parent.model, **wanted}, f"the pruning of {parent.model}")
        text = to_yaml({"name": parent.model, **wanted}).encode()
        purpose = {
            "task": task,
            "arch": parent.arch,
            "train": parent.train,
            "parent": parent.model,
            _SETTINGS: hashlib.sha256(text).hexdigest()[:16],
        }
        new = self.ids.the("MDL", purpose)
        self.store.create(layout.run_file(new), text, durable=True)
        return Order("prune", (task, parent.arch, parent.train, parent.model, new))

    def purpose(self, name: str) -> Purpose:
        """What an id is for. Of a model or score that only a line added by hand tells of: its task.

        Raises `RegistryError` if there is none.
        """
        found = self.ids.find(name)
        if not found:
            for task in self.tasks():
                if self.models(task).find(name) or self.scores(task).find(name):
                    return {"task": task}
        return self.ids.purpose(name)

    def model(self, task: str, model: str) -> ModelRecord:
        """The record of a model; raises `RegistryError` if the task has no such model."""
        record = self.models(task).find(model)
        if record is None:
            raise RegistryError(f"{model}: no model of {task}; see: coppice registry show {task}")
        return record
