"""loop_outer: trains the reference, asks for searches, cuts, repairs, and writes the result."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from coppice.errors import CoppiceError
from coppice.pruning.contract import Float64s, Measure, Pruner
from coppice.roles.context import Board, Context, Ticker, declare_failure, in_office, wait_for_run
from coppice.roles.history import SearchHistory
from coppice.roles.result import write_result
from coppice.roles.rounds import REPORT, Count, checked, read_rounds
from coppice.roles.telling import Telling, telling
from coppice.runfile import RunFile
from coppice.status import StatusSettings
from coppice.store import Entry, StoreError, TooLarge
from coppice.work import names
from coppice.work.checkpoints import Checkpoints
from coppice.work.contents import array_to_bytes, json_from_bytes, vector_from_bytes
from coppice.work.errors import BadContent, RunFailed, RunRefused, Superseded
from coppice.work.limits import MAX_HISTORY_BYTES, MAX_SOLUTION_BYTES, read_limited
from coppice.work.sentinels import NcsOver, NcsStart, NewItr, Report
from coppice.work.waiting import Every

CHUNK = 50
"""Iterations between two looks at the clock."""
CHECKPOINT_S = 30.0
"""Training that a crash may cost, seconds."""

MakePruner = Callable[[RunFile], Pruner]


@dataclass(slots=True)
class Progress:
    """Where the outer loop stands, kept with the network in one checkpoint."""

    round: Count = 0
    """Rounds reported."""
    searches: Count = 0
    """Searches whose crates have been applied."""
    until: Count | None = None
    """Inside a round, once its search is applied: the iteration at which it ends."""
    report: dict[str, Any] | None = None
    """The last report, to be written again should it be missing."""
    seconds: float = 0.0
    """This role's working time, over all its starts, up to the last checkpoint."""


_PROGRESS = TypeAdapter(Progress)


def read_progress(data: bytes) -> Progress:
    """progress.json of a checkpoint. Raises `BadContent`."""
    progress = checked(_PROGRESS, json_from_bytes(data, names.OUTER), names.OUTER)
    if progress.report is not None:
        checked(REPORT, {"run": "", **progress.report}, names.OUTER)
    return progress


def outer(context: Context, make_pruner: MakePruner, settings: StatusSettings | None = None) -> None:
    """Serve a run to its end. Raises `RunFailed` and other `CoppiceError`s.

    `settings`: where status messages and metric logs go, if anywhere.
    """
    with telling(context, settings) as told:
        record, run = wait_for_run(context)
        with in_office(context, "outer") as tick:
            told.begin(record.run_id, run)
            try:
                _Outer(context, record.run_id, run, make_pruner(run), tick, told).serve()
            except (StoreError, Superseded, BadContent, RunRefused, RunFailed):
                raise
            except CoppiceError as error:  # data, model or training: a new start would meet it again
                told.failed(str(error))  # before all others hear of it and end
                declare_failure(context.store, "outer", str(error))
                raise
            told.done()  # in office: the master, and with it perhaps the whole job, waits for that to end


