"""What a column of a DataFrame is: numbers, categories, or what a search cannot move; and its cells as plain objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from cfexplain.foundation.optional import optional_import

__all__ = ["UnsearchableError", "describe", "kept_cells", "plain_cell", "unsearchable", "usual_cell"]

_MOST_DECIMALS = 6
# Categories in one column beyond which they are more likely to be names or identifiers
_MANY = 50
_LABELS = (str, int, float, bool)  # of categories


class UnsearchableError(ValueError):
    """A column that a search cannot move: text, dates, identifiers, nothing at all."""


def unsearchable(frame: Any, categorical: Iterable[str] = ()) -> dict[str, str]:
    """The columns that a search cannot move, and why not."""
    found, categorical = {}, set(categorical)
    for name in frame.columns:
        try:
            describe(frame[name], name in categorical, False)
        except UnsearchableError as reason:
            found[name] = str(reason)
    return found


def describe(series: Any, categorical: bool, carried: bool) -> dict[str, Any]:
    types = optional_import("pandas", "A table of mixed types").api.types
    name, dtype = series.name, series.dtype
    column: dict[str, Any] = {"name": name, "kind": "carried", "dtype": str(dtype)}
    if carried:
        levels = [plain_cell(level) for level in series.cat.categories] if hasattr(series, "cat") else [None]
        if all(type(level) in _LABELS for level in levels):
            column |= {"levels": levels, "ordered": bool(series.cat.ordered)}
        return column
    if types.is_datetime64_any_dtype(dtype) or types.is_timedelta64_dtype(dtype) or types.is_complex_dtype(dtype):
        raise UnsearchableError(f"The column {name!r} holds {dtype}, which a search cannot move.")
    known = series.dropna()
    if not len(known):
        raise UnsearchableError(f"The column {name!r} has no value in training.")
    if not categorical and types.is_numeric_dtype(dtype) and not types.is_bool_dtype(dtype):
        return {**column, "kind": "number", **_numbers(known.to_numpy(dtype=np.float64), name)}
    return {**column, "kind": "category", **_categories(known, name)}


def _numbers(cells: np.ndarray, name: str) -> dict[str, Any]:
    if not np.isfinite(cells).all():
        raise ValueError(f"The column {name!r} holds infinite values.")
    decimals = next((d for d in range(_MOST_DECIMALS + 1) if (np.round(cells, d) == cells).all()), None)
    std = float(cells.std())
    return {"decimals": decimals, "low": float(cells.min()), "high": float(cells.max()), "mean": float(cells.mean()),
            "std": std if std > 1e-13 * float(np.abs(cells).max()) else 1.0}


def _categories(known: Any, name: str) -> dict[str, Any]:
    cells = [plain_cell(cell) for cell in known]
    levels = None
    if hasattr(known, "cat"):
        levels = [plain_cell(level) for level in known.cat.categories]
        found = [level for level in levels if level in set(cells)]
    else:
        if not all(isinstance(cell, Hashable) for cell in cells):
            raise UnsearchableError(f"The column {name!r} holds lists or the like; expected numbers, bools or text.")
        try:
            found = sorted(set(cells))
        except TypeError:
            found = sorted(set(cells), key=lambda cell: (type(cell).__name__, str(cell)))
    odd = next((cell for cell in found if type(cell) not in _LABELS), None)
    if odd is not None:
        raise UnsearchableError(f"The column {name!r} holds a {type(odd).__name__}; expected numbers, bools or text.")
    if len(found) > max(_MANY, len(cells) // 10):
        raise UnsearchableError(f"The column {name!r} has {len(found)} different categories in {len(cells)} rows: names or "
                                "identifiers, it seems.")
    return {"categories": found, "levels": levels, "ordered": bool(levels is not None and known.cat.ordered)}


def usual_cell(cells: np.ndarray) -> Any:
    """The commonest cell, of which the first; for what cannot be counted the first."""
    known = [cell for cell in cells if cell is not None]
    try:
        counts = Counter(known)
        return max(counts, key=counts.__getitem__) if known else None
    except TypeError:
        return known[0]


def kept_cells(series: Any) -> np.ndarray:
    """The cells of a carried column as objects that a file can hold, as far as there are such; dates as text."""
    types = optional_import("pandas", "A table of mixed types").api.types
    gone, out = series.isna().to_numpy(), np.empty(len(series), dtype=object)
    dated, timed = types.is_datetime64_any_dtype(series.dtype), types.is_timedelta64_dtype(series.dtype)
    for i, (cell, empty) in enumerate(zip(series, gone, strict=True)):
        if empty:
            out[i] = cell if type(cell) is float else None
        else:
            out[i] = cell.isoformat() if dated else str(cell) if timed else plain_cell(cell)
    return out


def plain_cell(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.generic) else cell
