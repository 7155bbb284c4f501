"""From a flow of zuko to a `PackedFlow`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
import zuko
from torch import Tensor

from cfexplain.foundation.settings import own_defaults
from cfexplain.ops.coupling_flow.packed_flow import WIDTH, NotPackable, PackedFlow
from cfexplain.ops.coupling_flow.structure import Coupling, read_base, read_couplings, read_network, read_slope

__all__ = ["pack_couplings"]


@own_defaults()
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
