"""One Java process on loopback that can be stopped, killed and started again, and never outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Standard input is a pipe of ours; when we are gone, even by SIGKILL, it ends, and so do process and data.
_GUARD = """
exec 3<&0
"$@" </dev/null 3<&- & child=$!
echo $child > "$PID_FILE.new" && mv "$PID_FILE.new" "$PID_FILE"
{
    cat <&3 >/dev/null
    trap "" TERM
    kill -9 $child 2>/dev/null
    while kill -0 $child 2>/dev/null; do sleep 0.05; done
    # Other guards do the same at the same time, and their servers may still be writing.
    for try in 1 2 3 4 5; do rm -rf "$DATA_FOLDER" 2>/dev/null && break; sleep 0.5; done
} & guard=$!
exec 3<&-
wait $child; status=$?
kill $guard 2>/dev/null
exit $status
"""


class Service:
    """A server process with a log file in `folder`; `command` is run again at every start.

    When the process that started it dies without stopping it, the server dies too and `folder` goes.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = list(command)
        self._folder = folder
        self._pid_file = folder / f"{name}.pid"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; no waiting."""
        if self.running:
            return
        self._pid_file.unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "guard", *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PID_FILE": str(self._pid_file), "DATA_FOLDER": str(self._folder)},
                start_new_session=True,  # Ctrl-C at our terminal is for us to handle
            )
        until(self._pid_file.exists, 10, f"{self.name} did not start")

    def signal(self, number: int) -> None:
        """Send the Java process a signal: SIGSTOP and SIGCONT pause it."""
        if self.running:
            os.kill(int(self._pid_file.read_text()), number)

    def stop(self) -> None:
        """End it as an operator would, and wait; kill it if it does not listen."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power loss would, and wait."""
        self._end(signal.SIGKILL)

    def tail(self) -> str:
        """The last lines of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        try:
            if process.poll() is None:
                os.kill(int(self._pid_file.read_text()), number)
                process.wait(10)
        except subprocess.TimeoutExpired:
            os.kill(int(self._pid_file.read_text()), signal.SIGKILL)
            process.wait()
        finally:
            process.stdin.close()


def until(ready: Callable[[], bool], patience_s: float, complaint: str | Callable[[], str]) -> None:
    """Look again and again until `ready`; RuntimeError after `patience_s` seconds, with the complaint."""
    deadline = time.monotonic() + patience_s
    while not ready():
        if time.monotonic() > deadline:
            said = complaint if isinstance(complaint, str) else complaint()
            raise RuntimeError(f"{said} within {patience_s:g} s")
        time.sleep(0.02)
