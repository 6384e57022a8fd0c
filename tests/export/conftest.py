"""One thread: small networks gain nothing from more, and lose much where cores are shared."""

import pytest
import torch

from coppice.pruning.export import bundle

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _measured_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads on cores that other tests use take a hundred times as long."""
    monkeypatch.setattr(bundle, "thread_counts", lambda: (1,))
