"""An export that is killed wherever it may be can be made again, and nothing of the user's is touched."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from coppice.errors import CoppiceError
from coppice.export_folder import check_folder, write_files
from coppice.pruning.export.bundle import ABOUT, FILES, loaders

NETWORKS = tuple(name for name in FILES if name not in (ABOUT, *loaders()))
STEPS = ("write_bytes", "write_text", "unlink", "replace")
"""Of pathlib.Path: what changes the folder."""


def export_of(size: int, without: str = "") -> dict[str, bytes]:
    """Files as an export writes them, each network's with as many bytes."""
    files = {name: b"x" * size for name in NETWORKS if name != without} | dict(loaders())
    return files | {ABOUT: json.dumps({"size_bytes": {name: len(files[name]) for name in files}}).encode()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed_at(step: int, folder: Path, files: dict[str, bytes]) -> bool:
    """Whether a process that is killed before its step-th change to the folder was."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_dies, args=(step, folder, files))
    process.start()
    process.join()
    assert process.exitcode in (0, 9)
    return process.exitcode == 9


def _dies(step: int, folder: Path, files: dict[str, bytes]) -> None:
    left = step

    def counted(name: str) -> Any:
        change = getattr(Path, name)

        def counting(*args: Any, **options: Any) -> Any:
            nonlocal left
            if not left:
                os._exit(9)
            left -= 1
            return change(*args, **options)

        return counting

    for name in STEPS:
        setattr(Path, name, counted(name))
    write_files(folder, files)


@pytest.mark.parametrize("without", ["", "model.onnx"])
def test_one_that_is_killed_can_be_made_again(without: str, tmp_path: Path) -> None:
    step, was_killed = 0, True
    while was_killed:
        folder = tmp_path / str(step)
        write_files(folder, export_of(10))
        was_killed = killed_at(step, folder, export_of(20, without))
        killed_at(step // 2, folder, export_of(30))  # and killed again, while that is mended
        if (folder / ABOUT).exists():
            told = json.loads((folder / ABOUT).read_bytes())["size_bytes"]
            assert all((folder / name).stat().st_size == size for name, size in told.items())
        check_folder(folder, "work")
        write_files(folder, export_of(40))
        assert contents(folder) == export_of(40)
        step += 1
    assert step > 2 * len(FILES)


def test_what_the_user_put_there_after_a_kill_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_files(folder, export_of(10))
    assert killed_at(len(FILES) + 4, folder, export_of(20))
    assert not (folder / ABOUT).exists()
    (folder / "model.safetensors").write_bytes(b"my own")
    with pytest.raises(CoppiceError, match="that is not as an export left it"):
        write_files(folder, export_of(40))
    assert (folder / "model.safetensors").read_bytes() == b"my own"


def test_the_drafts_of_one_that_still_writes_stay(tmp_path: Path) -> None:
    draft = tmp_path / f".model.safetensors.{os.getppid()}"
    draft.write_bytes(b"half")
    (tmp_path / ".model.safetensors.mine").write_bytes(b"whole")
    write_files(tmp_path, export_of(10))
    assert set(contents(tmp_path)) == {*FILES, draft.name, ".model.safetensors.mine"}
