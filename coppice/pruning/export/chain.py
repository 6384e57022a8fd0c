"""A network as a plain sequence of torch.nn layers, if it is one: to be narrowed, and described as JSON."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from coppice.pruning.export.outputs import copied
from coppice.pruning.layers import has_hooks

Step = tuple[str, nn.Module]
Described = tuple[str, str, dict[str, Any]]
"""(name, class in torch.nn, its arguments): a step without its weights."""


class NotAChain(Exception):
    """Why a network is left as it is; the message ends the sentence 'left as it is: ...'."""


_CONV = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)
_NORM = ("num_features", "eps", "affine")
_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE_POOLS = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)

ELEMENTWISE: dict[type[nn.Module], tuple[str, ...]] = {
    nn.ReLU: (),
    nn.ReLU6: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.ELU: ("alpha",),
    nn.SELU: (),
    nn.CELU: ("alpha",),
    nn.GELU: ("approximate",),
    nn.SiLU: (),
    nn.Mish: (),
    nn.Softplus: ("beta", "threshold"),
    nn.Softsign: (),
    nn.Sigmoid: (),
    nn.LogSigmoid: (),
    nn.Hardsigmoid: (),
    nn.Hardswish: (),
    nn.Hardtanh: ("min_val", "max_val"),
    nn.Tanh: (),
    nn.Tanhshrink: (),
    nn.Hardshrink: ("lambd",),
    nn.Softshrink: ("lambd",),
    nn.Threshold: ("threshold", "value"),
}
"""Each value for itself, without parameters; with the attributes that are also constructor arguments."""

ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features"),
    **dict.fromkeys(CONVS, _CONV),
    **dict.fromkeys(NORMS, _NORM),
    **dict.fromkeys(MAX_POOLS, _MAX),
    **dict.fromkeys(AVERAGE_POOLS, _AVERAGE),
    **dict.fromkeys(ADAPTIVE_POOLS, ("output_size",)),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    nn.Softmax: ("dim",),
    nn.LogSoftmax: ("dim",),
    **ELEMENTWISE,
}
"""Every kind of step, with the attributes that rebuild it."""

_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""In evaluation mode."""

_CALLS: dict[Any, Callable[..., nn.Module]] = {
    **dict.fromkeys((torch.relu, functional.relu, "relu"), nn.ReLU),
    **dict.fromkeys((torch.tanh, functional.tanh, "tanh"), nn.Tanh),
    **dict.fromkeys((torch.sigmoid, functional.sigmoid, "sigmoid"), nn.Sigmoid),
    **dict.fromkeys((torch.softmax, functional.softmax, "softmax"), nn.Softmax),
    **dict.fromkeys((torch.log_softmax, functional.log_softmax, "log_softmax"), nn.LogSoftmax),
    **dict.fromkeys((torch.max_pool2d, functional.max_pool2d), nn.MaxPool2d),
    functional.max_pool1d: nn.MaxPool1d,
    functional.avg_pool1d: nn.AvgPool1d,
    functional.avg_pool2d: nn.AvgPool2d,
    functional.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d,
    functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    functional.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
    functional.relu6: nn.ReLU6,
    functional.leaky_relu: nn.LeakyReLU,
    functional.elu: nn.ELU,
    functional.selu: nn.SELU,
    functional.gelu: nn.GELU,
    functional.silu: nn.SiLU,
    functional.mish: nn.Mish,
    functional.softplus: nn.Softplus,
    functional.hardswish: nn.Hardswish,
    functional.hardtanh: nn.Hardtanh,
}
"""Functions and methods, with the modules that do the same."""
_SHAPING = (torch.reshape, "view", "reshape")
_SILENT = ("inplace", "_stacklevel")
_SILENT_UNSET = ("return_indices", "divisor_override", "dtype")
_SHAPE_CALLS = ("size", "shape", "dim")


def find_chain(model: nn.Module) -> list[Step]:
    """The steps of `model` in evaluation mode, in copies of their own on the CPU.

    A batch normalisation behind a layer is folded into it; dropout is left out. Raises `NotAChain` for a
    network that is no sequence of known layers.
    """
    model = copied(model)
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:  # the user's forward on stand-in values: anything can happen
        raise NotAChain(f"torch.fx cannot follow its forward ({type(error).__name__})") from error
    modules = dict(model.named_modules())
    steps: list[Step] = []
    taken = set(dir(nn.Sequential()))  # these are no names for a step of one
    for node in _in_order(graph):
        step = _step(node, modules)
        if isinstance(step, _NOTHING):
            continue
        if type(step) not in ARGUMENTS:
            raise NotAChain(f"it has a step of another kind, {node.name} ({type(step).__name__})")
        if getattr(step, "divisor_override", None) is not None or getattr(step, "return_indices", False):
            raise NotAChain(f"it has a step of another kind, {node.name}")
        if has_hooks(step):
            raise NotAChain(f"its layer {node.target} has hooks, which may do anything")
        name = str(node.target if node.op == "call_module" else node.name).replace(".", "_") or "model"
        while name in taken:
            name += "_"
        taken.add(name)
        steps.append((name, copy.deepcopy(step)))  # a module that is used twice becomes two
    return _folded(steps)


