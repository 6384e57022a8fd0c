"""What people write into a registry by hand, and what the views make of it."""

from __future__ import annotations

import codecs

import pytest

from coppice.registry import layout
from coppice.registry.errors import RegistryError
from coppice.registry.orders import Order
from coppice.registry.queue import make_folders
from coppice.registry.records import ModelRecord
from coppice.registry.registry import Registry
from coppice.registry.views import describe, lineage_lines, overview
from coppice.registry.workflows import run_pass
from coppice.store import PermanentStoreError, Store
from tests.registry.support import add_task, do_all, new_registry, settle

WHEN = "2026-12-06 19:37:43.802650"
TABLE = "task/TSK000001_model.csv"


@pytest.fixture
def registry(store: Store) -> Registry:
    return new_registry(store)


def trained(registry: Registry) -> str:
    """A task with a train set, a test set, a model and its score; its id."""
    task = add_task(registry)
    registry.order_set(task, "train")
    registry.order_set(task, "test")
    settle(registry)
    return task


def reason(registry: Registry, order: Order) -> str:
    """Why an order failed that was put by hand."""
    registry.queues[order.kind].put(order)
    do_all(registry, order.kind)
    content = registry.store.read(f"wo/{order.kind}/fail/{order.name}.log") or b""
    return content.decode().splitlines()[-1]


def test_a_line_by_hand_is_shown(registry: Registry) -> None:
    task = trained(registry)
    registry.models(task).add(ModelRecord(WHEN, "ARC000001", "TRD000001", "MDL000007", 3))
    registry.store.create("ids/MDL/MDL000008.json", b"damaged")
    registry.models(task).add(ModelRecord(WHEN, "ARC000001", "TRD000001", "MDL000008", 3))
    for model in ("MDL000007", "MDL000008"):
        assert describe(registry, model)["parameters"] == 3
        assert lineage_lines(registry, model)[0].startswith(f"{model}: trained by arch/ARC000001_train.py")
    with pytest.raises(RegistryError, match="MDL000009: there is none"):
        describe(registry, "MDL000009")


def test_no_model_is_its_own_ancestor(registry: Registry) -> None:
    trained(registry)
    line = f"{WHEN}, ARC000001, TRD000001, %s, 3, %s, 2.00, ab\n"
    both = line % ("MDL000007", "MDL000008") + line % ("MDL000008", "MDL000007")
    registry.store.replace(TABLE, both.encode())
    with pytest.raises(RegistryError, match=f"{TABLE}: MDL000007 is an ancestor of itself"):
        lineage_lines(registry, "MDL000007")


def test_where_a_train_set_is_from_stands_in_its_id(registry: Registry) -> None:
    trained(registry)
    registry.store.delete_tree("wo")  # tidied up
    make_folders(registry.store)
    assert "  TRD000001: made by gen/TSK000001_train.py" in lineage_lines(registry, "MDL000001")


def test_an_order_does_not_make_what_its_number_is_for_otherwise(registry: Registry) -> None:
    task = add_task(registry, archs=2)
    for kind in ("train", "test"):
        registry.order_set(task, kind)
    do_all(registry)
    model = registry.ids.the("MDL", {"task": task, "arch": "ARC000001", "train": "TRD000001"})
    assert reason(registry, Order("train", (task, "ARC000002", "TRD000001", model))) == (
        f"{model} was given for task {task}, arch ARC000001, train TRD000001, not for what this order says"
    )
    assert "was given for" in reason(
        registry, Order("prune", (task, "ARC000001", "TRD000001", "MDL000009", model))
    )
    other = add_task(registry)
    assert f"TST000001 was given for task {task}" in reason(registry, Order("testgen", (other, "TST000001")))
    assert registry.models(task).read() == ([], [])
    registry.order(Order("train", (task, "ARC000002", "TRD000001", "MDL000005")))  # nobody's number
    do_all(registry)
    assert registry.model(task, "MDL000005").arch == "ARC000002"


def test_a_spreadsheet_may_mark_a_table_as_text(registry: Registry) -> None:
    task = trained(registry)
    text = registry.store.read(TABLE) or b""
    registry.store.replace(TABLE, codecs.BOM_UTF8 + text.replace(b"\n", b"\r\n"))
    records, complaints = registry.models(task).read()
    assert ([record.model for record in records], complaints) == (["MDL000001"], [])


def test_a_folder_that_is_named_like_a_number_is_named(registry: Registry) -> None:
    task = add_task(registry)
    registry.store.make_folder("ids/TRD/TRD000001.json")
    assert registry.order_set(task, "train") == "TRD000002"
    with pytest.raises(PermanentStoreError, match=r"ids/TRD/TRD000001\.json is a folder; move it away"):
        registry.sets(task, "train")


def test_files_that_are_no_orders_are_counted_as_failed(registry: Registry) -> None:
    add_task(registry)
    registry.store.create("wo/train/wait/trian_TSK000001.wo", b"")
    do_all(registry, "train")
    (row,) = (row for row in overview(registry)["queues"] if row["kind"] == "train")
    assert (row["wait"], row["fail"], row["failed"]) == (0, 1, ["trian_TSK000001"])


def test_a_script_may_remove_what_it_was_given(store: Store) -> None:
    registry = new_registry(store)
    task = add_task(registry, scripts={"predict": REMOVES})
    for kind in ("train", "test", "predict"):
        registry.order_set(task, kind)
    settle(registry)
    (ticket,) = registry.queues["predict"].all()
    assert ticket.state == "success", store.read(ticket.log)
    assert store.stat(layout.out_file("PRD000001")) is not None


def test_a_model_chosen_that_there_is_not_is_told(registry: Registry) -> None:
    task = trained(registry)
    registry.order_set(task, "predict")
    do_all(registry)
    path = "ids/PRD/PRD000001.model.json"
    registry.store.create(path, b'{"model": "MDL000099"}')
    told: list[str] = []
    assert run_pass(registry, "predict", told.append) == []
    assert told == [f"{path}: MDL000099 is no model of {task}; remove this file to have it decided anew"]
    registry.store.delete(path)
    assert [order.ids[2] for order in run_pass(registry, "predict", told.append)] == ["MDL000001"]


REMOVES = b"""
import os, sys
import numpy as np
x = np.load(sys.argv[2])
os.remove(sys.argv[2])
np.save(sys.argv[3], x[:, :1])
"""
