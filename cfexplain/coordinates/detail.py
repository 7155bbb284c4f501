"""From a decoded picture to x′: what the coordinates lost is put back, and what left the data range is brought back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cfexplain.foundation.blur import gaussian_blur

__all__ = ["ALONG_TAU", "CLIP_MODES", "INK_SIGMA", "INK_TAU", "LATENT_SIGMA", "LATENT_TAU", "SIGMA", "TAU", "change_mask",
           "clipped", "detail_mode", "detail_modes", "faded", "painted", "render"]

MODES = ("decoder", "residual", "blend", "learned")
# Widths of the blur, in pixels of a 64x64 image. Ink has a wide one, or specks stay; photographs a narrow one, or they blur.
SIGMA, INK_SIGMA = 2.0, 5.0
# Change, as a share of the data range, at which what was lost gives way: it goes with a stroke of ink, while a print stays
# on a garment that gets a little lighter
TAU, INK_TAU = 0.25, 0.15
# Where a picture with shades shows nothing but a plain background: how near it is to that, and how near most of the border
# of x, as shares of the data range; and the change, as a share of tau, at which what was lost gives way there
NOTHING, PLAIN, SOONER = 0.1, 0.02, 0.6
# Among latents: the change, in standard deviations, at which what was lost gives way, and the blur in places
LATENT_TAU, LATENT_SIGMA = 1.2, 0.6
ALONG_TAU = 0.8  # of a change along what tells classes apart, which is small in the root mean square of the channels
# What is painted may reach further: nothing of what was there shall shine through
LEARNED_TAU, LEARNED_SIGMA = 0.8, 0.8
CLIP_MODES = ("straight_through", "autograd", "none")


def detail_mode(detail: str, is_image: bool, exact: bool) -> str:
    """What ``detail=`` means for this kind of data, in coordinates that are `exact` or not.

    >>> detail_mode("auto", is_image=True, exact=False), detail_mode("auto", is_image=False, exact=False)
    ('blend', 'residual')
    """
    if detail == "auto":
        return "decoder" if exact else "blend" if is_image else "residual"
    if detail not in MODES:
        raise ValueError(f"detail={detail!r} is not known; choose 'auto', 'decoder', 'residual', 'blend' or 'learned'.")
    if detail in ("blend", "learned") and not is_image:
        raise ValueError(f"detail={detail!r} fades the residual across an image; for a table use 'residual'.")
    return detail


def detail_modes(detail: str, is_image: bool, stages: Sequence[Any]) -> list[str]:
    """What ``detail=`` means after each of the coordinates' `stages`; the last one decodes to x.

    Latents that are no picture have no place where something changed, and keep all that was lost of them. So do those that
    an exact model decodes to: it loses nothing but last bits.
    """
    modes = []
    for stage in stages[:-1]:
        shaped = stage.layout_.is_image
        mode = detail_mode(detail, is_image=True, exact=False) if shaped or detail == "decoder" else "residual"
        modes.append("residual" if stage.exact and mode not in ("decoder", "learned") else mode)
    last = detail_mode(detail, is_image, stages[-1].exact)
    # of several stages, the first is painted; what the last one loses are small things
    return [*modes[:1], *("blend" if mode == "learned" else mode for mode in [*modes[1:], last])] if modes else [last]


def change_mask(change: Tensor, data_range: tuple[float, float], of_latents: bool) -> Tensor:
    """Where ``detail="learned"`` paints, (B, 1, H, W) in [0, 1], of a change of latents or of pixels."""
    if of_latents:
        return faded(change, LEARNED_TAU, LEARNED_SIGMA, of_latents=True)
    return faded(change, 0.1, 2 * SIGMA, data_range)


def painted(picture: Tensor, x: Tensor, drawn: Tensor, painter: Callable[[Tensor], Tensor],
            data_range: tuple[float, float] | None) -> Tensor:
    """As `render` with "blend", but what belongs where the picture changed is painted; `data_range` is None of latents.

    Parameters
    ----------
    painter : callable
        Of the picture, the mask and x, one after the other: (B, 2C + 1, H, W) -> (B, C, H, W).
    """
    change = picture - drawn
    mask = change_mask(change, data_range or (0.0, 1.0), data_range is None)
    out = x + (change - mask * (x - drawn) + mask * painter(torch.cat([picture, mask, x], 1)))
    return out if data_range is None else out.clamp(*data_range)


def render(
    picture: Tensor,
    x: Tensor,
    reconstruction: Tensor,
    mode: str,
    *,
    tau: float = 0.15,
    sigma: float = SIGMA,
    data_range: tuple[float, float] | None = None,
    of_latents: bool = False,
    clears: bool = False,
) -> Tensor:
    """x′ from the decoded picture g(z′), the original x and its reconstruction g(z₀).

    - "decoder": x′ = g(z′), as published.
    - "residual": x′ = x + (g(z′) − g(z₀)).
    - "blend": x′ = g(z′) + (1 − m)(x − g(z₀)) with m = 1 − exp(−G_σ ∗ (|g(z′) − g(z₀)| / τ)²). Where the picture changes
      much the residual belongs to something that is no longer there, and fades; with a large σ close by, too: the end of a
      stroke that the decoder did not draw goes with the stroke, and leaves no speck.

    "residual" and "blend" give x back, bit for bit, where g(z′) = g(z₀) (and x is within `data_range`). Differentiable
    in every tensor; the gradient of m is 0, not NaN, where nothing changed.

    Parameters
    ----------
    picture, x, reconstruction : Tensor of shape (B, C, H, W), or (B, d) except for "blend"
        g(z′), x and g(z₀).
    mode : {"decoder", "residual", "blend"}
        "learned" is `painted`.
    tau : float, default=0.15
        Change at which the residual gives way, as a share of the width of `data_range`.
    sigma : float, default=2.0
        Width of the blur in pixels of a 64x64 image: ``sigma * max(H, W) / 64`` pixels are used.
    data_range : (low, high), optional
        "residual" and "blend" are clamped to it. None (tables): no clamp, and `tau` is in x's units.
    of_latents : bool, default=False
        Whether the samples are latents (B, k, h, w) of another autoencoder: there a change is one of all channels together,
        their root mean square, and `sigma` is in places.
    clears : bool, default=False
        Of pictures with shades ("blend"): where the new picture shows nothing but a plain background, the residual fades as
        widely as that of ink does. Of a long sleeve that became a short one no specks are left. Backgrounds are plain where
        most of the border of x is at one end of `data_range`.

    Returns
    -------
    Tensor, of the shape of `picture`
        In several channels the mask m is one for all, from the largest change of any channel: a new colour is a change
        even if it is one of a single channel.

    Raises
    ------
    ValueError
        Unknown `mode`, "blend" of a table, or `tau` or `sigma` not positive.

    Examples
    --------
    >>> import torch
    >>> x, g = torch.tensor([[0.7, 0.2]]), torch.tensor([[0.6, 0.3]])
    >>> render(g, x, g, "residual")
    tensor([[0.7000, 0.2000]])
    >>> render(g + torch.tensor([[0.5, 0.0]]), x, g, "residual", data_range=(0, 1))
    tensor([[1.0000, 0.2000]])
    """
    if mode not in MODES[:3]:
        raise ValueError(f"mode={mode!r} is not known; choose one of {MODES[:3]}.")
    if mode == "decoder":
        return picture
    change = picture - reconstruction
    if mode == "blend":
        # written as a change of x: with m = 0 and no change, x + (0 - 0) is x to the last bit
        mask = faded(change, tau, sigma, data_range, of_latents)
        if clears and data_range is not None:
            wide = faded(change, SOONER * tau, INK_SIGMA, data_range)
            mask = torch.maximum(mask, wide * _nothing(picture, x, data_range))
        change = change - mask * (x - reconstruction)
    out = x + change
    return out if data_range is None else out.clamp(*data_range)


def _nothing(picture: Tensor, x: Tensor, data_range: tuple[float, float]) -> Tensor:
    """How nearly a picture shows the background of x alone, (B, 1, H, W) in [0, 1]; 0 where that is not plain."""
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], 2)
    width, parts = data_range[1] - data_range[0], []
    for end in data_range:
        plain = ((border - end).abs().amax(1) < PLAIN * width).to(x.dtype).mean(1) > 0.5
        away = (picture - end).abs().amax(1, keepdim=True) / (NOTHING * width)
        parts.append(torch.exp(-away.square()) * plain.view(-1, 1, 1, 1))
    return parts[0] + parts[1]


def faded(change: Tensor, tau: float, sigma: float, data_range: tuple[float, float] | None = None,
          of_latents: bool = False) -> Tensor:
    """m of the blend, (B, 1, H, W) in [0, 1]: 0 where nothing changed."""
    if change.ndim != 4:
        raise ValueError(
            f"mode='blend' fades the residual across an image, but the samples have shape {tuple(change.shape[1:])}; "
            "use 'residual' for a table.")
    if not tau > 0 or not sigma > 0:
        raise ValueError(f"tau={tau!r} and sigma={sigma!r} must be positive.")
    low, high = (0.0, 1.0) if data_range is None else data_range
    height, width = change.shape[-2:]
    # squared before it is blurred: a large change reaches further than many small ones
    if of_latents:
        moved = change.square().mean(1, keepdim=True) / tau**2
    else:
        moved = (change.abs().amax(1, keepdim=True) / (tau * (high - low))).square()
        sigma = sigma * max(height, width) / 64
    return -torch.expm1(-gaussian_blur(moved, sigma))


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