def describe(steps: list[Step]) -> list[Described]:
    """What `loaders/load_narrow.py` builds the steps from again, JSON-able."""
    return [_described(name, module) for name, module in steps]


def norm_bias(norm: nn.Module) -> dict[str, bool]:
    """The argument with which a normalisation is made without a bias of its own, if it is."""
    return {"bias": False} if norm.weight is not None and norm.bias is None else {}


def _described(name: str, module: nn.Module) -> Described:
    if type(module) not in ARGUMENTS:  # our own Select
        return name, type(module).__name__, {"inputs": len(module.columns)}  # type: ignore[arg-type]
    arguments = {key: getattr(module, key) for key in ARGUMENTS[type(module)]}
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        arguments["bias"] = module.bias is not None
    if isinstance(module, NORMS):
        arguments["track_running_stats"] = module.running_mean is not None
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm, *NORMS)):
        arguments |= norm_bias(module)
    return name, type(module).__name__, arguments


def _in_order(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes between input and output, each fed by the one before and by nothing else."""
    last: fx.Node | None = None
    helpers: set[fx.Node] = set()  # x.size(0) and the like
    for node in graph.nodes:
        if node.op == "placeholder":
            if last is not None and node.users:
                raise NotAChain("it takes more than one input")
            last = last or node
            continue
        fed_by = set(node.all_input_nodes) - helpers
        if _is_of_shapes(node, fed_by):
            helpers.add(node)
        elif node.op == "get_attr":
            raise NotAChain(f"it uses {node.target} outside of a layer")
        elif fed_by != {last}:
            raise NotAChain(f"its layers do not follow one another in one line ({node.name} branches off)")
        elif node.op == "output":
            if node.args != (last,):
                raise NotAChain("it gives more than one tensor")
        else:
            last = node
            yield node


def _is_of_shapes(node: fx.Node, fed_by: set[fx.Node]) -> bool:
    """x.size(0), x.shape, and what is computed from these alone."""
    if node.op == "call_method":
        return bool(node.target in _SHAPE_CALLS)
    asks = node.target is getattr and node.args[1] == "shape"
    return node.op == "call_function" and bool(asks or not fed_by)


def _step(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module:
    """The module that does what `node` does."""
    if node.op == "call_module":
        if len(node.args) == 1 and not node.kwargs:
            return modules[str(node.target)]
    elif node.target in _CALLS:
        made = _CALLS[node.target]
        return made(**_arguments(node, ARGUMENTS[made], {}))  # type: ignore[index]
    elif node.target in (torch.flatten, "flatten"):
        return nn.Flatten(*_arguments(node, ("start_dim", "end_dim"), {"start_dim": 0}).values())
    elif node.target in _SHAPING:
        # (samples, features), either of which may be -1. Whether it is one row a sample shows in the outputs.
        sizes = node.args[1] if isinstance(node.args[1], tuple | list) else node.args[1:]
        if len(sizes) == 2:
            return nn.Flatten()
    elif node.target in (functional.dropout, "contiguous"):
        drops = node.op != "call_method" and _arguments(node, ("p", "training"), {}).get("training", True)
        if not drops:
            return nn.Identity()
    raise NotAChain(f"it has a step of another kind ({node.name})")


def _arguments(node: fx.Node, names: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments behind the tensor, by name; without those that say nothing."""
    more = {k: v for k, v in node.kwargs.items() if k not in _SILENT and (v or k not in _SILENT_UNSET)}
    values = {**given, **dict(zip(names, node.args[1:], strict=False)), **more}
    if any(name not in names or isinstance(value, fx.Node) for name, value in values.items()):
        raise NotAChain(f"it has a step of another kind ({node.name})")
    if given and "end_dim" not in values:
        values["end_dim"] = -1
    return values


def _folded(steps: list[Step]) -> list[Step]:
    """Batch normalisation right behind a layer becomes part of it."""
    folded: list[Step] = []
    for name, module in steps:
        if isinstance(module, NORMS) and module.running_mean is not None and folded:
            before, layer = folded[-1]
            if isinstance(layer, CONVS):
                folded[-1] = (before, fuse_conv_bn_eval(layer, module).requires_grad_(False))
                continue
            if isinstance(layer, nn.Linear) and _folds(layer, module):
                folded[-1] = (before, fuse_linear_bn_eval(layer, module).requires_grad_(False))
                continue
        folded.append((name, module))
    return folded


def _folds(layer: nn.Linear, norm: nn.Module) -> bool:
    """Of samples with several sizes a normalisation takes the first for the features, the layer the last."""
    return bool(norm.num_features == layer.out_features and norm.bias is not None)
