"""Images moved a little."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import affine_grid

from coppice.errors import CoppiceError
from coppice.pruning.augment import _grid, augment, check_images
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.randomness import Purpose
from coppice.runfile import AugmentSection, RunFileError
from tests.pruning.networks import no_tick, small


def moved(x: torch.Tensor, iteration: int = 0, **how: float) -> torch.Tensor:
    return augment(x, AugmentSection(**how), 3, Purpose.SURGERY_MOVES, iteration)


def blob(height: int = 28, width: int = 28, row: int = 10, column: int = 16) -> torch.Tensor:
    """A bright square of 3x3 around (row, column), eight times."""
    x = torch.zeros(8, 1, height, width)
    x[:, :, row - 1 : row + 2, column - 1 : column + 2] = 1.0
    return x


def centres(x: torch.Tensor) -> torch.Tensor:
    """(n, 2): the centre of mass of each image, row and column."""
    rows, columns = torch.arange(x.shape[2]), torch.arange(x.shape[3])
    mass = x.sum((1, 2, 3))
    return torch.stack([(x.sum((1, 3)) * rows).sum(1) / mass, (x.sum((1, 2)) * columns).sum(1) / mass], 1)


def test_nothing_asked_nothing_done() -> None:
    x = blob()
    assert moved(x) is x


def test_the_same_iteration_moves_alike_and_another_one_differently() -> None:
    x = torch.rand(8, 3, 12, 20, generator=torch.Generator().manual_seed(1))
    how = {"shift": 2.0, "rotate": 10.0, "scale": 0.1, "shear": 0.1}
    assert torch.equal(moved(x, 5, **how), moved(x, 5, **how))
    assert not torch.equal(moved(x, 5, **how), moved(x, 6, **how))
    assert moved(x, 5, **how).shape == x.shape


@pytest.mark.parametrize(("height", "width"), [(28, 28), (20, 40)])
def test_shifts_are_in_pixels_and_of_each_image_its_own(height: int, width: int) -> None:
    x = blob(height, width)
    shifts = centres(moved(x, shift=3.0)) - centres(x)
    assert (shifts.abs() <= 3.001).all()
    assert len({tuple(shift) for shift in shifts.tolist()}) == 8
    assert shifts.abs().max() > 1


@pytest.mark.parametrize(("height", "width"), [(29, 29), (29, 49)])
def test_turning_keeps_the_distance_from_the_middle_of_an_oblong_image_too(height: int, width: int) -> None:
    middle = torch.tensor([(height - 1) / 2, (width - 1) / 2])
    x = blob(height, width, row=7, column=int(middle[1]))
    away = centres(moved(x, rotate=30.0)) - middle
    assert torch.allclose(away.norm(dim=1), (centres(x) - middle).norm(dim=1), atol=0.1)
    angles = torch.atan2(away[:, 1], -away[:, 0])
    assert (angles.abs() <= math.radians(30) + 0.02).all()
    assert angles.abs().max() > math.radians(10)


def test_scaling_and_shearing_leave_the_middle_where_it_is() -> None:
    x = blob(29, 29, 14, 14)
    for there in (moved(x, scale=0.2), moved(x, shear=0.2)):
        assert torch.allclose(centres(there), centres(x), atol=0.05)
        assert not torch.equal(there, x)


def test_the_border_goes_on_outside() -> None:
    assert torch.allclose(moved(torch.full((8, 1, 9, 9), 0.7), shift=5.0, rotate=45.0), torch.tensor(0.7))


def test_samples_that_are_no_images_are_refused() -> None:

    with pytest.raises(CoppiceError, match=r"augment: samples of shape \(64,\) are no images"):
        check_images(AugmentSection(shift=1.0), (64,))
    check_images(AugmentSection(), (64,))


@pytest.mark.parametrize("wrong", [{"shift": -1}, {"rotate": 181}, {"scale": 1.0}, {"flip": True}])
def test_odd_amounts_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RunFileError, match=f"augment.{next(iter(wrong))}"):
        small(augment=wrong)


def test_training_sees_moved_images_and_the_constraint_does_not() -> None:
    plain, moving = (TorchPruner(small(augment=how)) for how in ({}, {"shift": 1.0}))
    for pruner in (plain, moving):
        pruner.train_reference(10, no_tick)
    assert not torch.equal(plain.sgd.values["fc1.weight"], moving.sgd.values["fc1.weight"])
    assert (plain.samples()[0] == moving.samples()[0]).all()


def test_the_polish_moves_images_as_far_as_it_is_told() -> None:
    ends = []
    for left in (1.0, 0.5, 0.0):
        run = small(augment={"shift": 1.0}, polish={"augment": left}, surgery={"prune_until": 5})
        pruner = TorchPruner(run)
        pruner.train_reference(120, no_tick)
        pruner.train(5, no_tick)
        at_five = pruner.sgd.values["fc1.weight"].clone()
        pruner.train(5, no_tick)
        ends.append((at_five, pruner.sgd.values["fc1.weight"]))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][0], ends[2][0])
    assert not torch.equal(ends[0][1], ends[1][1])
    assert not torch.equal(ends[1][1], ends[2][1])
    how = AugmentSection(shift=2.0, rotate=10, scale=0.2, shear=0.1)
    assert how.times(0.5) == AugmentSection(shift=1.0, rotate=5, scale=0.1, shear=0.05)
    assert not how.times(0.0).any


@pytest.mark.parametrize(("height", "width"), [(28, 28), (5, 9)])
def test_the_grid_is_that_of_torch(height: int, width: int) -> None:
    moves = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(1))
    theirs = affine_grid(moves, [7, 1, height, width], align_corners=False)
    assert torch.allclose(_grid(moves, height, width), theirs, atol=1e-5)
