"""How several processes share the tests (`pytest -n 4`): file by file, those with most to do first.

Files that use the same servers or the same undisturbed run stay in one process, which then starts them once,
and no two tests disturb each other's servers.
"""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling

LONG = (
    ("tests/simulation/test_campaigns.py",),  # first: all through the others they take the cores' idle time
    ("tests/roles/test_processes.py",),
    (
        "tests/registry/test_commands.py",
        "tests/registry/test_homes.py",
        "tests/registry/test_ids.py",
        "tests/registry/test_processes.py",
        "tests/registry/test_queue.py",
        "tests/registry/test_records.py",
        "tests/registry/test_worker.py",
    ),
    ("tests/attacks/test_signals.py", "tests/attacks/test_double_starts.py"),
    (
        "tests/attacks/test_datanode.py",
        "tests/attacks/test_namenode.py",
        "tests/attacks/test_permissions.py",
        "tests/attacks/test_proxy.py",
    ),
    (
        "tests/store/test_doctor.py",
        "tests/store/test_hdfs_real.py",
        "tests/store/test_home_contract.py",
        "tests/store/test_racing.py",
        "tests/store/test_store_contract.py",
        "tests/roles/test_whole_run.py",
        "tests/status/test_any_store.py",
    ),
    ("tests/roles/test_hdfs_faults.py",),
    (
        "tests/status/test_listener.py",
        "tests/status/test_registry.py",
        "tests/status/test_roles.py",
        "tests/status/test_sender.py",
    ),
    ("tests/attacks/test_failover.py",),
    ("tests/openpai/test_running.py", "tests/openpai/test_registry.py"),
)
"""Files that are done in one process, one after the other, and begun in this order; every other file is on
its own and comes later. Only time depends on this: each process that needs a server starts its own."""

_TOGETHER = {file: number for number, files in enumerate(LONG) for file in files}


def share_of(nodeid: str) -> str:
    """What is done in one process with this test: the first of those files."""
    file = nodeid.partition("::")[0]
    return LONG[_TOGETHER[file]][0] if file in _TOGETHER else file


def begin_with(nodeid: str) -> int:
    """Sorts the tests by when they are to begin."""
    return _TOGETHER.get(nodeid.partition("::")[0], len(LONG))


class Shares(LoadScopeScheduling):  # type: ignore[misc]  # xdist tells no types
    """Gives each process a share, and the next one when it is nearly done."""

    def __init__(self, config: Any, log: Any = None) -> None:
        config.option.loadscopereorder = False  # the tests are in order already
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)
