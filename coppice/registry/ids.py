"""Numbers given out without gaps or doubles, by any number of processes, on any store.

Whoever wants a number lists those that there are and creates the file of the next, which one process can. The
file says what the number is for, so that two who want one for the same thing get the same, and a number whose
taker died is found again by what it is for.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from coppice.registry import layout
from coppice.registry.errors import RegistryError
from coppice.registry.layout import Prefix
from coppice.store import Store
from coppice.work.contents import json_from_bytes, json_to_bytes
from coppice.work.errors import BadContent
from coppice.work.limits import MAX_TEXT_BYTES, read_many_limited

Purpose = dict[str, str]
"""What a number is for, such as {"task": "TSK000001", "arch": "ARC000001", "train": "TRD000001"}."""
_NONCE = "nonce"


class Ids:
    """The numbers of one registry. Purposes never change, so each is read once by a process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Purpose] = {}

    def all(self, prefix: Prefix) -> dict[str, Purpose]:
        """All that were given, in their order, with what for; {} of one whose file is damaged."""
        there = self._given(prefix)
        unread = [name for name in there if name not in self._known]
        contents = read_many_limited(self._store, [layout.id_file(name) for name in unread], MAX_TEXT_BYTES)
        for name, content in zip(unread, contents, strict=True):
            if content is not None:
                self._known[name] = _purpose(content, name)
        return {name: self._known.get(name, {}) for name in there}

    def purpose(self, name: str) -> Purpose:
        """What a number is for, {} if its file is damaged; raises `RegistryError` if it was never given."""
        found = self.find(name)
        if found is None:
            raise RegistryError(f"{name}: there is none in {self._store.url}; see: coppice registry ls")
        return found

    def find(self, name: str) -> Purpose | None:
        """The same; None if it was never given."""
        if name not in self._known:
            parsed = layout.parse_id(name)
            content = None if parsed is None else self._store.read(layout.id_file(name), MAX_TEXT_BYTES)
            if content is None:
                return None
            self._known[name] = _purpose(content, name)
        return self._known[name]

    def new(self, prefix: Prefix, purpose: Mapping[str, str]) -> str:
        """A number of its own for each call."""
        mark = {_NONCE: secrets.token_hex(8)}  # so that after a lost reply one's own file is known by it
        while True:
            name = self._next(prefix, self._given(prefix))
            if self._take(name, {**purpose, **mark}):
                return name

    def by_purpose(self, prefix: Prefix) -> Callable[[Mapping[str, str]], str]:
        """`the` for many purposes in a row: what was given already is looked up once, for all of them."""
        known = {_key(purpose): name for name, purpose in reversed(self.all(prefix).items())}

        def find(purpose: Mapping[str, str]) -> str:
            name = known.get(_key(purpose))
            return self.the(prefix, purpose) if name is None else name

        return find

    def the(self, prefix: Prefix, purpose: Mapping[str, str]) -> str:
        """The number that is for `purpose`: the one it has already, or the next, whoever asks at once."""
        wanted = dict(purpose)
        while True:
            given = self.all(prefix)
            for name, known in given.items():
                if known == wanted:
                    return name
            # The next after all that were looked at: if another takes it first, what for is seen in time.
            name = self._next(prefix, list(given))
            if self._take(name, wanted):
                return name

    def _take(self, name: str, purpose: Purpose) -> bool:
        if not self._store.create(layout.id_file(name), json_to_bytes(purpose)):
            return False
        self._known[name] = {key: value for key, value in purpose.items() if key != _NONCE}
        return True

    def _given(self, prefix: Prefix) -> list[str]:
        found = self._list(prefix)
        if len(found) < max((number for _, number in found), default=0):
            # A listing may miss what is created at that moment, and yet show what was created after it.
            found |= self._list(prefix)
        return [name for name, _ in sorted(found)]

    def _list(self, prefix: Prefix) -> set[tuple[str, int]]:
        entries = self._store.list(layout.id_folder(prefix))
        # A folder of such a name is in the way of that number, too: it counts, and is named when it is read.
        names = {entry.name.removesuffix(".json") for entry in entries}
        parsed = ((name, layout.parse_id(name)) for name in names)
        return {(name, found[1]) for name, found in parsed if found is not None and found[0] == prefix}

    def _next(self, prefix: Prefix, given: list[str]) -> str:
        """After all that were given, and all that somebody put there by hand."""
        there = (layout.id_at_start(entry.name) for entry in self._store.list(layout.FOLDER_OF[prefix]))
        found = [*there, *(layout.parse_id(name) for name in given)]
        number = 1 + max((each[1] for each in found if each is not None and each[0] == prefix), default=0)
        if number > layout.HIGHEST:
            last = layout.make_id(prefix, layout.HIGHEST)
            places = f"{layout.id_folder(prefix)} or {layout.FOLDER_OF[prefix]}"
            raise RegistryError(
                f"{last}, the last number, is taken in {places}; "
                "remove it if that was a mistake, or begin a new registry"
            )
        return layout.make_id(prefix, number)


def _key(purpose: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(purpose.items())


def _purpose(content: bytes, name: str) -> Purpose:
    try:
        purpose = json_from_bytes(content, layout.id_file(name))
    except BadContent:
        return {}
    return {key: value for key, value in purpose.items() if isinstance(value, str) and key != _NONCE}
