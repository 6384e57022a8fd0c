"""Metric logs on every kind of store, a real HDFS included."""

from __future__ import annotations

from coppice.metric_plots import read_logs
from coppice.status import MetricLogs
from coppice.status.metrics import FOLDER, log_path
from coppice.store import open_store
from tests.support.homes import over_homes


@over_homes("memory", "folder", "webhdfs")
def test_logs_on_any_store(store_url: str) -> None:
    said: list[str] = []
    for first in (1, 4):  # the second time it goes on from a checkpoint at 3
        logs = MetricLogs.open(store_url, said.append)
        for step in range(first, 7):
            logs.add("loss", {"step": step, "training": step / 8})
            logs.add("speed", {"step": step, "samples a second": 100 * step})
        logs.close(60)
    with open_store(store_url) as store:
        loss, speed = store.read(log_path("loss")), store.read(log_path("speed"))
    assert loss == b"step, training\n1, 0.125\n2, 0.25\n3, 0.375\n4, 0.5\n5, 0.625\n6, 0.75\n"
    assert speed is not None
    assert len(speed.splitlines()) == 7
    assert not said


@over_homes("folder", "webhdfs")
def test_logs_are_read_from_any_store(store_url: str) -> None:
    logs = MetricLogs.open(store_url, print)
    logs.add("loss", {"step": 1, "loss": 0.5})
    logs.close(60)
    place = f"{store_url}/{FOLDER}"
    for places in ([place], [f"{place}/loss.log"]):
        ((name, curves),) = read_logs(places)
        assert (name, curves.names, curves.values.tolist()) == ("loss", ("step", "loss"), [[1, 0.5]])
