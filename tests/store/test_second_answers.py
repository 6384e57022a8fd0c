"""A proxy or a portal may send a request twice and show only the second answer, which is a refusal."""

from __future__ import annotations

from coppice.store import TEMPORARY_FOLDER, Store, TransientStoreError
from coppice.store.memory import MemoryHome
from tests.support.clocks import FakeClock


class TwiceHome(MemoryHome):
    """Does everything that moves or removes twice, and gives the second answer."""

    def rename(self, source: str, target: str) -> bool:
        """See the class."""
        super().rename(source, target)
        return super().rename(source, target)

    def rename_folder(self, source: str, target: str) -> bool:
        """See the class."""
        super().rename_folder(source, target)
        return super().rename_folder(source, target)

    def rename_over(self, source: str, target: str) -> bool:
        """See the class."""
        super().rename_over(source, target)
        return super().rename_over(source, target)

    def delete(self, path: str) -> bool:
        """See the class."""
        super().delete(path)
        return super().delete(path)


def test_a_file_is_created_once() -> None:
    store = Store(TwiceHome())
    assert store.create("deep/er/file", b"ours")
    assert not store.create("deep/er/file", b"again")
    assert store.read("deep/er/file") == b"ours"
    assert store.list(TEMPORARY_FOLDER) == []


def test_an_empty_file_proves_nothing() -> None:
    """Nobody can tell whose it is; who must know says no, and tries another name (a term of office)."""
    store = Store(TwiceHome())
    assert not store.create("term", b"")
    assert store.read("term") == b""


def test_a_claim_is_ours() -> None:
    store = Store(TwiceHome())
    for name in ("a", "b"):
        store.create(name, b"")
    assert store.rename("a", "claims/ours")
    assert not store.rename("a", "claims/late")
    store.home.rename("b", "claims/theirs")
    assert not store.rename("b", "claims/too-late")
    assert [entry.name for entry in store.list("claims")] == ["ours", "theirs"]


def test_a_file_is_replaced_without_another_try() -> None:
    told: list[str | None] = []
    store = Store(TwiceHome(), on_trouble=told.append)
    store.replace("file", b"1")
    store.replace("file", b"2")
    assert store.read("file") == b"2"
    assert told == []


class SleptHome(MemoryHome):
    """Its first rename is refused and seems lost; meanwhile somebody clears `.tmp` and takes the name."""

    slept = False

    def rename(self, source: str, target: str) -> bool:
        """See the class."""
        if not self.slept:
            self.slept = True
            self.delete_tree(TEMPORARY_FOLDER)
            self.put(target, b"theirs")
            raise TransientStoreError("timed out")
        return super().rename(source, target)


def test_what_somebody_else_wrote_is_not_ours() -> None:
    store = Store(SleptHome(), clock=FakeClock())
    assert not store.create("term", b"ours")
    assert store.read("term") == b"theirs"


def test_a_folder_is_published_once() -> None:
    store = Store(TwiceHome())
    assert store.stage({"token": b""}).publish("folder", {"content": b"1"})
    assert not store.stage({"token": b""}).publish("folder", {"content": b"2"})
    assert store.read("folder/content") == b"1"
    assert store.list(TEMPORARY_FOLDER) == []
