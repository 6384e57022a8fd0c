"""A task whose scripts are quick, and workers on threads and as processes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coppice.clock import Clock, SystemClock
from coppice.registry.orders import KINDS, Kind
from coppice.registry.registry import Registry, SetKind
from coppice.registry.tasks import TaskSettings
from coppice.registry.worker import Conduct, work
from coppice.registry.workflows import EVERY_S, run_pass
from coppice.roles.context import Context
from coppice.store import Store
from coppice.work.presence import Identity

GENERATORS: dict[SetKind, bytes] = {
    "train": b"""
import os, sys
import numpy as np
first = int(os.environ["COPPICE_SEED"])
np.save(sys.argv[1], np.arange(12.0, dtype=np.float32).reshape(6, 2) + first)
np.save(sys.argv[2], np.array([0, 1, 0, 1, 0, 1]))
print("six samples")
""",
    "test": b"""
import sys
import numpy as np
np.save(sys.argv[1], np.ones((4, 2), np.float32))
np.save(sys.argv[2], np.array([0, 1, 0, 1]))
""",
    "predict": b"""
import sys
import numpy as np
np.save(sys.argv[1], np.ones((3, 2), np.float32))
""",
}
ARCHITECTURE: dict[SetKind, bytes] = {
    "train": b"""
import sys
import numpy as np
from safetensors.numpy import save_file
x = np.load(sys.argv[1])
said = {"architecture": "mlp", "arguments": '{"inputs": 2, "hidden": [2], "classes": 2}'}
save_file({"weight": x[:2, :2].copy()}, sys.argv[3], metadata=said)
print("trained")
""",
    "test": b"""
import sys
from safetensors.numpy import load_file
open(sys.argv[4], "w").write(f"{load_file(sys.argv[1])['weight'].mean():.4f}\\n")
""",
    "predict": b"""
import sys
import numpy as np
np.save(sys.argv[3], np.load(sys.argv[2])[:, :1])
""",
}


def new_registry(store: Store) -> Registry:
    """An empty one."""
    return Registry.init(store)


def add_task(
    registry: Registry, archs: int = 1, scripts: dict[SetKind, bytes] | None = None, **settings: object
) -> str:
    """A task with quick scripts; its id."""
    wanted = TaskSettings.model_validate({"name": "quick", "limit_s": 60, **settings})
    task = registry.add_task(wanted, GENERATORS)
    for _ in range(archs):
        registry.add_arch(task, {**ARCHITECTURE, **(scripts or {})})
    return task


def context_for(store: Store, clock: Clock | None = None, said: list[str] | None = None) -> Context:
    """What a worker in this process is given."""
    lines = said if said is not None else []
    clock = clock or SystemClock()
    return Context(store, clock, Identity.of_this_process(), random.Random(1), lines.append)


def do_all(registry: Registry, *kinds: Kind, said: list[str] | None = None, lease_s: float = 60.0) -> int:
    """Carry out all orders of these kinds (default: all), in this process; how many."""
    context = context_for(registry.store, said=said)
    return work(context, registry, kinds or KINDS, Conduct(lease_s=lease_s, until_empty=True))


def settle(registry: Registry, complaints: list[str] | None = None) -> list[str]:
    """Workflows and workers in turn until nothing more is ordered; the names of all that was."""
    ordered: list[str] = []
    complain = (complaints if complaints is not None else []).append
    while True:
        do_all(registry)
        new = [order.name for workflow in EVERY_S for order in run_pass(registry, workflow, complain)]
        if not new:
            return ordered
        ordered += new


@contextmanager
def processes(url: str, *commands: list[str], logs: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`coppice registry ...` as processes, killed at the end."""
    started = []
    try:
        for number, command in enumerate(commands):
            with (logs / f"{number}.log").open("ab") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "coppice", "registry", *command, "--at", url],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
