"""Networks of the package, as their configuration and their weights; sizes are checked before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from cfexplain.coordinates import Coordinates, Flow
from cfexplain.density import ConditionalFlow
from cfexplain.foundation.random import seeded_torch
from cfexplain.persistence.tree import Reader, Writer

__all__ = ["blank", "take_network", "untrained", "untrained_density", "untrained_network", "weigh"]

# How often a network of the package repeats a part, which is as many tensors or more in its state
_COUNTS = ("levels", "steps", "blocks", "transforms")
_SPARE = 200_000_000  # numbers that may be made for columns that a table's flow then leaves out
# Weights by name, as tensors or as arrays
State = Mapping[str, Any]


def take_network(module: nn.Module, build: Callable[[State], nn.Module], out: Writer, where: str) -> dict[str, Any]:
    """A node for the weights of `module`, which ``build(state)`` makes again without them.

    Raises
    ------
    TypeError
        What is built is not like `module`: parameters were changed after it was trained, or the network itself.
    """
    state = module.state_dict(keep_vars=True)
    fresh = build(state)
    if _plan(fresh) != _plan(module) or _shapes(fresh) != _shapes(module):
        raise TypeError(f"{where} is not the network that its parameters describe: it, or they, were changed after fit, so "
                        "that it could not be made again, and nothing was written. pickle holds it as it is.")
    first = next(iter(state.values()), torch.zeros(0))
    return {
        "state": {name: out.tensor(tensor, f"{where}.{name}") for name, tensor in state.items()},
        "device": str(first.device),
        "grad": [name for name, parameter in module.named_parameters() if parameter.requires_grad],
        "channels_last": [name for name, tensor in state.items() if _is_channels_last(tensor)]}


def weigh(node: dict[str, Any], build: Callable[[State], nn.Module], read: Reader) -> nn.Module:
    """The network that ``build(state)`` makes, with the weights of `node`.

    Raises
    ------
    ValueError
        The network has other weights than the file: their names, shapes or kinds differ.
    """
    names = dict(node["state"])
    module = build({key: read.arrays[name] for key, name in names.items()})
    wanted = module.state_dict()
    if set(wanted) != set(names):
        raise ValueError(f"weights {_some(set(wanted) ^ set(names))} that the network or the file does not have")
    asked, held = sum(t.numel() for t in wanted.values()), sum(read.arrays[name].size for name in names.values())
    if asked > held:
        raise ValueError(f"a network of {asked:,} numbers, of which the file holds {held:,}")
    tensors, device = {}, read.place(node["device"])
    for key, name in names.items():
        tensor, like = read.tensor(name, device), wanted[key]
        alike = tensor.dtype in (torch.float32, torch.float64) if like.is_floating_point() else tensor.dtype == like.dtype
        if tensor.shape != like.shape or not alike:
            raise ValueError(f"the weight {key} as {tensor.dtype} {tuple(tensor.shape)} in place of {like.dtype} "
                             f"{tuple(like.shape)}")
        tensors[key] = tensor
    for key in node["channels_last"]:
        tensors[key] = torch.empty_like(tensors[key], memory_format=torch.channels_last).copy_(tensors[key])
    module.load_state_dict(tensors, assign=True)
    parameters, left = dict(module.named_parameters()), [*module.parameters(), *module.buffers()]
    if any(tensor.is_meta for tensor in left):
        raise ValueError("a network with numbers outside its state")
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    for name in node["grad"]:
        parameters[name].requires_grad_(True)
    return module.eval()


def blank(make: Callable[[], nn.Module]) -> nn.Module:
    """``make()`` with shapes only: nothing is allocated, and no random number is drawn."""
    with seeded_torch(0), torch.device("meta"):
        return make()


def untrained(estimator: Coordinates | ConditionalFlow) -> Callable[[State], nn.Module]:
    """How to build the network of coordinates or of a density that has its parameters and sizes already."""
    return lambda state: (untrained_density if isinstance(estimator, ConditionalFlow) else untrained_network)(
        estimator, state)


def untrained_network(coordinates: Coordinates, state: State) -> nn.Module:
    """``module_`` of coordinates that have their parameters, ``layout_`` and ``latent_dim_``."""
    _check_counts(coordinates, state)
    if not isinstance(coordinates, Flow) or coordinates.layout_.is_image:
        return blank(coordinates._make_module)
    varying = torch.as_tensor(state["varying"]).cpu()
    columns, count = coordinates.layout_.net_shape[0], int(varying.sum())
    hidden = [int(width) for width in np.atleast_1d((1,) if coordinates.hidden is None else coordinates.hidden)]
    steps = 1 if coordinates.steps is None else int(coordinates.steps)
    layers = [count // 2, *hidden, count // 2] if count > 1 else []  # a single number has nothing to depend on
    _check_size(columns + _of_layers(layers, steps), state)
    if columns * hidden[0] * steps > _SPARE and count < columns:
        raise ValueError(f"a flow of {columns:,} columns, of which {count:,} vary")
    with seeded_torch(0):
        module = coordinates._make_module()
        if not varying.all():
            module.varying.copy_(varying)
            module._make_flow()
    return module


def untrained_density(density: ConditionalFlow, state: State) -> nn.Module:
    """``flow_`` of a density that has its parameters, ``n_features_in_`` and ``classes_``."""
    features, count = int(density.n_features_in_), len(density.classes_)
    if isinstance(density.flow, str):
        _check_counts(density, state)
        context = count if density.base == "gaussian" and count > 1 else 0
        hidden = [int(width) for width in density.hidden_features]
        hidden = [min(width, 64) for width in hidden] if features <= 4 else hidden
        layers = [features // 2 + context, *hidden, features // 2] if features > 1 or context else []
        _check_size(features + _of_layers(layers, int(density.transforms))
                    + (features * count if density.base == "attributes" else 0), state)
    return density._build_flow(features, count)


def _check_counts(estimator: Any, state: State) -> None:
    """A part that is repeated has tensors for each time."""
    for name in _COUNTS:
        value = getattr(estimator, name, None)
        if value is not None and int(value) > max(len(state), 1):
            raise ValueError(f"{type(estimator).__name__} of {name}={value!r} in {len(state)} tensors")
    for name in ("hidden", "hidden_features"):
        if np.size(getattr(estimator, name, ())) > max(len(state), 1):
            raise ValueError(f"{type(estimator).__name__} of {np.size(getattr(estimator, name))} layers in {len(state)} "
                             "tensors")


def _check_size(least: int, state: State) -> None:
    held = sum(math.prod(tensor.shape) for tensor in state.values())
    if least > held:
        raise ValueError(f"a network of at least {least:,} numbers, of which the file holds {held:,}")


def _of_layers(sizes: list[int], times: int) -> int:
    """Numbers in `times` stacks of dense layers, without their biases."""
    return times * sum(a * b for a, b in pairwise(sizes))


def _is_channels_last(tensor: torch.Tensor) -> bool:
    """By its strides: a kernel is chosen by them even where one channel makes both orders the same."""
    return tensor.ndim == 4 and not tensor.is_meta and tensor.stride() != tensor.contiguous().clone(
        memory_format=torch.contiguous_format).stride() and tensor.is_contiguous(memory_format=torch.channels_last)


def _plan(module: nn.Module) -> list[tuple[str, str, str]]:
    """Names, classes and sizes of the parts; a list of parameters would tell their precision, too."""
    return [(name, type(part).__name__, "" if isinstance(part, nn.ParameterList) else part.extra_repr())
            for name, part in module.named_modules()]


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
