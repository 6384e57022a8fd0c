"""Every name in the registry, and the only place where names are built or taken apart."""

from __future__ import annotations

import re
from typing import Literal

REGISTRY = "registry.json"
IDS = "ids"

Prefix = Literal["TSK", "ARC", "TRD", "TST", "PRD", "MDL", "SCR"]
PREFIXES: tuple[Prefix, ...] = ("TSK", "ARC", "TRD", "TST", "PRD", "MDL", "SCR")
HIGHEST = 999_999

FOLDER_OF: dict[Prefix, str] = {
    "TSK": "task",
    "ARC": "arch",
    "TRD": "train",
    "TST": "test",
    "PRD": "predict",
    "MDL": "model",
    "SCR": "score",
}
"""Where the files of such a thing stand."""
GEN, OUT, RUN = "gen", "out", "run"
ORDERS = "wo"
FOLDERS = (*FOLDER_OF.values(), GEN, OUT, RUN, IDS, ORDERS)

_ID = re.compile(rf"({'|'.join(PREFIXES)})([0-9]{{6}})", re.ASCII)
_LEADING_ID = re.compile(rf"{_ID.pattern}(?![0-9A-Za-z])", re.ASCII)


def make_id(prefix: Prefix, number: int) -> str:
    """`make_id("MDL", 1)` is MDL000001; number: 1 to `HIGHEST`."""
    return f"{prefix}{number:06d}"


def parse_id(text: str) -> tuple[Prefix, int] | None:
    """Prefix and number of an id; None for anything else."""
    match = _ID.fullmatch(text)
    if match is None or int(match[2]) == 0:
        return None
    prefix: Prefix = match[1]  # type: ignore[assignment]
    return prefix, int(match[2])


def id_at_start(name: str) -> tuple[Prefix, int] | None:
    """The id that a file's name begins with: TRD000001_x.npy is of TRD000001."""
    match = _LEADING_ID.match(name)
    return parse_id(match[1] + match[2]) if match else None


def id_file(name: str) -> str:
    """What says for what a number was given."""
    return f"{IDS}/{name[:3]}/{name}.json"


def id_folder(prefix: Prefix) -> str:
    """Where the numbers of one kind are given out."""
    return f"{IDS}/{prefix}"


def settings_file(task: str) -> str:
    """A task's settings."""
    return f"task/{task}.yaml"


def generator_file(task: str, kind: Literal["train", "test", "predict"]) -> str:
    """The script that makes a task's data sets of one kind."""
    return f"gen/{task}_{kind}.py"


def arch_file(arch: str, verb: Literal["train", "test", "predict"]) -> str:
    """The script that trains, tests or predicts."""
    return f"arch/{arch}_{verb}.py"


def set_files(name: str) -> tuple[str, ...]:
    """The arrays of a train, test or predict set: x, and y where it has labels."""
    prefix, _ = parse_id(name) or ("", 0)
    folder = {"TRD": "train", "TST": "test", "PRD": "predict"}[prefix]
    x = f"{folder}/{name}_x.npy"
    return (x,) if prefix == "PRD" else (x, f"{folder}/{name}_y.npy")


def model_file(model: str) -> str:
    """A network's weights, with the name of its architecture."""
    return f"model/{model}.safetensors"


def score_file(score: str) -> str:
    """One number, as text."""
    return f"score/{score}.txt"


def out_file(predict: str) -> str:
    """What was predicted for a predict set."""
    return f"out/{predict}_yhat.npy"


def run_file(model: str) -> str:
    """The run file by which a pruned model is made,"""
    return f"run/{model}.yaml"


def run_folder(model: str) -> str:
    """and the work folder in which."""
    return f"run/{model}"


def table_file(task: str, table: Literal["model", "score", "predict"]) -> str:
    """One of a task's three records."""
    return f"task/{task}_{table}.csv"
