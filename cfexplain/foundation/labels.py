"""Labels, one for all rows or one for each row, as class indices 0 to K − 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from cfexplain.foundation.arrays import to_numpy
from cfexplain.foundation.exceptions import TargetError
from cfexplain.foundation.names import meant

__all__ = ["class_indices", "is_missing", "label_indices", "resolve_target"]


def resolve_target(target: Any, classes: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Class indices of the wanted targets, shape (n,).

    Parameters
    ----------
    target : label, array-like of shape (n,), or None
        None is each row's runner-up: the most probable class beside the predicted one.
    classes : ndarray of shape (K,)
    proba : ndarray of shape (n, K)

    Raises
    ------
    TargetError
        If a label is not among `classes`, or there are neither one nor n of them.
    """
    n = len(proba)
    if target is None:
        beside = np.array(proba, dtype=float)
        beside[np.arange(n), beside.argmax(1)] = -np.inf
        return beside.argmax(1)
    target = np.asarray(to_numpy(target))
    if target.ndim > 1:
        raise TargetError(f"target has shape {target.shape}; expected one label, or one label a row: ({n},).")
    if target.ndim == 1 and len(target) != n:
        raise TargetError(f"target has {len(target)} labels for {n} rows; expected one label, or one a row.")
    return np.broadcast_to(label_indices(target, classes), n).copy()


def label_indices(labels: Any, classes: np.ndarray) -> np.ndarray:
    """Positions of `labels` in `classes`; the same shape as `labels`.

    Raises
    ------
    TargetError
        A label is not among `classes`.

    Examples
    --------
    >>> label_indices(["smile", "no smile"], np.array(["no smile", "smile"]))
    array([1, 0])
    """
    labels = np.asarray(labels)
    index = class_indices(labels.reshape(-1), classes)
    if (index < 0).any():
        unknown = labels.reshape(-1)[index < 0].tolist()
        raise TargetError(
            f"{unknown[0]!r} is not a class of the explained classifier. {meant(unknown[0], np.asarray(classes).tolist())}"
            f"Its classes are {np.asarray(classes).tolist()!r}. Pass labels, not indices."
        )
    return index.reshape(labels.shape)


def is_missing(labels: np.ndarray) -> np.ndarray:
    """Which labels are NaN or None, and so none at all.

    >>> is_missing(np.array([1.0, np.nan])), is_missing(np.array(["a", None], dtype=object))
    (array([False,  True]), array([False,  True]))
    """
    return np.array([label is None or label != label for label in labels.tolist()], dtype=bool)


def class_indices(labels: Any, classes: np.ndarray) -> np.ndarray:
    """The index in `classes` of each label; -1 where there is none.

    Examples
    --------
    >>> class_indices(np.array(["b", "a", "x"]), np.array(["a", "b"])).tolist()
    [1, 0, -1]
    """
    place = {label: index for index, label in enumerate(np.asarray(classes).tolist())}
    return np.array([place.get(label, -1) for label in np.asarray(labels).tolist()], dtype=np.int64)
