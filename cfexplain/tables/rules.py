"""What a table's columns may do: stay as they are (`immutable`), stay within `bounds`, be whole, be one category."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfexplain.persistence import MayBeAbsent, stored_by_attributes
from cfexplain.tables.costs import Costs
from cfexplain.tables.mixed import MixedTable
from cfexplain.tables.relations import Relations

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
    sides = [vars(rules).get(name, rules.held) for name in ("held", "low", "high", "rising", "falling")]
    return rules.held.dtype == bool and rules.held.ndim == 1 and len({side.shape for side in sides}) == 1


# Shares of the way from a row to a candidate at which rules between columns are tried
_BACK = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15, 0.05, 0.0)


@stored_by_attributes(check=_fit_each_other)
class ColumnRules:
    """Holds columns of x′ at x, exactly, or inside an interval, and keeps rules between columns.

    Parameters
    ----------
    immutable : iterable of int or str, or None
    bounds : mapping of int or str to (low, high), or None
        ``None`` for an open side. A row that is already outside may stay where it is, but not move further out.
    n_features : int
    names : array of str or None
        The columns' names, where X was a DataFrame.
    monotone : mapping of int or str to {"increase", "decrease"}, or None
    relations : Relations, optional
        Of columns by their names, ``x0``, ``x1``, … where X had none. A candidate that breaks one is drawn back towards x as
        far as it takes.

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
    rising: MayBeAbsent[np.ndarray]
    falling: MayBeAbsent[np.ndarray]
    relations: MayBeAbsent[Relations]

    def __init__(self, immutable: Iterable | None, bounds: Mapping | None, n_features: int, names: Any,
                 monotone: Mapping | None = None, relations: Relations | None = None):
        self.held = np.zeros(n_features, dtype=bool)
        self.low = np.full(n_features, -np.inf)
        self.high = np.full(n_features, np.inf)
        for column in column_names(immutable, "immutable"):
            self.held[_position(column, n_features, names, "immutable")] = True
        for column, interval in by_column(bounds, "bounds").items():
            position = _position(column, n_features, names, "bounds")
            self.low[position], self.high[position] = _interval(column, interval)
        ways = by_column(monotone, "monotone")
        if ways:
            self.rising, self.falling = (np.zeros(n_features, dtype=bool) for _ in range(2))
        for column, way in ways.items():
            side = {"increase": self.__dict__.get("rising"), "decrease": self.__dict__.get("falling")}.get(way)
            if side is None:
                raise ValueError(f"monotone[{column!r}] = {way!r}; choose 'increase' or 'decrease'.")
            side[_position(column, n_features, names, "monotone")] = True
        if relations:
            self.relations = relations
            known = list(relations.kinds)
            low, high = (dict(zip(known, side.tolist(), strict=True)) for side in (self.low, self.high))
            relations.check(low, high, [name for name, held in zip(known, self.held, strict=True) if held])

    def __bool__(self) -> bool:
        return bool(self.held.any() or np.isfinite(self.low).any() or np.isfinite(self.high).any()
                    or hasattr(self, "rising") or hasattr(self, "relations"))

    @property
    def plain(self) -> bool:
        """Whether there is nothing but columns that are held, and intervals."""
        return not (hasattr(self, "rising") or hasattr(self, "relations"))

    def apply(self, x: Tensor, original: Tensor, acted: Tensor | None = None) -> Tensor:
        """x′ (B, d) with every rule kept; differentiable in x′. `acted` (B, d) says on which effects was acted."""
        relations = getattr(self, "relations", None)
        if relations is None:
            return self._alone(x, original)
        out = self._related(x, original, acted, relations)
        wrong = self._broken(out, original, relations)
        for share in _BACK:
            if not wrong.any():
                break
            other = self._related(original + share * (x - original), original, acted, relations)
            out = torch.where(wrong[:, None], other, out)
            wrong = self._broken(out, original, relations)
        return out

    def _alone(self, x: Tensor, original: Tensor) -> Tensor:
        held = torch.as_tensor(self.held, device=x.device)
        low, high = (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in (self.low, self.high))
        x = torch.maximum(torch.minimum(x, torch.maximum(high, original)), torch.minimum(low, original))
        if hasattr(self, "rising"):
            rising, falling = (torch.as_tensor(side, device=x.device) for side in (self.rising, self.falling))
            x = torch.where(rising, torch.maximum(x, original), torch.where(falling, torch.minimum(x, original), x))
        return torch.where(held, original, x)

    def _related(self, x: Tensor, original: Tensor, acted: Tensor | None, relations: Relations) -> Tensor:
        """Every column by itself, and then what follows."""
        names = list(relations.kinds)
        cells, before = (dict(zip(names, rows.unbind(1), strict=True)) for rows in (self._alone(x, original), original))
        on = None if acted is None else dict(zip(names, acted.unbind(1), strict=True))
        return torch.stack(list(relations.complete(cells, before, on).values()), 1)

    def _broken(self, x: Tensor, original: Tensor, relations: Relations) -> Tensor:
        """Rows in which a rule between columns is broken, or what follows is where it must not be."""
        names = list(relations.kinds)
        cells, before = (dict(zip(names, rows.unbind(1), strict=True)) for rows in (x, original))
        return relations.broken(cells, before) | (self._alone(x, original) != x).any(1)


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
    transitions : mapping, or None
        ``{"job": {"clerk": ["cook", "office"]}}``: the categories that may follow one; those not named may change to any.
    relations : Relations, optional
        Of the columns that have codes.
    costs : Costs, optional
        What costs infinitely much may not change.

    Raises
    ------
    ValueError
        A name that is no column, an empty interval, an unknown category or direction.
    """

    def __init__(self, table: MixedTable, immutable: Iterable[str] | None = None, bounds: Mapping | None = None,
                 monotone: Mapping[str, str] | None = None, transitions: Mapping[str, Mapping] | None = None,
                 relations: Relations | None = None, costs: Costs | None = None):
        described = {column["name"]: column for column in table.searched}
        immutable = column_names(immutable, "immutable")
        bounds, monotone = by_column(bounds, "bounds"), by_column(monotone, "monotone")
        transitions = by_column(transitions, "transitions")
        for parameter, names in (("immutable", immutable), ("bounds", bounds), ("monotone", monotone),
                                 ("transitions", transitions)):
            for name in names:
                if name not in described and not (parameter == "immutable" and name in table.carried):
                    raise ValueError(f"{parameter} names the column {name!r}, but the columns are {table.names}.")
        self.held = np.zeros(table.width, dtype=bool)
        self.low, self.high = np.full(table.width, -np.inf), np.full(table.width, np.inf)
        self.rising, self.falling = (np.zeros(table.width, dtype=bool) for _ in range(2))
        self.mean, self.std, self.steps = np.zeros(table.width), np.ones(table.width), np.zeros(table.width)
        # first, last + 1, and which category may become which, (K, K)
        self.groups: list[tuple[int, int, np.ndarray]] = []
        self.missing = [(*table.places[name], flag) for name, flag in table.missing.items()]
        for _, _, flag in self.missing:
            self.held[flag] = True
        prices = np.ones(len(described)) if costs is None else costs.prices
        dear = [name for name, price in zip(described, prices, strict=True) if np.isinf(price)]
        for name, column in described.items():
            first, last = table.places[name]
            self.held[first:last] = name in immutable or (
                name in dear and column["kind"] == "number" and not (relations and name in relations.order))
            direction = monotone.get(name)
            if direction not in (None, "increase", "decrease"):
                raise ValueError(f"monotone[{name!r}] = {direction!r}; choose 'increase' or 'decrease'.")
            if column["kind"] == "number":
                if name in transitions:
                    raise ValueError(f"transitions names {name!r}, which holds numbers and no categories: use bounds= or "
                                     "monotone=.")
                self._read_number(column, first, bounds.get(name, (column["low"], column["high"])), direction)
                continue
            if direction and not column["ordered"]:
                raise ValueError(f"monotone names {name!r}, whose categories have no order. Give them one: "
                                 "pandas.Categorical(…, categories=[…], ordered=True).")
            allowed = _allowed(name, column["categories"], bounds[name]) if name in bounds else np.ones(last - first, bool)
            places = np.arange(last - first)
            steps = _steps(name, column["categories"], transitions.get(name)) & allowed
            if direction:
                steps &= (places >= places[:, None]) if direction == "increase" else (places <= places[:, None])
            if costs is not None:
                steps &= np.isfinite(costs.steps[name])
            self.groups.append((first, last, steps | np.eye(last - first, dtype=bool)))
        self.relations, self.first = relations or None, {name: place for name, (place, _) in table.places.items()}
        if self.relations:
            low, high = ({name: float(side[self.first[name]] * self.std[self.first[name]] + self.mean[self.first[name]])
                          for name in self.relations.numbers} for side in (self.low, self.high))
            self.relations.check(low, high, [name for name in self.relations.numbers if self.held[self.first[name]]])

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

    def apply(self, x: Tensor, original: Tensor, acted: Tensor | None = None) -> Tensor:
        """x′ (B, width) with every rule kept; the gradient is that of x′ before rounding. `acted` (B, columns) says on which
        effects was acted.
        """
        soft, hard = self._alone(x, original)
        if self.relations:
            with torch.no_grad():
                hard = self._related(hard, original, acted)
                wrong = self._broken(hard, original)
                for share in _BACK:
                    if not wrong.any():
                        break
                    nearer = self._alone(original + share * (x - original), original)[1]
                    hard = torch.where(wrong[:, None], self._related(nearer, original, acted), hard)
                    wrong = self._broken(hard, original)
        return _Hardened.apply(soft, hard)

    def _alone(self, x: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
        """Every column by itself: before and after rounding."""
        like = functools.partial(_like, x)
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
            for first, last, allowed in self.groups:
                hard[:, first:last] = _one_of(x[:, first:last], original[:, first:last], like(allowed))
            keep = like(self.held).expand_as(hard).clone()
            for first, last, flag in self.missing:
                keep[:, first:last] |= original[:, flag : flag + 1] > 0.5
            hard = torch.where(keep, original, hard)
        return torch.where(keep, original, x), hard

    def _cells(self, codes: Tensor) -> dict[str, Tensor]:
        """Columns in their own units, categories by their positions; NaN is missing."""
        assert self.relations is not None
        cells, gone = {}, {first: flag for first, _, flag in self.missing}
        for name, count in self.relations.kinds.items():
            first = self.first[name]
            if count:
                cells[name] = codes[:, first : first + count].argmax(1).to(codes.dtype)
                continue
            value = codes[:, first] * float(self.std[first]) + float(self.mean[first])
            places = self.relations.decimals.get(name)
            cells[name] = value if places is None else torch.round(value, decimals=places)
            if first in gone:
                cells[name] = torch.where(codes[:, gone[first]] > 0.5, torch.nan, cells[name])
        return cells

    def _related(self, codes: Tensor, original: Tensor, acted: Tensor | None) -> Tensor:
        """`codes` with what follows from what changed."""
        assert self.relations is not None
        cells, before = self._cells(codes), self._cells(original)
        on = None if acted is None else dict(zip(self.first, acted.unbind(1), strict=True))
        done, out = self.relations.complete(cells, before, on), codes.clone()
        for name in self.relations.order:
            first = self.first[name]
            followed = (done[name] - float(self.mean[first])) / float(self.std[first])
            out[:, first] = torch.where(done[name] == before[name], original[:, first], torch.where(
                done[name] == cells[name], codes[:, first], followed))
        return out

    def _broken(self, codes: Tensor, original: Tensor) -> Tensor:
        """Rows in which a rule between columns is broken, or what follows is where it must not be."""
        assert self.relations is not None
        wrong, like = self.relations.broken(self._cells(codes), self._cells(original)), functools.partial(_like, codes)
        for name in self.relations.order:
            first = self.first[name]
            value, was = codes[:, first], original[:, first]
            low, high = (like(side[first : first + 1]) for side in (self.low, self.high))
            inside = (value >= torch.minimum(low, was) - _ROUNDING) & (value <= torch.maximum(high, was) + _ROUNDING)
            wrong = wrong | ~inside
            if self.rising[first]:
                wrong = wrong | (value < was)
            if self.falling[first]:
                wrong = wrong | (value > was)
        return wrong


_ROUNDING = 1e-9  # of codes


def _like(x: Tensor, values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, device=x.device, dtype=None if values.dtype == bool else x.dtype)


def _one_of(soft: Tensor, original: Tensor, allowed: Tensor) -> Tensor:
    """Zeros and a one at the largest of `soft` that may follow the original category, which may itself."""
    may = (original > 0.5).to(soft.dtype) @ allowed.to(soft.dtype) > 0.5
    return F.one_hot(soft.masked_fill(~may, -torch.inf).argmax(1), soft.shape[1]).to(soft.dtype)


def _steps(column: str, categories: list, wanted: Mapping | None) -> np.ndarray:
    """Which category may become which, (K, K)."""
    steps = np.ones((len(categories), len(categories)), dtype=bool)
    for source, targets in by_column(wanted, f"transitions[{column!r}]").items():
        targets = [targets] if isinstance(targets, str) else list(targets)
        unknown = [category for category in (source, *targets) if category not in categories]
        if unknown:
            raise ValueError(f"transitions[{column!r}] names {unknown[0]!r}, which is none of its categories {categories}.")
        steps[categories.index(source)] = [category in targets for category in categories]
    return steps


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
