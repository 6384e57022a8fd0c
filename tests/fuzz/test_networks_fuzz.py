"""Safetensors: published weights, a user's weights, checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coppice.errors import CoppiceError
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.scoring.fast import FastScorer
from coppice.pruning.scoring.reference import Reference
from coppice.pruning.tensors import load_weights_file, pack, unpack
from tests.fuzz.damage import content, quick, read_or_refuse
from tests.pruning.networks import no_tick, small

RUN = small(
    model={"name": "mlp", "arguments": {"hidden": [3]}}, reference={"iterations": 2}, search={"sigma": 1}
)
fuzz = settings(deadline=None, max_examples=60)


def trained() -> TorchPruner:
    pruner = TorchPruner(RUN)
    pruner.train_reference(2, no_tick)
    pruner.apply(np.zeros(2), 0.9)
    pruner.measure(no_tick)
    return pruner


PRUNER = trained()
WEIGHTS, CHECKPOINT = PRUNER.weights(), PRUNER.checkpoint()
X, Y = PRUNER.samples()
DTYPES = ["float8_e4m3fn", "float16", "bfloat16", "float64", "int8", "uint8", "int64", "bool", "complex64"]


@quick
@given(content(WEIGHTS))
def test_any_bytes_are_no_tensors(data: bytes) -> None:
    read_or_refuse(lambda: unpack(data, "x"))


@fuzz
@given(content(WEIGHTS))
def test_any_weights_are_refused_or_judged(data: bytes) -> None:
    read_or_refuse(lambda: judge_weights(data))


@fuzz
@given(content(CHECKPOINT))
def test_any_bytes_are_refused_as_a_checkpoint(data: bytes) -> None:
    read_or_refuse(lambda: PRUNER.restore(data))


VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        10**20,
        1e308,
        "x",
        [],
        {},
        [1.0],
        ["x", "y"],
        [[1], [2]],
        {"measure": {}, "crates": []},
    ]
)


@fuzz
@given(st.data())
def test_a_checkpoint_whose_numbers_were_changed(data: st.DataObject) -> None:
    """Past the checks of version and run file."""
    tensors, info = unpack(CHECKPOINT, "x")
    at: Any = info
    while True:
        key = data.draw(st.sampled_from(sorted(at)))
        if not isinstance(at[key], dict) or data.draw(st.booleans()):
            break
        at = at[key]
    if data.draw(st.booleans()):
        at[key] = data.draw(VALUES)
    else:
        del at[key]
    changed = pack(tensors, info)
    read_or_refuse(lambda: PRUNER.restore(changed))
    PRUNER.checkpoint()  # what was taken can be saved again


@pytest.mark.parametrize("dtype", DTYPES)
@fuzz
@given(st.data())
def test_tensors_of_another_kind(dtype: str, data: st.DataObject) -> None:
    for whole, read in ((WEIGHTS, judge_weights), (CHECKPOINT, PRUNER.restore)):
        tensors, info = unpack(whole, "x")
        name = data.draw(st.sampled_from(sorted(tensors)))
        shape = data.draw(st.sampled_from([tuple(tensors[name].shape), (), (0,), (1, 1), (2, 0, 5)]))
        tensors[name] = torch.zeros(shape).to(getattr(torch, dtype))
        changed = pack(tensors, info)
        read_or_refuse(lambda read=read, changed=changed: read(changed))  # type: ignore[misc]


def judge_weights(data: bytes) -> None:
    FastScorer(Reference.build(RUN, data, X, Y, 0.9)).score(np.zeros(2), no_tick)


# What was found


def test_metadata_of_brackets_is_refused() -> None:
    data = safetensors.torch.save({"a": torch.zeros(1)}, {"coppice": "[" * 100_000})
    with pytest.raises(CoppiceError, match=r"^x: "):
        unpack(data, "x")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("iteration", "x"),
        ("losses", None),
        ("reference_accuracy", None),
        ("reference_accuracy", 1e308),
        ("crates", [1.0]),
        ("crates", "ab"),
        ("limits", [[1], [2]]),
        ("best", {}),
    ],
)
def test_a_number_of_another_kind_in_a_checkpoint_is_named(key: str, value: Any) -> None:
    tensors, info = unpack(CHECKPOINT, "x")
    before = PRUNER.checkpoint()
    with pytest.raises(CoppiceError, match=r"^checkpoint: "):
        PRUNER.restore(pack(tensors, {**info, key: value}))
    assert PRUNER.checkpoint() == before  # unchanged, as promised


def test_weights_in_float8_are_refused_not_choked_on() -> None:
    tensors, info = unpack(WEIGHTS, "x")
    tensors = {name: t.to(torch.float8_e4m3fn) if t.is_floating_point() else t for name, t in tensors.items()}
    with pytest.raises(CoppiceError, match="float8"):
        judge_weights(pack(tensors, info))


def test_a_float64_that_is_infinite_as_float32_is_refused() -> None:
    tensors, info = unpack(WEIGHTS, "x")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    with pytest.raises(CoppiceError, match="infinite"):
        judge_weights(pack({**tensors, name: tensors[name].double() * 0 + 1e300}, info))


def test_a_header_that_promises_much_is_refused() -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    for data in (len(header).to_bytes(8, "little") + header, (2**63).to_bytes(8, "little"), b"\xff" * 8):
        with pytest.raises(CoppiceError, match="not a whole safetensors file"):
            unpack(data, "x")


def test_weights_of_a_user_who_has_no_home(tmp_path: Path) -> None:
    with pytest.raises(CoppiceError, match="cannot be read"):
        load_weights_file(PRUNER.model, "~nobody-of-this-name/x.safetensors")
