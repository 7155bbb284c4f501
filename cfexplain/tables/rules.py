"""What a table's columns may do: stay as they are (`immutable`), stay within `bounds`, be whole, be one category."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfexplain.persistence import stored_by_attributes
from cfexplain.tables.mixed import MixedTable

__all__ = ["ColumnRules", "MixedRules", "by_column", "column_names"]


def column_names(given: Any, parameter: str) -> list[Any]:
    """The columns that `parameter` names, as a list; TypeError if it is no list of them, nor a single one, nor None."""
    if given is None:
        return []
    if isinstance(given, (str, int)) and not isinstance(given, bool):
        return [given]
    if isinstance(given, (Tensor, Mapping, bytes)) or not isinstance(given, Iterable) or (
            isinstance(given, np.ndarray) and given.ndim == 0):
        raise TypeError(f"{parameter}={given!r} must be a list of columns, for example {parameter}=['age'].")
    return list(given)


def by_column(given: Any, parameter: str) -> dict[Any, Any]:
    """What `parameter` says of columns, as a dict; TypeError if it is no mapping, nor None."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{parameter}={given!r} must be a dict with a column for each key.")
    return dict(given or {})


def _fit_each_other(rules: ColumnRules) -> bool:
    return rules.held.dtype == bool and rules.held.ndim == 1 and rules.held.shape == rules.low.shape == rules.high.shape


