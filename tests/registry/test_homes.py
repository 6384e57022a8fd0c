"""The whole way of a model, on every home."""

from __future__ import annotations

import io

import numpy as np

from coppice.store import Store
from tests.registry.support import add_task, new_registry, settle
from tests.support.homes import over_homes


@over_homes("folder", "webhdfs", "httpfs")
def test_from_a_data_set_to_a_prediction(store: Store) -> None:
    registry = new_registry(store)
    task = add_task(registry)
    registry.order_set(task, "train")
    registry.order_set(task, "test")
    registry.order_set(task, "predict")
    ordered = settle(registry)
    assert ordered == [
        "train_TSK000001_ARC000001_TRD000001_MDL000001",
        "test_TSK000001_ARC000001_MDL000001_TST000001_SCR000001",
        "predict_TSK000001_ARC000001_MDL000001_PRD000001",
    ]
    (model,) = registry.models(task).read()[0]
    assert (model.arch, model.train, model.model, model.parameters) == (
        "ARC000001",
        "TRD000001",
        "MDL000001",
        4,
    )
    (score,) = registry.scores(task).read()[0]
    assert (score.model, score.test, score.file, score.score) == (
        "MDL000001",
        "TST000001",
        "score/SCR000001.txt",
        2.5,  # the mean of 1, 2, 3, 4
    )
    (prediction,) = registry.predictions(task).read()[0]
    assert (prediction.model, prediction.out) == ("MDL000001", "out/PRD000001_yhat.npy")
    assert prediction.values == "[[1.], [1.], [1.]]"
    yhat = np.load(io.BytesIO(registry.store.read("out/PRD000001_yhat.npy") or b""), allow_pickle=False)
    assert yhat.shape == (3, 1)
    assert all(ticket.state == "success" for queue in registry.queues.values() for ticket in queue.all())
    (ticket,) = registry.queues["traingen"].tickets("success")
    assert b"six samples" in (store.read(ticket.log) or b"")
    assert registry.store.list(".tmp") == []
