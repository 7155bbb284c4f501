"""How far a counterfactual is from its original, in how many features, and where."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from cfexplain.foundation.arrays import to_numpy
from cfexplain.metrics.checks import as_pair

__all__ = ["lp_distance", "outside_range", "region_locality", "sparsity"]


def lp_distance(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, norm: float = 2) -> np.ndarray:
    """‖x' − x‖ₚ over all values of a sample, for p = 1, 2 or ∞.

    Lower is better, at equal validity. Unit: of x, not divided by the number of values; in [0, ∞).

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, ...)
        Originals and counterfactuals; or codes z and z', for distances in Z.
    norm : {1, 2, inf}, default=2
        Sum of absolute changes, Euclidean length, or the largest change.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, NaN, or another norm.

    References
    ----------
    PLACE, tables 1 and 2 ("L2", in X). Dombrowski, Gerken, Müller & Kessel, *Diffeomorphic Counterfactuals with Generative
    Models*, tables 2 and 3 ("L2 source", in X and Z).

    Examples
    --------
    >>> x, x_cf = [[0.0, 0.0], [1.0, 1.0]], [[3.0, -4.0], [1.0, 1.0]]
    >>> [lp_distance(x, x_cf, norm).tolist() for norm in (1, 2, np.inf)]
    [[7.0, 0.0], [5.0, 0.0], [4.0, 0.0]]
    """
    if norm not in (1, 2, np.inf):
        raise ValueError(f"norm={norm!r} is not known; choose 1, 2 or np.inf.")
    before, after = as_pair(x, x_cf)
    return np.linalg.norm(after - before, ord=norm, axis=1)


def sparsity(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, tolerance: ArrayLike = 1e-6) -> np.ndarray:
    """Share of features that changed, #{j : |x'ⱼ − xⱼ| > tolerance} / #{j}.

    Lower is sparser, which is better for tables. No unit, in 0 … 1. A feature of an image is one value: a pixel's channel.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, ...)
    tolerance : float or array-like that broadcasts to a sample, default=1e-6
        What counts as unchanged, in units of x. A decoder moves every pixel a little: for images in [0, 1], 1 / 255 is
        what a file can hold. For tables, one tolerance a column.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, NaN, or a tolerance that is negative or does not fit a sample.

    References
    ----------
    Mothilal, Sharma & Tan, *Explaining machine learning classifiers through diverse counterfactual explanations*, FAT* 2020,
    section 3.2 (there 1 − this).

    Examples
    --------
    >>> sparsity([[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.5, 4.1]]).tolist()
    [0.5]
    >>> sparsity([[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.5, 4.1]], tolerance=0.2).tolist()
    [0.25]
    """
    before, after = as_pair(x, x_cf)
    shape = np.shape(to_numpy(x))[1:]
    try:
        limits = np.broadcast_to(np.asarray(to_numpy(tolerance), dtype=np.float64), shape).reshape(-1)
    except ValueError as error:
        raise ValueError(f"tolerance of shape {np.shape(tolerance)} does not broadcast to a sample's {shape}.") from error
    if not (limits >= 0).all():
        raise ValueError("tolerance must not be negative or NaN.")
    return (np.abs(after - before) > limits).mean(1)


def outside_range(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Whether x' has a value below `low` or above `high` that x is not as far beyond.

    False is better: a value beyond all that a model was trained on is no advice. Missing values (NaN) are in no range.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, ...)
    low, high : float, or array-like that broadcasts to a sample
        For instance the least and the largest value of each column in training.

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, or limits that do not fit a sample.

    Examples
    --------
    >>> outside_range([[0.0, 9.0], [0.0, 0.0]], [[1.0, 9.0], [0.0, 3.0]], low=0.0, high=[5.0, 2.0]).tolist()
    [False, True]
    """
    before, after = (np.asarray(to_numpy(values), dtype=np.float64) for values in (x, x_cf))
    if before.shape != after.shape:
        raise ValueError(f"x and x_cf must have the same shape, got {before.shape} and {after.shape}.")
    try:
        least, most = (np.broadcast_to(np.asarray(to_numpy(limit), dtype=np.float64), after.shape[1:])
                       for limit in (low, high))
    except ValueError as error:
        raise ValueError(f"low and high do not broadcast to a sample's {after.shape[1:]}.") from error
    slack = 1e-5 * np.maximum(most - least, 0)  # of rounding and of scaling back
    beyond = ((after < least - slack) & (after < before - slack)) | ((after > most + slack) & (after > before + slack))
    return np.asarray(beyond.reshape(len(after), -1).any(1))


def region_locality(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, region: ArrayLike | Tensor) -> np.ndarray:
    """Share of the squared change inside a region, Σ_{j∈R} (x'ⱼ − xⱼ)² / Σⱼ (x'ⱼ − xⱼ)².

    Higher is better where the region is where the change belongs (the mouth, for a smile). No unit, in 0 … 1; a change that
    is even everywhere has the region's share of the values. Rows that did not change at all have 1: nothing is outside.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, ...)
    region : array-like or tensor of bool
        One region for all rows, of a sample's shape, or (H, W) for all channels of images (n, C, H, W); or a region a row,
        with n in front. Where both readings fit, it is of a sample's shape.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, NaN, or a region that is not boolean, is empty or does not fit.

    Examples
    --------
    >>> x, x_cf = np.zeros((1, 2, 2)), np.array([[[3.0, 1.0], [0.0, 0.0]]])
    >>> region_locality(x, x_cf, np.array([[True, False], [True, False]])).round(3).tolist()
    [0.9]
    """
    before, after = as_pair(x, x_cf)
    shape = np.shape(to_numpy(x))
    inside = _regions(np.asarray(to_numpy(region)), shape)
    change = (after - before) / np.maximum(np.abs(after - before).max(1, keepdims=True), np.finfo(float).tiny)
    total = (change**2).sum(1)
    share = np.where(inside, change**2, 0).sum(1) / np.maximum(total, np.finfo(float).tiny)
    return np.where(total > 0, share, 1.0)


def _regions(region: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`region` as booleans (1 or n, p)."""
    if region.dtype != bool:
        raise ValueError(f"region must be boolean, got {region.dtype}. For a mask of numbers: region > 0.")
    n, sample = shape[0], shape[1:]
    if region.shape == sample:
        region = region[None]
    elif len(sample) == 3 and region.shape == sample[1:]:
        region = region[None, None]
    elif len(sample) == 3 and region.shape == (n, *sample[1:]):
        region = region[:, None]
    elif region.shape != shape:
        raise ValueError(f"region of shape {region.shape} does not fit samples of shape {sample}.")
    region = np.broadcast_to(region, (len(region), *sample)).reshape(len(region), -1)
    if not region.any(1).all():
        raise ValueError("region is empty: no value of it is True.")
    return region
