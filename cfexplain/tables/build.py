"""DataFrames of numbers and the dtypes that they had, and what any table is as one."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cfexplain.foundation.optional import is_instance, optional_import
from cfexplain.tables.column_kinds import kept_cells, plain_cell

__all__ = ["as_short_floats", "build_frame", "exact_cells", "polars_name", "read_columns", "read_frame",
           "side_by_side", "to_polars"]


def read_frame(X: Any) -> Any:
    """`X` as a pandas DataFrame with names that are strings; columns of an array are called ``x0``, ``x1``, …"""
    pandas = optional_import("pandas", "Explaining a pipeline")
    if is_instance(X, "polars", "LazyFrame"):
        raise TypeError("X is a LazyFrame, whose rows are not there yet. Pass X.collect().")
    if is_instance(X, "polars", "DataFrame"):
        X = pandas.DataFrame({name: _from_polars(X[name], pandas) for name in X.columns})
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


def build_frame(columns: Sequence[Mapping[str, Any]], values: np.ndarray, carried: np.ndarray | None = None,
                index: Any = None) -> Any:
    """A DataFrame in the columns' own dtypes, units and categories.

    Parameters
    ----------
    columns : list of dict
        See `MixedTable` and `TableRows`.
    values : ndarray of shape (n, searched columns)
    carried : ndarray of shape (n, carried columns and columns with originals), optional
        None leaves carried columns out.
    index : array-like of shape (n,), optional

    Notes
    -----
    A column whose dtype cannot hold a value has the next one that can: an int8 that a bound lets grow to 130 is an int16, a
    whole number that became 2.5 a float64. No value is wrapped or cut.

    Examples
    --------
    >>> column = {"name": "points", "kind": "number", "dtype": "int8"}
    >>> [build_frame([column], np.array([[value]]))["points"].dtype.name for value in (7.0, 130.0, 2.5)]
    ['int8', 'int16', 'float64']
    """
    pandas = optional_import("pandas", "A table of mixed types")
    cells, others = iter(values.T), iter(() if carried is None else carried.T)
    out = {}
    for column in columns:
        if column["kind"] == "carried":
            if carried is not None:
                out[column["name"]] = _carried_series(column, list(next(others)), pandas)
        else:
            originals = next(others, None) if column.get("original") else None
            out[column["name"]] = _series(column, next(cells), pandas, originals)
    frame = pandas.DataFrame(out)
    if index is not None:
        frame.index = pandas.Index(index)
    return frame


def read_columns(X: Any, values: np.ndarray, names: Sequence[str]) -> tuple[list[dict[str, Any]] | None, np.ndarray | None]:
    """How `build_frame` makes a table like `X` of numbers, and the cells that numbers do not hold.

    Parameters
    ----------
    X : DataFrame, or array of shape (n, d)
    values : ndarray of shape (n, d)
        X as floats.
    names : sequence of str
        Of the columns.

    Returns
    -------
    columns : list of dict, or None
        None if floats are all that there is to know.
    originals : ndarray of shape (n, columns with originals), or None
    """
    framed = hasattr(X, "iloc")
    dtypes = [str(dtype) for dtype in X.dtypes] if framed else [str(X.dtype)] * values.shape[1]
    if set(dtypes) <= {str(values.dtype)} or len(set(names)) < len(names):
        return None, None
    if not framed and (X.dtype.kind not in "iub" or importlib.util.find_spec("pandas") is None):
        return None, None
    frame = X if framed else optional_import("pandas", "Integers in tables").DataFrame(X)
    columns: list[dict[str, Any]] = []
    kept: list[np.ndarray] = []
    for name, dtype, series in zip(names, dtypes, (frame.iloc[:, i] for i in range(len(dtypes))), strict=True):
        levels = {} if dtype != "category" else {
            "levels": series.cat.categories.tolist(), "ordered": bool(series.cat.ordered)}
        originals = exact_cells(series, values[:, len(columns)])
        columns.append({"name": str(name), "kind": "number", "dtype": dtype, "decimals": None, **levels,
                        **({} if originals is None else {"original": True})})
        kept += [] if originals is None else [originals]
    return columns, side_by_side(kept) if kept else None


def to_polars(frame: Any, columns: Sequence[Mapping[str, Any]]) -> Any:
    """A pandas DataFrame as one of polars, with the dtypes that `columns` name where polars has them by that name."""
    polars = optional_import("polars", "A table of polars")
    out = []
    for column in columns:
        if column["name"] not in frame.columns:
            continue
        series, known = frame[column["name"]], column.get("polars", "")
        cells = [None if gone else plain_cell(cell) for cell, gone in zip(series, series.isna(), strict=True)]
        dtype = polars.Enum(column["levels"]) if known == "Enum" else getattr(polars, known, None)
        if column["kind"] == "number" and not series.isna().any() and str(series.dtype) != column["dtype"]:
            dtype = None  # a number that its own dtype does not hold
        if known.startswith(("Date", "Duration")):  # made of pandas's own dates, which keep their unit
            made = polars.Series(column["name"], cells)
            out.append(made.cast(dtype) if dtype is not None and known == "Date" else made)
        else:
            out.append(polars.Series(column["name"], cells, dtype=dtype))
    return polars.DataFrame(out)


def exact_cells(series: Any, cells: np.ndarray) -> np.ndarray | None:
    """The cells of a column of which floats are not the very numbers: of an identifier beyond 2⁵³ a float is another."""
    types = optional_import("pandas", "A table of mixed types").api.types
    known = ~np.isnan(cells)
    if types.is_numeric_dtype(series.dtype) and _numpy_dtype(series.dtype).itemsize <= 8:
        some = series[known]
        whole = types.is_integer_dtype(series.dtype) and len(some)
        small = not whole or max(int(some.max()), -int(some.min())) <= 2**53  # Python's integers have all their digits
        if small and (cells[known] == some.to_numpy(dtype=np.float64)).all():
            return None
    return kept_cells(series)


def side_by_side(columns: list[np.ndarray]) -> np.ndarray:
    cells = np.empty((len(columns[0]), len(columns)), dtype=object)
    for i, column in enumerate(columns):
        cells[:, i] = column
    return cells


def _numpy_dtype(dtype: Any) -> np.dtype:
    return np.dtype(getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", dtype)))


def as_short_floats(cells: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers as a column of short floats holds them."""
    if "float" not in dtype.lower() or "64" in dtype:
        return cells
    narrow = np.float16 if "16" in dtype or "half" in dtype else np.float32
    with np.errstate(over="ignore"):
        short = cells.astype(narrow).astype(np.float64)
    return np.where(np.isfinite(short), short, cells)


