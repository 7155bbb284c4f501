"""The rows of a result as DataFrames, as its metadata describe their columns."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.protocols import Result
from cfexplain.tables.build import build_frame, to_polars

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["category_places", "cell_in_words", "changed_cells", "changes_of", "common_columns", "frame_of", "frames_of",
           "largest_changes", "pandas_frames"]


def _searched(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [column for column in metadata.get("columns") or () if column["kind"] != "carried"]


def category_places(metadata: Mapping[str, Any]) -> frozenset[int]:
    """Which columns of x hold positions of categories.

    >>> sorted(category_places({"columns": [{"kind": "number"}, {"kind": "category"}]}))
    [1]
    """
    return frozenset(i for i, column in enumerate(_searched(metadata)) if column["kind"] == "category")


def cell_in_words(cf: Result, column: int | str, value: float) -> str:
    """One value of x or x_cf in words: the category's name, "missing", or a number with four digits."""
    described = _searched(cf.metadata)
    if np.isnan(value):
        return "missing"
    if not described:
        return f"{value:.4g}"
    place = cf.feature_names.index(column) if isinstance(column, str) else column
    if described[place]["kind"] == "category":
        return str(described[place]["categories"][int(value)])
    return f"{value:.0f}" if described[place]["decimals"] == 0 else f"{value:.4g}"


def frame_of(cf: Result, features: bool) -> DataFrame:
    """One row for each row of a result; see ``Counterfactuals.to_frame``."""
    pandas = optional_import("pandas", "to_frame()")
    columns = {name: getattr(cf, name) for name in cf.row_fields
               if getattr(cf, name).ndim == 1 and name != "index"}
    if cf.cost is not None:
        columns["cost"] = cf.cost
    columns.update({f"condition_{name}": met for name, met in cf.conditions.items()})
    if features:
        if cf.is_image:
            raise ValueError("features=True lists the columns of a table, but these rows are images.")
        before, after = pandas_frames(cf)
        for kind, frame in (("original", before), ("counterfactual", after)):
            columns.update({f"{kind}_{name}": frame[name].array for name in cf.feature_names})
        columns.update({f"delta_{name}": cf.x_cf[:, i] - cf.x[:, i] for i, name in enumerate(cf.feature_names)
                        if i not in category_places(cf.metadata)})
    return pandas.DataFrame(columns, index=cf.index)


def frames_of(cf: Result) -> tuple[Any, Any]:
    """x and x_cf as DataFrames: of polars, where the rows came as such and it is installed."""
    frames = pandas_frames(cf)
    if cf.metadata.get("source") == "polars" and importlib.util.find_spec("polars") is not None:
        return to_polars(frames[0], cf.metadata["columns"]), to_polars(frames[1], cf.metadata["columns"])
    return frames


def pandas_frames(cf: Result) -> tuple[DataFrame, DataFrame]:
    """x and x_cf as DataFrames of pandas."""
    pandas = optional_import("pandas", "to_frames()")
    if cf.is_image:
        raise ValueError("to_frames() is for tables, but these rows are images.")
    columns = cf.metadata.get("columns")
    if columns:
        before, after = (build_frame(columns, values, cf.carried, cf.index) for values in (cf.x, cf.x_cf))
    else:
        before, after = (pandas.DataFrame(values.reshape(len(cf), -1), columns=cf.feature_names, index=cf.index, copy=True)
                         for values in (cf.x, cf.x_cf))
    return before, after


def common_columns(parts: Sequence[Result]) -> tuple[list[dict[str, Any]] | None, list[np.ndarray | None]]:
    """Columns that describe all `parts`, and the carried cells of each.

    Where a column of one part has numbers that no float holds, and so its originals beside them, that of the others gets
    them, too.
    """
    listed: list[Any] = [part.metadata.get("columns") for part in parts]
    carried = [part.carried for part in parts]
    bare = [[{**column, "original": False} for column in columns or ()] for columns in listed]
    if not all(listed) or any(columns != bare[0] for columns in bare) or all(columns == listed[0] for columns in listed):
        return listed[0], carried
    wanted = [any(columns[i].get("original") for columns in listed) for i in range(len(bare[0]))]
    union = [{**column, **({"original": True} if lost else {})} for column, lost in zip(listed[0], wanted, strict=True)]
    filled: list[np.ndarray | None] = []
    for part, columns in zip(parts, listed, strict=True):
        cells, own, out = iter(part.x.T), iter(() if part.carried is None else part.carried.T), []
        for column, lost in zip(columns, wanted, strict=True):
            values = None if column["kind"] == "carried" else next(cells)
            if values is None or column.get("original"):
                out.append(next(own))
            elif lost:
                out.append(build_frame([column], values[:, None])[column["name"]].to_numpy(dtype=object))
        filled.append(np.column_stack(out))
    return union, filled


def _scale(cf: Result) -> np.ndarray:
    scale = np.asarray(cf.metadata.get("feature_scale") or np.ones(cf.x_cf.shape[1]), dtype=float)
    return np.where(scale > 0, scale, 1)


def changed_cells(cf: Result) -> np.ndarray:
    """Which cells of a table changed, bool (n, d): the rounding error of x + (g(z′) − g(z₀)) is not a change."""
    before, after = cf.x.astype(float), cf.x_cf.astype(float)
    return np.abs(after - before) > 1e-5 * np.maximum(np.abs(before), _scale(cf))


def largest_changes(row: Result, most: int) -> tuple[list[tuple[str, float, float, float]], int]:
    """``(name, before, after, change)`` of the `most` columns of a row that changed most, and how many more changed.

    The change is in standard deviations of the training column if the metadata have them (``feature_scale``), else in the
    column's units. A change of category counts as √2; its before and after are positions of categories.
    """
    before, after = row.x[0].astype(float), row.x_cf[0].astype(float)
    change, changed = (after - before) / _scale(row), changed_cells(row[:1])[0]
    for i in category_places(row.metadata):
        change[i] = np.sqrt(2.0) * changed[i]
    order = [i for i in np.argsort(-np.abs(change), kind="stable") if changed[i]]
    names = row.feature_names
    top = [(names[i], float(before[i]), float(after[i]), float(change[i])) for i in order[:most]]
    return top, len(order) - len(top)


def changes_of(cf: Result) -> DataFrame:
    """One line for each changed cell: rows in order, the largest change of a row first."""
    pandas = optional_import("pandas", "changes()")
    before, after = pandas_frames(cf)
    lines = []
    costs, names = cf.costs, cf.feature_names
    for i in range(len(cf)):
        for name, *_ in largest_changes(cf[i], before.shape[1])[0]:
            line = before.index[i], name, before[name].iloc[i], after[name].iloc[i]
            lines.append(line if costs is None else (*line, costs[i, names.index(name)]))
    return pandas.DataFrame(lines, columns=["row", "column", "before", "after", *(["cost"] if costs is not None else [])])
