"""The campaigns as tests, and that they would notice."""

from __future__ import annotations

import os
from collections.abc import Callable
from unittest import mock

import pytest

from coppice.roles import searcher
from coppice.store import Store
from coppice.work import generation, presence
from coppice.work.names import GenerationId
from tests.simulation import crash_points, schedules
from tests.simulation.crash_points import Point, all_points, try_point
from tests.simulation.pool import all_cores
from tests.simulation.schedules import try_schedule

IN_CI = bool(os.environ.get("CI"))
SCHEDULES = 10_000 if IN_CI else 300
EVERY = 1 if IN_CI else 5
"""Of the crash points; five and the four ways to die have no divisor in common, so each way has its turn."""
REGRESSIONS = (
    12,
    59,
    120,
    213,
    331,
    350,
    388,
    543,
    655,
    1339,
    1374,
    2534,
    2978,
    4796,
    5930,
    7106,
    8796,
    9517,
    44886,
    45138,
)
"""Seeds that failed once; docs/reliability.md says what they found."""


@pytest.mark.timeout(5400)
def test_crash_points(record_property: Callable[[str, object], None]) -> None:
    points = list(all_points())[::EVERY]
    with all_cores() as pool:
        outcomes = list(pool.map(try_point, points, chunksize=8))
    record_property("tried", f"{len(points)} crash points{'' if IN_CI else ' (a fifth; CI tries all)'}")
    failed = [str(point) for point, outcome in zip(points, outcomes, strict=True) if outcome]
    assert not failed, f"repeat: python -m tests.simulation.crash_points --only '{failed[0]}' ({len(failed)})"
    operations = {point.place for point in points}
    assert operations == {"master", "outer", "ncs", "evaluator1", "evaluator2"}


@pytest.mark.timeout(5400)
def test_fault_schedules(record_property: Callable[[str, object], None]) -> None:
    with all_cores() as pool:
        outcomes = list(pool.map(try_schedule, range(SCHEDULES), chunksize=8))
    record_property("tried", f"{len(outcomes)} fault schedules")
    failed = [outcome.seed for outcome in outcomes if outcome.problem]
    assert not failed, f"repeat: python -m tests.simulation.schedules 1 --from {failed[0]} (all: {failed})"


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_schedules_that_failed_once(seed: int) -> None:
    assert try_schedule(seed).problem is None


def test_a_schedule_repeats_itself_to_the_call() -> None:
    first, second = try_schedule(17), try_schedule(17)
    assert (first.calls, first.simulated_s) == (second.calls, second.simulated_s)
    assert first.injected == second.injected


# That they would notice: each of these mistakes breaks a promise, and some schedule must say so.


def _sweep_too_soon(self: searcher._Searcher, parts: dict[str, bytes], told: GenerationId) -> None:
    """Removes scores before the checkpoint that makes them needless is written."""
    self._sweep(told)
    self.checkpoints.save(parts)


def _in_order_of_arrival(store: Store, which: GenerationId) -> generation.Tokens:
    """Does not look where a score belongs."""
    tokens = _look_at(store, which)
    values = list(tokens.scored.values())
    tokens.scored = dict(zip(tokens.scored, values[::-1], strict=True))
    return tokens


_look_at = generation.look_at


def _never_stale(self: presence.LeaseWatch, mtimes: dict[str, int]) -> list[str]:
    """Nobody is ever taken for dead."""
    return []


@pytest.mark.parametrize(
    ("where", "what", "mistake"),
    [
        pytest.param(searcher, "look_at", _in_order_of_arrival, id="order of arrival"),
        pytest.param(presence.LeaseWatch, "stale", _never_stale, id="no leases"),
    ],
)
def test_a_mistake_in_the_roles_is_noticed(where: object, what: str, mistake: Callable[..., object]) -> None:
    with mock.patch.object(where, what, mistake):
        assert any(try_schedule(seed).problem for seed in range(30))


def test_a_mistake_in_the_order_of_checkpoint_and_sweep_is_noticed() -> None:
    points = [Point("ncs", number, "before", "soon") for number in range(1, 200)]
    with mock.patch.object(searcher._Searcher, "_save", _sweep_too_soon):
        assert any(try_point(point) for point in points)


def test_the_commands_say_how_to_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        mock.patch("sys.argv", ["schedules", "2"]),
        mock.patch.object(schedules, "all_cores", _InThisProcess),
    ):
        assert schedules.main() == 0
    assert "2 schedules, 0 failed" in capsys.readouterr().out
    point = next(str(point) for point in all_points() if point.place == "ncs")
    with (
        mock.patch("sys.argv", ["crash_points", "--only", point]),
        mock.patch.object(crash_points, "all_cores", _InThisProcess),
        mock.patch.object(crash_points, "try_point", return_value="it broke"),
    ):
        assert crash_points.main() == 1
    assert f"repeat: python -m tests.simulation.crash_points --only '{point}'" in capsys.readouterr().out


class _InThisProcess:
    """A pool that is none."""

    def __enter__(self) -> _InThisProcess:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def map(self, function: Callable[..., object], *items: object, chunksize: int = 1) -> object:
        """One after the other."""
        return map(function, *items)  # type: ignore[call-overload]
