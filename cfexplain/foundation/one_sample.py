"""One sample where rows are expected: taken as one row, wherever it can be nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cfexplain.foundation.optional import is_instance, optional_import

__all__ = ["as_batch"]


def as_batch(X: Any, shape: tuple[int, ...], names: Sequence[Any] | None = None) -> tuple[Any, bool]:
    """`X` as rows, and whether it was a single sample of `shape`.

    A sample is an array, tensor or list of that very shape; of a table whose columns have names also a Series with these
    names as its index, such as ``frame.loc[7]``, or a dict of a value for each column. Anything else comes back as it is.

    Raises
    ------
    ValueError
        A dict or Series lacks columns.

    Examples
    --------
    >>> rows, single = as_batch(np.zeros((28, 28)), (28, 28))
    >>> rows.shape, single
    ((1, 28, 28), True)
    >>> as_batch(np.zeros((5, 28, 28)), (28, 28))[1]
    False
    """
    if isinstance(X, Mapping) and not is_instance(X, "pandas", "DataFrame", "Series"):
        if len(shape) != 1 or any(np.ndim(value) for value in X.values()):
            return X, False
        return _frame(X, shape, names, {}), True
    if is_instance(X, "pandas", "Series"):
        if names is None or len(shape) != 1 or not set(names) & set(X.index):
            return (X.to_numpy()[None], True) if X.shape == shape else (X, False)
        return _frame(dict(X.items()), shape, names, {"index": [X.name]} if X.name is not None else {}), True
    if isinstance(X, (np.ndarray, Tensor)):
        return (X[None], True) if shape and tuple(X.shape) == shape else (X, False)
    if isinstance(X, (list, tuple)) and len(X) == shape[0] and _shape_of(X) == shape:
        return np.asarray(X)[None], True
    return X, False


def _shape_of(X: Any) -> tuple[int, ...] | None:
    try:
        return np.shape(X)
    except ValueError:  # of unequal parts
        return None


def _frame(cells: Mapping[Any, Any], shape: tuple[int, ...], names: Sequence[Any] | None, options: dict[str, Any]) -> Any:
    """A DataFrame of one row; cells that are no columns are left out."""
    if names is None:
        raise ValueError(f"X names its cells {list(cells)[:5]}, but what was fitted knows no names of columns. Pass the "
                         f"{math.prod(shape)} values as an array, or fit on a DataFrame.")
    missing = [name for name in names if name not in cells]
    if missing:
        raise ValueError(f"X lacks the columns {missing[:10]}; a single row needs a value for each of {list(names)[:20]}.")
    pandas = optional_import("pandas", "A row with names")
    return pandas.DataFrame({name: [cells[name]] for name in names}, **options)
