"""What changes of a table's columns cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Costs"]


class Costs:
    """The price of a change of each column.

    Parameters
    ----------
    given : mapping, or None
        Column to the price of one standard deviation of a number, or of another category: ``{"income": 2.0, "job": 3}``;
        ``{"income": (0.01, "unit")}`` is the price of one unit of the column itself. ``("job", "clerk", "cook")`` to the
        price of that one step between categories. Infinite: may not change so. What is not named costs 1.
    columns : list of dict
        ``name``, ``kind``, ``std``, and ``categories`` of categories.

    Attributes
    ----------
    prices : ndarray of shape (columns,)
        Of a standard deviation, or of another category.
    steps : dict of str to ndarray of shape (K, K)
        Of categories, from row to column.

    Raises
    ------
    ValueError, TypeError
        A name that is no column, an unknown category, a price that is negative or none.

    Examples
    --------
    >>> columns = [{"name": "income", "kind": "number", "std": 500.0},
    ...            {"name": "job", "kind": "category", "categories": ["clerk", "cook"]}]
    >>> costs = Costs({"income": (0.01, "unit"), ("job", "cook", "clerk"): np.inf}, columns)
    >>> costs.prices.tolist(), costs.steps["job"].tolist()
    ([5.0, 1.0], [[0.0, 1.0], [inf, 0.0]])
    """

    def __init__(self, given: Mapping[Any, Any] | None, columns: Sequence[Mapping[str, Any]]):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"costs={given!r} must be a dict such as {{'income': 2.0, ('job', 'clerk', 'cook'): 5}}.")
        self.given = dict(given or {})
        names = [column["name"] for column in columns]
        self.prices = np.ones(len(columns))
        self.steps: dict[Any, np.ndarray] = {}
        for key, price in self.given.items():
            name, *step = key if isinstance(key, tuple) else (key,)
            place = names.index(name) if name in names else -1
            if place < 0 and isinstance(name, (int, np.integer)) and -len(names) <= name < len(names):
                place = int(name) % len(names)
            if place < 0:
                raise ValueError(f"costs names the column {name!r}, but the columns are {names}.")
            if step:
                continue
            number, unit = price if isinstance(price, tuple) and len(price) == 2 else (price, "std")
            if unit not in ("std", "unit"):
                raise ValueError(f"costs[{key!r}] = {price!r}: the price is for a standard deviation, or (price, 'unit').")
            self.prices[place] = _price(key, number) * (columns[place].get("std", 1.0) if unit == "unit" else 1.0)
        for place, column in enumerate(columns):
            if column["kind"] == "category":
                count = len(column["categories"])
                self.steps[column["name"]] = np.where(np.eye(count, dtype=bool), 0.0, self.prices[place])
        for key, price in self.given.items():
            if isinstance(key, tuple):
                self._read_step(key, price, columns, names)

    def _read_step(self, key: tuple, price: Any, columns: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        name = key[0]
        categories = columns[names.index(name)].get("categories") if name in names else None
        if categories is None or len(key) != 3:
            raise ValueError(f"costs[{key!r}] must be (column of categories, from, to).")
        unknown = [category for category in key[1:] if category not in categories]
        if unknown:
            raise ValueError(f"costs[{key!r}] names {unknown[0]!r}, but the categories of {name!r} are {categories}.")
        self.steps[name][categories.index(key[1]), categories.index(key[2])] = _price(key, price)

    def __bool__(self) -> bool:
        return bool(self.given)


def _price(key: Any, price: Any) -> float:
    if isinstance(price, bool) or not isinstance(price, (int, float, np.number)) or not price >= 0:
        raise ValueError(f"costs[{key!r}] = {price!r} must be a number of at least 0, or infinite.")
    return float(price)
