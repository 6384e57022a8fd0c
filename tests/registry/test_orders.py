"""What an order may say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coppice.registry.errors import OrderFailed
from coppice.registry.orders import KINDS, Order, check, parse_name

NAMES = {
    "traingen": "traingen_TSK000001_TRD000001",
    "testgen": "testgen_TSK000001_TST000001",
    "predictgen": "predictgen_TSK000001_PRD000001",
    "train": "train_TSK000001_ARC000001_TRD000001_MDL000001",
    "test": "test_TSK000001_ARC000001_MDL000001_TST000001_SCR000001",
    "predict": "predict_TSK000001_ARC000001_MDL000001_PRD000001",
    "prune": "prune_TSK000001_ARC000001_TRD000001_MDL000001_MDL000002",
}


def order(kind: str = "train") -> Order:
    found = parse_name(NAMES[kind])
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_says_what_its_name_says(kind: str) -> None:
    assert order(kind).name == NAMES[kind]
    assert check(order(kind), order(kind).text()) == list(order(kind).commands())


def test_orders_are_written_as_they_always_were() -> None:
    assert order("train").text().decode() == (
        "python train.py arch/ARC000001_train.py train/TRD000001_x.npy train/TRD000001_y.npy "
        "model/MDL000001.safetensors\n"
        "python train_record.py task/TSK000001_model.csv ARC000001 TRD000001 MDL000001\n"
    )
    assert order("test").text().decode() == (
        "python test.py arch/ARC000001_test.py model/MDL000001.safetensors test/TST000001_x.npy "
        "test/TST000001_y.npy score/SCR000001.txt\n"
        "python test_record.py task/TSK000001_score.csv MDL000001 TST000001 score/SCR000001.txt\n"
    )
    assert order("predict").text().decode() == (
        "python predict.py arch/ARC000001_predict.py model/MDL000001.safetensors "
        "predict/PRD000001_x.npy out/PRD000001_yhat.npy\n"
        "python predict_record.py task/TSK000001_predict.csv MDL000001 out/PRD000001_yhat.npy\n"
    )
    assert order("traingen").text().decode() == (
        "python traingen.py gen/TSK000001_train.py train/TRD000001_x.npy train/TRD000001_y.npy\n"
    )


def test_comments_blank_lines_and_other_pythons_are_fine() -> None:
    text = order().text().decode().replace("python train_record", "\n# then\n  python3.11  train_record")
    assert check(order(), text.encode()) == list(order().commands())
    assert check(order(), text.replace("python ", "").encode()) == list(order().commands())


TRAIN = order().text().decode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rm -rf /\n" + TRAIN, r"line 1: 'rm' is none of what train may do: train.py, train_record.py"),
        (TRAIN.replace("python train.py", "python evil.py"), "line 1: 'evil.py' is none of"),
        (
            TRAIN.replace("python train.py", "/usr/bin/python train.py"),
            "line 1: '/usr/bin/python' is none of",
        ),
        (TRAIN.replace("python train.py", "python test.py"), "line 1: 'test.py' is none of"),
        (TRAIN.replace("python train.py", "python train"), "line 1: 'train' is none of"),
        (TRAIN.replace("python train.py", "python -c train.py"), "line 1: '-c' is none of"),
        (TRAIN.replace("python train.py", "$(train.py)"), r"line 1: '\$\(train.py\)' is none of"),
        (
            TRAIN.replace("train/TRD000001_x.npy", "../secret"),
            "line 1: argument 2 is '../secret', expected train/",
        ),
        (TRAIN.replace("train/TRD000001_x.npy", "/etc/passwd"), "line 1: argument 2 is '/etc/passwd'"),
        (TRAIN.replace("train/TRD000001_x.npy", "train/TRD000002_x.npy"), "argument 2 is 'train/TRD000002"),
        (TRAIN.replace("TRD000001_x.npy", "TRD000001_x.npy;reboot"), "argument 2 is .*reboot', expected"),
        (
            TRAIN.replace(".safetensors\n", ".safetensors > /etc/passwd\n"),
            "line 1: '>' is one argument too many",
        ),
        (
            TRAIN.replace(".safetensors\n", ".safetensors && reboot\n"),
            "line 1: '&&' is one argument too many",
        ),
        (
            TRAIN.replace(" model/MDL000001.safetensors", ""),
            "line 1: argument 4 is 'nothing', expected model/",
        ),
        (TRAIN.replace("ARC000001 TRD000001", "ARC000001 `id`"), "line 2: argument 3 is '`id`'"),
        (
            TRAIN.splitlines()[0],
            "train_record.py is missing; expected the line: python train_record.py task/",
        ),
        ("", "train.py is missing"),
        ("python\n", "line 1: 'python' is none of"),
        (TRAIN + TRAIN, "each once"),
        (
            "\n".join(reversed(TRAIN.splitlines())),
            "expected these commands, each once: train.py, train_record",
        ),
    ],
)
def test_nothing_else_is_done(text: str, reason: str) -> None:
    with pytest.raises(OrderFailed, match=reason):
        check(order(), text.encode())


@given(st.binary(max_size=200))
def test_whatever_stands_in_the_file(content: bytes) -> None:
    with pytest.raises(OrderFailed):
        check(order(), content)


@given(st.text(max_size=60) | st.sampled_from(sorted(NAMES.values())).map(lambda name: name[:-1]))
def test_whatever_its_name(name: str) -> None:
    assert parse_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "train_TSK000001_ARC000001_TRD000001",
        "train_TSK000001_TRD000001_ARC000001_MDL000001",
        "prune_TSK000001_ARC000001_TRD000001_MDL000001_MDL000001",
        "train_TSK000000_ARC000001_TRD000001_MDL000001",
        "sing_TSK000001_TRD000001",
    ],
)
def test_names_that_are_none(name: str) -> None:
    assert parse_name(name) is None
