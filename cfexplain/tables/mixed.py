"""Tables of mixed types as numbers that a search can move, and back: what a DataFrame's columns are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cfexplain.foundation.optional import is_instance
from cfexplain.persistence import stored_by_attributes
from cfexplain.tables.build import as_short_floats, build_frame, exact_cells, polars_name, side_by_side, to_polars
from cfexplain.tables.column_kinds import describe, kept_cells, plain_cell, usual_cell

__all__ = ["MixedTable", "TableRows"]


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
            column = describe(frame[name], name in categorical, name in carried)
            if polars:
                column["polars"] = polars_name(source[name])
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
        self.usual = [usual_cell(cells) for cells in self._carried_cells(frame).T]
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
                kept.append(kept_cells(series))
            else:
                column, cells = self._column_values(series, column)
                values.append(cells)
                originals = exact_cells(series, cells) if column["kind"] == "number" else None
                if originals is not None:
                    column = {**column, "original": True}
                    kept.append(originals)
            columns.append(column)
        cells = np.column_stack(values)
        known = np.array([np.inf if column["kind"] == "number" else len(column["categories"]) for column in self.searched])
        flagged = np.array([name in self.missing for name in self.places])
        return TableRows(self.codes(cells), cells, (np.isnan(cells) & ~flagged) | (cells >= known),
                         side_by_side(kept) if kept else np.empty((len(frame), 0), dtype=object), columns)

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
            cells[:, i] = kept_cells(frame[name])
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
        cells = [None if gone else plain_cell(cell) for cell, gone in zip(series, series.isna(), strict=True)]
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
                cells = as_short_floats(cells, column["dtype"])
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


def _some(labels: Sequence[Any], most: int = 12) -> str:
    return "[" + ", ".join(map(repr, labels[:most])) + (f", … {len(labels)} in all]" if len(labels) > most else "]")
