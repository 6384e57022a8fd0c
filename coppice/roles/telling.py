"""What the outer loop and the search tell the world while they work: status messages and metric logs.

Without a settings file nothing is told, and nothing written. Messages are hints: no role ever goes by one.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from coppice.pruning.contract import Measure, Pruner
from coppice.roles.context import Context, RunOver, Stopped, read_record
from coppice.roles.history import SearchHistory, read_histories
from coppice.runfile import RunFile
from coppice.status import MetricLog, MetricLogs, Reporter, StatusSettings
from coppice.status.metrics import MAX_LINES
from coppice.status.reporter import METRICS_S, sentence
from coppice.store import Store, StoreError
from coppice.work import names
from coppice.work.contents import json_to_bytes
from coppice.work.errors import BadContent, RunFailed, RunRefused, Superseded
from coppice.work.limits import MAX_TEXT_BYTES, read_limited

SUPERVISED_VARIABLE = "COPPICE_SUPERVISED"
"""Set for a role by somebody who starts it again when it dies, and who tells when that is no use."""
PART = "metrics.json"
"""Of a checkpoint: the lines of the logs up to there, so that a restart neither loses nor repeats one."""

Told = Literal["ing", "done", "error"]


class Mark(BaseModel):
    """outer/told.json: what the platform knows of a run, through all restarts of the outer loop."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: str
    kind: str
    project_key: int | str
    id: int | str
    told: Told

    @classmethod
    def of(cls, settings: StatusSettings, run: str, told: Told) -> Mark:
        """For the training that `settings` name."""
        return cls(run=run, kind=settings.kind, project_key=settings.project_key, id=settings.id, told=told)


def read_told(store: Store, settings: StatusSettings, run: str) -> Told | None:
    """What was told of this run under these ids; None: nothing yet."""
    try:
        data = read_limited(store, names.TOLD, MAX_TEXT_BYTES)
        mark = Mark.model_validate_json(data) if data else None
    except (BadContent, ValidationError):
        return None
    return mark.told if mark and mark == Mark.of(settings, run, mark.told) else None


def write_told(store: Store, settings: StatusSettings, run: str, told: Told) -> None:
    """Remember it."""
    store.replace(names.TOLD, json_to_bytes(Mark.of(settings, run, told).model_dump()), durable=True)


class Telling:
    """What the outer loop tells; see the methods. Use it by `telling`."""

    def __init__(self, context: Context, settings: StatusSettings | None) -> None:
        self._context = context
        self._settings = settings
        self._reporter = Reporter(settings, context.say, resume_metrics=False) if settings else None
        self._run_id = ""
        self._run: RunFile | None = None
        self._told: Told | None = None
        self._logs = {
            "loss": MetricLog(("iteration", "loss")),
            "accuracy": MetricLog(("iteration", "accuracy", "dense network")),
            "compression": MetricLog(("iteration", "compression", "best within the constraint")),
        }

    def begin(self, run_id: str, run: RunFile) -> None:
        """The role is in office and goes to work."""
        self._run_id, self._run = run_id, run
        if self._settings is None:
            return
        self._told = read_told(self._context.store, self._settings, run_id)
        if self._told is None:
            self._told = "ing"
            write_told(self._context.store, self._settings, run_id, "ing")
        elif self._told == "error":
            self._context.say(
                f"status messages: an error was sent for {self._settings.id} before; the platform takes "
                "nothing after it, so nothing more is sent (give the run another id)"
            )

    def progress(self, pruner: Pruner) -> None:
        """So far the training has come: its iterations of reference and rounds together."""
        if self._reporter is None or self._run is None or self._told == "error":
            return
        done, total = self._done(pruner), self._run.reference.iterations + self._run.rounds.tmax
        self._reporter.progress(done, 100 * done / max(1, total))

    def trained(self, pruner: Pruner) -> None:
        """A few iterations more are done."""
        self.progress(pruner)
        if self._reporter is not None:
            loss = pruner.loss()
            if math.isfinite(loss):
                self._add("loss", (self._done(pruner), loss))

    def reference_is_trained(self, pruner: Pruner) -> None:
        """The dense network is where all curves begin; said at every start."""
        if self._reporter is not None and not self._logs["accuracy"].lines:
            accuracy = pruner.reference_accuracy
            self._add("accuracy", (self._done(pruner), accuracy, accuracy))
            self._add("compression", (self._done(pruner), 1.0, 1.0))

    def measured(self, pruner: Pruner, measure: Measure, best_compression: float) -> None:
        """A round is over."""
        if self._reporter is not None:
            done = self._done(pruner)
            self._add("accuracy", (done, measure.accuracy, pruner.reference_accuracy))
            self._add("compression", (done, measure.compression, best_compression))

    def done(self) -> None:
        """The result is written. Waits until the broker knows, for a limited time."""
        self._last_word("done", "")

    def failed(self, reason: str) -> None:
        """The run is given up, for a reason that starting again will not mend."""
        self._last_word("error", reason)

    # Checkpoints

    def parts(self) -> dict[str, bytes]:
        """What goes into the outer loop's checkpoint."""
        if self._reporter is None:
            return {}
        return {PART: json_to_bytes({name: asdict(log) for name, log in self._logs.items()})}

    def restore(self, parts: dict[str, bytes]) -> None:
        """Go on from there; a checkpoint that was written without settings holds no lines."""
        if self._reporter is None or PART not in parts:
            return
        try:
            states = _LOGS.validate_json(parts[PART])
        except ValidationError:
            self._context.say(
                f"metric logs: {names.OUTER}: the lines in the checkpoint are damaged; beginning anew"
            )
            return
        for name, log in self._logs.items():
            state = states.get(name)
            if state is not None and all(len(line) == len(log.names) for line in state.lines):
                log.lines, log.stride, log.added = list(state.lines), state.stride, state.added
                self._put(name)

    # Inside

    def _done(self, pruner: Pruner) -> int:
        assert self._run is not None
        return self._run.reference.iterations - pruner.reference_left + pruner.iteration

    def _add(self, name: str, values: tuple[float, ...]) -> None:
        self._logs[name].add(values)
        self._put(name)

    def _put(self, name: str) -> None:
        if self._reporter is not None:
            self._reporter.metrics.put(name, self._logs[name])

    def _last_word(self, told: Told, reason: str) -> None:
        if self._reporter is None or self._settings is None or self._told in ("done", "error"):
            return
        confirmed = self._reporter.done() if told == "done" else self._reporter.error(reason)
        self._told = told
        if not confirmed:  # whoever starts this role again has it told then
            return
        with contextlib.suppress(StoreError):  # the store may be what failed; then it may be told twice
            write_told(self._context.store, self._settings, self._run_id, told)

    def _catch_up(self, error: BaseException) -> None:
        """The run has ended by another role's word, perhaps before this one, restarted, was in office."""
        if self._settings is None:
            return
        if not self._run_id:
            record = read_record(self._context.store)
            if record is None:
                return
            self._run_id = record.run_id
            self._told = read_told(self._context.store, self._settings, self._run_id)
        if self._told != "ing":  # the run that has ended is none that these settings told of, or all is told
            return
        if isinstance(error, RunFailed):
            self.failed(str(error))
        else:
            self.done()

    def _leave(self) -> None:
        if self._reporter is not None:
            self._reporter.leave()


