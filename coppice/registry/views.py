"""What the registry's commands show: as plain data for --json, and as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from coppice.errors import CoppiceError
from coppice.registry import layout
from coppice.registry.arrays import set_is_there
from coppice.registry.errors import RegistryError
from coppice.registry.queue import STATES
from coppice.registry.records import ModelRecord, R, Table
from coppice.registry.registry import Candidate, Registry

_WHAT: dict[layout.Prefix, str] = {
    "TSK": "task",
    "ARC": "architecture",
    "TRD": "train set",
    "TST": "test set",
    "PRD": "predict set",
    "MDL": "model",
    "SCR": "score",
}


def overview(registry: Registry) -> dict[str, Any]:
    """Tasks with what they have, queues with what lies in them and since when (by this machine's clock)."""
    now_ms = registry.clock.time() * 1000
    tasks = []
    for task in registry.tasks():
        complaints: list[str] = []
        name = None
        try:
            name = registry.settings(task).name
        except RegistryError as error:
            complaints.append(str(error))
        models = _read(registry.models(task), complaints)
        tasks.append(
            {
                "task": task,
                "name": name,
                "architectures": len(registry.archs(task)),
                "train": len(registry.sets(task, "train")),
                "test": len(registry.sets(task, "test")),
                "predict": len(registry.sets(task, "predict")),
                "models": len(models),
                "pruned": sum(record.parent is not None for record in models),
                "scores": len(_read(registry.scores(task), complaints)),
                "predictions": len(_read(registry.predictions(task), complaints)),
                "complaints": complaints,
            }
        )
    queues = []
    for kind, queue in registry.queues.items():
        row: dict[str, Any] = {"kind": kind}
        for state in STATES:
            tickets = queue.tickets(state)
            row[state] = len(tickets)
            if state in ("wait", "running"):
                oldest = min((ticket.mtime_ms for ticket in tickets), default=None)
                row[f"{state}_s"] = None if oldest is None else max(0.0, (now_ms - oldest) / 1000)
            if state == "running":
                row["workers"] = sorted({ticket.worker for ticket in tickets if ticket.worker})
            if state == "fail":
                strays = [name.removesuffix(".wo") for name in queue.strays(state)]
                row[state] += len(strays)
                row["failed"] = sorted([*(ticket.order.name for ticket in tickets), *strays])
        queues.append(row)
    return {"registry": registry.store.url, "tasks": tasks, "queues": queues}


def overview_tables(found: dict[str, Any]) -> list[RenderableType]:
    """The same for people."""
    rows = [{key: value for key, value in row.items() if key != "complaints"} for row in found["tasks"]]
    tasks = _table(rows, found["registry"])
    queues = RichTable(title="work orders", title_justify="left", box=None, pad_edge=False)
    for heading in ("kind", "waiting", "running", "done", "failed"):
        queues.add_column(heading)
    lines: list[RenderableType] = [tasks, Text(), queues]
    for row in found["tasks"]:
        lines += [Text(complaint, style="red") for complaint in row["complaints"]]
    for row in found["queues"]:
        queues.add_row(
            row["kind"],
            _counted(row["wait"], row["wait_s"], "for"),
            _counted(row["running"], row["running_s"], "last seen"),
            str(row["success"]),
            str(row["fail"]),
        )
        for name in row["failed"]:
            path = f"{layout.ORDERS}/{row['kind']}/fail/{name}.log"
            lines.append(Text(f"failed: {name}, see {path}", style="red"))
    return lines


def describe(registry: Registry, name: str) -> dict[str, Any]:
    """What is known of one id. Raises `RegistryError` if it was never given."""
    parsed = layout.parse_id(name)
    if parsed is None:
        raise RegistryError(f"{name!r}: no id; expected one such as TSK000001, MDL000001, TRD000001")
    purpose = registry.purpose(name)
    found: dict[str, Any] = {"id": name, "what": _WHAT[parsed[0]], **purpose}
    if parsed[0] == "TSK":
        complaints: list[str] = []
        found |= registry.settings(name).model_dump(mode="json")
        found |= {
            "architectures": registry.archs(name),
            "train": registry.sets(name, "train"),
            "test": registry.sets(name, "test"),
            "predict": registry.sets(name, "predict"),
            "models": [_model(registry, name, record) for record in _read(registry.models(name), complaints)],
            "predictions": [
                {"set": record.key, "model": record.model, "file": record.out}
                for record in _read(registry.predictions(name), complaints)
            ],
            "complaints": complaints,
        }
    elif parsed[0] == "MDL":
        record = registry.models(purpose["task"]).find(name) if "task" in purpose else None
        found["made"] = record is not None
        if record is not None:
            found |= _model(registry, purpose["task"], record) | {"file": layout.model_file(name)}
    elif parsed[0] == "SCR":
        scores = registry.scores(purpose["task"]).read()[0] if "task" in purpose else []
        score = next((record for record in scores if record.key == name), None)
        found["made"] = score is not None
        if score is not None:
            found |= {"score": score.score, "file": score.file}
    elif parsed[0] == "ARC":
        scripts = [entry.name for entry in registry.store.list("arch")]
        found["files"] = [f"arch/{script}" for script in scripts if script.startswith(f"{name}_")]
    elif parsed[0] in ("TRD", "TST", "PRD"):
        found |= {"made": set_is_there(registry.store, name), "files": list(layout.set_files(name))}
    found["orders"] = [
        f"{ticket.state}: {ticket.order.name}"
        for queue in registry.queues.values()
        for ticket in queue.all()
        if name in ticket.order.ids and parsed[0] != "TSK"
    ]
    return found


def shown(found: dict[str, Any]) -> RenderableType:
    """Any of these for people: values line by line, lists of things as tables."""
    facts = RichTable.grid(padding=(0, 2))
    tables: list[RenderableType] = []
    for key, value in found.items():
        if key == "complaints":
            tables += [Text(complaint, style="red") for complaint in value]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += [Text(), _table(value, key)]
        elif value not in (None, [], {}):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            facts.add_row(Text(key, style="dim"), Text(text))
    return Group(facts, *tables)


def best_view(candidate: Candidate) -> dict[str, Any]:
    """A model as it did on a test set."""
    return {"model": candidate.model, "score": candidate.score, "parameters": candidate.parameters}


def lineage_lines(registry: Registry, model: str) -> list[str]:
    """From the model back to the scripts and sets that it was made of, a line each, indented by a step."""
    parsed = layout.parse_id(model)
    if parsed is None or parsed[0] != "MDL":
        raise RegistryError(f"{model!r:.80}: no model; expected an id such as MDL000001")
    purpose = registry.purpose(model)
    task = purpose.get("task", "")
    records = {record.model: record for record in registry.models(task).read()[0]} if task else {}
    lines: list[str] = []
    seen: set[str] = set()
    current: str | None = model
    while current is not None:
        if current in seen:  # a line by hand may say so
            raise RegistryError(f"{layout.table_file(task, 'model')}: {current} is an ancestor of itself")
        seen.add(current)
        record = records.get(current)
        indent = "  " * len(lines)
        if record is None:
            lines.append(f"{indent}{current}: not made yet{_scores(registry, task, current)}")
            parent = purpose.get("parent") if current == model else None
        elif record.parent is not None:
            lines.append(
                f"{indent}{current}: pruned from {record.parent}, {record.compression:.2f} times fewer "
                f"parameters ({record.parameters}), run {record.run}{_scores(registry, task, current)}"
            )
            parent = record.parent
        else:
            lines.append(
                f"{indent}{current}: trained by arch/{record.arch}_train.py on {record.train}, "
                f"{record.parameters} parameters{_scores(registry, task, current)}"
            )
            lines.append(f"{indent}  {record.train}: {_origin(registry, task, record.train)}")
            lines.append(f"{indent}  {task}: {registry.settings(task).name}")
            return lines
        current = parent
    return lines


def _origin(registry: Registry, task: str, train: str) -> str:
    made = registry.made_by_script(train)
    return f"made by {layout.generator_file(task, 'train')}" if made else "given as arrays"


def _scores(registry: Registry, task: str, model: str) -> str:
    scores = [record for record in registry.scores(task).read()[0] if record.model == model]
    return "".join(f"; {record.score:.4g} on {record.test}" for record in scores)


def _read(table: Table[R], complaints: list[str]) -> list[R]:
    """A table's lines; what is wrong in it is added to `complaints`."""
    try:
        records, found = table.read()
    except CoppiceError as error:
        records, found = [], [str(error)]
    complaints += found
    return records


def _model(registry: Registry, task: str, record: ModelRecord) -> dict[str, Any]:
    scores = {each.test: each.score for each in registry.scores(task).read()[0] if each.model == record.model}
    return {
        "model": record.model,
        "arch": record.arch,
        "train": record.train,
        "parameters": record.parameters,
        "parent": record.parent,
        "compression": record.compression,
        "run": record.run,
        "scores": scores,
    }


def _table(rows: list[dict[str, Any]], title: str) -> RichTable:
    table = RichTable(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for column in rows[0] if rows else ["nothing yet"]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[Text(_cell(value)) for value in row.values()])
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(each)}" for key, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _counted(count: int, seconds: float | None, word: str) -> str:
    return str(count) if seconds is None else f"{count}, {word} {_age(seconds)}"


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
