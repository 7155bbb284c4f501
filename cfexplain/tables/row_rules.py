"""Rules of single rows, told by a DataFrame or a function of the row, and with them those of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from cfexplain.tables.costs import Costs
from cfexplain.tables.mixed import MixedTable
from cfexplain.tables.relations import Relations
from cfexplain.tables.rules import MixedRules, by_column, column_names

__all__ = ["read_row_rules", "rules_of"]

_EXPECTED = ("'fixed', 'increase', 'decrease', a pair (low, high), a list of categories, or nothing (None or NaN)")


def read_row_rules(given: Any, frame: Any, columns: list[str]) -> list[dict[str, Any]]:
    """What the cells of each row may do.

    Parameters
    ----------
    given : DataFrame with the rows of `frame`, or callable ``row -> dict``, or None
        Cells that are "fixed", "increase", "decrease", a pair (low, high), a list of categories; None or NaN for no rule.
    frame : DataFrame
    columns : list of str
        That may be named.

    Raises
    ------
    ValueError, TypeError
        It names no column, has another number of rows, or a cell holds something else.
    """
    if given is None:
        return [{}] * len(frame)
    if callable(given):
        told = [given(row) for _, row in frame.iterrows()]
        wrong = next((rules for rules in told if rules is not None and not isinstance(rules, Mapping)), None)
        if wrong is not None:
            raise TypeError(f"row_rules returned {wrong!r}; expected a dict of columns to {_EXPECTED}.")
        rows = [dict(rules or {}) for rules in told]
    elif hasattr(given, "columns") and hasattr(given, "iloc"):
        if len(given) != len(frame):
            raise ValueError(f"row_rules has {len(given)} rows, but X has {len(frame)}; expected one for each.")
        rows = [dict(zip(given.columns, cells, strict=True)) for cells in given.itertuples(index=False, name=None)]
    else:
        raise TypeError(f"row_rules={type(given).__name__} must be a DataFrame with the rows of X, or a function of a row.")
    out = []
    for rules in rows:
        unknown = [name for name in rules if name not in columns]
        if unknown:
            raise ValueError(f"row_rules names the column {unknown[0]!r}, but the columns are {columns}.")
        out.append({name: rule for name, rule in rules.items() if not _is_nothing(rule)})
        for name, rule in out[-1].items():
            if not (rule in ("fixed", "increase", "decrease") if isinstance(rule, str) else isinstance(rule, (tuple, list))):
                raise ValueError(f"row_rules holds {rule!r} for {name!r}; expected {_EXPECTED}.")
    return out


def _is_nothing(rule: Any) -> bool:
    return rule is None or (isinstance(rule, (float, np.floating)) and bool(np.isnan(rule)))


def _with_row_rules(immutable: list[Any], bounds: dict[str, Any], monotone: dict[str, Any], own: Mapping[str, Any],
                   ) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """The rules of all rows, and those of a row: of two bounds both hold."""
    immutable, bounds, monotone = list(immutable), dict(bounds), dict(monotone)
    for name, rule in own.items():
        if rule == "fixed":
            immutable.append(name)
        elif isinstance(rule, str):
            if monotone.get(name, rule) != rule:
                immutable.append(name)  # neither up nor down
            monotone[name] = rule
        else:
            bounds[name] = _both(bounds.get(name), rule)
    return immutable, bounds, monotone


def _both(all_rows: Any, own: Any) -> Any:
    if all_rows is None:
        return own
    if isinstance(own, list) or isinstance(all_rows, list):
        allowed = [all_rows] if isinstance(all_rows, str) else list(all_rows)
        return [category for category in own if category in allowed]
    lows = [side for side in (all_rows[0], own[0]) if side is not None]
    highs = [side for side in (all_rows[1], own[1]) if side is not None]
    return (max(lows) if lows else None, min(highs) if highs else None)


def rules_of(table: MixedTable, values: np.ndarray, rules: dict[str, Any], held: Sequence[str] = (),
             own: Mapping[str, Any] = MappingProxyType({})) -> tuple[MixedRules, Relations | None, Costs]:
    """The rules for columns, with those of one row, and for `held` columns; what is wrong with them is told."""
    costs, relations = Costs(rules["costs"], table.searched), None
    if rules["constraints"] is not None or rules["causes"] is not None:
        relations = Relations(rules["constraints"], rules["causes"], table.searched, values)
    immutable, bounds, monotone = _with_row_rules(
        column_names(rules["immutable"], "immutable"), by_column(rules["bounds"], "bounds"),
        by_column(rules["monotone"], "monotone"), own)
    immutable += held
    return MixedRules(table, immutable, bounds, monotone, rules["transitions"], relations, costs), relations, costs