@contextlib.contextmanager
def telling(context: Context, settings: StatusSettings | None) -> Iterator[Telling]:
    """For the whole life of an outer loop.

    One that dies by an exception says so first. One that is told to end, or finds another in its place, does
    not: it, or the other, goes on. Nor does one that `coppice simulate` has started, which starts it again
    and tells the error itself when that is no use.
    """
    told = Telling(context, settings)
    try:
        yield told
    except (RunFailed, RunOver) as error:
        with contextlib.suppress(StoreError, BadContent):
            told._catch_up(error)
        raise
    except (Stopped, Superseded, RunRefused):
        raise
    except Exception as error:
        if not os.environ.get(SUPERVISED_VARIABLE):
            told.failed(sentence(error))
        raise
    finally:
        told._leave()


def tell_failure(store: Store, settings: StatusSettings, say: Callable[[str], None], reason: str) -> None:
    """For whoever outlives the outer loop: send the error of a run that has failed, unless that was done."""
    record = read_record(store)
    if record is None or read_told(store, settings, record.run_id) in ("done", "error"):
        return
    if not Reporter(settings.model_copy(update={"model_write_path": None}), say).error(reason):
        return
    with contextlib.suppress(StoreError):
        write_told(store, settings, record.run_id, "error")


class _Lines(BaseModel):
    model_config = ConfigDict(extra="ignore")

    lines: Annotated[list[tuple[float, ...]], Field(max_length=MAX_LINES)]
    stride: Annotated[int, Field(ge=1, lt=2**60)]
    added: Annotated[int, Field(ge=0, lt=2**60)]


_LOGS = TypeAdapter(dict[str, _Lines])


class FitnessLog:
    """fitness.log of a run's searches: after each generation the best of the search so far and the mean.

    All of it follows from the histories that the searcher keeps anyway, so nothing is lost to a crash.
    """

    def __init__(self, context: Context, settings: StatusSettings | None) -> None:
        url = settings.model_write_path if settings else None
        self._store = context.store
        self._logs = MetricLogs.open(url, context.say, resume=False) if url else None
        self._log: MetricLog | None = None
        self._before = 0
        """Evaluations of earlier searches."""
        self._known = 0
        """Evaluations of this one that are in the log..."""
        self._best = math.inf
        """...and the best of them."""

    def begin(self, history: SearchHistory) -> None:
        """A search begins, or goes on after a restart with what `history` has."""
        if self._logs is None:
            return
        if self._log is None:
            self._log = MetricLog(("evaluation", "best", "mean"))
            for earlier in read_histories(self._store):
                if earlier.search < history.search:
                    self._extend(earlier)
                    self._end_search()
        else:
            self._end_search()
        self.told(history)

    def told(self, history: SearchHistory) -> None:
        """A generation more is in `history`."""
        if self._logs is not None and self._log is not None:
            self._extend(history)
            self._logs.put("fitness", self._log)

    def close(self) -> None:
        """Write the last lines."""
        if self._logs is not None:
            self._logs.close(METRICS_S)

    def _end_search(self) -> None:
        self._before += self._known
        self._known, self._best = 0, math.inf

    def _extend(self, history: SearchHistory) -> None:
        assert self._log is not None
        while self._known < len(history.fitness):
            first = self._known
            generation = history.generation[first]
            while self._known < len(history.fitness) and history.generation[self._known] == generation:
                self._known += 1
            told = history.fitness[first : self._known]
            self._best = min(self._best, *told)
            self._log.add((self._before + self._known, self._best, math.fsum(told) / len(told)))
