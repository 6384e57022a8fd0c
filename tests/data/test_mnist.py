from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coppice.data import load_data
from coppice.data.mnist import SHA256, cache_folder, download, load_mnist
from coppice.errors import CoppiceError
from coppice.runfile import DataSection
from tests.data.idx_files import REAL, idx_bytes, write_small_mnist


def test_four_files_in_a_folder(tmp_path: Path) -> None:
    arrays = write_small_mnist(tmp_path)
    data = load_data(DataSection(name="mnist", folder=str(tmp_path)))
    assert data.train_x.shape == (60, 1, 28, 28)
    assert data.train_x.dtype == np.float32
    assert np.array_equal(np.rint(data.train_x[:, 0] * 255), arrays["train-images-idx3-ubyte.gz"])
    assert np.array_equal(data.test_y, arrays["t10k-labels-idx1-ubyte.gz"])
    assert data.test_y.dtype == np.int64
    assert data.classes == 10


def test_the_environment_names_the_folder_and_the_run_file_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    write_small_mnist(tmp_path / "a")
    monkeypatch.setenv("COPPICE_MNIST", str(tmp_path / "a"))
    assert len(load_mnist().train_y) == 60
    with pytest.raises(CoppiceError, match="not found"):
        load_mnist(str(tmp_path / "b"))


def test_the_real_files_are_what_the_checksums_say() -> None:
    if not REAL.is_dir():
        pytest.skip(f"no MNIST in {REAL}; the format is tested by the small files")
    for name, expected in SHA256.items():
        assert hashlib.sha256(gzip.decompress((REAL / name).read_bytes())).hexdigest() == expected
    data = load_mnist(str(REAL))
    assert (len(data.train_y), len(data.test_y), data.classes) == (60_000, 10_000, 10)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def cut_inside(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def too_long(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0"))


def not_gzip(path: Path) -> None:
    path.write_bytes(b"<html>not here</html>")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def nothing(path: Path) -> None:
    path.write_bytes(gzip.compress(b""))


def wrong_rank(path: Path) -> None:
    path.write_bytes(idx_bytes(np.zeros((60, 2), dtype=np.uint8)))


def huge_sizes(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12))


def fewer(path: Path) -> None:
    path.write_bytes(idx_bytes(np.zeros((59, 28, 28), dtype=np.uint8)))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, "not found; data.folder or COPPICE_MNIST"),
        (cut_short, "not a whole gzip file"),
        (cut_inside, "fetch it again"),
        (too_long, "fetch it again"),
        (not_gzip, "not a whole gzip file"),
        (flipped, "not a whole gzip file"),
        (nothing, "not an idx file"),
        (wrong_rank, "not an idx file of bytes in 3 dimensions"),
        (huge_sizes, "fetch it again"),
        (fewer, "60 labels for 59 images"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, damage: Any, said: str) -> None:
    write_small_mnist(tmp_path)
    damage(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(CoppiceError) as caught:
        load_mnist(str(tmp_path))
    assert said in str(caught.value)
    assert "train-" in str(caught.value)
    assert "\n" not in str(caught.value)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL it is served under."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def sums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest() for path in folder.iterdir()
    }


def test_a_download_is_checked_and_kept(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    served, url = mirror
    write_small_mnist(served)
    expected = sums(served)
    cache = tmp_path / "cache" / "mnist"
    # The first mirror is not there: the second is asked.
    assert download(cache, ("http://127.0.0.1:9/", url), expected) == cache
    assert sorted(path.name for path in cache.iterdir()) == sorted(expected)
    assert len(load_mnist(str(cache)).train_y) == 60
    for path in served.iterdir():
        path.unlink()
    download(cache, (url,), expected)  # nothing is fetched again


@pytest.mark.parametrize("damage", [cut_short, flipped, not_gzip, fewer, Path.unlink])
def test_a_bad_download_leaves_nothing_behind(tmp_path: Path, mirror: tuple[Path, str], damage: Any) -> None:
    served, url = mirror
    write_small_mnist(served)
    expected = sums(served)
    damage(served / "train-images-idx3-ubyte.gz")
    cache = tmp_path / "cache"
    with pytest.raises(
        CoppiceError, match=r"train-images-idx3-ubyte.gz could not be downloaded .*COPPICE_MNIST"
    ):
        download(cache, (url,), expected)
    assert not list(cache.glob("train-images*"))


def test_without_a_folder_the_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COPPICE_MNIST", raising=False)
    monkeypatch.setenv("COPPICE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    (tmp_path / "mnist").mkdir()
    write_small_mnist(tmp_path / "mnist")
    assert len(load_mnist().train_y) == 60


def test_a_cache_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CoppiceError, match="set COPPICE_CACHE"):
        download(tmp_path / "file" / "mnist")
