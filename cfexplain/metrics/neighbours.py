"""Distances of counterfactuals to real samples: whose neighbours they are, and how close to their class they stay."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from cfexplain.metrics.checks import as_labels, as_rows

__all__ = ["distance_to_class", "neighbour_share"]

_ROWS = 256


def neighbour_share(
    x_cf: ArrayLike | Tensor,
    X_train: ArrayLike | Tensor,
    y_train: ArrayLike,
    target: Any,
    *,
    k: int = 10,
    balanced: bool = True,
    source: Any = None,
    exclude: ArrayLike | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Share of the k nearest real samples (Euclidean, in X) that are of the target class.

    Higher is better; in 0 … 1, no unit. Chance is 1 / (number of classes) if `balanced`.

    Parameters
    ----------
    x_cf : array-like or tensor of shape (n, ...)
    X_train : array-like or tensor of shape (m, ...)
        Real samples. Diffeomorphic Counterfactuals takes its test set (then use `exclude`).
    y_train : array-like of shape (m,)
    target : label, or array-like of n labels
    k : int, default=10
    balanced : bool, default=True
        Compare with as many samples of each class as the rarest class has, drawn at random but the same for all rows.
    source : label, or array-like of n labels, optional
        Compare with samples of the row's source and target class only. Default: with all classes.
    exclude : array-like of n ints, optional
        For each row, the sample of `X_train` that it was made from, which does not count as its neighbour; -1 for none.
    random_state : int, default=0
        Of the samples that are drawn to balance the classes.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Mismatched shapes, NaN, a label that no sample has, or fewer than k samples to compare with.

    References
    ----------
    Dombrowski, Gerken, Müller & Kessel, *Diffeomorphic Counterfactuals with Generative Models*, figure 11 and appendix B.11.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> neighbour_share(X[[0, 60, 140]], X, y, target=2, exclude=[0, 60, 140]).tolist()
    [0.0, 0.0, 1.0]
    """
    x = as_rows(x_cf, "x_cf")
    X = as_rows(X_train, "X_train", like=x)
    y = np.asarray(as_labels(y_train, len(X), "y_train"))
    if np.ndim(y_train) == 0:
        raise ValueError("y_train must be one label a sample.")
    if isinstance(k, bool) or int(k) != k or k < 1:
        raise ValueError(f"k={k!r} must be a positive integer.")
    targets = as_labels(target, len(x), "target")
    sources = None if source is None else as_labels(source, len(x), "source")
    excluded = np.full(len(x), -1) if exclude is None else np.asarray(exclude)
    if excluded.shape != (len(x),) or excluded.dtype.kind not in "iu" or not ((excluded >= -1) & (excluded < len(X))).all():
        raise ValueError(f"exclude must be {len(x)} integers in -1 … {len(X) - 1}, one a row.")

    rng = np.random.default_rng(random_state)
    members = {label: rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y).tolist()}
    pairs = [tuple(members) if sources is None else (s, t)
             for s, t in zip(targets.tolist() if sources is None else sources.tolist(), targets.tolist(), strict=True)]
    for label in {*targets.tolist(), *(label for pair in pairs for label in pair)}:
        if label not in members:
            raise ValueError(f"No sample of X_train has the label {label!r}; the labels are {list(members)[:20]}.")

    near = np.empty((len(x), k), dtype=int)
    for pair in dict.fromkeys(pairs):
        rows = np.array([i for i, other in enumerate(pairs) if other == pair])
        classes = [members[label] for label in dict.fromkeys(pair)]
        least = min(len(c) for c in classes) if balanced else len(X)
        pool = np.concatenate([c[:least] for c in classes])
        near[rows] = _nearest(x[rows], X[pool], k, pool, excluded[rows])
    return (y[near] == targets[:, None]).mean(1)


def distance_to_class(x_cf: ArrayLike | Tensor, X_class: ArrayLike | Tensor) -> np.ndarray:
    """Mean Euclidean distance of each row to all samples of a class, "L2 source class" of Diffeomorphic Counterfactuals.

    Unit: of x, not divided by the number of values; in [0, ∞). To be compared with the distance ‖x' − x‖ to the row's own
    source: a counterfactual that keeps what does not matter is much nearer to it. Tables 2 and 3 average both over the
    counterfactuals (MNIST, in X: 4.82 to the source, 9.27 to the source class); their deviations are over all pairs, not
    over these means.

    Parameters
    ----------
    x_cf : array-like or tensor of shape (n, ...)
        Counterfactuals, or their codes for distances in Z (table 3).
    X_class : array-like or tensor of shape (m, ...)
        Samples of the class, or their codes. The paper takes up to 2000 test images of the source class.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Mismatched shapes or NaN.

    References
    ----------
    Dombrowski, Gerken, Müller & Kessel, *Diffeomorphic Counterfactuals with Generative Models*, tables 2, 3, app. B.7.

    Examples
    --------
    >>> distance_to_class([[0.0, 0.0], [3.0, 0.0]], [[3.0, 4.0], [3.0, 0.0]]).tolist()
    [4.0, 2.0]
    """
    x = as_rows(x_cf, "x_cf")
    others = as_rows(X_class, "X_class", like=x)
    return np.concatenate([cdist(x[i : i + _ROWS], others).mean(1) for i in range(0, len(x), _ROWS)])


def _nearest(x: np.ndarray, X: np.ndarray, k: int, indices: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """`indices` of the k nearest of `X` to each row of `x`, without the excluded one."""
    spare = int((excluded >= 0).any())
    if k + spare > len(X):
        raise ValueError(f"k={k} neighbours wanted, but there are {len(X) - spare} samples to compare with.")
    search = NearestNeighbors(n_neighbors=k + spare, algorithm="brute").fit(X)
    near = indices[search.kneighbors(x, return_distance=False)]
    # stable: the excluded one moves to the end, the others keep their order
    order = np.argsort(near == excluded[:, None], axis=1, kind="stable")
    return np.take_along_axis(near, order, 1)[:, :k]
