"""Scripts as processes: what they say, how long they may take, what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coppice.registry.child import KEPT_BYTES, Ended, Said, guarded, run_child


def run(source: str, tmp_path: Path, limit_s: float = 60.0, tick: Callable[[], None] = lambda: None) -> Ended:
    return run_child(guarded([sys.executable, "-c", source]), tmp_path, {"SAID": "by us"}, limit_s, tick)


def test_a_script_and_what_it_says(tmp_path: Path) -> None:
    source = (
        "import os, sys; print(os.environ['SAID'], os.getcwd()); print('oh', file=sys.stderr); sys.exit(3)"
    )
    ended = run(source, tmp_path)
    assert (ended.status, ended.late) == (3, False)
    assert ended.said.text() == f"by us {tmp_path}\noh\n"
    assert ended.said.last_line() == "oh"


def test_a_script_is_given_nothing_to_read(tmp_path: Path) -> None:
    assert run("import sys; print(repr(sys.stdin.read()))", tmp_path).said.text() == "''\n"


def test_of_a_gigabyte_beginning_and_end_are_kept(tmp_path: Path) -> None:
    source = """
import sys
print("first")
block = b"x" * 1023 + b"\\n"
for _ in range(1 << 10):
    sys.stdout.buffer.write(block * 1024)
print("last")
"""
    ended = run(source, tmp_path)
    assert ended.status == 0
    assert ended.said.total > 1 << 30
    text = ended.said.text()
    assert len(text) < 2 * KEPT_BYTES + 100
    assert text.startswith("first\n")
    assert text.endswith("last\n")
    assert "bytes left out ...]" in text


def test_a_line_without_an_end_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    ended = run("import sys; sys.stdout.buffer.write(b'\\xff\\xfe half a line')", tmp_path)
    assert ended.said.last_line() == "\ufffd\ufffd half a line"


def test_nothing_in_the_last_line_steers_a_terminal() -> None:
    said = Said()
    said.add(b"\x1b[1;31mValueError\x1b[0m: \x1b[2Jno\x08 such \xe2\x80\xae file\r\n\x1b[0m\n")
    assert said.last_line() == "ValueError: no such ? file"


def test_what_is_kept() -> None:
    said = Said()
    for number in range(3 * KEPT_BYTES // 100):
        said.add(f"{number:099d}\n".encode())
    lines = said.text().splitlines()
    assert lines[0] == f"{0:099d}"
    assert lines[-1] == f"{3 * KEPT_BYTES // 100 - 1:099d}"
    assert Said().last_line() == ""


def test_a_script_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    source = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(1000)
"""
    ended = run_child(
        [sys.executable, "-c", source], tmp_path, {}, limit_s=1.5, tick=lambda: None, grace_s=0.2
    )
    assert ended.late
    assert ended.status == -signal.SIGKILL
    assert _gone(int((tmp_path / "pid").read_text()))


def test_whoever_ticks_may_end_it(tmp_path: Path) -> None:
    began = time.monotonic()

    def tick() -> None:
        if (tmp_path / "begun").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("import time; open('begun', 'w'); time.sleep(1000)", tmp_path, tick=tick)
    assert time.monotonic() - began < 100


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_script_does_not_outlive_its_worker(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    source = f"""
import sys
from pathlib import Path
from coppice.registry.child import guarded, run_child
run_child(guarded([sys.executable, "-c", {script!r}]), Path("."), {{}}, 1000.0, lambda: None)
"""
    worker = subprocess.Popen([sys.executable, "-c", source])
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    worker.kill()
    worker.wait()
    assert _gone(int(pid.read_text()))


def _gone(pid: int) -> bool:
    for _ in range(500):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
