"""Tables of mixed types as numbers that a search can move, and back: what a DataFrame's columns are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cfexplain.foundation.optional import optional_import

__all__ = ["MixedTable", "build_frame", "read_frame"]

_MOST_DECIMALS = 6
# Categories in one column beyond which they are more likely to be names or identifiers
_MANY = 50


def read_frame(X: Any) -> Any:
    """`X` as a DataFrame with names that are strings; columns of an array are called ``x0``, ``x1``, …"""
    pandas = optional_import("pandas", "Explaining a pipeline")
    if not isinstance(X, pandas.DataFrame):
        X = np.asarray(X)
        if X.ndim != 2:
            raise ValueError(f"X has shape {X.shape}; expected a table of shape (n, columns). For one row, pass X[[i]].")
        X = pandas.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]).infer_objects()
    odd = [name for name in X.columns if not isinstance(name, str)]
    if odd or X.columns.has_duplicates:
        what = f"{odd[0]!r} is none" if odd else f"{X.columns[X.columns.duplicated()][0]!r} occurs twice"
        raise ValueError(f"Column names must be different strings; {what}. Rename: X.columns = X.columns.astype(str).")
    return X


class MixedTable:
    """The columns of a DataFrame, and how rows are written as numbers.

    A row has two forms. Its *values* have one number a column: the number itself, or the position of the category; NaN is
    missing. Its *codes* are what a search moves: a number standardised, a category as a group of zeros and a one, and for
    a column with missing values one more entry that is 1 where it is missing.

    Parameters
    ----------
    frame : DataFrame
        Training rows.
    categorical : iterable of str
        Columns that hold categories although their dtype is a number's.
    carried : iterable of str
        Columns that are no part of the codes and come back as they are.

    Attributes
    ----------
    columns : list of dict
        JSON-able, in the frame's order: ``name``, ``kind`` ("number", "category" or "carried"), ``dtype``; numbers also
        have ``decimals`` (None: any), ``low``, ``high``, ``mean``, ``std``; categories have ``categories``, ``ordered``.
    width : int
        Number of codes.
    places : dict of str to (first, last + 1)
        Each column's codes, the missing flag apart.
    missing : dict of str to int
        Where the flag is, for columns that have one.

    Examples
    --------
    >>> import pandas as pd
    >>> table = MixedTable(pd.DataFrame({"age": [20, 40], "job": ["cook", "clerk"]}))
    >>> codes = table.encode(pd.DataFrame({"age": [30], "job": ["cook"]})); codes.tolist()
    [[0.0, 0.0, 1.0]]
    >>> table.frame(table.decode(codes)).to_dict("records")
    [{'age': 30, 'job': 'cook'}]
    """

    def __init__(self, frame: Any, categorical: Iterable[str] = (), carried: Iterable[str] = ()):
        categorical, carried = set(categorical), set(carried)
        self.columns: list[dict[str, Any]] = []
        self.places: dict[str, tuple[int, int]] = {}
        self.missing: dict[str, int] = {}
        first = 0
        for name in frame.columns:
            column = _describe(frame[name], name in categorical, name in carried)
            self.columns.append(column)
            if column["kind"] == "carried":
                continue
            wide = len(column["categories"]) if column["kind"] == "category" else 1
            self.places[name] = (first, first + wide)
            first += wide
            if frame[name].isna().any():
                self.missing[name] = first
                first += 1
        self.width = first
        if not self.places:
            raise ValueError("No column is left to search: all are dropped by the pipeline or carried through.")

    @property
    def names(self) -> list[str]:
        """Columns that have codes."""
        return list(self.places)

    @property
    def searched(self) -> list[dict[str, Any]]:
        """What is known of them."""
        return [column for column in self.columns if column["kind"] != "carried"]

    @property
    def carried(self) -> list[str]:
        return [column["name"] for column in self.columns if column["kind"] == "carried"]

    def values(self, frame: Any) -> np.ndarray:
        """(n, columns) float64.

        Raises
        ------
        ValueError
            Columns are missing, a category or a missing value was not seen in training, or text where numbers are.
        """
        absent = [column["name"] for column in self.columns if column["name"] not in frame.columns]
        if absent:
            raise ValueError(f"X lacks the columns {absent}, which were there in training.")
        return np.column_stack([self._column_values(frame[column["name"]], column) for column in self.searched])

    def _column_values(self, series: Any, column: Mapping[str, Any]) -> np.ndarray:
        name = column["name"]
        if column["kind"] == "number":
            try:
                values = series.to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                raise ValueError(f"The column {name!r} held numbers in training, but now {error}.") from None
        else:
            position = {category: i for i, category in enumerate(column["categories"])}
            cells = [None if gone else _plain(cell) for cell, gone in zip(series, series.isna(), strict=True)]
            unknown = sorted({str(cell) for cell in cells if cell is not None and cell not in position})
            if unknown:
                raise ValueError(f"The column {name!r} holds {unknown[0]!r}, which is not among its training categories "
                                 f"{_some(column['categories'])}. Leave such rows out, or add some to X_train.")
            values = np.array([np.nan if cell is None else position[cell] for cell in cells], dtype=np.float64)
        if np.isinf(values).any():
            raise ValueError(f"The column {name!r} holds infinite values.")
        if name not in self.missing and np.isnan(values).any():
            raise ValueError(f"The column {name!r} has missing values, but none in training. Fill them in, or pass an "
                             "X_train that has some.")
        return values

    def encode(self, frame: Any) -> np.ndarray:
        """Codes of a DataFrame, (n, width) float64."""
        return self.codes(self.values(frame))

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Codes of `values`."""
        codes = np.zeros((len(values), self.width))
        for cells, column in zip(values.T, self.searched, strict=True):
            (first, last), gone = self.places[column["name"]], np.isnan(cells)
            if column["kind"] == "number":
                codes[:, first] = np.where(gone, 0.0, (cells - column["mean"]) / column["std"])
            else:
                codes[:, first:last] = cells[:, None] == np.arange(last - first)
            if column["name"] in self.missing:
                codes[:, self.missing[column["name"]]] = gone
        return codes

    def decode(self, codes: np.ndarray, like: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """Values of `codes`: numbers with as many decimals as in training, the likeliest category.

        Parameters
        ----------
        codes : ndarray of shape (n, width)
        like : (codes, values) of the same rows before, optional
            What has the same code still has the very same value.
        """
        values = np.empty((len(codes), len(self.places)))
        for i, column in enumerate(self.searched):
            name = column["name"]
            first, last = self.places[name]
            if column["kind"] == "number":
                cells = codes[:, first] * column["std"] + column["mean"]
                cells = cells if column["decimals"] is None else np.round(cells, column["decimals"]) + 0.0  # no −0
                if like is not None:
                    cells = np.where(codes[:, first] == like[0][:, first], like[1][:, i], cells)
            else:
                cells = codes[:, first:last].argmax(1).astype(np.float64)
            if name in self.missing:
                cells = np.where(codes[:, self.missing[name]] > 0.5, np.nan, cells)
            values[:, i] = cells
        return values

    def frame(self, values: np.ndarray, carried: np.ndarray | None = None, index: Any = None) -> Any:
        """A DataFrame of `values`, as :func:`build_frame` makes it."""
        return build_frame(self.columns, values, carried, index)


def build_frame(columns: Sequence[Mapping[str, Any]], values: np.ndarray, carried: np.ndarray | None = None,
                index: Any = None) -> Any:
    """A DataFrame in the columns' own dtypes, units and categories.

    Parameters
    ----------
    columns : list of dict
        See `MixedTable`.
    values : ndarray of shape (n, searched columns)
    carried : ndarray of shape (n, carried columns), optional
        None leaves those columns out.
    index : array-like of shape (n,), optional
    """
    pandas = optional_import("pandas", "A table of mixed types")
    cells, others = iter(values.T), iter(() if carried is None else carried.T)
    out = {}
    for column in columns:
        if column["kind"] == "carried":
            if carried is not None:
                out[column["name"]] = pandas.Series(list(next(others)), dtype=column["dtype"])
        else:
            out[column["name"]] = _series(column, next(cells), pandas)
    frame = pandas.DataFrame(out)
    if index is not None:
        frame.index = pandas.Index(index)
    return frame


def _series(column: Mapping[str, Any], cells: np.ndarray, pandas: Any) -> Any:
    dtype, gone = column["dtype"], np.isnan(cells)
    if column["kind"] == "number":
        if not gone.any():
            return pandas.Series(cells).astype(dtype)
        return pandas.Series(pandas.array(np.where(gone, 0, cells)).astype(dtype)).mask(gone)  # an Int64 has NA, no NaN
    known = np.empty(len(column["categories"]) + 1, dtype=object)
    known[:-1] = column["categories"]
    labels = known[np.where(gone, len(known) - 1, cells).astype(int)]  # None at the end
    if dtype == "category":
        return pandas.Series(pandas.Categorical(labels, categories=column["levels"], ordered=column["ordered"]))
    if dtype == "object" and gone.any():
        return pandas.Series(np.where(gone, np.nan, labels))
    return pandas.Series(labels, dtype=dtype)


def _describe(series: Any, categorical: bool, carried: bool) -> dict[str, Any]:
    types = optional_import("pandas", "A table of mixed types").api.types
    name, dtype = series.name, series.dtype
    column: dict[str, Any] = {"name": name, "kind": "carried", "dtype": str(dtype)}
    if carried:
        return column
    if types.is_datetime64_any_dtype(dtype) or types.is_timedelta64_dtype(dtype) or types.is_complex_dtype(dtype):
        raise TypeError(f"The column {name!r} holds {dtype}, which a search cannot move. Turn it into numbers (days since a "
                        "date) before the pipeline, or drop it.")
    known = series.dropna()
    if not len(known):
        raise ValueError(f"The column {name!r} has no value in training.")
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
    cells = [_plain(cell) for cell in known]
    levels = None
    if hasattr(known, "cat"):
        levels = [_plain(level) for level in known.cat.categories]
        found = [level for level in levels if level in set(cells)]
    else:
        try:
            found = sorted(set(cells))
        except TypeError:
            found = sorted(set(cells), key=lambda cell: (type(cell).__name__, str(cell)))
    odd = next((cell for cell in found if type(cell) not in (str, int, float, bool)), None)
    if odd is not None:
        raise TypeError(f"The column {name!r} holds a {type(odd).__name__}; expected numbers, bools or text.")
    if len(found) > max(_MANY, len(cells) // 10):
        raise ValueError(f"The column {name!r} has {len(found)} different categories in {len(cells)} rows: names or "
                         "identifiers, it seems. Drop it in the pipeline's ColumnTransformer, or group rare ones.")
    return {"categories": found, "levels": levels, "ordered": bool(levels is not None and known.cat.ordered)}


def _plain(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.generic) else cell


def _some(labels: Sequence[Any], most: int = 12) -> str:
    return "[" + ", ".join(map(repr, labels[:most])) + (f", … {len(labels)} in all]" if len(labels) > most else "]")
