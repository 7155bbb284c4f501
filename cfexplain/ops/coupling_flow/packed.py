"""What ``reference`` computes, in as few and as large operations as torch allows: in place, no autograd, no masks.

Nothing here looks at how many rows there are, and all widths are multiples of eight, so that in tiles of one size a row
gets the same bits wherever it lies (see `cfexplain.foundation.tiles`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cfexplain.foundation.tiles import least_rows, padded
from cfexplain.ops.coupling_flow.packed_flow import PackedFlow

__all__ = ["inverse", "inverse_and_vjp", "inverse_vjp", "logp_and_grad", "swap", "to_base"]

_relu_vjp = torch.ops.aten.threshold_backward.grad_input


@torch.no_grad()
def logp_and_grad(flow: PackedFlow, z: Tensor, c: Tensor, gradient: bool = True) -> tuple[Tensor, Tensor | None]:
    """log p(z | c) in nats, (B,), and its gradient in `z`, (B, d); see ``reference.logp_and_grad``.

    Without `gradient` half of the work is left out and None returned; log p has the same bits.

    Examples
    --------
    >>> import torch, zuko
    >>> from cfexplain.ops.coupling_flow.packing import pack_couplings
    >>> flow = pack_couplings(zuko.flows.NICE(3, transforms=2), torch.zeros(3), torch.ones(3))
    >>> logp, grad = logp_and_grad(flow, torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    >>> logp.shape, grad.shape
    (torch.Size([4]), torch.Size([4, 3]))
    """
    n, (z, c) = len(z), _not_too_few(z, c)
    net, tape = _Networks(flow, c), []
    x_a, x_b = z.index_select(1, flow.columns).sub_(flow.loc).mul_(flow.inverse_scale).chunk(2, 1)
    log_det = torch.zeros_like(x_a)
    for layer in range(flow.layers):
        s, r, q = net.forward(layer, x_a)
        log_det.add_(r)
        growth = r.exp_()
        grown = x_b * growth
        tape.append((q, growth, grown))
        x_a, x_b = net.route(layer, s.add_(grown), x_a)
    deviation = torch.cat([x_a, x_b], 1)
    if not flow.standard_base:
        deviation.sub_(_of_class(flow.base_loc, c)).mul_(flow.base_inverse_scale)
    for half in deviation.chunk(2, 1):
        log_det.addcmul_(half, half, value=-0.5)
    logp = log_det.sum(1).add_(flow.log_constant)[:n]
    if not gradient:
        return logp, None

    here, there = _Sweep(len(z), flow), _Sweep(len(z), flow)
    torch.neg(deviation, out=here.g)
    if not flow.standard_base:
        here.g.mul_(flow.base_inverse_scale)
    for layer in reversed(range(flow.layers)):
        if flow.routes is not None:
            here.g.copy_(net.route_back(layer, here.g))
        q, growth, grown = tape[layer]
        torch.mul(here.left, grown, out=here.of_t).add_(1).mul_(q).mul_(q)
        net.vjp(layer, here.of_t_s, here.right, out=there.left)
        torch.mul(here.left, growth, out=there.right)
        here, there = there, here
    return logp, here.g.mul(flow.inverse_scale).index_select(1, flow.places)[:n]


@torch.no_grad()
def to_base(flow: PackedFlow, z: Tensor, c: Tensor) -> Tensor:
    """The base code u = f(z | c), (B, d)."""
    n, (z, c) = len(z), _not_too_few(z, c)
    net = _Networks(flow, c)
    x_a, x_b = z.index_select(1, flow.columns).sub_(flow.loc).mul_(flow.inverse_scale).chunk(2, 1)
    for layer in range(flow.layers):
        s, r, _ = net.forward(layer, x_a)
        x_a, x_b = net.route(layer, s.addcmul(x_b, r.exp_()), x_a)
    return torch.cat([x_a, x_b], 1).index_select(1, flow.final_places)[:n]


def swap(flow: PackedFlow, z: Tensor, c: Tensor, t: Tensor) -> Tensor:
    """Codes of classes `c` under the classes `t`, base code kept: f⁻¹(f(z | c) | t); rows with ``c == t`` stay."""
    n, (z, c, t) = len(z), _not_too_few(z, c, t)
    return torch.where((c == t)[:, None], z, inverse(flow, to_base(flow, z, c), t)[0])[:n]


@torch.no_grad()
def inverse(flow: PackedFlow, u: Tensor, c: Tensor, keep: bool = False) -> tuple[Tensor, list[Tensor]]:
    """The code z = f⁻¹(u | c), (B, d), and, to `keep`, what `inverse_vjp` needs."""
    net, tape = _Networks(flow, c), []
    y = u.new_zeros(len(u), 2 * flow.half).index_copy_(1, flow.final_places, u)
    for layer in reversed(range(flow.layers)):
        y_b, x_a = net.route_back(layer, y).chunk(2, 1)
        s, r, q = net.forward(layer, x_a)
        shrinkage = r.neg_().exp_()
        x_b = torch.sub(y_b, s).mul_(shrinkage)
        tape += [q, shrinkage, x_b]
        y = torch.cat([x_a, x_b], 1)
    z = y.mul_(flow.scale).add_(flow.loc).index_select(1, flow.places)
    return z, [*tape, *(unit for units in net.units for unit in units)] if keep else []


@torch.no_grad()
def inverse_vjp(flow: PackedFlow, tape: list[Tensor], v: Tensor) -> Tensor:
    """vᵀ ∂z/∂u, (B, d), from what `inverse` kept."""
    net, parts = _Networks(flow), list(zip(*[iter(tape[: 3 * flow.layers])] * 3, strict=True))
    depth = len(flow.weights) - 1
    net.units = [tape[3 * flow.layers + depth * i :][:depth] for i in range(flow.layers)]
    here, there = _Sweep(len(v), flow), _Sweep(len(v), flow)
    here.g.zero_().index_copy_(1, flow.places, v).mul_(flow.scale)
    for layer in range(flow.layers):
        q, shrinkage, x_b = parts.pop()
        torch.mul(here.right, shrinkage, out=there.left)
        torch.mul(here.right, x_b, out=there.of_t).mul_(q).mul_(q)
        net.vjp(layer, there.of_t_s, here.left, out=there.right, sign=-1)
        if flow.routes is not None:
            there.g.copy_(torch.cat(net.route(layer, there.left, there.right), 1))
        here, there = there, here
    return here.g.index_select(1, flow.final_places)


def inverse_and_vjp(flow: PackedFlow, u: Tensor, c: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The code z = f⁻¹(u | c), (B, d), and vᵀ ∂z/∂u, (B, d); see ``reference.inverse_and_vjp``."""
    z, tape = inverse(flow, u, c, keep=True)
    return z, inverse_vjp(flow, tape, v)


class _Sweep:
    """∂/∂t | ∂/∂left | ∂/∂right side by side, (B, 3P): what one product with the last weights needs is in one piece.

    Left and right are the halves after a coupling has changed their sides: left is what it moved, and ∂/∂s = ∂/∂left.
    """

    def __init__(self, rows: int, flow: PackedFlow):
        everything, half = flow.loc.new_empty(rows, 3 * flow.half), flow.half
        self.of_t, self.left, self.right = everything.chunk(3, 1)
        self.of_t_s, self.g = everything[:, : 2 * half], everything[:, half:]


class _Networks:
    """The couplings' networks on rows of classes `c`; remembers the hidden units of each run, last run last."""

    def __init__(self, flow: PackedFlow, c: Tensor | None = None):
        self.flow = flow
        self.units: list[list[Tensor]] = []
        self.one = flow.loc.new_ones(())
        self.table = flow.biases[0].index_select(1, c) if c is not None and flow.biases[0].shape[1] > 1 else None
        self.weights, self.biases, self.transposed = flow.by_layer

    def forward(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """s, r = t q and q = 1 / (1 + |t| / bound), each (B, P)."""
        units: list[Tensor] = []
        for depth, (weight, bias) in enumerate(zip(self.weights[layer], self.biases[layer], strict=True)):
            if depth == 0 and self.table is not None:
                x = self.table[layer].addmm_(x, weight)
            else:
                x = torch.addmm(bias, x, weight)
            if depth < len(self.weights[layer]) - 1:
                units.append(x.relu_())
        self.units.append(units)
        t, s = x.chunk(2, 1)
        q = torch.add(self.one, t.abs(), alpha=1 / self.flow.bound).reciprocal_()
        return s, t * q, q

    def vjp(self, layer: int, of_t_s: Tensor, add: Tensor, out: Tensor, sign: int = 1) -> None:
        """``out = add + sign * (∂/∂t, ∂/∂s)ᵀ network'`` of the run that is remembered last, and forget it."""
        units, g = self.units.pop(), of_t_s
        for unit, weight in zip(reversed(units), reversed(self.transposed[layer][1:]), strict=True):
            g = torch.mm(g, weight)
            _relu_vjp(g, unit, 0, grad_input=g)
        torch.addmm(add, g, self.transposed[layer][0], alpha=sign, out=out)

    def route(self, layer: int, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """The halves as the next coupling wants them."""
        if self.flow.routes is None:
            return left, right
        left, right = torch.cat([left, right], 1).index_select(1, self.flow.routes[layer]).chunk(2, 1)
        return left, right

    def route_back(self, layer: int, g: Tensor) -> Tensor:
        if self.flow.routes is None:
            return g
        return g.index_select(1, torch.argsort(self.flow.routes[layer]))


def _not_too_few(*rows: Tensor) -> tuple[Tensor, ...]:
    """At least as many rows as it takes for products to be computed as those of many rows are."""
    return tuple(padded(r, least_rows()) for r in rows) if len(rows[0]) < least_rows() else rows


def _of_class(table: Tensor, c: Tensor) -> Tensor:
    return table.index_select(0, c) if len(table) > 1 else table
