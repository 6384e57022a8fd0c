"""What evaluators judge by: the outer loop mends it, and reads it no more often than it must."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from coppice.pruning.contract import Float64s, Score, Tick
from coppice.store import MAX_READ_BYTES, Store
from coppice.work import names
from tests.roles.threads import run_all, small_run
from tests.support.standins import CheapScorer

PATIENCE_S = 30.0


@pytest.mark.parametrize("name", [names.DATA, names.ACCURACY, names.weights(1)])
def test_damage_of_the_same_size_is_mended(opened: Callable[[], Store], name: str) -> None:
    mended: list[bool] = []

    class Spoils(CheapScorer):
        """Damages the file before its first score, and waits until it is right again."""

        def score(self, crates: Float64s, tick: Tick) -> Score:
            if not mended:
                store = opened()
                right = store.read(name) or b""
                store.replace(name, bytes(4) + right[4:])
                end = time.monotonic() + PATIENCE_S
                while store.read(name) != right and time.monotonic() < end:
                    tick()
                    time.sleep(0.002)
                mended.append(store.read(name) == right)
            return super().score(crates, tick)

    crew = run_all(opened, small_run(), evaluators=1, make_scorer=Spoils)
    assert mended == [True]
    assert f"outer: {name} is damaged or gone; publishing it again" in crew.said


@pytest.mark.parametrize("name", [names.DATA, names.ACCURACY, names.weights(1)])
def test_damage_as_soon_as_it_is_published_is_mended(
    opened: Callable[[], Store], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt: list[bytes] = []
    create = Store.create

    def and_damaged(self: Store, path: str, data: bytes, durable: bool = False) -> bool:
        made = create(self, path, data, durable)
        if path == name and not spoilt:
            spoilt.append(data)
            self.home.put(path, bytes(4) + data[4:])
        return made

    monkeypatch.setattr(Store, "create", and_damaged)
    crew = run_all(opened, small_run(), evaluators=1)
    assert len(spoilt) == 1
    assert f"outer: {name} is damaged or gone; publishing it again" in crew.said


def test_a_file_is_read_once_and_once_more_for_each_new_time(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = Store.read

    def counted(self: Store, path: str, max_bytes: int = MAX_READ_BYTES) -> bytes | None:
        if threading.current_thread().name == "outer":
            reads.append(path)
        return read(self, path, max_bytes)

    class Touches(CheapScorer):
        """Writes the same again, once."""

        touched = False

        def score(self, crates: Float64s, tick: Tick) -> Score:
            if not Touches.touched:
                Touches.touched = True
                opened().replace(names.DATA, read(opened(), names.DATA) or b"")
            time.sleep(0.01)
            return super().score(crates, tick)

    monkeypatch.setattr(Store, "read", counted)
    crew = run_all(opened, small_run(), evaluators=1, make_scorer=Touches)
    assert reads.count(names.DATA) == 2
    assert reads.count(names.LABELS) == 1
    assert not [line for line in crew.said if "damaged" in line]
