"""A coupling flow as a few contiguous tensors: masks resolved, classes folded into biases, halves side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
import zuko
from torch import Tensor

from cfexplain.ops.coupling_flow.structure import (
    WIDTH,
    Coupling,
    NotPackable,
    read_base,
    read_couplings,
    read_network,
    read_slope,
)

__all__ = ["NotPackable", "PackedFlow", "pack_couplings"]


@dataclass(frozen=True)
class PackedFlow:
    """L affine couplings of d numbers and K classes, ready for matrix products.

    A row of d numbers is held in 2P places, P a multiple of eight: first the half that a coupling reads, then the half
    that it moves. Places beyond the d numbers hold zero and meet zero weights. Between couplings the halves change
    sides; where the masks do not simply alternate, `routes` says which place goes where.

    Coupling l of x = (x_a, x_b) with class c, widths (P, H₁, …, 2P) and ReLU between::

        s, t = network_l(x_a, c);  r = t / (1 + |t| / bound);  y_b = x_b exp(r) + s;  log|det| = Σ r

    Attributes
    ----------
    weights : tuple of Tensor of shape (L, in, out)
        Of the networks' layers; the last gives t, then s.
    biases : tuple of Tensor
        The first has shape (L, K, out), a row a class (K = 1 if all share it); the others (L, out).
    columns : Tensor of int, shape (2P,)
        The column of z in each place before the first coupling; 0 in places that hold zero.
    places : Tensor of int, shape (d,)
        The place of each column of z before the first coupling.
    loc, scale, inverse_scale : Tensor of shape (2P,)
        A place holds (z - loc) * inverse_scale; both scales are 0 in places that hold zero.
    final_places : Tensor of int, shape (d,)
        The place of each base coordinate after the last coupling and change of sides.
    base_loc : Tensor of shape (K or 1, 2P)
    base_inverse_scale : Tensor of shape (2P,)
        The base is N(base_loc[c], base_inverse_scale⁻²) in each place after the last coupling.
    routes : Tensor of int, shape (L, 2P), or None
        After coupling l and the change of sides, place j takes what is in place ``routes[l, j]``; None: nothing moves.
    log_constant : float
        What log p does not owe to the row: −d/2 log 2π − Σ log scale − Σ log base scale.
    bound : float
        Largest |log scale| of a coupling: −log(slope) in zuko.
    standard_base : bool
        The base is N(0, 1) in every place.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    columns: Tensor
    places: Tensor
    loc: Tensor
    scale: Tensor
    inverse_scale: Tensor
    final_places: Tensor
    base_loc: Tensor
    base_inverse_scale: Tensor
    routes: Tensor | None
    log_constant: float
    bound: float
    standard_base: bool

    @property
    def layers(self) -> int:
        return len(self.weights[0])

    @property
    def classes(self) -> int:
        """K, or 1 if the flow is the same for every class."""
        return max(self.biases[0].shape[1], len(self.base_loc))

    @property
    def features(self) -> int:
        return len(self.places)

    @cached_property
    def by_layer(self) -> tuple[list[tuple[Tensor, ...]], ...]:
        """Weights, biases and transposed weights, each a list of L tuples: views, made once."""
        transposed = tuple(w.mT for w in self.weights)
        return tuple(list(zip(*(part.unbind(0) for part in parts), strict=True))
                     for parts in (self.weights, self.biases, transposed))

    @property
    def half(self) -> int:
        """P."""
        return len(self.columns) // 2

    @property
    def dtype(self) -> torch.dtype:
        return self.loc.dtype

    @property
    def device(self) -> torch.device:
        return self.loc.device

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> PackedFlow:
        """The same flow on another device or in another floating-point type.

        >>> import torch, zuko
        >>> flow = pack_couplings(zuko.flows.NICE(3), torch.zeros(3), torch.ones(3))
        >>> flow.to(dtype=torch.float64).weights[0].dtype
        torch.float64
        """
        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(moved(v) for v in value)
            if not isinstance(value, Tensor):
                return value
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        return replace(self, **{f.name: moved(getattr(self, f.name)) for f in fields(self)})


