"""What a set of counterfactuals looks like beside its originals: alike, in other shades, with specks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from torch import Tensor

from cfexplain.foundation.ink import ink_sign
from cfexplain.metrics.checks import as_images, as_pair, as_rows

__all__ = ["ink", "mean_distance", "shade_kept", "specks", "spread_ratio"]

_TOUCHED = 2  # dilations within which ink belongs together


def spread_ratio(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor) -> float:
    """Mean distance between two counterfactuals, over that between two of their originals.

    Near 1 where what does not matter is kept; 0 where all counterfactuals are one prototype. No unit, in [0, ∞). Meant for
    rows of one source class with one target. NaN for a single row, and where all originals are equal.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, ...)

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Different shapes, or NaN.

    Examples
    --------
    >>> spread_ratio([[0.0], [4.0], [8.0]], [[9.0], [10.0], [11.0]])
    0.25
    """
    before, after = (mean_distance(rows) for rows in as_pair(x, x_cf))
    return after / before if before > 0 else float("nan")


def mean_distance(rows: ArrayLike | Tensor) -> float:
    """Mean Euclidean distance between two different rows; 0 for a single one.

    >>> mean_distance([[0.0], [4.0], [8.0]]).__round__(6)
    5.333333
    """
    centred = as_rows(rows, "rows")
    centred = centred - centred.mean(0)
    square, n = (centred**2).sum(1), len(centred)
    distance = square[:, None] + square - 2 * centred @ centred.T
    distance[distance < 1e-12 * square.max()] = 0  # of equal rows, rounding is left
    np.fill_diagonal(distance, 0)
    return float(np.sqrt(distance).sum() / max(n * (n - 1), 1))


def shade_kept(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor) -> np.ndarray:
    """Correlation over rows of the mean brightness of x and of x': of all channels, and then of each channel by itself.

    Near 1 where dark stays dark and red stays red. In −1 … 1; NaN where all x or all x' are of one shade. Meant for rows of
    one source class with one target.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, H, W), (n, C, H, W) or (n, H, W, C)

    Returns
    -------
    ndarray of float64, shape (1 + C,); of shape (1,) for one channel

    Raises
    ------
    ValueError
        Different shapes, NaN, or no images.

    Examples
    --------
    >>> x = np.arange(4.0)[:, None, None] * np.ones((4, 2, 2))
    >>> shade_kept(x, 3 - x / 2).round(6).tolist()
    [-1.0]
    """
    as_pair(x, x_cf)
    shades = [images.mean((2, 3)) for images in as_images({"x": x, "x_cf": x_cf})]
    columns = [np.concatenate([of.mean(1, keepdims=True), of], 1) if of.shape[1] > 1 else of for of in shades]
    return np.array([_correlation(*pair) for pair in zip(*(of.T for of in columns), strict=True)])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    sizes = [float(np.linalg.norm(v)) for v in (a, b)]
    if min(sizes) < 1e-9 * len(a):  # of one shade, up to rounding
        return float("nan")
    return float(np.clip(a @ b / (sizes[0] * sizes[1]), -1, 1))


def ink(images: ArrayLike | Tensor, data_range: tuple[float, float] = (0.0, 1.0)) -> int:
    """1 for images of bright strokes on a dark background, −1 for dark ones on a bright background, 0 for others.

    Such images have more background than anything else, and their strokes little that is neither black nor white:
    Σ u(1 − u) / Σ u is at most .3 in the median image, with u = 0 for the background and 1 at the other end of the range.

    Parameters
    ----------
    images : array-like or tensor of shape (n, H, W), (n, C, H, W) or (n, H, W, C)
    data_range : (low, high), default=(0, 1)

    Returns
    -------
    int

    Examples
    --------
    >>> stroke, grey = np.eye(8)[None], np.full((1, 8, 8), 0.5)
    >>> ink(stroke), ink(1 - stroke), ink(grey)
    (1, -1, 0)
    """
    (images,) = as_images({"images": images})
    return ink_sign(images, data_range)


def specks(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, data_range: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Whether x' has stray specks that x has not, for images of bright strokes on a dark background, or of the reverse.

    A speck is a spot of at most .4 % of the pixels (and at least one), more than half bright, two pixels or more away from
    all other ink, where x has none. Of real digits of MNIST, .4 % have one. For images that are no ink (see :func:`ink`)
    nothing is a speck.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, H, W), (n, C, H, W) or (n, H, W, C)
    data_range : (low, high), default=(0, 1)

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, NaN, or no images.

    Examples
    --------
    >>> x = np.zeros((2, 16, 16))
    >>> x[:, 4:12, 8] = 1
    >>> x_cf = x.copy()
    >>> x_cf[1, 14, 2] = 1
    >>> specks(x, x_cf).tolist()
    [False, True]
    """
    as_pair(x, x_cf)
    low, high = data_range
    sign = ink(x, data_range)
    if sign == 0:
        return np.zeros(len(np.asarray(x)), dtype=bool)
    before, after = (((images - low) / (high - low)).mean(1) for images in as_images({"x": x, "x_cf": x_cf}))
    if sign < 0:
        before, after = 1 - before, 1 - after
    return np.array([_has_speck(*pair) for pair in zip(before, after, strict=True)], dtype=bool)


def _has_speck(before: np.ndarray, after: np.ndarray) -> bool:
    inked = after > 0.25
    marks, n = ndimage.label(inked, np.ones((3, 3)))
    if n < 2:
        return False
    places = np.arange(1, n + 1)
    small = np.bincount(marks.reshape(-1))[1:] <= max(1, round(0.004 * after.size))
    for place in places[small & (ndimage.maximum(after, marks, places) > 0.5)]:
        spot = marks == place
        near = ndimage.binary_dilation(spot, np.ones((3, 3)), iterations=_TOUCHED)
        if not (near & inked & ~spot).any() and not (before[near] > 0.25).any():
            return True
    return False
