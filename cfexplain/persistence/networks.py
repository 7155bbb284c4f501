"""Networks of the package, as their configuration and their weights; sizes are checked before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from cfexplain.foundation.random import seeded_torch
from cfexplain.persistence.tree import Reader, Writer

__all__ = ["State", "check_repeats", "check_size", "dense_size", "make_network", "on_meta", "take_network"]

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
    with seeded_torch(0):  # building draws weights, and so does zuko where it describes a network
        fresh = build(state)
        alike = _plan(fresh) == _plan(module) and _shapes(fresh) == _shapes(module)
    if not alike:
        raise TypeError(f"{where} is not the network that its parameters describe: it, or they, were changed after fit, so "
                        "that it could not be made again, and nothing was written. pickle holds it as it is.")
    first = next(iter(state.values()), torch.zeros(0))
    return {
        "state": {name: out.tensor(tensor, f"{where}.{name}") for name, tensor in state.items()},
        "device": str(first.device),
        "grad": [name for name, parameter in module.named_parameters() if parameter.requires_grad],
        "channels_last": [name for name, tensor in state.items() if _is_channels_last(tensor)]}


def make_network(node: dict[str, Any], build: Callable[[State], nn.Module], read: Reader) -> nn.Module:
    """The network that ``build(state)`` makes, with the weights of `node`.

    Raises
    ------
    ValueError
        The network has other weights than the file: their names, shapes or kinds differ.
    """
    names = dict(node["state"])
    with seeded_torch(0):
        module = build({key: read.arrays[name] for key, name in names.items()})
    wanted = module.state_dict()
    if set(wanted) != set(names):
        raise ValueError(f"weights {_first_three(set(wanted) ^ set(names))} that the network or the file does not have")
    size, stored = sum(t.numel() for t in wanted.values()), sum(read.arrays[name].size for name in names.values())
    if size > stored:
        raise ValueError(f"a network of {size:,} numbers, of which the file holds {stored:,}")
    tensors, device = {}, read.place(node["device"])
    for key, name in names.items():
        tensor, like = read.tensor(name, device), wanted[key]
        alike = tensor.dtype in (torch.float32, torch.float64) if like.is_floating_point() else tensor.dtype == like.dtype
        if tensor.shape != like.shape or not alike:
            raise ValueError(f"the weight {key} as {tensor.dtype} {tuple(tensor.shape)} in place of {like.dtype} "
                             f"{tuple(like.shape)}")
        tensors[key] = tensor
    if len(kinds := {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}) > 1:
        raise ValueError(f"weights of several dtypes, {', '.join(sorted(map(str, kinds)))}, in one network")
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


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """``make()`` with shapes only: nothing is allocated, and no random number is drawn."""
    with seeded_torch(0), torch.device("meta"):
        return make()


def check_repeats(estimator: Any, state: State, counts: Mapping[str, Any] | None = None, layers: Any = None) -> None:
    """Raise ValueError if the file does not hold a tensor for each time that a part of a network is repeated.

    Parameters
    ----------
    counts : mapping of str to int or None, optional
        How often, by name.
    layers : sequence of int, optional
        One width a layer.
    """
    stored = max(len(state), 1)
    for name, value in (counts or {}).items():
        if value is not None and int(value) > stored:
            raise ValueError(f"{type(estimator).__name__} of {name}={value!r} in {len(state)} tensors")
    depth = 0 if layers is None else np.size(layers)
    if depth > stored:
        raise ValueError(f"{type(estimator).__name__} of {depth} layers in {len(state)} tensors")


def check_size(least: int, state: State) -> None:
    """Raise ValueError if a network has at least so many numbers, and the file holds fewer."""
    stored = sum(math.prod(tensor.shape) for tensor in state.values())
    if least > stored:
        raise ValueError(f"a network of at least {least:,} numbers, of which the file holds {stored:,}")


def dense_size(widths: Sequence[int], times: int) -> int:
    """Numbers in `times` stacks of dense layers, without their biases.

    >>> dense_size([2, 8, 1], times=3)
    72
    """
    return times * sum(a * b for a, b in pairwise(widths))


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


def _first_three(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
