"""log p(z | c) and f⁻¹(u | c) of a packed flow as torch functions: their gradients are the hand-derived ones.

`log_prob` computes the gradient together with log p, in one pass, and its backward only multiplies. There is no second
derivative. While a graph is traced (``torch.compile``, ``torch.export``) it is the opaque operator
``cfexplain::coupling_flow_logp_and_grad``; otherwise the same through ``torch.autograd.Function``, since for one row the
dispatch of an operator with a dozen tensors costs a third of what the operator does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cfexplain.ops.coupling_flow import packed
from cfexplain.ops.coupling_flow.packing import PackedFlow

__all__ = ["from_base", "log_prob", "logp_and_grad_op"]

_NO_SECOND = (
    "The hand-derived gradient of a coupling flow has no derivative of its own, but one was asked for (create_graph=True). "
    "Use ConditionalFlow.log_prob, which is zuko's, for second derivatives."
)


def log_prob(flow: PackedFlow, z: Tensor, c: Tensor) -> Tensor:
    """log p(z | c) in nats, (B,), differentiable once in `z`.

    Parameters
    ----------
    flow : PackedFlow
    z : Tensor of shape (B, d), in the flow's dtype and on its device
    c : Tensor of int, shape (B,)

    Examples
    --------
    >>> import torch, zuko
    >>> from cfexplain.ops.coupling_flow import pack_couplings
    >>> flow = pack_couplings(zuko.flows.NICE(3, transforms=2), torch.zeros(3), torch.ones(3))
    >>> z = torch.zeros(4, 3, requires_grad=True)
    >>> log_prob(flow, z, torch.zeros(4, dtype=torch.long)).sum().backward(); z.grad.shape
    torch.Size([4, 3])
    """
    if torch.compiler.is_compiling():
        return logp_and_grad_op(z, c, *flattened(flow))[0]
    return _LogProb.apply(z, c, flow, z.requires_grad and torch.is_grad_enabled())


def from_base(flow: PackedFlow, u: Tensor, c: Tensor) -> Tensor:
    """The code z = f⁻¹(u | c), (B, d), differentiable once in the base code `u` (B, d)."""
    return _FromBase.apply(u, c, flow, u.requires_grad and torch.is_grad_enabled())


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, c: Tensor, flow: PackedFlow, gradient: bool) -> Tensor:
        with torch._C.DisableTorchFunction():  # a mode such as cfexplain._tiles.aligned costs 10 us an operation
            logp, grad = packed.logp_and_grad(flow, z, c, gradient)
        if grad is not None:
            ctx.save_for_backward(grad)
        return logp

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None, None, None]:
        return _scaled(ctx.saved_tensors[0], weight), None, None, None


class _FromBase(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, c: Tensor, flow: PackedFlow, gradient: bool) -> Tensor:
        with torch._C.DisableTorchFunction():
            z, tape = packed.inverse(flow, u, c, keep=gradient)
        ctx.save_for_backward(*tape)
        ctx.flow = flow
        return z

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None, None]:
        _refuse_second()
        with torch._C.DisableTorchFunction():
            return packed.inverse_vjp(ctx.flow, list(ctx.saved_tensors), v), None, None, None


def _scaled(grad: Tensor, weight: Tensor) -> Tensor:
    _refuse_second()
    return grad * weight[:, None]


def _refuse_second() -> None:
    if torch.is_grad_enabled():  # within backward: exactly where create_graph=True
        raise NotImplementedError(_NO_SECOND)


# ---------------------------------------------------------------- the operator


@torch.library.custom_op("cfexplain::coupling_flow_logp_and_grad", mutates_args=())
def logp_and_grad_op(z: Tensor, c: Tensor, weights: list[Tensor], biases: list[Tensor], places: list[Tensor],
                     log_constant: float, bound: float, standard_base: bool) -> tuple[Tensor, Tensor]:
    """log p(z | c), (B,), and its gradient, (B, d), of the flow that `flattened` took apart."""
    flow = PackedFlow(tuple(weights), tuple(biases), *places[:8], places[8] if len(places) > 8 else None,
                      log_constant=log_constant, bound=bound, standard_base=standard_base)
    return packed.logp_and_grad(flow, z, c)


@logp_and_grad_op.register_fake
def _(z: Tensor, c: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return z.new_empty(len(z)), torch.empty_like(z)


def _remember(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.lists = [len(part) for part in inputs[2:5]]


def _backward(ctx: Any, weight: Tensor, _: Any) -> tuple:
    return (_scaled(ctx.saved_tensors[0], weight), None, *([None] * n for n in ctx.lists), None, None, None)


logp_and_grad_op.register_autograd(_backward, setup_context=_remember)


def flattened(flow: PackedFlow) -> tuple[list[Tensor], list[Tensor], list[Tensor], float, float, bool]:
    """What the operator takes after `z` and `c`."""
    places = [flow.columns, flow.places, flow.loc, flow.scale, flow.inverse_scale, flow.final_places, flow.base_loc,
              flow.base_inverse_scale, *([] if flow.routes is None else [flow.routes])]
    return list(flow.weights), list(flow.biases), places, flow.log_constant, flow.bound, flow.standard_base
