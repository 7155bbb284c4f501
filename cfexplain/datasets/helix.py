"""A helix in space: the toy data of Diffeomorphic Counterfactuals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from cfexplain.foundation.arrays import to_numpy
from cfexplain.foundation.random import draw_seed

__all__ = ["helix_distance", "make_helix"]

HELIX_BOUNDS = (-4.0, 4.0)


def make_helix(n: int, *, noise: float = 0.0, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Points on a helix in R³ with two classes, the toy data of Diffeomorphic Counterfactuals (section 4.1.1, appendix B.1).

    x₃ ~ U(−4, 4), x₂ = cos x₃, x₁ = sin x₃; the classes are the lower and the upper half.

    Parameters
    ----------
    n : int
    noise : float, default=0.0
        Standard deviation of Gaussian noise that is added to every coordinate (the paper adds none).
    random_state : int, RandomState or None

    Returns
    -------
    X : ndarray of float64, shape (n, 3)
    y : ndarray of int, shape (n,)
        0 where the point of the helix has x₃ < 0, else 1.

    Examples
    --------
    >>> X, y = make_helix(500, noise=0.1, random_state=0)
    >>> X.shape, sorted(set(y.tolist())), bool((helix_distance(X) < 0.5).all())
    ((500, 3), [0, 1], True)
    """
    if n < 1 or not noise >= 0:
        raise ValueError(f"n={n!r} must be positive and noise={noise!r} must not be negative.")
    rng = check_random_state(draw_seed(random_state))
    height = rng.uniform(*HELIX_BOUNDS, size=n)
    X = np.column_stack([np.sin(height), np.cos(height), height])
    return X + noise * rng.normal(size=X.shape), (height >= 0).astype(int)


def helix_distance(X: ArrayLike, *, bounds: tuple[float, float] | None = HELIX_BOUNDS) -> np.ndarray:
    """Euclidean distance of points to the helix (sin t, cos t, t), exact to rounding.

    Parameters
    ----------
    X : array-like or tensor of shape (n, 3)
    bounds : (low, high) or None, default=(-4, 4)
        The piece of the helix, by t: by default the one that holds the data, so that a point beyond an end is off the
        manifold. None: the helix without ends.

    Returns
    -------
    distance : ndarray of float64, shape (n,)

    Notes
    -----
    With ρ and θ the radius and the angle of the point, the squared distance is ρ² + 1 − 2ρ cos(t − θ) + (t − x₃)². It has
    at most one local minimum within half a turn of each θ + 2πm, and between the two its derivative is concave (or convex):
    Newton's method from θ + 2πm approaches it from one side. Of these minima, each cut to the piece, and the ends of the
    piece the nearest counts.

    Examples
    --------
    >>> helix_distance([[0, 0, 0], [0, 3, 0], [0, 1, 5]], bounds=None).round(3).tolist()
    [1.0, 2.0, 0.899]
    """
    X = np.asarray(to_numpy(X), dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != 3 or not np.isfinite(X).all():
        raise ValueError(f"X must be finite points of shape (n, 3), got shape {X.shape}.")
    radius, angle, height = np.hypot(X[:, :1], X[:, 1:2]), np.arctan2(X[:, :1], X[:, 1:2]), X[:, 2:]
    turn = 2 * np.pi
    if bounds is None:
        start, (low, high) = angle + turn * np.round((height - angle) / turn), (-np.inf, np.inf)
    else:
        low, high = bounds
        if not low < high:
            raise ValueError(f"bounds={bounds!r} must be (low, high) with low < high, or None.")
        start = angle + turn * np.arange(np.floor(low / turn) - 1, np.ceil(high / turn) + 2)
    s, away = np.zeros_like(start), height - start
    for _ in range(100):
        slope = 1 + radius * np.cos(s)
        step = np.where(slope > 0, (away - radius * np.sin(s) - s) / np.where(slope > 0, slope, 1), 0)
        before, s = s, np.clip(s + step, -np.pi, np.pi)
        if (np.abs(s - before) <= 1e-15 * np.pi).all():
            break
    t = np.clip(start + s, low, high)
    if bounds is not None:
        t = np.concatenate([t, np.broadcast_to(np.array(bounds, dtype=float), (len(X), 2))], 1)
    return np.sqrt((X[:, :1] - np.sin(t)) ** 2 + (X[:, 1:2] - np.cos(t)) ** 2 + (height - t) ** 2).min(1)
