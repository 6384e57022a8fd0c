"""What a report tells of a run, finished or not, read from its work folder."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

from coppice.pruning.contract import Float64s
from coppice.roles import outer
from coppice.roles.context import read_failure, read_record
from coppice.roles.history import SearchHistory, check_layers, left_out, read_histories
from coppice.roles.result import RESULT, Result
from coppice.roles.rounds import REPORT, checked, read_rounds
from coppice.roles.searcher import read_progress
from coppice.runfile import RunFile, parse_run_file
from coppice.store import Store
from coppice.work import names
from coppice.work.checkpoints import Checkpoints
from coppice.work.contents import accuracy_from_bytes, json_from_bytes
from coppice.work.errors import BadContent
from coppice.work.limits import MAX_RESULT_BYTES, MAX_TEXT_BYTES, read_limited
from coppice.work.sentinels import Report, RunRecord


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer of the network that is, or would be now, the result."""

    name: str
    shape: tuple[int, ...]
    remaining: int
    crate: float | None
    """None where it cannot be told which crate is whose (an unfinished run with layers that look alike)."""

    @property
    def total(self) -> int:
        """Weights of the dense layer."""
        return math.prod(self.shape)

    @property
    def fraction(self) -> float:
        """Of its weights that remain."""
        return self.remaining / max(1, self.total)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page tells."""

    record: RunRecord
    run: RunFile
    reason: str | None
    """Why the run failed, where it did."""
    rounds: list[Report]
    histories: list[SearchHistory]
    """Those whose record is there; the last one may still be under way."""
    left_out: list[str]
    """Records of searches that are missing."""
    under_way: int | None
    """The search that is."""
    layers: list[LayerFacts]
    result: Result | None
    """Of result.json, where the run has come so far."""
    reference: float | None
    """The dense network's accuracy on the held-out samples."""
    parameters_total: int | None
    seconds: float | None

    @property
    def layer_names(self) -> list[str]:
        """In the order of a solution's crates."""
        width = self.histories[0].layers if self.histories else len(self.layers)
        if len(self.layers) == width and all(layer.crate is not None for layer in self.layers):
            return [layer.name for layer in self.layers]
        return [f"layer {i + 1}" for i in range(width)]


def read_facts(store: Store) -> Facts:
    """Everything that the page needs; only reads.

    Raises `CoppiceError` where there is no run, or one of the files that hold its numbers is damaged.
    """
    record = read_record(store)
    if record is None:
        raise BadContent(f"{store.url}: no run here (no {names.RUN}); the master creates it")
    run = parse_run_file(record.run_file, names.RUN)
    rounds = [checked(REPORT, each, names.round_record(i + 1)) for i, each in enumerate(read_rounds(store))]
    histories = read_histories(store)
    current = _search_under_way(store, histories)
    result = _result(store, record.run_id)
    seconds, state = _outer_checkpoint(store)
    accuracy = read_limited(store, names.ACCURACY, MAX_TEXT_BYTES)
    last = rounds[-1] if rounds else None
    if result is not None:
        total: int | None = result.parameters_total
    else:
        total = round(min(1e15, last.compression * last.parameters_remaining)) if last else None
    return Facts(
        record=record,
        run=run,
        reason=record.reason or read_failure(store),
        rounds=rounds,
        histories=[*histories, *([current] if current else [])],
        left_out=left_out(histories, _searches(result, last, current)),
        under_way=current.search if current else None,
        layers=_layers_so_far(state)
        if result is None
        else [LayerFacts(each.name, each.shape, each.remaining, each.crate) for each in result.layers],
        result=result,
        reference=None if accuracy is None else accuracy_from_bytes(accuracy, names.ACCURACY),
        parameters_total=total,
        seconds=seconds if result is None else result.seconds,
    )


def _result(store: Store, run_id: str) -> Result | None:
    data = read_limited(store, names.RESULT_JSON, MAX_RESULT_BYTES)
    if data is None:
        return None
    result = checked(RESULT, json_from_bytes(data, names.RESULT_JSON), names.RESULT_JSON)
    return result if result.run_id == run_id else None


def _search_under_way(store: Store, histories: list[SearchHistory]) -> SearchHistory | None:
    """What the searcher has told of a search that is not over, nor among the finished `histories`."""
    parts = Checkpoints(store, names.NCS, lambda line: None).load() or {}
    try:
        progress = read_progress(parts)
        data = parts["history.zip"]
    except (KeyError, BadContent):
        return None  # none yet, or of another version
    last = histories[-1] if histories else None
    if progress.over or (last is not None and progress.search <= last.search):
        return None
    history = SearchHistory.from_bytes(data, names.NCS, progress.search)
    check_layers(history, last.layers if last is not None else None, names.NCS)
    return history


def _searches(result: Result | None, last: Report | None, current: SearchHistory | None) -> int:
    """How many searches are known to be over, whether or not their records are there."""
    if result is not None:
        return result.searches
    return max(last.searches if last else 0, current.search - 1 if current else 0)


# Layers


def _outer_checkpoint(store: Store) -> tuple[float | None, bytes]:
    """The outer loop's working seconds, and the network as it was saved."""
    parts = Checkpoints(store, names.OUTER, lambda line: None).load() or {}
    try:
        return outer.read_progress(parts["progress.json"]).seconds, parts["pruner.safetensors"]
    except (KeyError, BadContent):
        return None, b""


def _layers_so_far(state: bytes) -> list[LayerFacts]:
    """The layers of what would be the result now, from the outer loop's checkpoint; [] before there is any.

    Read without torch and without the user's model. The checkpoint names masks by their tensors and lists
    counts and crates in the order of the layers; where no two layers keep the same number of weights, that
    tells which is whose.
    """
    import safetensors

    try:
        (size,) = struct.unpack("<Q", state[:8])
        header = json_from_bytes(state[8 : 8 + size], names.OUTER)
        info = json_from_bytes(header["__metadata__"]["coppice"].encode(), names.OUTER)
        tensors = dict(safetensors.deserialize(state))  # type: ignore[no-untyped-call]
        which = "best" if info["result"] == "best" else "result"
        counts = [int(n) for n in info[which]["measure"]["layer_remaining"]]
        crates: Float64s = np.array([float(crate) for crate in info[which]["crates"]])
        layers = []
        for name, tensor in tensors.items():
            group, _, parameter = name.partition(".")
            if group == f"{which}_mask" and tensor["dtype"] == "F32" and len(tensor["shape"]) > 1:
                kept = int(np.count_nonzero(np.frombuffer(tensor["data"], dtype=np.float32)))
                layers.append((parameter.removesuffix(".weight"), tuple(tensor["shape"]), kept))
    except (safetensors.SafetensorError, struct.error, LookupError, TypeError, ValueError, AttributeError):
        return []
    except BadContent:
        return []  # no checkpoint or nothing feasible yet, or one of another version
    kept_counts = sorted(kept for _, _, kept in layers)
    if kept_counts == sorted(set(counts)) and len(counts) == len(crates):
        layers.sort(key=lambda layer: counts.index(layer[2]))
        return [LayerFacts(*layer, crate=float(crate)) for layer, crate in zip(layers, crates, strict=True)]
    return [LayerFacts(*layer, crate=None) for layer in sorted(layers)]
