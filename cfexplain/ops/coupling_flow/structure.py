"""Reading zuko's coupling flows, layer by layer; what is not a chain of affine couplings is refused by name."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import zuko
from torch import Tensor, nn
from zuko.distributions import DiagNormal
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.lazy import LazyComposedTransform, UnconditionalDistribution, UnconditionalTransform
from zuko.transforms import MonotonicAffineTransform, PermutationTransform

from cfexplain.ops.coupling_flow.packed_flow import WIDTH, NotPackable

__all__ = ["Coupling", "read_base", "read_couplings", "read_network", "read_slope"]


# a layer, the columns that it reads, the columns that it moves
Coupling = tuple[GeneralCouplingTransform, list[int], list[int]]


def read_couplings(transform: nn.Module, columns: list[int]) -> tuple[list[Coupling], list[int]]:
    """The couplings with the columns that each reads and moves, and the columns in the order that they end in."""
    found: list[Coupling] = []
    layers = _flattened(transform)
    for i, layer in enumerate(layers):
        if _hooked(layer):
            raise NotPackable(f"layer {i} has hooks, which a packed flow would not run.")
        if type(layer) is GeneralCouplingTransform:
            if len(layer.mask) != len(columns):
                raise NotPackable(f"layer {i} couples {len(layer.mask)} features, but there are {len(columns)}.")
            mask = layer.mask.tolist()
            found.append((layer, [c for c, m in zip(columns, mask, strict=True) if m],
                          [c for c, m in zip(columns, mask, strict=True) if not m]))
        elif isinstance(layer, UnconditionalTransform) and layer.f is PermutationTransform:
            columns = [columns[j] for j in layer().order.tolist()]
        else:
            made = layer.f if isinstance(layer, UnconditionalTransform) else type(layer)
            name = getattr(made, "__name__", made)
            raise NotPackable(f"layer {i} is a {name}; packed flows are affine couplings (zuko NICE or RealNVP of two or "
                              "more features) and fixed permutations.")
    if not found:
        raise NotPackable("the flow has no coupling.")
    return found, columns


def _flattened(transform: Any) -> list[Any]:
    if type(transform) is LazyComposedTransform:
        return [layer for part in transform.transforms for layer in _flattened(part)]
    return [transform]


def read_slope(i: int, coupling: GeneralCouplingTransform) -> float:
    univariate = coupling.univariate
    keywords = univariate.keywords if type(univariate) is partial else {}
    made = univariate.func if type(univariate) is partial and not univariate.args else univariate
    shapes = [tuple(shape) for shape in coupling.shapes]
    if made is not MonotonicAffineTransform or shapes != [(), ()] or set(keywords) - {"slope"}:
        name = getattr(made, "__name__", type(made).__name__)
        raise NotPackable(f"layer {i} couples by a {name} with parameters of shapes {shapes}; packed couplings are affine "
                          "(MonotonicAffineTransform).")
    return float(keywords.get("slope", 1e-3))


def read_network(i: int, coupling: GeneralCouplingTransform, a: list[int], b: list[int], order: Tensor, contexts: int
             ) -> tuple[list[Tensor], list[Tensor]]:
    """Weights (in, out) and biases of one coupling's network, rows and columns in their places, widths padded."""
    if type(coupling.hyper) not in (zuko.nn.MLP, nn.Sequential):
        raise NotPackable(f"layer {i}'s network is a {type(coupling.hyper).__name__}; packed networks are zuko's MLP.")
    half, steps = len(order) // 2, list(coupling.hyper)
    for j, step in enumerate(steps):
        if type(step) not in ((nn.ReLU,) if j % 2 else (nn.Linear, zuko.nn.Linear)) or _hooked(step):
            raise NotPackable(f"layer {i}'s network has {step} as part {j}; packed networks are plain Linear layers with "
                              "ReLU between.")
    linear = steps[::2]
    if len(steps) % 2 == 0 or linear[0].weight.shape[-1] != len(a) + contexts or any(f.weight.ndim != 2 for f in linear):
        raise NotPackable(f"layer {i}'s network takes {linear[0].weight.shape[-1]} numbers; expected {len(a)} features and "
                          f"a context of {contexts}, and a Linear layer at the end.")
    weights = [f.weight.double().cpu().T for f in linear]
    biases = [torch.zeros(w.shape[1]).double() if f.bias is None else f.bias.double().cpu()
              for f, w in zip(linear, weights, strict=True)]
    # the one-hot class selects a row of the first layer: a bias a class
    table = biases[0] + (weights[0][len(a):] if contexts else weights[0].new_zeros(1, len(biases[0])))
    weights[0] = _placed(weights[0][:len(a)], a, order[:half], 0)
    biases[0] = table
    for part in (weights, biases):  # zuko interleaves s and t; places without a column get s = t = 0
        part[-1] = torch.cat([_placed(part[-1][..., j::2], b, order[half:], -1) for j in (1, 0)], -1)
    for part in (weights, biases):
        part[:-1] = [F.pad(p, (0, -p.shape[-1] % WIDTH)) for p in part[:-1]]
    for j in range(1, len(weights)):
        weights[j] = F.pad(weights[j], (0, 0, 0, weights[j - 1].shape[1] - weights[j].shape[0]))
    return weights, biases


def _placed(values: Tensor, columns: list[int], order: Tensor, dim: int) -> Tensor:
    """`values` of `columns` along `dim`, put where `order` has these columns; 0 elsewhere."""
    where = torch.argsort(order)[torch.searchsorted(order.sort().values, torch.tensor(columns))]
    shape = list(values.shape)
    shape[dim] = len(order)
    return values.new_zeros(shape).index_copy(dim, where, values)


def read_base(flow: zuko.flows.Flow, moving: list[int], d: int) -> tuple[Tensor, Tensor]:
    base = flow.base
    if not (isinstance(base, UnconditionalDistribution) and base.f is DiagNormal) or base().event_shape != (len(moving),):
        raise NotPackable(f"the base is {base}; packed flows have a diagonal normal base.")
    loc, scale = torch.zeros(1, d).double(), torch.ones(d).double()
    loc[:, moving], scale[moving] = base().base_dist.loc.double().cpu(), base().base_dist.scale.double().cpu()
    return loc, scale


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
