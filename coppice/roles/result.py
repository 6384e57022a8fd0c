"""What a run leaves behind, in the work folder under result/."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from coppice.pruning.contract import ExportReport, Layer, Outcome
from coppice.roles.history import history_csv, left_out, read_histories
from coppice.roles.rounds import Count, read_rounds
from coppice.runfile import RunFile
from coppice.store import Store
from coppice.work import names
from coppice.work.contents import array_to_bytes, json_to_bytes

Amount = Annotated[float, Field(ge=0, le=1e15)]
"""How much, in a file that somebody may have changed."""


@dataclass(frozen=True, slots=True)
class ResultLayer:
    """One layer in result.json."""

    name: str
    shape: tuple[Count, ...]
    remaining: Count
    crate: float


@dataclass(frozen=True, slots=True)
class Result:
    """What others take from result.json."""

    run_id: str
    name: str
    parameters_total: Count
    parameters_remaining: Count
    compression: Amount
    weights_total: Count
    weights_remaining: Count
    layers: tuple[ResultLayer, ...]
    reference_accuracy: Amount
    pruned_accuracy: Amount
    validation_accuracy: Amount
    searches: Count
    evaluations: Count
    evaluators: Count
    seconds: Amount
    export: ExportReport | None = None
    """None in what older versions wrote."""
    left_out: tuple[str, ...] = ()
    """Records of searches that were missing or damaged: history.csv and `evaluations` are without them."""


RESULT = TypeAdapter(Result)


def write_result(
    store: Store,
    *,
    run_id: str,
    run: RunFile,
    layers: tuple[Layer, ...],
    outcome: Outcome,
    searches: int,
    seconds: float,
) -> list[str]:
    """Write model.safetensors, crates.npy, history.csv and the export, and result.json last: where that is,
    all is. Returns lines that say what is missing in them: no result is lost because a search's record is.

    Written again after a crash, with the same content but for what was measured: `seconds` and `export`.
    """
    said: list[str] = []
    found = read_histories(store, len(layers), lambda error: said.append(str(error)))
    histories = [history for history in found if history.search <= searches]
    lost = left_out(histories, searches)
    said += [f"{each}: missing or damaged; history.csv and the evaluations are without it" for each in lost]
    workers = {worker for history in histories for worker in history.workers if worker}
    rounds = read_rounds(store)
    measure = outcome.measure
    result: dict[str, Any] = {
        "run_id": run_id,
        "name": run.name,
        "seed": run.seed,
        "parameters_total": measure.parameters_total,
        "parameters_remaining": measure.parameters_remaining,
        "compression": measure.compression,
        "weights_total": measure.weights_total,
        "weights_remaining": measure.weights_remaining,
        "layers": [
            {"name": layer.name, "shape": list(layer.shape), "remaining": remaining, "crate": float(crate)}
            for layer, remaining, crate in zip(layers, measure.layer_remaining, outcome.crates, strict=True)
        ],
        "reference_accuracy": outcome.reference_accuracy,
        "pruned_accuracy": outcome.pruned_accuracy,
        "validation_accuracy": measure.accuracy,
        "rounds": len(rounds),
        "searches": searches,
        "evaluations": sum(len(history.fitness) for history in histories),
        "evaluators": len(workers),
        "seconds": round(seconds, 3),
        "export": None if outcome.export is None else asdict(outcome.export.report),
        "left_out": lost,
        "round_history": rounds,
    }
    store.replace(names.RESULT_MODEL, outcome.model, durable=True)
    store.replace(names.RESULT_CRATES, array_to_bytes(outcome.crates), durable=True)
    store.replace(
        names.RESULT_HISTORY, history_csv(histories, [layer.name for layer in layers]), durable=True
    )
    for name, content in sorted(outcome.export.files.items()) if outcome.export else ():
        store.replace(names.exported(name), content, durable=True)
    store.replace(names.RESULT_JSON, json_to_bytes(result), durable=True)
    return said
