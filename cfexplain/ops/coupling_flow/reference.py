"""log p(z | c), its gradient, and the inverse with its vector-Jacobian product, derived by hand: the readable truth.

One coupling moves x_b by what its network says of x_a and of the class c (ReLU between its layers)::

    s, t = network(x_a, c);   r = t q,  q = 1 / (1 + |t| / bound);   y_b = x_b exp(r) + s;   log|det| = Σ r

Backwards, for g = ∂ log p / ∂ y_b and because dr/dt = q²::

    ∂/∂s = g;   ∂/∂t = (1 + g x_b exp(r)) q²;   ∂/∂x_b = g exp(r);   ∂/∂x_a = (what came for x_a) + networkᵀ(∂/∂s, ∂/∂t)

The 1 is the log-determinant's own share. The inverse, x_b = (y_b − s) exp(−r), has for a vector v at x_b::

    ∂/∂y_b = v exp(−r);   ∂/∂s = −v exp(−r);   ∂/∂t = −v x_b q²
"""

from __future__ import annotations

import torch
from torch import Tensor

from cfexplain.ops.coupling_flow.packed_flow import PackedFlow

__all__ = ["inverse_and_vjp", "logp_and_grad"]


@torch.no_grad()
def logp_and_grad(flow: PackedFlow, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z | c) in nats, and its gradient in z, without autograd.

    Parameters
    ----------
    flow : PackedFlow
    z : Tensor of shape (B, d), in the flow's dtype
    c : Tensor of int, shape (B,)
        Class indices.

    Returns
    -------
    logp : Tensor of shape (B,)
    grad : Tensor of shape (B, d)

    Examples
    --------
    >>> import torch, zuko
    >>> from cfexplain.ops.coupling_flow.packing import pack_couplings
    >>> nice = zuko.flows.NICE(3, transforms=2).double()
    >>> flow = pack_couplings(nice, torch.zeros(3).double(), torch.ones(3).double())
    >>> z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    >>> logp, grad = logp_and_grad(flow, z, torch.zeros(4, dtype=torch.long))
    >>> expected = nice().log_prob(z)
    >>> torch.allclose(logp, expected), torch.allclose(grad, torch.autograd.grad(expected.sum(), z)[0])
    (True, True)
    """
    x_a, x_b = ((z[:, flow.columns] - flow.loc) * flow.inverse_scale).chunk(2, 1)
    log_det, tape = z.new_zeros(len(z)), []
    for layer in range(flow.layers):
        units, s, t = _network(flow, layer, x_a, c)
        q = 1 / (1 + t.abs() / flow.bound)
        growth = (t * q).exp()
        log_det = log_det + (t * q).sum(1)
        tape.append((units, q, growth, x_b))
        x_a, x_b = _change_sides(flow, layer, x_a, x_b * growth + s)
    u = torch.cat([x_a, x_b], 1)
    deviation = (u - _of_class(flow.base_loc, c)) * flow.base_inverse_scale
    logp = flow.log_constant + log_det - 0.5 * deviation.square().sum(1)

    g_a, g_b = (-deviation * flow.base_inverse_scale).chunk(2, 1)
    for layer in reversed(range(flow.layers)):
        units, q, growth, x_b = tape[layer]
        g_a, g_b = _change_sides_back(flow, layer, g_a, g_b)
        of_t = (1 + g_b * x_b * growth) * q * q
        g_a, g_b = g_a + _network_vjp(flow, layer, units, g_b, of_t), g_b * growth
    return logp, (torch.cat([g_a, g_b], 1) * flow.inverse_scale)[:, flow.places]


@torch.no_grad()
def inverse_and_vjp(flow: PackedFlow, u: Tensor, c: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The code z = f⁻¹(u | c), and vᵀ ∂z/∂u, without autograd.

    Parameters
    ----------
    flow : PackedFlow
    u : Tensor of shape (B, d)
        Base codes.
    c : Tensor of int, shape (B,)
    v : Tensor of shape (B, d)

    Returns
    -------
    z : Tensor of shape (B, d)
    vjp : Tensor of shape (B, d)
    """
    y = u.new_zeros(len(u), 2 * flow.half)
    y[:, flow.final_places] = u
    (y_a, y_b), tape = y.chunk(2, 1), []
    for layer in reversed(range(flow.layers)):
        y_a, y_b = _change_sides_back(flow, layer, y_a, y_b)
        units, s, t = _network(flow, layer, y_a, c)
        q = 1 / (1 + t.abs() / flow.bound)
        shrinkage = (-t * q).exp()
        y_b = (y_b - s) * shrinkage
        tape.append((units, q, shrinkage, y_b))
    z = (torch.cat([y_a, y_b], 1) * flow.scale + flow.loc)[:, flow.places]

    g = u.new_zeros(len(u), 2 * flow.half)
    g[:, flow.places] = v
    g_a, g_b = (g * flow.scale).chunk(2, 1)
    for layer in range(flow.layers):
        units, q, shrinkage, x_b = tape.pop()
        of_t = -g_b * x_b * q * q
        g_b = g_b * shrinkage
        g_a = g_a + _network_vjp(flow, layer, units, -g_b, of_t)
        g_a, g_b = _change_sides(flow, layer, g_a, g_b)
    return z, torch.cat([g_a, g_b], 1)[:, flow.final_places]


def _network(flow: PackedFlow, layer: int, x_a: Tensor, c: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """The hidden units after ReLU, and s and t, (B, P) each."""
    units: list[Tensor] = []
    for depth, (weight, bias) in enumerate(zip(flow.weights, flow.biases, strict=True)):
        incoming = torch.relu(units[-1]) if depth else x_a
        own = bias[layer] if depth else _of_class(bias[layer], c)
        units.append(incoming @ weight[layer] + own)
    t, s = units.pop().chunk(2, 1)
    return units, s, t


def _network_vjp(flow: PackedFlow, layer: int, units: list[Tensor], of_s: Tensor, of_t: Tensor) -> Tensor:
    """(∂/∂s, ∂/∂t) of the network's output as a gradient of its input, (B, P); `units` are before ReLU."""
    g = torch.cat([of_t, of_s], 1) @ flow.weights[-1][layer].T
    for unit, weight in zip(reversed(units), reversed(flow.weights[:-1]), strict=True):
        g = (g * (unit > 0)) @ weight[layer].T
    return g


def _change_sides(flow: PackedFlow, layer: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """What the next coupling reads and moves."""
    if flow.routes is None:
        return b, a
    left, right = torch.cat([b, a], 1)[:, flow.routes[layer]].chunk(2, 1)
    return left, right


def _change_sides_back(flow: PackedFlow, layer: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if flow.routes is None:
        return b, a
    b, a = torch.cat([a, b], 1)[:, torch.argsort(flow.routes[layer])].chunk(2, 1)
    return a, b


def _of_class(table: Tensor, c: Tensor) -> Tensor:
    """The rows of classes `c`; the only row if all classes share it."""
    return table[c] if len(table) > 1 else table
