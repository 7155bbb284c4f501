"""Decoders that leave the data range: three ways back."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CLIP_MODES", "clipped"]

CLIP_MODES = ("straight_through", "autograd", "none")


def clipped(x: Tensor, mode: str, data_range: tuple[float, float]) -> Tensor:
    """`x` within `data_range`, forwards.

    Backwards, "straight_through" lets the whole gradient through, as the Diffeomorphic Counterfactuals' code does: a pixel
    that is outside can still be called back. "autograd" has none outside, as ``torch.clamp``. "none" does not clip: the
    image may then hold values that no image has.

    Raises
    ------
    ValueError
        If `mode` is not known.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    >>> for mode in CLIP_MODES:
    ...     y = clipped(x, mode, (0.0, 1.0))
    ...     y.tolist(), torch.autograd.grad(y.sum(), x)[0].tolist()
    ([0.0, 0.5, 1.0], [1.0, 1.0, 1.0])
    ([0.0, 0.5, 1.0], [0.0, 1.0, 0.0])
    ([-0.5, 0.5, 1.5], [1.0, 1.0, 1.0])
    """
    if mode == "straight_through":
        return _StraightThrough.apply(x, *data_range)
    if mode == "autograd":
        return x.clamp(*data_range)
    if mode == "none":
        return x
    raise ValueError(f"clip={mode!r} is not known; choose one of {CLIP_MODES}.")


class _StraightThrough(torch.autograd.Function):
    """x + (clamp(x) − x).detach() would round; this returns the clamped numbers themselves."""

    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:  # noqa: ANN001
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN001
        return gradient, None, None
