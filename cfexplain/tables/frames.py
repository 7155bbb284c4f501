"""The rows of a result as DataFrames, as its metadata describe their columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.optional import optional_import
from cfexplain.tables.mixed import build_frame

if TYPE_CHECKING:
    from pandas import DataFrame

    from cfexplain.result import Counterfactuals

__all__ = ["category_places", "cell_in_words", "changes_of", "frames_of"]


def _searched(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [column for column in metadata.get("columns") or () if column["kind"] != "carried"]


def category_places(metadata: Mapping[str, Any]) -> frozenset[int]:
    """Which columns of x hold positions of categories.

    >>> sorted(category_places({"columns": [{"kind": "number"}, {"kind": "category"}]}))
    [1]
    """
    return frozenset(i for i, column in enumerate(_searched(metadata)) if column["kind"] == "category")


def cell_in_words(cf: Counterfactuals, column: int | str, value: float) -> str:
    """One value of x or x_cf as a person reads it: the category's name, "missing", or four digits of a number."""
    described = _searched(cf.metadata)
    if np.isnan(value):
        return "missing"
    if not described:
        return f"{value:.4g}"
    place = cf.feature_names.index(column) if isinstance(column, str) else column
    if described[place]["kind"] == "category":
        return str(described[place]["categories"][int(value)])
    return f"{value:.0f}" if described[place]["decimals"] == 0 else f"{value:.4g}"


def frames_of(cf: Counterfactuals) -> tuple[DataFrame, DataFrame]:
    """x and x_cf as DataFrames."""
    pandas = optional_import("pandas", "to_frames()")
    if cf._is_image():
        raise ValueError("to_frames() is for tables, but these rows are images.")
    columns = cf.metadata.get("columns")
    if columns:
        before, after = (build_frame(columns, values, cf.carried, cf.index) for values in (cf.x, cf.x_cf))
    else:
        before, after = (pandas.DataFrame(values.reshape(len(cf), -1), columns=cf.feature_names, index=cf.index)
                         for values in (cf.x, cf.x_cf))
    return before, after


def changes_of(cf: Counterfactuals) -> DataFrame:
    """One line a changed cell, rows in order, the largest change of a row first."""
    from cfexplain.plotting.counterfactual import largest_changes

    pandas = optional_import("pandas", "changes()")
    before, after = cf.to_frames()
    lines = []
    for i in range(len(cf)):
        for name, *_ in largest_changes(cf[i], before.shape[1])[0]:
            lines.append((before.index[i], name, before[name].iloc[i], after[name].iloc[i]))
    return pandas.DataFrame(lines, columns=["row", "column", "before", "after"])
