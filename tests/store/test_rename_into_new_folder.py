"""Two who rename into a folder that neither has made yet."""

from __future__ import annotations

from coppice.store import Store
from coppice.store.memory import MemoryHome
from tests.support.clocks import FakeClock


class RivalMakesFolder(MemoryHome):
    """Somebody else makes the target's folder just after our first rename failed for want of it."""

    rivalled = False

    def rename(self, source: str, target: str) -> bool:
        moved = super().rename(source, target)
        if not moved and not self.rivalled:
            self.rivalled = True
            self.make_folder("scores")
        return moved


def test_a_folder_made_meanwhile_is_no_proof_that_the_name_is_taken() -> None:
    home = RivalMakesFolder("rival", FakeClock())
    store = Store(home, clock=FakeClock())
    store.make_folder()
    store.create("claim", b"x")
    assert store.rename("claim", "scores/one")
    assert store.read("scores/one") == b"x"


def test_a_taken_name_and_a_missing_source_are_refused_in_a_new_folder_too() -> None:
    store = Store(MemoryHome("refusals", FakeClock()), clock=FakeClock())
    store.make_folder()
    store.create("a", b"a")
    assert not store.rename("missing", "folder/b")
    assert store.stat("folder") is None
    other = Store(store.home, clock=FakeClock())
    other.create("folder/b", b"b")
    assert not store.rename("a", "folder/b")
    assert store.read("a") == b"a"