class _Outer:
    def __init__(
        self, context: Context, run_id: str, run: RunFile, pruner: Pruner, tick: Ticker, told: Telling
    ) -> None:
        self.context = context
        self.store = context.store
        self.run_id = run_id
        self.run = run
        self.pruner = pruner
        self.tick = tick
        self.told = told
        self.board = Board(context, run_id)
        self.checkpoints = Checkpoints(context.store, names.OUTER, context.say)
        self.progress = Progress()
        self.published: dict[str, Entry | None] = {}
        """What evaluators judge by: how each file was listed when it was last read and found right; None: yet
        to be read."""
        self.save_now = Every(context.clock, CHECKPOINT_S)
        self.clock_at = context.clock.monotonic()

    def serve(self) -> None:
        """The whole life of the role."""
        self.load()
        self.told.progress(self.pruner)
        self.train_reference()
        self.publish_samples()
        while True:
            order = self.wait_for_order()
            if order.iterations is None:
                break
            self.do_round(order.round, order.iterations)
        self.finish()

    # Checkpoints

    def load(self) -> None:
        parts = self.checkpoints.load()
        if parts is None:
            self._refuse_to_begin_anew()
            return
        try:
            self.progress = read_progress(parts["progress.json"])
            self.pruner.restore(parts["pruner.safetensors"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadContent(
                f"{names.OUTER}: the checkpoint is of another version of Coppice ({error})"
            ) from error
        self.told.restore(parts)
        self.context.say(
            f"goes on after round {self.progress.round}, iteration {self.pruner.iteration}"
            if self.pruner.reference_left == 0
            else f"goes on training the reference, {self.pruner.reference_left} iterations left"
        )

    def _refuse_to_begin_anew(self) -> None:
        """Without a checkpoint all is trained again, and comes to the same; but no search is made again that
        the searcher may have been told to be the last."""
        done = read_rounds(self.store)
        searches = int(done[-1]["searches"]) if done else 0
        lost = [number for number in range(1, searches + 1) if self.store.stat(names.history(number)) is None]
        if lost:
            raise RunRefused(
                f"{self.store.url}: {names.OUTER}/ holds no whole checkpoint, and {names.history(lost[0])} "
                "is gone, too; the run cannot go on (coppice clean, or --fresh)"
            )

    def save(self) -> None:
        now = self.context.clock.monotonic()
        self.progress.seconds += now - self.clock_at
        self.clock_at = now
        progress = json.dumps(asdict(self.progress)).encode()
        parts = {"progress.json": progress, "pruner.safetensors": self.pruner.checkpoint()}
        self.checkpoints.save({**parts, **self.told.parts()})
        self.save_now.due()

    # The reference

    def train_reference(self) -> None:
        if self.pruner.reference_left:
            self.context.say(f"training the reference, {self.pruner.reference_left} iterations")
            while self.pruner.reference_left:
                self.pruner.train_reference(min(CHUNK, self.pruner.reference_left), self.tick)
                self.told.trained(self.pruner)
                self.board.look()
                if self.save_now.due():
                    self.save()
            self.save()
        self.told.reference_is_trained(self.pruner)
        self.context.say(f"reference accuracy {self.pruner.reference_accuracy:.4f} on the held-out samples")

    def publish_samples(self) -> None:
        for name, array in self.samples().items():
            self.publish(name, array_to_bytes(array))

    def samples(self) -> dict[str, npt.NDArray[Any]]:
        x, y = self.pruner.samples()
        return {names.DATA: x, names.LABELS: y, names.ACCURACY: np.array([self.pruner.reference_accuracy])}

    def publish(self, name: str, data: bytes) -> None:
        """Publish what evaluators judge by, unless the very same stands there from before a restart."""
        if not self.store.create(name, data) and self._read(name, len(data)) != data:
            self.store.replace(name, data)
        # Not as it is listed now: somebody may have damaged it since, and that would be taken for right.
        self.published[name] = None

    def _read(self, name: str, most: int) -> bytes | None:
        try:
            return self.store.read(name, most)
        except TooLarge:
            return None

    def keep_reference(self, weights: str) -> None:
        """Publish again what somebody removed or damaged of that, as of the last look.

        These files may be large: one is read once, and then only where it is listed otherwise than before.
        """
        for name, right in self.published.items():
            entry = self.board.entry(name)
            if entry is not None and entry == right:
                continue
            data = self.pruner.weights() if name == weights else array_to_bytes(self.samples()[name])
            if self._read(name, len(data)) == data:
                self.published[name] = entry
            else:
                self.context.say(f"{name} is damaged or gone; publishing it again")
                self.store.replace(name, data)
                self.published[name] = None

    # Rounds

    def wait_for_order(self) -> NewItr:
        """The master's next word; meanwhile our last report stands."""
        backoff = self.context.backoff()
        while True:
            self.tick()
            self.board.look()
            order = self.board.get(names.NEW_ITR, NewItr)
            if order is not None and order.round > self.progress.round + 1:
                return self.lost_order(self.progress.round + 1)
            if self.progress.report is not None:
                self.board.ensure(names.REPORT, Report(run=self.run_id, **self.progress.report))
            if order is not None and order.round == self.progress.round + 1:
                return order
            backoff.pause()

    def lost_order(self, number: int) -> NewItr:
        """The order for a round that the master has recorded and that our checkpoint does not know of.

        Somebody removed or damaged checkpoints. All that was done since can be done again, to the bit.
        """
        self.context.say(f"round {number} was reported, but its checkpoint is lost; doing it again")
        done = self.pruner.iteration
        return NewItr(self.run_id, number, self.run.round_of(done)[1] - done)

    def do_round(self, number: int, iterations: int) -> None:
        if self.progress.until is None:
            end = self.pruner.iteration + iterations
            if self.pruner.searches():
                self.search()
            self.progress.until = end
            self.save()
        end = self.progress.until
        while self.pruner.iteration < end:
            self.pruner.train(min(CHUNK, end - self.pruner.iteration), self.tick)
            self.told.trained(self.pruner)
            self.board.look()
            if self.save_now.due():
                self.save()
        measure = self.pruner.measure(self.tick)
        loss = self.pruner.loss()
        self.progress.round = number
        self.progress.until = None
        self.progress.report = self._report(number, iterations, measure, loss)
        self.told.measured(self.pruner, measure, self.progress.report["best_compression"])
        self.save()
        self.context.say(
            f"round {number} done: {measure.compression:.1f}x, accuracy {measure.accuracy:.4f}"
            f"{'' if measure.feasible else ' (below the constraint)'}"
        )

    def _report(self, number: int, iterations: int, measure: Measure, loss: float) -> dict[str, Any]:
        return {
            "round": number,
            "iterations": iterations,
            "iteration": self.pruner.iteration,
            "searches": self.progress.searches,
            "parameters_remaining": measure.parameters_remaining,
            "compression": measure.compression,
            "accuracy": measure.accuracy,
            "feasible": measure.feasible,
            "best_compression": self.pruner.best_compression(),
            "loss": loss if math.isfinite(loss) else None,
        }

    # Searches

    def search(self) -> None:
        number = self.progress.searches + 1
        start = self.pruner.start_crates()
        searched = self.pruner.searched_layers(number)
        order = NcsStart(
            self.run_id, number, tuple(float(c) for c in start), tuple(bool(s) for s in searched)
        )
        self.published.pop(names.weights(number - 1), None)
        self.publish(names.weights(number), self.pruner.weights())
        self._drop_weights(before=number)
        crates, fitness = self._found_before(number, len(start)) or self._wait_for_crates(order, len(start))
        self.pruner.apply(crates, fitness)
        self.progress.searches = number
        nothing = "nothing feasible, thresholds stay"
        found = f"{fitness:.5f} of the parameters remain" if fitness <= 1 else nothing
        self.context.say(f"search {number}: {found}")

    def _found_before(self, number: int, layers: int) -> tuple[Float64s, float] | None:
        """What a search found that is over already; None for a search yet to be made."""
        path = names.history(number)
        data = read_limited(self.store, path, MAX_HISTORY_BYTES)
        if data is None:
            return None
        found = SearchHistory.from_bytes(data, path, number).best()
        if found is not None and len(found[0]) != layers:
            raise BadContent(f"{path}: holds solutions of {len(found[0])} layers, the network has {layers}")
        return found

    def _wait_for_crates(self, order: NcsStart, layers: int) -> tuple[Float64s, float]:
        backoff = self.context.backoff()
        while True:
            self.tick()
            self.board.look()
            self.board.ensure(names.NCS_START, order)
            self.keep_reference(names.weights(order.search))
            over = self.board.get(names.NCS_OVER, NcsOver)
            if over is not None and over.search == order.search:
                data = self._read_crates()
                # The searcher writes both files again while they do not fit together.
                if data is not None and hashlib.sha256(data).hexdigest() == over.crates_sha256:
                    return vector_from_bytes(data, names.CRATES, layers), over.fitness
            backoff.pause()

    def _read_crates(self) -> bytes | None:
        try:
            return read_limited(self.store, names.CRATES, MAX_SOLUTION_BYTES)
        except BadContent:
            return None

    def _drop_weights(self, before: int) -> None:
        found = [(e.name, names.parse_weights(e.name)) for e in self.store.list()]
        self.store.delete_many([name for name, number in found if number is not None and number < before])

    # The end

    def finish(self) -> None:
        self.board.look()
        self.board.ensure(names.NCS_START, NcsStart(self.run_id, self.progress.searches + 1, None))
        outcome = self.pruner.finish(self.tick)
        seconds = self.progress.seconds + self.context.clock.monotonic() - self.clock_at
        lost = write_result(
            self.store,
            run_id=self.run_id,
            run=self.run,
            layers=self.pruner.layers,
            outcome=outcome,
            searches=self.progress.searches,
            seconds=seconds,
        )
        for line in lost:
            self.context.say(line)
        self.context.say(
            f"result: {outcome.measure.compression:.1f}x, test accuracy {outcome.pruned_accuracy:.4f} "
            f"(reference {outcome.reference_accuracy:.4f})"
        )
