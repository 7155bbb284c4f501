"""log p(z | c) and f⁻¹(u | c) of a packed flow as torch functions: their gradients are the hand-derived ones.

`log_prob` computes the gradient together with log p, in one pass, and its backward only multiplies. There is no second
derivative. While a graph is traced (``torch.compile``, ``torch.export``) it is the opaque operator
``cfexplain::coupling_flow_logp_and_grad``; otherwise the same through ``torch.autograd.Function``, since for one row the
dispatch of an operator with a dozen tensors costs a third of what the operator does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cfexplain.ops.coupling_flow import packed
from cfexplain.ops.coupling_flow.packed_flow import PackedFlow

if TYPE_CHECKING:
    from cfexplain.ops.coupling_flow.triton import TritonFlow

__all__ = ["flattened", "from_base", "log_prob", "logp_and_grad_op", "with_gradient"]

_NO_SECOND = (
    "The hand-derived gradient of a coupling flow has no derivative of its own, but one was asked for (create_graph=True). "
    "Use ConditionalFlow.log_prob, which is zuko's, for second derivatives."
)


def log_prob(flow: PackedFlow | TritonFlow, z: Tensor, c: Tensor) -> Tensor:
    """log p(z | c) in nats, (B,), differentiable once in `z`.

    Parameters
    ----------
    flow : PackedFlow or TritonFlow
    z : Tensor of shape (B, d), in the flow's dtype and on its device
    c : Tensor of int, shape (B,)

    Raises
    ------
    TypeError, ValueError
        `z` of another dtype, or another shape.

    Examples
    --------
    >>> import torch, zuko
    >>> from cfexplain.ops.coupling_flow.packing import pack_couplings
    >>> flow = pack_couplings(zuko.flows.NICE(3, transforms=2), torch.zeros(3), torch.ones(3))
    >>> z = torch.zeros(4, 3, requires_grad=True)
    >>> log_prob(flow, z, torch.zeros(4, dtype=torch.long)).sum().backward(); z.grad.shape
    torch.Size([4, 3])
    """
    _check(flow, z, c, "z")
    if torch.compiler.is_compiling() and isinstance(flow, PackedFlow):
        return logp_and_grad_op(z, c, *flattened(flow))[0]
    if isinstance(flow, PackedFlow):
        return with_gradient(functools.partial(packed.logp_and_grad, flow), z, c)
    return with_gradient(flow.logp_and_grad, z, c)


def with_gradient(compute: Callable[..., tuple[Tensor, Tensor | None]], z: Tensor, c: Tensor) -> Tensor:
    """The values (B,) of ``compute(z, c, gradient) -> (values, gradients (B, d) or None)``, differentiable once in `z`."""
    return _WithGradient.apply(z, c, compute, z.requires_grad and torch.is_grad_enabled())


def from_base(flow: PackedFlow | TritonFlow, u: Tensor, c: Tensor) -> Tensor:
    """The code z = f⁻¹(u | c), (B, d), differentiable once in the base code `u` (B, d).

    Raises
    ------
    TypeError, ValueError
        `u` of another dtype than the flow's, or another shape.
    """
    _check(flow, u, c, "u")
    return _FromBase.apply(u, c, flow, u.requires_grad and torch.is_grad_enabled())


def _check(flow: PackedFlow | TritonFlow, codes: Tensor, c: Tensor, name: str) -> None:
    if codes.dtype != flow.dtype:
        raise TypeError(f"{name} is {codes.dtype}, but the flow is {flow.dtype}; convert one of them with .to(dtype=...).")
    if codes.ndim != 2 or codes.shape[1] != flow.features or c.shape != codes.shape[:1]:
        raise ValueError(f"Expected {name} of shape (n, {flow.features}) and c of shape (n,); got {tuple(codes.shape)} and "
                         f"{tuple(c.shape)}.")


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, c: Tensor, compute: Callable, gradient: bool) -> Tensor:
        with torch._C.DisableTorchFunction():  # a mode such as cfexplain.foundation.tiles.aligned costs 10 us an operation
            logp, grad = compute(z, c, gradient)
        if grad is not None:
            ctx.save_for_backward(grad)
        return logp

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None, None, None]:
        return _scaled(ctx.saved_tensors[0], weight), None, None, None


class _FromBase(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, c: Tensor, flow: PackedFlow | TritonFlow, gradient: bool) -> Tensor:
        inverse = functools.partial(packed.inverse, flow) if isinstance(flow, PackedFlow) else flow.inverse
        with torch._C.DisableTorchFunction():
            z, tape = inverse(u, c, keep=gradient)
        ctx.save_for_backward(*tape)
        ctx.flow = flow
        return z

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None, None]:
        _refuse_second()
        flow, tape = ctx.flow, list(ctx.saved_tensors)
        with torch._C.DisableTorchFunction():
            of_u = packed.inverse_vjp(flow, tape, v) if isinstance(flow, PackedFlow) else flow.inverse_vjp(tape, v)
        return of_u, None, None, None


def _scaled(grad: Tensor, weight: Tensor) -> Tensor:
    _refuse_second()
    return grad * weight[:, None]


def _refuse_second() -> None:
    if torch.is_grad_enabled():  # within backward: exactly where create_graph=True
        raise NotImplementedError(_NO_SECOND)


# ---------------------------------------------------------------- the operator


# written out, since torch 2.6 does not read list[Tensor]
_SCHEMA = ("(Tensor z, Tensor c, Tensor[] weights, Tensor[] biases, Tensor[] places, float log_constant, float bound, "
           "bool standard_base) -> (Tensor, Tensor)")


@torch.library.custom_op("cfexplain::coupling_flow_logp_and_grad", mutates_args=(), schema=_SCHEMA)
def logp_and_grad_op(z: Tensor, c: Tensor, weights: list[Tensor], biases: list[Tensor], places: list[Tensor],
                     log_constant: float, bound: float, standard_base: bool) -> tuple[Tensor, Tensor]:
    """log p(z | c), (B,), and its gradient, (B, d), of the flow that `flattened` took apart."""
    routes = places[8] if len(places) > 8 else None
    flow = PackedFlow(tuple(weights), tuple(biases), *places[:8], routes, log_constant, bound, standard_base)  # type: ignore[call-arg, arg-type]
    logp, gradient = packed.logp_and_grad(flow, z, c)
    assert gradient is not None
    return logp, gradient


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
