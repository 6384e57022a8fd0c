"""The network being pruned: reference training, cuts, surgery, and what is remembered of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch.optim.swa_utils import update_bn

from coppice.data import load_data
from coppice.data.dataset import stratified_split
from coppice.errors import CoppiceError
from coppice.models import build_model
from coppice.pruning.arrangement import arrange
from coppice.pruning.augment import check_images
from coppice.pruning.best import Best
from coppice.pruning.constraint import keeps
from coppice.pruning.contract import Float64s, Layer, Measure, Outcome, Tick
from coppice.pruning.evaluation import check_fit, count_errors, pick_device, to_device
from coppice.pruning.export.bundle import export_or_reason
from coppice.pruning.layers import PrunableLayer, find_layers
from coppice.pruning.masks import (
    CUT_BELOW,
    Masks,
    Spread,
    count_kept,
    crate_for,
    open_masks,
    operate,
    operate_all,
    put_masks,
    spread,
    thresholds,
)
from coppice.pruning.pace import AHEAD, MOST_AT_ONCE, one_threshold, scheduled
from coppice.pruning.phases import Phase
from coppice.pruning.published import Allowed, pack_published
from coppice.pruning.randomness import Purpose, generator
from coppice.pruning.saving import load_state, save_state
from coppice.pruning.scoring.verdict import hardest_first
from coppice.pruning.sgd import MaskedSGD
from coppice.pruning.steps import Steps, check_single
from coppice.pruning.tensors import Tensors, fill_model, load_weights_file, model_tensors, pack
from coppice.pruning.units import Narrowed, bury, find_edges
from coppice.runfile import RunFile, Stage

_STATISTICS_BATCHES = 100
"""Of which batch norm learns anew what activations are like."""
_FIRST_CUT = 0.1
"""With what share of a layer's weights a refinement begins: thresholds so low that what is cut reaches them
by noise would bring it all back."""
_SHYER, _SHYEST, _BOLDER = 0.5, 2**-20, 2**0.25
"""What a cut that was not repaired does to the boldness of searches, and one that was."""


class TorchPruner:
    """Implements `coppice.pruning.contract.Pruner` for any torch.nn.Module that classifies."""

    def __init__(self, run: RunFile, device: str = "cpu") -> None:
        """Loads the data and builds the network. `device`: cpu, cuda, cuda:0 or auto.

        Raises `CoppiceError` if the data, the network or the given reference weights cannot be used.
        """
        self.run = run
        self._device = pick_device(device)
        data = load_data(run.data)
        if run.constraint.samples >= len(data.train_y):
            raise CoppiceError(
                f"constraint.samples: {run.constraint.samples} cannot be held out of "
                f"{len(data.train_y)} training samples"
            )
        check_images(run.augment, data.train_x.shape[1:])
        self._test = (data.test_x, data.test_y)
        kept, held = stratified_split(data.train_y, run.constraint.samples, (run.seed, int(Purpose.HELD_OUT)))
        train = to_device(data.train_x[kept], data.train_y[kept], self._device)
        self._samples = (data.train_x[held], data.train_y[held])
        self._held_x, self._held_y = to_device(*self._samples, self._device)

        self.model = build_model(run.model, run.seed)
        if run.reference.weights is not None:
            load_weights_file(self.model, run.reference.weights)
        self.found = find_layers(self.model, run.model.layers)
        self.layers = tuple(Layer(layer.name, layer.shape) for layer in self.found)
        self._edges = find_edges(self.model, self.found)
        self.model.to(self._device)
        self.steps = Steps(run, *train, arrange(self.model), self._copy_of_reference)
        check_fit(self.model, run.model.name, self._held_x[:2], data.classes)
        check_single(self.model, run, self._held_x[:1])

        self.reference_left = run.reference.iterations
        self.iteration = 0
        self.reference_accuracy = float("nan")
        self.crates: Float64s = np.zeros(len(self.found))
        self.sgd = MaskedSGD(self.model)
        self.masks = open_masks(self.found, self.sgd.values)
        self.limits: tuple[float, ...] | None = None  # thresholds; none before the first cut
        self.reference: Tensors = {}
        self.best: Best | None = None  # of those that may be gone on from
        self.result: Best | None = None  # of those that keep the run's constraint
        self.boldness = 1.0  # of searches: how much of what search_drop adds they may give up
        self.paced_from: int | None = None  # parameters that the first cut of a paced surgery has left
        self.waits = False  # a paced surgery with its next cut, until the last one is repaired
        if self.reference_left == 0:
            self._keep_reference(_no_tick)

    def train_reference(self, iterations: int, tick: Tick) -> None:
        """See `Pruner.train_reference`."""
        how, phase = self.run.reference, self.steps.reference
        with self.steps.training(self.model):
            for _ in range(min(iterations, self.reference_left)):
                done = how.iterations - self.reference_left
                self._step(phase, done, phase.rate(done, phase.falls), tick)
                self.reference_left -= 1
                self.steps.look(phase, done, last=self.reference_left == 0)
                if self.reference_left == 0:
                    self._keep_reference(tick)

    def samples(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """See `Pruner.samples`."""
        return self._samples

    def searches(self) -> bool:
        """See `Pruner.searches`."""
        enough = self.run.constraint.compression
        if enough is not None and self._total() / max(1, self._remaining()) >= enough:
            return False
        target = self._target()
        if target is not None and (self.waits or self._remaining() <= target):
            return False
        return self.run.cuts(self.iteration)

    def weights(self) -> bytes:
        """See `Pruner.weights`; beside them the layers' masks, how much accuracy a solution may lose, and
        the order in which to look at the samples."""
        self.sgd.show(self.masks)
        order = hardest_first(self.model, self._held_x, self._held_y, _no_tick)
        drop, least = self.run.search_drop(self.iteration, self.boldness), 0
        target = self._target()
        if target is not None:
            cut = self._cut_masks(thresholds(self._spreads(), self.start_crates()))
            drop = max(0.0, self.reference_accuracy - self._held_accuracy(cut, _no_tick))
            least = math.ceil(max(target / AHEAD, self._goal()))
        return pack_published(self._tensors(), self.found, self.masks, Allowed(drop, least), order)

    def start_crates(self) -> Float64s:
        """The crates in force, put in terms of the weights as they have become since the cut: those that
        give the same thresholds. Zeros before the first cut. In a paced surgery those that give one threshold
        for all layers, at which as much remains as shall by now. Inside the search's box."""
        crates, limits, target = self.crates, self.limits, self._target()
        if target is not None:
            kept = count_kept(self.masks)
            others = self._remaining(kept) - sum(kept[layer.weight] for layer in self.found)
            limit = one_threshold(self.found, self.sgd.values, self.masks, target - others)
            limits = (limit,) * len(self.found)
        if limits is not None:
            crates = np.array([crate_for(*pair) for pair in zip(self._spreads(), limits, strict=True)])
        return np.clip(crates, self.run.search.lower, self.run.search.upper)

    def searched_layers(self, search: int) -> npt.NDArray[np.bool_]:
        """Each layer with probability 1 / (1 + gamma * iteration), as in OLMP; one at least."""
        draws = generator(self.run.seed, Purpose.SEARCHED_LAYERS, search).random(len(self.found))
        chance = 1.0 / (1.0 + self.run.surgery.gamma * self.iteration)
        return np.asarray((draws < chance) | (draws == draws.min()))

    def apply(self, crates: Float64s, fitness: float) -> None:
        """See `Pruner.apply`: surgery on all masks at the thresholds of these crates."""
        crates = np.array(crates, dtype=np.float64)
        if crates.shape != self.crates.shape or not np.isfinite(crates).all():
            raise CoppiceError(f"expected {len(self.crates)} finite crates, found {crates!r:.100}")
        if not fitness <= 1.0:
            return
        self.crates = crates
        self.limits = thresholds(self._spreads(), crates)
        self.masks = self._cut_masks(self.limits)
        self._bury()
        if self.run.paced(self.iteration) and self.paced_from is None:
            self.paced_from = self._remaining()

    def train(self, iterations: int, tick: Tick) -> None:
        """See `Pruner.train`."""
        if self.reference_left:
            raise CoppiceError("the reference is not trained yet")
        end = self.iteration + iterations
        while self.iteration < end:
            stage = self.run.stage_at(self.iteration)
            until = min(end, stage.end) if self.iteration < stage.end else end
            if stage.section == "polish" and self.iteration == stage.begin:
                self._go_back()  # masks stay from here on: train what `finish` will take
            with self.steps.training(self.model), self._without_buried():
                self._train_until(until, stage, tick)

    def measure(self, tick: Tick) -> Measure:
        """See `Pruner.measure`."""
        accuracy = self._held_accuracy(self.masks, tick)
        kept = count_kept(self.masks)
        in_layers = tuple(kept[layer.weight] for layer in self.found)
        measure = Measure(
            parameters_total=self._total(),
            parameters_remaining=self._remaining(kept),
            weights_total=sum(self.masks[layer.weight].numel() for layer in self.found),
            weights_remaining=sum(in_layers),
            layer_remaining=in_layers,
            accuracy=accuracy,
            feasible=self._keeps(accuracy, self._trained_last()),
        )
        self._remember(measure)
        self.waits = not measure.feasible
        if measure.feasible:
            self.boldness = min(1.0, self.boldness * _BOLDER)
        elif self.run.cuts(self.iteration) and not self.run.paced(self._trained_last()):
            self.boldness = max(_SHYEST, self.boldness * _SHYER)
            self._go_back()
        if self.iteration == self.run.refine.begin:
            self._begin_refinement()
        return measure

    def _target(self) -> int | None:
        """To how many parameters a search that begins now shall cut; None: as few as it can."""
        enough, until = self.run.constraint.compression, self.run.surgery.pace_until
        if enough is None or until is None or self.paced_from is None or not self.run.paced(self.iteration):
            return None
        asked = scheduled(self.paced_from, self._goal(), self.iteration / until)
        return max(asked, math.ceil(self._remaining() / MOST_AT_ONCE))

    def _goal(self) -> float:
        """How many parameters a paced surgery cuts to in the end."""
        assert self.run.constraint.compression is not None
        return self._total() / (self.run.constraint.compression * AHEAD)

    def _cut_masks(self, limits: Sequence[float]) -> Masks:
        """The masks after one surgery at these thresholds."""
        magnitudes = {layer.weight: self.sgd.values[layer.weight].abs() for layer in self.found}
        return operate_all(self.found, self.masks, magnitudes, limits)

    def _held_accuracy(self, masks: Masks, tick: Tick) -> float:
        """With these masks (none: nothing cut), on the samples held out."""
        self.sgd.show(masks, self.sgd.settled)
        samples = len(self._held_y)
        return (samples - count_errors(self.model, self._held_x, self._held_y, tick)) / samples

    def _trained_last(self) -> int:
        """The iteration by whose rules the network as it stands is judged."""
        return max(self.iteration - 1, 0)

    def _begin_refinement(self) -> None:
        """Go on from the best network, which is no longer good enough if it loses too much.

        What is cut starts from zero, since it learnt without end while masks stayed. The thresholds in force
        were right for weights before the polish, and would cut much at once: new ones begin a little above
        each layer's smallest weight.
        """
        self._go_back()
        if self.best is not self.result:
            self.best = None
        for name, mask in self.masks.items():
            self.sgd.values[name].mul_(mask)
            self.sgd.momentum[name].mul_(mask)
        if self.limits is not None:
            self.limits = tuple(
                self._size_below(layer, _FIRST_CUT, limit) / CUT_BELOW
                for layer, limit in zip(self.found, self.limits, strict=True)
            )
        if self.best is not None:  # as it is now: a cut that is not repaired comes back to it
            self.best = self.result = self._as_it_is(self.best.measure)
        self.boldness = 1.0

    def _size_below(self, layer: PrunableLayer, share: float, otherwise: float) -> float:
        """The |w| below which this share of a layer's kept weights is; `otherwise` if none is kept."""
        kept = self.sgd.values[layer.weight][self.masks[layer.weight] > 0].abs()
        return float(kept.kthvalue(max(1, round(share * len(kept)))).values) if len(kept) else otherwise

    def _keeps(self, accuracy: float, iteration: int) -> bool:
        """Whether a network with this accuracy on the samples held out loses no more than one may that is
        cut after so many iterations."""
        drop = self.run.accuracy_drop(iteration)
        return keeps(accuracy, self.reference_accuracy, drop, len(self._held_y))

    def best_compression(self) -> float:
        """See `Pruner.best_compression`."""
        return 1.0 if self.result is None else self.result.measure.compression

    def loss(self) -> float:
        """See `Pruner.loss`, and `Steps.loss`."""
        return self.steps.loss()

    def finish(self, tick: Tick) -> Outcome:
        """See `Pruner.finish`."""
        best = self.result or self._dense(tick)
        test_x, test_y = to_device(*self._test, self._device)
        model = self._copy_of_reference()
        reference_errors = count_errors(model, test_x, test_y, tick)
        fill_model(model, best.tensors(), "the best network")
        errors = count_errors(model, test_x, test_y, tick)
        return Outcome(
            measure=best.measure,
            reference_accuracy=(len(test_y) - reference_errors) / len(test_y),
            pruned_accuracy=(len(test_y) - errors) / len(test_y),
            crates=best.crates,
            # Clones, since safetensors takes no tensor twice: a shared weight is under all its names, so
            # that plain torch's load_state_dict takes the file.
            model=pack({k: t.clone() for k, t in model.state_dict().items() if isinstance(t, torch.Tensor)}),
            export=export_or_reason(model, self._samples[0], tick),
        )

    def checkpoint(self) -> bytes:
        """See `Pruner.checkpoint`."""
        return save_state(self)

    def restore(self, checkpoint: bytes) -> None:
        """See `Pruner.restore`."""
        load_state(self, checkpoint, self._device)

    def _copy_of_reference(self) -> torch.nn.Module:
        """A network of its own, so that what is in training stays as it is."""
        model = build_model(self.run.model, self.run.seed).to(self._device)
        fill_model(model, self.reference, "the reference")
        return model

    def _tensors(self) -> Tensors:
        """The network's parameters (as they learn, not masked) and buffers."""
        return {name: self.sgd.values.get(name, tensor) for name, tensor in model_tensors(self.model).items()}

    def _total(self) -> int:
        return sum(value.numel() for value in self.sgd.values.values())

    def _remaining(self, kept: Mapping[str, int] | None = None) -> int:
        """Parameters that are not cut; `kept`: those of the masks, if they are counted already."""
        kept = count_kept(self.masks) if kept is None else kept
        return self._total() - sum(self.masks[name].numel() - count for name, count in kept.items())

    def _spreads(self) -> list[Spread]:
        return [spread(self.sgd.values[layer.weight]) for layer in self.found]

    def _keep_reference(self, tick: Tick) -> None:
        """The reference is trained: remember and judge it, and start surgery standing still."""
        self.reference = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        self.reference_accuracy = self._held_accuracy({}, tick)
        self.sgd.forget()
        self.steps.forget()

    def _dense(self, tick: Tick) -> Best:
        total = self._total()
        in_layers = tuple(self.sgd.values[layer.weight].numel() for layer in self.found)
        weights = sum(in_layers)
        measure = Measure(total, total, weights, weights, in_layers, self.reference_accuracy, True)
        return Best(measure, np.zeros(len(self.found)), None, self.reference, {})

    def _train_until(self, end: int, stage: Stage, tick: Tick) -> None:
        """Up to iteration `end`, all in one stage."""
        phase = self.steps.stages[stage]
        for done in range(self.iteration, end):
            if phase.operates:
                self._operate(done)
            self._step(phase, done, phase.rate(done, stage.round_of(done)), tick)
            self.iteration += 1
            self._average(phase, stage)
            self.steps.look(phase, done, last=done == end - 1)

    def _average(self, phase: Phase, stage: Stage) -> None:
        """Count the weights in the mean; where that is whole, go on from it."""
        begin, end = self.run.averaged(stage, self.iteration - 1)
        if self.iteration <= begin:
            return
        self.sgd.add_to_mean()
        if self.iteration == end:
            self.sgd.go_to_mean()
        if self.iteration in (end, stage.round_of(self.iteration - 1)[1]):
            self._renew_statistics(phase)

    def _renew_statistics(self, phase: Phase) -> None:
        """What batch norm knows of activations was so with other weights."""
        self.sgd.show(self.masks, self.sgd.settled)
        first = max(self.iteration - _STATISTICS_BATCHES, 0)
        update_bn((self.steps.batch(phase, each)[0] for each in range(first, self.iteration)), self.model)

    def _operate(self, iteration: int) -> None:
        """Surgery on each layer's mask with probability 1 / (1 + gamma * iteration)."""
        if self.limits is None:
            return
        draws = generator(self.run.seed, Purpose.MASKS, iteration).random(len(self.found))
        chance = 1.0 / (1.0 + self.run.surgery.gamma * iteration)
        for layer, limit, draw in zip(self.found, self.limits, draws, strict=True):
            if draw < chance:
                weight = self._operated(layer.weight, limit)
                bias = None
                if layer.bias is not None:
                    cuts = self.run.surgery.biases
                    whole = torch.ones_like(self.masks[layer.bias])
                    bias = self._operated(layer.bias, limit) if cuts else whole
                put_masks(self.masks, layer, weight, bias)

    def _operated(self, name: str, limit: float) -> torch.Tensor:
        return operate(self.masks[name], self.sgd.values[name].abs(), limit)

    def _remember(self, measure: Measure) -> None:
        """As the best to go on from, and as the result, if it is."""
        drop = self.run.constraint.accuracy_drop
        fit = keeps(measure.accuracy, self.reference_accuracy, drop, len(self._held_y))
        # A paced surgery never goes back. What it comes to, polished, goes before smaller ones on the way.
        going = not self.run.paced(self._trained_last())
        first = going and self.best is None and self.run.paced(0)
        steadier = self._is_mean_of_polish()
        is_best = going and measure.feasible and (self.best is None or self.best.beaten_by(measure, steadier))
        is_result = fit and (first or self.result is None or self.result.beaten_by(measure, steadier))
        if is_best or is_result:
            now = self._as_it_is(measure)
            self.best = now if is_best else self.best
            self.result = now if is_result else self.result

    def _is_mean_of_polish(self) -> bool:
        """Whether what is judged now is the mean of more weights than any that was judged before."""
        stage = self.run.stage_at(self._trained_last())
        own = stage.section == "polish" and self.run.polish.average is not None
        return own and self.iteration > self.run.averaged(stage, self._trained_last())[0]

    def _as_it_is(self, measure: Measure) -> Best:
        now = {**self._tensors(), **self.sgd.settled}
        values = {name: tensor.detach().clone() for name, tensor in now.items()}
        masks = {name: mask.clone() for name, mask in self.masks.items()}
        return Best(measure, self.crates.copy(), self.limits, values, masks)

    def _go_back(self) -> None:
        """To the best feasible network, if there is one."""
        if self.best is None:
            return
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(self.best.values[name])
        self.sgd.forget()
        self.crates, self.limits = self.best.crates.copy(), self.best.limits
        self.masks = {name: mask.clone() for name, mask in self.best.masks.items()}
        self._bury()

    def _bury(self) -> None:
        bury(self._edges, self.masks, (self.sgd.values, self.sgd.momentum))

    def _step(self, phase: Phase, iteration: int, rate: float, tick: Tick) -> None:
        self.steps.step(self.model, self.sgd, self.masks, phase, iteration, rate, tick)

    @contextmanager
    def _without_buried(self) -> Iterator[None]:
        """Train a smaller network instead, if there is one."""
        narrowed = Narrowed(self.model, self._edges, self.sgd.values)
        if not narrowed.names:
            yield
            return
        whole = self.model, self.sgd, self.masks
        self.model = narrowed.model
        self.sgd, self.masks = narrowed.enter(self.sgd, self.masks)
        try:
            yield
        finally:
            narrowed.leave(self.sgd, self.masks, *whole)
            self.model, self.sgd, self.masks = whole


def _no_tick() -> None:
    """For work too short to beat a lease."""
