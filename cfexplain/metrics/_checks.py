"""What every metric asks of its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from cfexplain._arrays import to_numpy

__all__ = ["as_labels", "as_rows"]


def as_rows(X: Any, name: str, *, like: np.ndarray | None = None) -> np.ndarray:
    """`X` (n, ...) as float64 rows (n, p).

    Raises
    ------
    ValueError
        Not at least one row of at least one value, NaN or infinite values, or rows of another length than `like` has.
    """
    X = np.asarray(to_numpy(X))
    if X.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numbers, got an array of dtype {X.dtype}.")
    if X.ndim < 2 or X.size == 0:
        raise ValueError(f"{name} must be samples of shape (n, ...), got shape {X.shape}. One sample: {name}[None].")
    rows = X.reshape(len(X), -1).astype(np.float64)
    if not np.isfinite(rows).all():
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        raise ValueError(
            f"{name} has NaN or infinite values in {len(bad)} rows, first {bad[:5].tolist()}. Leave these rows out.")
    if like is not None and rows.shape[1] != like.shape[1]:
        raise ValueError(f"{name} has {rows.shape[1]} values in a sample (shape {X.shape[1:]}), expected {like.shape[1]}.")
    return rows


def as_labels(labels: Any, n: int, name: str) -> np.ndarray:
    """One label, or one label a row, as an array of n labels.

    Raises
    ------
    ValueError
        Another number of labels than `n`.
    """
    labels = np.asarray(to_numpy(labels))
    if labels.ndim == 0:
        return np.repeat(labels, n)
    if labels.shape != (n,):
        raise ValueError(f"{name} must be one label or one label a row, of shape ({n},), got shape {labels.shape}.")
    return labels
