"""The folder that `coppice export` writes into: what is the user's own stays, what is written is whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from coppice.errors import CoppiceError
from coppice.pruning.export.bundle import ABOUT, FILES, loaders

UNFINISHED = ".export-unfinished.json"
"""What an export that was killed left: the sizes of its files and of those that it was to replace."""

_DRAFT = re.compile(rf"\.({'|'.join(map(re.escape, (*FILES, UNFINISHED)))})\.(\d{{1,9}})")


def check_folder(folder: Path, source: str) -> None:
    """Raises `CoppiceError` if an export of `source` to here would touch what is no export's."""
    if folder.exists() and not folder.is_dir():
        raise CoppiceError(f"--to {folder}: not a folder")
    there = [name for name in FILES if (folder / name).exists()]
    if Path(source).suffix and any(_same_file(Path(source), folder / name) for name in there):
        raise CoppiceError(f"--to {folder}: {source} would be overwritten; give another folder")
    _check_files(folder)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files, or none of them and leave what was there before.

    Nothing is renamed before everything is on the disk. export.json goes first and comes last, so that it is
    never beside files that it does not tell of. What an earlier export had and this one has not is removed.
    One that is killed in the midst of it can be made again. Raises `CoppiceError`.
    """
    drafts = {name: _draft(folder / name) for name in files}
    journal = folder / UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draft in drafts.items():
            draft.write_bytes(files[name])
        _check_files(folder)  # making them took a while
        _write_journal(journal, files)
        for name in (ABOUT, *(set(FILES) - files.keys())):
            (folder / name).unlink(missing_ok=True)
        for name in sorted(drafts, key=lambda name: name == ABOUT):
            drafts[name].replace(folder / name)
        journal.unlink()
    except OSError as error:
        raise CoppiceError(f"--to {folder}: cannot be written ({error.strerror})") from error
    finally:
        _sweep(folder)


def _check_files(folder: Path) -> None:
    """A network's file is an export's if export.json names it with its size, a loader if it is as Coppice
    writes it."""
    about = _sizes(folder / ABOUT)
    known = _known_sizes(folder)
    for name in FILES:
        path = folder / name
        try:
            if not path.exists():
                continue
            if name == ABOUT:
                ours = about is not None
            elif name in loaders():
                ours = path.read_bytes() == loaders()[name]
            else:
                ours = path.stat().st_size in known.get(name, [])
        except OSError:
            ours = False
        if not ours:
            raise CoppiceError(
                f"--to {folder}: holds a {name} that is not as an export left it; "
                "move it away, or give another folder"
            )


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _known_sizes(folder: Path) -> dict[str, list[int]]:
    """Of the files of an earlier export, and of one that was killed while it replaced them."""
    known: dict[str, list[int]] = {}
    for path in (folder / ABOUT, folder / UNFINISHED):
        for name, sizes in (_sizes(path) or {}).items():
            known.setdefault(name, []).extend(sizes if isinstance(sizes, list) else [sizes])
    return known


def _sizes(path: Path) -> dict[str, Any] | None:
    """What this export.json, or the like, says of its files' sizes; None if it says nothing of them."""
    try:
        sizes = json.loads(path.read_bytes())["size_bytes"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return sizes if isinstance(sizes, dict) else None


def _write_journal(path: Path, files: Mapping[str, bytes]) -> None:
    sizes = _known_sizes(path.parent)
    for name, content in files.items():
        sizes.setdefault(name, []).append(len(content))
    draft = _draft(path)
    draft.write_text(json.dumps({"size_bytes": sizes}))
    draft.replace(path)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _sweep(folder: Path) -> None:
    """Remove this process's drafts, and those of processes that are no more."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = _DRAFT.fullmatch(path.name)
            if match and (int(match[2]) == os.getpid() or not _lives(int(match[2]))):
                with suppress(OSError):
                    path.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
