"""How alike two images look: LPIPS and SSIM."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.tiles import in_tiles
from cfexplain.metrics.checks import as_images, as_pair, as_rows
from cfexplain.perceptual import LPIPS

__all__ = ["lpips", "ssim"]


def lpips(
    x: ArrayLike | Tensor,
    x_cf: ArrayLike | Tensor,
    data_range: tuple[float, float] = (0.0, 1.0),
    net: str = "squeeze",
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> np.ndarray:
    """Learned perceptual distance Σₗ (1 / HₗWₗ) Σ ‖wₗ ⊙ (φₗ(x') − φₗ(x))‖², φ of unit length over channels.

    Lower is better. No unit, in [0, ∞), in practice below about 1.

    LPIPS wants [−1, 1], and images in [0, 1] given to it raw are the field's most common mistake. Here the range is declared
    and mapped, and values outside of what is declared are refused.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, H, W), (n, C, H, W) or (n, H, W, C)
        Floats in `data_range`; one or three channels.
    data_range : (low, high), default=(0, 1)
    net : {"squeeze", "alex", "vgg"}, default="squeeze"
        Backbone of LPIPS; say which one with the number. Its weights are downloaded at first use.
    distance : callable of two tensors (B, C, H, W) -> (B,), optional
        Instead: an :class:`~cfexplain.perceptual.LPIPS` that is kept between calls, or a
        :class:`~cfexplain.perceptual.FeatureDistance`, whose numbers are not LPIPS and should not be called so.

    Returns
    -------
    ndarray of float64, shape (n,)
        Computed in the network's own precision. Identical images have 0.

    Raises
    ------
    ValueError
        Different shapes, NaN, images too small for the network, or a `distance` that declares another range.
    DataRangeError
        Integers, or values outside `data_range`.
    ImportError, OSError
        The package ``lpips`` or its weights cannot be had.

    Warns
    -----
    UserWarning
        All values lie in [0, 1], although a wider range is declared.

    References
    ----------
    Zhang, Isola, Efros, Shechtman & Wang, *The unreasonable effectiveness of deep features as a perceptual metric*, CVPR
    2018. PLACE, eq. 5 and table 1.

    Examples
    --------
    >>> from cfexplain.perceptual import FeatureDistance
    >>> distance = FeatureDistance(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()), layers=(1,))
    >>> x = np.random.default_rng(0).uniform(size=(2, 16, 16))
    >>> lpips(x, x, distance=distance).tolist(), bool((lpips(x, 1 - x, distance=distance) > 0).all())
    ([0.0, 0.0], True)
    """
    as_pair(x, x_cf)
    declared = getattr(distance, "data_range", data_range)
    if tuple(declared) != tuple(data_range):
        raise ValueError(f"distance expects images in {tuple(declared)}, but data_range={tuple(data_range)} is declared.")
    images = as_images({"x": x, "x_cf": x_cf}, data_range)
    if distance is None:
        distance = LPIPS(net, data_range=data_range)
    with torch.no_grad():
        values = in_tiles(distance, *(torch.from_numpy(image) for image in images)).numpy()
    if values.shape != (len(images[0]),):
        raise ValueError(f"distance returned shape {values.shape} for {len(images[0])} pairs of images.")
    return as_rows(values[:, None], "distance(x, x_cf)")[:, 0]


def ssim(
    x: ArrayLike | Tensor,
    x_cf: ArrayLike | Tensor,
    data_range: tuple[float, float] = (0.0, 1.0),
    *,
    sigma: float = 1.5,
) -> np.ndarray:
    """Structural similarity, mean over windows of (2μμ' + c₁)(2σₓₓ' + c₂) / ((μ² + μ'² + c₁)(σ² + σ'² + c₂)).

    Higher is more alike. No unit, in −1 … 1; 1 for identical images. c₁ = (.01 L)², c₂ = (.03 L)², L the length of
    `data_range`. Windows are Gaussian (11×11 for σ = 1.5), with population variances; only windows inside the image count,
    as in the original; the mean is over channels, too.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, H, W), (n, C, H, W) or (n, H, W, C)
        Floats in `data_range`. Values are counted from its lower end: luminance has no negative values.
    data_range : (low, high), default=(0, 1)
    sigma : float, default=1.5
        Of the Gaussian window, in pixels; it is 2⌊3.5σ + .5⌋ + 1 wide. Images smaller than the window are refused: SSIM of
        another σ is another number.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, NaN, or images smaller than the window; the message names a σ that fits.
    DataRangeError
        Integers, or values outside `data_range`.

    References
    ----------
    Wang, Bovik, Sheikh & Simoncelli, *Image quality assessment: from error visibility to structural similarity*, 2004.

    Examples
    --------
    >>> x = np.random.default_rng(0).uniform(size=(2, 16, 16))
    >>> ssim(x, x).round(12).tolist(), bool((ssim(x, x[::-1]) < 0.3).all())
    ([1.0, 1.0], True)
    """
    as_pair(x, x_cf)
    images = as_images({"x": x, "x_cf": x_cf}, data_range)
    if not sigma > 0:
        raise ValueError(f"sigma={sigma!r} must be positive.")
    reach, (height, width) = int(3.5 * sigma + 0.5), images[0].shape[2:]
    if min(height, width) < 2 * reach + 1:
        fits = (min(height, width) - 1) // 2
        advice = f"Pass sigma={(fits + 0.4) / 3.5:.2g}, or enlarge" if fits else "Enlarge"
        raise ValueError(f"Images of {height}x{width} pixels are smaller than the window of {2 * reach + 1}x{2 * reach + 1} "
                         f"pixels (sigma={sigma:g}). {advice} the images.")
    measure = optional_import("torchmetrics.functional.image", "SSIM").structural_similarity_index_measure
    low, high = data_range

    def windows(a: Tensor, b: Tensor) -> Tensor:
        _, full = measure(a, b, sigma=float(sigma), reduction="none", data_range=float(high - low), return_full_image=True)
        # torchmetrics pads by reflection, and its versions differ in whether they count what is padded
        return full[..., reach : height - reach, reach : width - reach].mean((1, 2, 3))

    return in_tiles(windows, *(torch.from_numpy(image - low) for image in images)).numpy()