@torch.no_grad()
def pack_couplings(flow: zuko.flows.Flow, loc: Tensor, scale: Tensor, *, contexts: int = 0,
                   base: tuple[Tensor, Tensor] | None = None, moving: Sequence[int] | None = None,
                   dtype: torch.dtype | None = None) -> PackedFlow:
    """The tensors of a zuko flow of ``(z - loc) / scale``.

    Parameters
    ----------
    flow : zuko.flows.Flow
    loc, scale : Tensor of shape (d,)
    contexts : int
        Length of the one-hot context; 0 for none.
    base : tuple of Tensor of shapes (K, d) and (d,), optional
        Means by class, and deviations; None: those of the flow's own base.
    moving : sequence of int, optional
        The columns that `flow` sees; the others pass unchanged to a standard normal base.
    dtype : torch.dtype, optional
        None: that of `loc`.

    Raises
    ------
    NotPackable
    """
    dtype, device = dtype or loc.dtype, loc.device
    loc, scale = loc.double().cpu(), scale.double().cpu()
    d, moving = len(loc), list(range(len(loc)) if moving is None else moving)
    couplings, after = read_couplings(flow.transform, moving)
    slopes = [read_slope(i, coupling) for i, (coupling, *_) in enumerate(couplings)]
    half = _padded(max((d + 1) // 2, *(len(side) for _, *sides in couplings for side in sides)))
    orders = _arranged(couplings, d, half)
    networks = [read_network(i, coupling, a, b, order, contexts)
                for i, ((coupling, a, b), order) in enumerate(zip(couplings, orders, strict=True))]
    for i, (slope, (weights, _)) in enumerate(zip(slopes, networks, strict=True)):
        if slope != slopes[0]:
            raise NotPackable(f"layer {i} has slope {slope:g}, layer 0 {slopes[0]:g}; packed flows have one slope.")
        if len(weights) != len(networks[0][0]):
            raise NotPackable(f"layer {i} has {len(weights) - 1} hidden layers and layer 0 {len(networks[0][0]) - 1}; "
                              "packed flows have equally many in every layer.")
    base_loc, base_scale = read_base(flow, moving, d) if base is None else (b.double().cpu() for b in base)
    # base coordinate moving[j] is what began as column after[j]
    began = torch.arange(d)
    began[moving] = torch.tensor(after)
    places, final = torch.argsort(orders[0])[:d], torch.argsort(orders[-1].roll(half))[:d][began]
    routes = _routes(orders)
    return PackedFlow(
        weights=_stacked([weights for weights, _ in networks]), biases=_stacked([biases for _, biases in networks]),
        columns=torch.where(orders[0] < d, orders[0], 0), places=places,
        loc=_spread(loc, places, half, 0.0), scale=_spread(scale, places, half, 0.0),
        inverse_scale=_spread(1 / scale, places, half, 0.0),
        final_places=final, routes=routes, base_loc=_spread(base_loc, final, half, 0.0),
        base_inverse_scale=_spread(1 / base_scale, final, half, 1.0),
        log_constant=float(-0.5 * d * math.log(2 * math.pi) - scale.log().sum() - base_scale.log().sum()),
        bound=-math.log(slopes[0]), standard_base=bool((base_loc == 0).all() and (base_scale == 1).all()),
    ).to(device, dtype)


def _arranged(couplings: list[Coupling], d: int, half: int) -> list[Tensor]:
    """Which column each place holds at each coupling, (2P,); d, d + 1, … are zeros. Alternating masks move nothing."""
    orders: list[Tensor] = []
    for _, a, b in couplings:
        before = [] if not orders else orders[-1].roll(half).tolist()
        if not (before and set(a) <= set(before[:half]) and set(b) <= set(before[half:])):
            used = {*a, *b}
            spare = iter([c for c in range(2 * half) if c not in used])
            before = [*a, *(next(spare) for _ in range(half - len(a))), *b, *spare]
        orders.append(torch.tensor(before))
    return orders


def _routes(orders: list[Tensor]) -> Tensor | None:
    """Where each place takes its value from after each coupling and change of sides; None if nothing ever moves."""
    changed = [order.roll(len(order) // 2) for order in orders]
    pairs = list(zip(changed, [*orders[1:], changed[-1]], strict=True))
    if all(torch.equal(old, new) for old, new in pairs):
        return None
    return torch.stack([torch.argsort(old)[new] for old, new in pairs])


def _padded(width: int) -> int:
    return -(-width // WIDTH) * WIDTH


def _stacked(layers: list[list[Tensor]]) -> tuple[Tensor, ...]:
    """One tensor a depth, (L, ...); networks of fewer units get units that stay zero."""
    shapes = [torch.tensor([p.shape for p in parts]).amax(0).tolist() for parts in zip(*layers, strict=True)]
    grown = [[_grown(p, shape) for p, shape in zip(parts, shapes, strict=True)] for parts in layers]
    return tuple(torch.stack(depth).contiguous() for depth in zip(*grown, strict=True))


def _grown(values: Tensor, shape: list[int]) -> Tensor:
    return F.pad(values, [n for side, want in zip(values.shape[::-1], shape[::-1], strict=True) for n in (0, want - side)])


def _spread(values: Tensor, places: Tensor, half: int, fill: float) -> Tensor:
    out = values.new_full((*values.shape[:-1], 2 * half), fill)
    out[..., places] = values
    return out
