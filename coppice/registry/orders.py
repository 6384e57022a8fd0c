"""Work orders: text files whose name says all ids that they concern, and whose lines are commands.

What an order of some name has to say is fixed: `check` compares each line with it, so nothing else is ever
run, whatever somebody writes into the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from coppice.registry import layout
from coppice.registry.errors import OrderFailed

Kind = Literal["traingen", "testgen", "predictgen", "train", "test", "predict", "prune"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_IDS: dict[Kind, tuple[layout.Prefix, ...]] = {
    "traingen": ("TSK", "TRD"),
    "testgen": ("TSK", "TST"),
    "predictgen": ("TSK", "PRD"),
    "train": ("TSK", "ARC", "TRD", "MDL"),
    "test": ("TSK", "ARC", "MDL", "TST", "SCR"),
    "predict": ("TSK", "ARC", "MDL", "PRD"),
    "prune": ("TSK", "ARC", "TRD", "MDL", "MDL"),
}
"""What an order's name consists of; prune: the parent, then the model to be made."""
_PYTHON = re.compile(r"python[0-9.]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Command:
    """One line."""

    verb: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(["python", f"{self.verb}.py", *self.arguments])


@dataclass(frozen=True, slots=True)
class Order:
    """A work order, known by its name."""

    kind: Kind
    ids: tuple[str, ...]
    """See the table in docs/registry.md."""

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return "_".join([self.kind, *self.ids])

    @property
    def makes(self) -> str:
        """The id of what it makes."""
        return self.ids[-1]

    @property
    def task(self) -> str:
        """The id of the task that it belongs to."""
        return self.ids[0]

    @property
    def purpose(self) -> dict[str, str]:
        """What the id of what it makes is for, see `coppice.registry.ids`."""
        match self.kind:
            case "train":
                task, arch, train, _ = self.ids
                return {"task": task, "arch": arch, "train": train}
            case "test":
                task, _, model, test, _ = self.ids
                return {"task": task, "model": model, "test": test}
            case "prune":
                task, arch, train, parent, _ = self.ids
                return {"task": task, "arch": arch, "train": train, "parent": parent}
            case _:
                return {"task": self.task}

    def commands(self) -> tuple[Command, ...]:
        """What an order of this name has to say."""
        task = self.task
        files: tuple[str, ...]
        record: tuple[str, ...]
        match self.kind:
            case "traingen" | "testgen" | "predictgen":
                which: Literal["train", "test", "predict"] = self.kind.removesuffix("gen")  # type: ignore[assignment]
                script = layout.generator_file(task, which)
                return (Command(self.kind, (script, *layout.set_files(self.makes))),)
            case "train":
                _, arch, train, model = self.ids
                files = (layout.arch_file(arch, "train"), *layout.set_files(train), layout.model_file(model))
                record = (layout.table_file(task, "model"), arch, train, model)
                return Command("train", files), Command("train_record", record)
            case "test":
                _, arch, model, test, score = self.ids
                files = (layout.arch_file(arch, "test"), layout.model_file(model), *layout.set_files(test))
                record = (layout.table_file(task, "score"), model, test, layout.score_file(score))
                return Command("test", (*files, record[-1])), Command("test_record", record)
            case "predict":
                _, arch, model, predict = self.ids
                files = (layout.arch_file(arch, "predict"), layout.model_file(model))
                record = (layout.table_file(task, "predict"), model, layout.out_file(predict))
                say = (*files, *layout.set_files(predict), record[-1])
                return Command("predict", say), Command("predict_record", record)
            case "prune":
                _, arch, train, parent, model = self.ids
                files = (layout.run_file(model), layout.model_file(parent), *layout.set_files(train))
                record = (layout.table_file(task, "model"), arch, train, model, parent)
                return Command("prune", (*files, layout.model_file(model))), Command("prune_record", record)

    def text(self) -> bytes:
        """The content of its file."""
        return "".join(f"{command}\n" for command in self.commands()).encode()


def parse_name(name: str) -> Order | None:
    """The order of that name (without .wo); None for any other file."""
    kind, _, rest = name.partition("_")
    ids = tuple(rest.split("_"))
    if kind not in _IDS:
        return None
    wanted: tuple[layout.Prefix, ...] = _IDS[kind]
    parsed = [layout.parse_id(each) for each in ids]
    if [each and each[0] for each in parsed] != list(wanted) or len(set(ids)) < len(ids):
        return None
    return Order(kind, ids)


def check(order: Order, content: bytes) -> list[Command]:
    """The commands in an order's file; raises `OrderFailed`, naming the line, for anything that an order of
    its name has not to say."""
    expected = {command.verb: command for command in order.commands()}
    found: list[Command] = []
    for number, line in enumerate(_lines(content), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if _PYTHON.fullmatch(words[0]):
            words = words[1:]
        program = words[0] if words else "python"
        command = expected.get(program.removesuffix(".py"))
        if command is None or not program.endswith(".py"):
            verbs = ", ".join(f"{verb}.py" for verb in expected)
            raise OrderFailed(
                f"line {number}: {_brief(program)} is none of what {order.kind} may do: {verbs}"
            )
        for place, wanted in enumerate(command.arguments, start=1):
            given = words[place] if place < len(words) else "nothing"
            if given != wanted:
                raise OrderFailed(f"line {number}: argument {place} is {_brief(given)}, expected {wanted}")
        if len(words) > 1 + len(command.arguments):
            given = words[1 + len(command.arguments)]
            raise OrderFailed(f"line {number}: {_brief(given)} is one argument too many")
        found.append(command)
    missing = next((command for command in expected.values() if command not in found), None)
    if missing is not None:
        raise OrderFailed(f"{missing.verb}.py is missing; expected the line: {missing}")
    if found != list(expected.values()):
        raise OrderFailed(f"expected these commands, each once: {', '.join(f'{v}.py' for v in expected)}")
    return found


def _lines(content: bytes) -> list[str]:
    try:
        return content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise OrderFailed("not text; an order is a text file with one command a line") from error


def _brief(word: str) -> str:
    return repr(word)[:120]
