"""Tables of mixed types as numbers that a search can move, and back: what a DataFrame's columns are."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cfexplain.foundation.optional import is_instance, optional_import
from cfexplain.persistence import stored_by_attributes

__all__ = ["MixedTable", "TableRows", "UnsearchableError", "build_frame", "read_columns", "read_frame", "to_polars",
           "unsearchable"]

_MOST_DECIMALS = 6
# Categories in one column beyond which they are more likely to be names or identifiers
_MANY = 50
_LABELS = (str, int, float, bool)  # of categories


class UnsearchableError(ValueError):
    """A column that a search cannot move: text, dates, identifiers, nothing at all."""


@dataclass
class TableRows:
    """Rows of a table as they came, with what their codes cannot say; ``rows[index]`` of some of them.

    Attributes
    ----------
    codes : ndarray of shape (n, width)
    values : ndarray of shape (n, columns)
        NaN is missing; a category that training does not have is a position beyond those that it has.
    strange : ndarray of bool, shape (n, columns)
        Cells without a code of their own: missing in a column that was whole in training, or a category new to it.
    carried : ndarray of object, shape (n, carried columns and columns with originals)
    columns : list of dict
        As the table's, with the new categories, and ``original=True`` for numbers that floats do not hold.
    relations : Relations, optional
        Rules between columns, which counterfactuals keep.
    """

    codes: np.ndarray
    values: np.ndarray
    strange: np.ndarray
    carried: np.ndarray
    columns: list[dict[str, Any]]
    relations: Any = None

    def __getitem__(self, rows: np.ndarray) -> TableRows:
        return TableRows(self.codes[rows], self.values[rows], self.strange[rows], self.carried[rows], self.columns,
                         self.relations)

    def completed(self, values: np.ndarray) -> np.ndarray:
        """`values` (n, columns) in place of these rows, with what rules make of them, exactly."""
        if not self.relations:
            return values
        cells, before = self._cells(values), self._cells(self.values)
        return np.column_stack(list(self.relations.complete(cells, before, effects=False).values()))

    def broken(self, values: np.ndarray) -> np.ndarray:
        """Which of `values` in place of these rows break a rule, bool (n,)."""
        if not self.relations:
            return np.zeros(len(values), dtype=bool)
        return np.asarray(self.relations.broken(self._cells(values), self._cells(self.values)), dtype=bool)

    def _cells(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.relations.kinds, values.T, strict=True))


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


def unsearchable(frame: Any, categorical: Iterable[str] = ()) -> dict[str, str]:
    """The columns that a search cannot move, and why not."""
    found, categorical = {}, set(categorical)
    for name in frame.columns:
        try:
            _describe(frame[name], name in categorical, False)
        except UnsearchableError as reason:
            found[name] = str(reason)
    return found


def _fit_each_other(table: MixedTable) -> bool:
    last = max((place for _, place in table.places.values()), default=0)
    return (all(isinstance(column, dict) and {"name", "kind", "dtype"} <= set(column) for column in table.columns)
            and list(table.places) == [column["name"] for column in table.searched]
            and table.width == max([last, *(flag + 1 for flag in table.missing.values())])
            and set(table.missing) <= set(table.places) and len(table.usual) == len(table.carried))


@stored_by_attributes(check=_fit_each_other)
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
    source : optional
        What `frame` was read from, by `read_frame`: rows are given back (`fed`) as such.

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
    source : str
        "pandas", "polars", or the dtype of an array.

    Examples
    --------
    >>> import pandas as pd
    >>> table = MixedTable(pd.DataFrame({"age": [20, 40], "job": ["cook", "clerk"]}))
    >>> codes = table.encode(pd.DataFrame({"age": [30], "job": ["cook"]})); codes.tolist()
    [[0.0, 0.0, 1.0]]
    >>> table.frame(table.decode(codes)).to_dict("records")
    [{'age': 30, 'job': 'cook'}]
    """

    columns: list[dict[str, Any]]
    places: dict[str, tuple[int, int]]
    missing: dict[str, int]
    width: int
    source: str
    usual: list[Any]

    def __init__(self, frame: Any, categorical: Iterable[str] = (), carried: Iterable[str] = (), source: Any = None):
        categorical, carried = set(categorical), set(carried)
        polars = is_instance(source, "polars", "DataFrame")
        self.source = "polars" if polars else "pandas" if source is None or hasattr(source, "columns") else str(
            np.asarray(source).dtype)
        self.columns, self.places, self.missing = [], {}, {}
        first = 0
        for name in frame.columns:
            column = _describe(frame[name], name in categorical, name in carried)
            if polars:
                column["polars"] = _polars_name(source[name])
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
        # what is in the carried columns of a row that is made up
        self.usual = [_usual(cells) for cells in self._carried_cells(frame).T]
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

    def read(self, frame: Any) -> TableRows:
        """The rows of a DataFrame, whatever is in them.

        Raises
        ------
        ValueError
            Columns are missing, or there is text or infinity where numbers are.
        """
        absent = [column["name"] for column in self.columns if column["name"] not in frame.columns]
        if absent:
            raise ValueError(f"X lacks the columns {absent}, which were there in training.")
        columns: list[dict[str, Any]] = []
        values, kept = [], []
        for column in self.columns:
            series = frame[column["name"]]
            if column["kind"] == "carried":
                kept.append(_kept(series))
            else:
                column, cells = self._column_values(series, column)
                values.append(cells)
                originals = _originals(series, cells) if column["kind"] == "number" else None
                if originals is not None:
                    column = {**column, "original": True}
                    kept.append(originals)
            columns.append(column)
        cells = np.column_stack(values)
        known = np.array([np.inf if column["kind"] == "number" else len(column["categories"]) for column in self.searched])
        flagged = np.array([name in self.missing for name in self.places])
        return TableRows(self.codes(cells), cells, (np.isnan(cells) & ~flagged) | (cells >= known),
                         _side_by_side(kept) if kept else np.empty((len(frame), 0), dtype=object), columns)

    def values(self, frame: Any) -> np.ndarray:
        """(n, columns) float64.

        Raises
        ------
        ValueError
            As `read`; and where a category or a missing value was not seen in training.
        """
        rows = self.read(frame)
        if rows.strange.any():
            raise ValueError(self.tell_strange(rows))
        return rows.values

    def tell_strange(self, rows: TableRows) -> str:
        """What is wrong with the first column that has cells without a code."""
        place = int(np.flatnonzero(rows.strange.any(0))[0])
        column, cells = self.searched[place], rows.values[rows.strange[:, place], place]
        name, new = column["name"], cells[~np.isnan(cells)]
        if len(new):
            new_column = next(one for one in rows.columns if one["name"] == name)
            return (f"The column {name!r} holds {str(new_column['categories'][int(new[0])])!r}, which is not among its "
                    f"training categories {_some(column['categories'])}. Leave such rows out, or add some to X_train.")
        return (f"The column {name!r} has missing values, but none in training. Fill them in, or pass an X_train that has "
                "some.")

    def _carried_cells(self, frame: Any) -> np.ndarray:
        cells = np.empty((len(frame), len(self.carried)), dtype=object)
        for i, name in enumerate(self.carried):
            cells[:, i] = _kept(frame[name])
        return cells

    def _column_values(self, series: Any, column: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        """The column, with its new categories, and the cells."""
        name = column["name"]
        if column["kind"] == "number":
            try:
                values = series.to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                raise ValueError(f"The column {name!r} held numbers in training, but now something else: {error}.") from None
            if np.isinf(values).any():
                raise ValueError(f"The column {name!r} holds infinite values.")
            return column, values
        position = {category: i for i, category in enumerate(column["categories"])}
        cells = [None if gone else _plain(cell) for cell, gone in zip(series, series.isna(), strict=True)]
        new = list(dict.fromkeys(cell for cell in cells if cell is not None and cell not in position))
        if new:
            position |= {category: len(position) + i for i, category in enumerate(new)}
            levels = column["levels"]
            column = {**column, "categories": [*column["categories"], *new],
                      "levels": levels and [*levels, *(cell for cell in new if cell not in levels)]}
        return column, np.array([np.nan if cell is None else position[cell] for cell in cells], dtype=np.float64)

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
                cells = _rounded(cells, column["dtype"])
                if like is not None:
                    cells = np.where(codes[:, first] == like[0][:, first], like[1][:, i], cells)
            else:
                cells = codes[:, first:last].argmax(1).astype(np.float64)
                if like is not None:
                    cells = np.where((codes[:, first:last] == like[0][:, first:last]).all(1), like[1][:, i], cells)
            if name in self.missing:
                cells = np.where(codes[:, self.missing[name]] > 0.5, np.nan, cells)
            values[:, i] = cells
        return values

    def frame(self, values: np.ndarray, carried: np.ndarray | None = None, index: Any = None) -> Any:
        """A DataFrame of `values`, as :func:`build_frame` makes it."""
        return build_frame(self.columns, values, carried, index)

    def whole_frame(self, codes: np.ndarray, like: TableRows | None = None) -> Any:
        """A DataFrame of `codes` with every column: what has the same code as `like`, the same rows before, has its very
        cell. Without them, carried columns hold what is usual.
        """
        if like is None:
            return self.usual_frame(self.decode(codes))
        return build_frame(like.columns, like.completed(self.decode(codes, (like.codes, like.values))), like.carried)

    def usual_frame(self, values: np.ndarray) -> Any:
        """A DataFrame of `values` with every column; carried ones hold what is usual."""
        carried = np.empty((len(values), len(self.usual)), dtype=object)
        carried[:] = self.usual
        return build_frame(self.columns, values, carried)

    def fed(self, frame: Any) -> Any:
        """`frame` in the kind of table that training rows came as."""
        if self.source == "pandas":
            return frame
        if self.source == "polars":
            return to_polars(frame, self.columns)
        source = np.dtype(self.source)
        if source.kind in "iuf":  # or wider, where a column is
            source = np.result_type(source, *(dtype for dtype in frame.dtypes if dtype.kind in "iuf"))
        return frame.to_numpy(dtype=source)


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
        originals = _originals(series, values[:, len(columns)])
        columns.append({"name": str(name), "kind": "number", "dtype": dtype, "decimals": None, **levels,
                        **({} if originals is None else {"original": True})})
        kept += [] if originals is None else [originals]
    return columns, _side_by_side(kept) if kept else None


def _originals(series: Any, cells: np.ndarray) -> np.ndarray | None:
    """The cells of a column of which floats are not the very numbers: of an identifier beyond 2⁵³ a float is another."""
    types = optional_import("pandas", "A table of mixed types").api.types
    known = ~np.isnan(cells)
    if types.is_numeric_dtype(series.dtype) and _numpy_dtype(series.dtype).itemsize <= 8:
        some = series[known]
        whole = types.is_integer_dtype(series.dtype) and len(some)
        small = not whole or max(int(some.max()), -int(some.min())) <= 2**53  # Python's integers have all their digits
        if small and (cells[known] == some.to_numpy(dtype=np.float64)).all():
            return None
    return _kept(series)


def _side_by_side(columns: list[np.ndarray]) -> np.ndarray:
    cells = np.empty((len(columns[0]), len(columns)), dtype=object)
    for i, column in enumerate(columns):
        cells[:, i] = column
    return cells


def _numpy_dtype(dtype: Any) -> np.dtype:
    return np.dtype(getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", dtype)))


def _rounded(cells: np.ndarray, dtype: str) -> np.ndarray:
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


def _kept(series: Any) -> np.ndarray:
    """The cells of a carried column as objects that a file can hold, as far as there are such; dates as text."""
    types = optional_import("pandas", "A table of mixed types").api.types
    gone, out = series.isna().to_numpy(), np.empty(len(series), dtype=object)
    dated, timed = types.is_datetime64_any_dtype(series.dtype), types.is_timedelta64_dtype(series.dtype)
    for i, (cell, empty) in enumerate(zip(series, gone, strict=True)):
        if empty:
            out[i] = cell if type(cell) is float else None
        else:
            out[i] = cell.isoformat() if dated else str(cell) if timed else _plain(cell)
    return out


def _usual(cells: np.ndarray) -> Any:
    """The commonest cell, of which the first; for what cannot be counted the first."""
    known = [cell for cell in cells if cell is not None]
    try:
        counts = Counter(known)
        return max(counts, key=counts.__getitem__) if known else None
    except TypeError:
        return known[0]


def _from_polars(series: Any, pandas: Any) -> Any:
    levels = None
    if str(series.dtype).startswith("Enum"):
        levels = series.dtype.categories.to_list()
        return pandas.Series(pandas.Categorical(series.to_list(), categories=levels, ordered=True))
    cells = series.to_numpy()
    return pandas.Series(series.to_list(), dtype=object if series.null_count() else None) if cells.dtype == object else cells


def _polars_name(series: Any) -> str:
    return "Enum" if str(series.dtype).startswith("Enum") else str(series.dtype)


def to_polars(frame: Any, columns: Sequence[Mapping[str, Any]]) -> Any:
    """A pandas DataFrame as one of polars, with the dtypes that `columns` name where polars has them by that name."""
    polars = optional_import("polars", "A table of polars")
    out = []
    for column in columns:
        if column["name"] not in frame.columns:
            continue
        series, known = frame[column["name"]], column.get("polars", "")
        cells = [None if gone else _plain(cell) for cell, gone in zip(series, series.isna(), strict=True)]
        dtype = polars.Enum(column["levels"]) if known == "Enum" else getattr(polars, known, None)
        if column["kind"] == "number" and not series.isna().any() and str(series.dtype) != column["dtype"]:
            dtype = None  # a number that its own dtype does not hold
        if known.startswith(("Date", "Duration")):  # made of pandas's own dates, which keep their unit
            made = polars.Series(column["name"], cells)
            out.append(made.cast(dtype) if dtype is not None and known == "Date" else made)
        else:
            out.append(polars.Series(column["name"], cells, dtype=dtype))
    return polars.DataFrame(out)


def _describe(series: Any, categorical: bool, carried: bool) -> dict[str, Any]:
    types = optional_import("pandas", "A table of mixed types").api.types
    name, dtype = series.name, series.dtype
    column: dict[str, Any] = {"name": name, "kind": "carried", "dtype": str(dtype)}
    if carried:
        levels = [_plain(level) for level in series.cat.categories] if hasattr(series, "cat") else [None]
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
    cells = [_plain(cell) for cell in known]
    levels = None
    if hasattr(known, "cat"):
        levels = [_plain(level) for level in known.cat.categories]
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


def _plain(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.generic) else cell


def _some(labels: Sequence[Any], most: int = 12) -> str:
    return "[" + ", ".join(map(repr, labels[:most])) + (f", … {len(labels)} in all]" if len(labels) > most else "]")
