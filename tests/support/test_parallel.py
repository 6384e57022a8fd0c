"""The tests are shared out as written, and end with all that they started."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.support.leftovers import descendants
from tests.support.parallel import LONG, begin_with, share_of
from tests.support.ports import Ports

REPO = Path(__file__).resolve().parents[2]


def test_files_that_are_named_exist_and_are_named_once() -> None:
    named = [file for files in LONG for file in files]
    assert len(named) == len(set(named))
    assert [file for file in named if not (REPO / file).is_file()] == []


def test_a_share_is_a_file_or_several_that_belong_together() -> None:
    assert share_of("tests/attacks/test_double_starts.py::test_x[a::b]") == "tests/attacks/test_signals.py"
    assert share_of("tests/test_cli.py::test_x") == "tests/test_cli.py"
    assert begin_with("tests/attacks/test_failover.py::test_x") < begin_with("tests/test_cli.py::test_x")


def test_no_two_clusters_get_the_same_port() -> None:
    some = [Ports([str(number) for number in range(100)]) for _ in range(20)]
    numbers = [port for each in some for port in each.numbers.values()]
    for each in some:
        each.give_back()
    assert len(set(numbers)) == 2000


def test_an_orphan_in_a_session_of_its_own_is_found_and_killed() -> None:
    program = (
        "import subprocess; from tests.support.leftovers import *; adopt_orphans(); "
        "subprocess.run(['sh', '-c', 'setsid sleep 600 & setsid sleep 0.1 &']); "
        "print(end_leftovers(1.0), end_leftovers(0.0))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=REPO) as it:
        until = time.monotonic() + 30
        while not any("sleep 600" in command for command in descendants(it.pid).values()):
            assert time.monotonic() < until
            time.sleep(0.01)
        said, _ = it.communicate(timeout=30)
    assert said == "['sleep 600'] []\n"