def _holding(dtype: str, cells: np.ndarray, pandas: Any) -> str:
    """`dtype`, or the next one of its kind that holds all `cells`."""
    own = pandas.api.types.pandas_dtype(dtype)
    plain = _numpy_dtype(own)
    if plain.kind not in "biuf" or not len(cells):
        return dtype
    wide = {"f": ("float32",), "b": ()}.get(plain.kind, ("int16", "int32", "int64", "uint64"))
    fitting = [plain, *map(np.dtype, wide)]
    wider = next((kind for kind in fitting if kind.itemsize >= plain.itemsize and _holds(kind, cells)), np.dtype(np.float64))
    if wider == plain:
        return dtype
    if dtype.endswith("[pyarrow]"):
        return {"float64": "double", "float32": "float"}.get(wider.name, wider.name) + "[pyarrow]"
    if dtype.startswith("Sparse"):
        return f"Sparse[{wider.name}]"
    if isinstance(own, np.dtype):
        return wider.name
    return wider.name.replace("uint", "UInt").replace("int", "Int").replace("float", "Float")


def _holds(kind: np.dtype, cells: np.ndarray) -> bool:
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return bool((cells == np.round(cells)).all()) and limits.min <= int(cells.min()) and int(cells.max()) <= limits.max
    with np.errstate(over="ignore"):
        return bool((cells.astype(kind).astype(np.float64) == cells).all())


def _series(column: Mapping[str, Any], cells: np.ndarray, pandas: Any, originals: np.ndarray | None = None) -> Any:
    dtype, gone = column["dtype"], np.isnan(cells)
    if originals is not None:
        return _with_originals(column, cells, originals, pandas)
    if column["kind"] == "number":
        dtype = _holding(dtype, cells[~gone].astype(np.float64), pandas)
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


def _with_originals(column: Mapping[str, Any], cells: np.ndarray, originals: np.ndarray, pandas: Any) -> Any:
    """Cells that did not change, as they were; the others as numbers."""
    dtype, whole = column["dtype"], pandas.api.types.is_integer_dtype(column["dtype"])
    before = pandas.Series(originals, dtype=object, copy=True)  # before pandas 3 it would be written into
    known = ~before.isna().to_numpy()
    changed = np.isnan(cells) == known
    changed[known] |= np.array([float(cell) for cell in before[known]], dtype=cells.dtype) != cells[known]
    if not changed.any() and dtype == "category":
        return pandas.Series(pandas.Categorical(before, categories=column["levels"], ordered=column["ordered"]))
    after = cells[changed].astype(np.float64)
    if changed.any():
        dtype = "object" if dtype == "category" else _holding(dtype, after[~np.isnan(after)], pandas) if whole else dtype
        exact = pandas.api.types.is_integer_dtype(dtype)
        before[changed] = [int(cell) if exact and not np.isnan(cell) else float(cell) for cell in after]
    try:
        return before.astype(dtype)
    except OverflowError:  # a whole number that no whole dtype holds came as an object
        return before.astype(np.float64)


def _carried_series(column: Mapping[str, Any], cells: list[Any], pandas: Any) -> Any:
    if column["dtype"] == "category" and column.get("levels") is not None:
        return pandas.Series(pandas.Categorical(cells, categories=column["levels"], ordered=column["ordered"]))
    return pandas.Series(cells, dtype=column["dtype"])


def _from_polars(series: Any, pandas: Any) -> Any:
    levels = None
    if str(series.dtype).startswith("Enum"):
        levels = series.dtype.categories.to_list()
        return pandas.Series(pandas.Categorical(series.to_list(), categories=levels, ordered=True))
    cells = series.to_numpy()
    return pandas.Series(series.to_list(), dtype=object if series.null_count() else None) if cells.dtype == object else cells


def polars_name(series: Any) -> str:
    return "Enum" if str(series.dtype).startswith("Enum") else str(series.dtype)
