"""What each command of a work order does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from coppice.registry import layout
from coppice.registry.arrays import (
    brief,
    check_prediction,
    check_set,
    publish_set,
    read_output,
    set_is_there,
    tidy_set,
)
from coppice.registry.errors import OrderFailed
from coppice.registry.job import Job
from coppice.registry.models import read_info
from coppice.registry.orders import Command
from coppice.registry.pruning import prune
from coppice.registry.records import ModelRecord, PredictRecord, ScoreRecord, Table

_MAX_SCORE_BYTES = 1 << 16


def generate(job: Job, command: Command) -> None:
    """traingen, testgen, predictgen: a set, by the task's script."""
    script, *paths = command.arguments
    if set_is_there(job.registry.store, job.order.makes):
        job.log.append(f"{job.order.makes} is there already")
        tidy_set(job.registry.store, job.order.makes)
        return
    outputs = {path: job.output(Path(path).name) for path in paths}
    job.run_script(script, *outputs.values())
    files = {path: read_output(local, path) for path, local in outputs.items()}
    check_set(files)
    publish_set(job.registry.store, job.order.makes, files)


def train(job: Job, command: Command) -> None:
    """A model, by an architecture's script."""
    script, x, y, path = command.arguments
    if job.is_there(path):
        return
    made = job.output("model.safetensors")
    job.run_script(script, job.fetch(x), job.fetch(y), made)
    content = read_output(made, path)
    read_info(content, path)
    job.publish(path, content)


def record_model(job: Job, command: Command) -> None:
    """train_record and prune_record: the model's line."""
    _, arch, train_set, model, *_ = command.arguments
    path = layout.model_file(model)
    info = read_info(job.fetch(path).read_bytes(), path)
    record = ModelRecord(job.now(), arch, train_set, model, info.parameters)
    if command.verb == "prune_record":  # what a script of the user's says of parents does not count
        record = replace(record, parent=info.parent, compression=info.compression, run=info.run)
    _add(job, job.registry.models(job.order.task), record)


def test(job: Job, command: Command) -> None:
    """A score, by an architecture's script."""
    script, model, x, y, path = command.arguments
    if job.is_there(path):
        return
    local, _ = job.fetch_model(model)
    made = job.output("score.txt")
    job.run_script(script, local, job.fetch(x), job.fetch(y), made)
    content = read_output(made, path)
    score_of(content, path)
    job.publish(path, content)


def record_score(job: Job, command: Command) -> None:
    """test_record: the score's line."""
    _, model, test_set, path = command.arguments
    score = score_of(job.fetch(path).read_bytes(), path)
    _add(job, job.registry.scores(job.order.task), ScoreRecord(job.now(), model, test_set, path, score))


def predict(job: Job, command: Command) -> None:
    """What a model says of a predict set, by an architecture's script."""
    script, model, x, path = command.arguments
    if job.is_there(path):
        return
    local, _ = job.fetch_model(model)
    made = job.output("yhat.npy")
    samples = job.fetch(x)
    given = samples.read_bytes()  # before the script, which may do with its copy as it likes
    job.run_script(script, local, samples, made)
    content = read_output(made, path)
    check_prediction(content, path, given)
    job.publish(path, content)


def record_prediction(job: Job, command: Command) -> None:
    """predict_record: the prediction's line."""
    _, model, path = command.arguments
    samples = job.fetch(layout.set_files(job.order.makes)[0]).read_bytes()
    values = check_prediction(job.fetch(path).read_bytes(), path, samples)
    record = PredictRecord(job.now(), model, path, brief(values))
    _add(job, job.registry.predictions(job.order.task), record)


def score_of(content: bytes, path: str) -> float:
    """The number in a score's file; raises `OrderFailed`."""
    try:
        if len(content) > _MAX_SCORE_BYTES:
            raise ValueError
        score = float(content.decode("utf-8").strip().splitlines()[0])
        if not math.isfinite(score):
            raise ValueError
    except (ValueError, IndexError) as error:
        raise OrderFailed(f"{path}: expected one finite number, found {content[:60]!r}") from error
    return score


def _add(
    job: Job,
    table: Table[ModelRecord] | Table[ScoreRecord] | Table[PredictRecord],
    record: ModelRecord | ScoreRecord | PredictRecord,
) -> None:
    if not table.add(record):  # type: ignore[arg-type]
        job.log.append(f"{record.key} is recorded already")


_VERBS: dict[str, Callable[[Job, Command], None]] = {
    "traingen": generate,
    "testgen": generate,
    "predictgen": generate,
    "train": train,
    "train_record": record_model,
    "test": test,
    "test_record": record_score,
    "predict": predict,
    "predict_record": record_prediction,
    "prune": prune,
    "prune_record": record_model,
}


def do(job: Job, command: Command) -> None:
    """Carry out one command. Raises `OrderFailed`, or another `CoppiceError`, with the reason if it cannot be
    done, and whatever `job.tick` raises."""
    job.log.append(f"$ {command}")
    _VERBS[command.verb](job, command)
