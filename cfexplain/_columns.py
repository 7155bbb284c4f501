"""What a table's columns may do: stay as they are (`immutable`), or stay within `bounds`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["ColumnRules"]


class ColumnRules:
    """Holds columns of x′ at x, exactly, or inside an interval.

    Parameters
    ----------
    immutable : iterable of int or str, or None
    bounds : mapping of int or str to (low, high), or None
        ``None`` for an open side. A row that is already outside may stay where it is, but not move further out.
    n_features : int
    names : array of str or None
        The columns' names, where X was a DataFrame.

    Examples
    --------
    >>> import torch
    >>> rules = ColumnRules([0], {1: (None, 2.0)}, 3, None)
    >>> rules.apply(torch.tensor([[9.0, 9.0, 9.0]]), torch.tensor([[1.0, 1.0, 1.0]]))
    tensor([[1., 2., 9.]])
    """

    def __init__(self, immutable: Iterable | None, bounds: Mapping | None, n_features: int, names: Any):
        self.held = np.zeros(n_features, dtype=bool)
        self.low = np.full(n_features, -np.inf)
        self.high = np.full(n_features, np.inf)
        for column in () if immutable is None else ([immutable] if isinstance(immutable, (str, int)) else immutable):
            self.held[_position(column, n_features, names, "immutable")] = True
        for column, interval in dict(bounds or {}).items():
            position = _position(column, n_features, names, "bounds")
            try:
                low, high = interval
            except (TypeError, ValueError):
                raise ValueError(f"bounds[{column!r}] must be a pair (low, high), got {interval!r}.") from None
            low, high = (-np.inf if low is None else float(low)), (np.inf if high is None else float(high))
            if not low <= high:
                raise ValueError(f"bounds[{column!r}] = ({low:g}, {high:g}) is empty: low must not exceed high.")
            self.low[position], self.high[position] = low, high

    def __bool__(self) -> bool:
        return bool(self.held.any() or np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def apply(self, x: Tensor, original: Tensor) -> Tensor:
        """x′ (B, d) with every rule kept; differentiable in x′."""
        held = torch.as_tensor(self.held, device=x.device)
        low, high = (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in (self.low, self.high))
        x = torch.maximum(torch.minimum(x, torch.maximum(high, original)), torch.minimum(low, original))
        return torch.where(held, original, x)


def _position(column: Any, n_features: int, names: Any, parameter: str) -> int:
    if isinstance(column, str):
        if names is None or column not in list(names):
            known = "X had no column names at fit" if names is None else f"the columns are {list(names)}"
            raise ValueError(f"{parameter} names the column {column!r}, but {known}.")
        return list(names).index(column)
    if isinstance(column, bool) or not isinstance(column, (int, np.integer)) or not -n_features <= column < n_features:
        raise ValueError(f"{parameter} names the column {column!r}; expected a name or an index below {n_features} "
                         "(for a mask of bools: np.flatnonzero(mask)).")
    return int(column) % n_features