@stored_by_attributes(check=_fit_each_other)
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

    held: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __init__(self, immutable: Iterable | None, bounds: Mapping | None, n_features: int, names: Any):
        self.held = np.zeros(n_features, dtype=bool)
        self.low = np.full(n_features, -np.inf)
        self.high = np.full(n_features, np.inf)
        for column in column_names(immutable, "immutable"):
            self.held[_position(column, n_features, names, "immutable")] = True
        for column, interval in by_column(bounds, "bounds").items():
            position = _position(column, n_features, names, "bounds")
            self.low[position], self.high[position] = _interval(column, interval)

    def __bool__(self) -> bool:
        return bool(self.held.any() or np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def apply(self, x: Tensor, original: Tensor) -> Tensor:
        """x′ (B, d) with every rule kept; differentiable in x′."""
        held = torch.as_tensor(self.held, device=x.device)
        low, high = (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in (self.low, self.high))
        x = torch.maximum(torch.minimum(x, torch.maximum(high, original)), torch.minimum(low, original))
        return torch.where(held, original, x)


class _Hardened(torch.autograd.Function):
    """`hard` forwards; backwards the whole gradient goes to `soft`, as if nothing had been rounded (straight-through)."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: Tensor) -> Tensor:
        return hard

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class MixedRules:
    """What the codes of a table of mixed types may do, so that every point of a search is a row that can exist.

    A group of codes has exactly one 1, whole numbers stay whole, what is missing stays missing, and the columns keep
    what the user asks of them. Values are rounded at every step and not at the end (straight-through), so that what the
    search looks at, judges and returns is one and the same row.

    Parameters
    ----------
    table : MixedTable
    immutable : iterable of str, or None
    bounds : mapping, or None
        Column to (low, high) in its own units, None for an open side, or to a list of the categories that it may take.
        Numbers that are not named stay in the range of training. What is outside may stay, but not move further out.
    monotone : mapping of str to {"increase", "decrease"}, or None
        Numbers, and categories of an ordered dtype.

    Raises
    ------
    ValueError
        A name that is no column, an empty interval, an unknown category or direction.
    """

    def __init__(self, table: MixedTable, immutable: Iterable[str] | None = None, bounds: Mapping | None = None,
                 monotone: Mapping[str, str] | None = None):
        described = {column["name"]: column for column in table.searched}
        immutable = column_names(immutable, "immutable")
        bounds, monotone = by_column(bounds, "bounds"), by_column(monotone, "monotone")
        for parameter, names in (("immutable", immutable), ("bounds", bounds), ("monotone", monotone)):
            for name in names:
                if name not in described and not (parameter == "immutable" and name in table.carried):
                    raise ValueError(f"{parameter} names the column {name!r}, but the columns are {table.names}.")
        self.held = np.zeros(table.width, dtype=bool)
        self.low, self.high = np.full(table.width, -np.inf), np.full(table.width, np.inf)
        self.rising, self.falling = (np.zeros(table.width, dtype=bool) for _ in range(2))
        self.mean, self.std, self.steps = np.zeros(table.width), np.ones(table.width), np.zeros(table.width)
        # first, last + 1, which categories are allowed, direction
        self.groups: list[tuple[int, int, np.ndarray, str | None]] = []
        self.missing = [(*table.places[name], flag) for name, flag in table.missing.items()]
        for _, _, flag in self.missing:
            self.held[flag] = True
        for name, column in described.items():
            first, last = table.places[name]
            self.held[first:last] = name in immutable
            direction = monotone.get(name)
            if direction not in (None, "increase", "decrease"):
                raise ValueError(f"monotone[{name!r}] = {direction!r}; choose 'increase' or 'decrease'.")
            if column["kind"] == "number":
                self._read_number(column, first, bounds.get(name, (column["low"], column["high"])), direction)
                continue
            if direction and not column["ordered"]:
                raise ValueError(f"monotone names {name!r}, whose categories have no order. Give them one: "
                                 "pandas.Categorical(…, categories=[…], ordered=True).")
            allowed = _allowed(name, column["categories"], bounds[name]) if name in bounds else np.ones(last - first, bool)
            self.groups.append((first, last, allowed, direction))

    def _read_number(self, column: Mapping[str, Any], place: int, interval: Any, direction: str | None) -> None:
        low, high = _interval(column["name"], interval)
        if column["decimals"] is not None:  # the nearest values inside
            step = 10.0 ** -column["decimals"]
            low, high = np.ceil(low / step - 1e-9) * step, np.floor(high / step + 1e-9) * step
            if not low <= high:
                raise ValueError(f"bounds[{column['name']!r}] = {interval!r} holds no multiple of {step:g}, which all "
                                 "values in training are.")
            self.steps[place] = step
        self.mean[place], self.std[place] = column["mean"], column["std"]
        self.low[place], self.high[place] = (low - column["mean"]) / column["std"], (high - column["mean"]) / column["std"]
        self.rising[place], self.falling[place] = direction == "increase", direction == "decrease"

    def __bool__(self) -> bool:
        return True

    def apply(self, x: Tensor, original: Tensor) -> Tensor:
        """x′ (B, width) with every rule kept; the gradient is that of x′ before rounding."""
        def like(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, device=x.device, dtype=None if values.dtype == bool else x.dtype)

        low, high = torch.minimum(like(self.low), original), torch.maximum(like(self.high), original)
        x = torch.maximum(torch.minimum(x, high), low)
        x = torch.where(like(self.rising), torch.maximum(x, original), x)
        x = torch.where(like(self.falling), torch.minimum(x, original), x)
        with torch.no_grad():
            mean, std, steps = like(self.mean), like(self.std), like(self.steps)
            stepped = steps > 0
            one = torch.where(stepped, steps, 1.0)
            whole = (torch.round((x * std + mean) / one) * one - mean) / std
            whole = torch.where((x - original).abs() * std < one / 2, original, whole)  # also where x is between two steps
            hard = torch.where(stepped, whole, x)
            for first, last, allowed, direction in self.groups:
                hard[:, first:last] = _one_of(x[:, first:last], original[:, first:last], like(allowed), direction)
            keep = like(self.held).expand_as(hard).clone()
            for first, last, flag in self.missing:
                keep[:, first:last] |= original[:, flag : flag + 1] > 0.5
            hard = torch.where(keep, original, hard)
        return _Hardened.apply(torch.where(keep, original, x), hard)


def _one_of(soft: Tensor, original: Tensor, allowed: Tensor, direction: str | None) -> Tensor:
    """Zeros and a one at the largest of `soft` that is allowed; the original category always is."""
    allowed = allowed | (original > 0.5)
    if direction == "increase":
        allowed = allowed & (original.cumsum(1) > 0.5)
    elif direction == "decrease":
        allowed = allowed & (original.flip(1).cumsum(1).flip(1) > 0.5)
    return F.one_hot(soft.masked_fill(~allowed, -torch.inf).argmax(1), soft.shape[1]).to(soft.dtype)


def _allowed(column: str, categories: list, wanted: Any) -> np.ndarray:
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [category for category in wanted if category not in categories]
    if unknown or not wanted:
        raise ValueError(f"bounds[{column!r}] must list some of its categories {categories}, got {wanted}.")
    return np.array([category in wanted for category in categories])


def _interval(column: Any, interval: Any) -> tuple[float, float]:
    """(low, high), with infinity for an open side."""
    try:
        low, high = interval
    except (TypeError, ValueError):
        raise ValueError(f"bounds[{column!r}] must be a pair (low, high), got {interval!r}.") from None
    low, high = (-np.inf if low is None else float(low)), (np.inf if high is None else float(high))
    if not low <= high:
        raise ValueError(f"bounds[{column!r}] = ({low:g}, {high:g}) is empty: low must not exceed high.")
    return low, high


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
