"""What a fitted pipeline consists of, and which columns of a DataFrame its steps drop or read as categories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import _safe_indexing

__all__ = ["dropped_columns", "encoded_columns", "steps_of", "transformed", "unwrapped"]

_LOOKED_AT = 2048  # rows
_FEW = 50  # categories that are known again by what they stand for, where neither name nor value is kept


def unwrapped(estimator: Any) -> Any:
    """What is inside a FrozenEstimator or a fitted search (GridSearchCV and its like)."""
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            return estimator


def steps_of(pipe: Any) -> tuple[list[Any], Any]:
    """The steps before the last that `predict` runs through, without samplers and "passthrough"; and the last."""
    pipe = unwrapped(pipe)
    steps = [step for _, step in pipe.steps] if isinstance(pipe, Pipeline) else [pipe]
    return [step for step in steps[:-1] if hasattr(step, "transform")], unwrapped(steps[-1])


def transformed(steps: list[Any], Z: Any) -> Any:
    """What comes out of `steps`."""
    for step in steps:
        Z = step.transform(Z)
    return Z


def encoded_columns(pipe: Any, frame: Any, Z: Any) -> set[str]:
    """Columns that an encoder of categories is given, wherever in the pipeline it is.

    The rows are sent through the pipeline, and what an encoder is given is known again: by its name, by its values, or
    as names of categories that stand for one another.

    Parameters
    ----------
    pipe : fitted pipeline or estimator
    frame : DataFrame
    Z : the same rows as the pipeline takes them
    """
    rows = np.unique(np.linspace(0, len(frame) - 1, min(len(frame), _LOOKED_AT)).astype(int))
    frame, found = frame.iloc[rows], set()
    try:
        for columns in _encoders_inputs(pipe, _safe_indexing(Z, rows)):
            names = list(columns.columns) if hasattr(columns, "columns") else None
            cells = columns.to_numpy() if hasattr(columns, "to_numpy") else np.asarray(columns)
            for i in range(cells.shape[1]):
                found |= _known_again(cells[:, i], names and names[i], frame)
    except Exception:  # steps of any kind, which owe nothing but `predict`: what was found until then is found
        return found
    return found


def _encoders_inputs(step: Any, Z: Any) -> Iterator[Any]:
    """Tables of columns that are categories to an encoder, or to a classifier that reads categories itself."""
    step = unwrapped(step)
    names = _fitted_on(step, Z)
    Z = Z if names is None else Z[names]  # positions are those of the columns that it was fitted on
    if isinstance(step, Pipeline):
        steps, last = steps_of(step)
        for one in steps:
            yield from _encoders_inputs(one, Z)
            Z = one.transform(Z)
        yield from _encoders_inputs(last, Z)
    elif isinstance(step, ColumnTransformer):
        for _, part, columns in step.transformers_:
            if not isinstance(part, str) and np.size(columns):
                yield from _encoders_inputs(part, _safe_indexing(Z, _listed(columns), axis=1))
    elif isinstance(step, FeatureUnion):
        for _, part in step.transformer_list:
            yield from _encoders_inputs(part, Z)
    elif hasattr(step, "categories_"):
        yield Z
    else:
        own = getattr(step, "is_categorical_", None)  # scikit-learn's histogram boosting
        if own is None and hasattr(step, "get_cat_feature_indices"):  # CatBoost
            own = step.get_cat_feature_indices()
        if own is not None and np.size(own):
            yield _safe_indexing(Z, np.flatnonzero(own) if np.asarray(own).dtype == bool else np.asarray(own), axis=1)


def _fitted_on(step: Any, frame: Any) -> list[str] | None:
    """The columns of `frame` that `step` was fitted on, in its order; None where it does not say, or some are not there."""
    names = getattr(step, "feature_names_in_", None)
    if names is None and hasattr(step, "get_cat_feature_indices"):  # CatBoost
        names = step.feature_names_
    if names is None or not hasattr(frame, "columns") or not set(names) <= set(frame.columns):
        return None
    return list(names)


def _listed(columns: Any) -> Any:
    """As scikit-learn selects several columns: one name or position alone would give a column without a table."""
    return [columns] if isinstance(columns, (str, int, np.integer)) else columns


def _known_again(cells: np.ndarray, name: Any, frame: Any) -> set[str]:
    """The columns of `frame` that are `cells`, what an encoder was given."""
    if name in frame.columns and _same_categories(cells, frame[name]):
        return {name}
    same = {column for column in frame.columns if _same_values(cells, frame[column])}
    return same or {column for column in frame.columns if 1 < frame[column].nunique() <= _FEW
                    and _same_categories(cells, frame[column])}


def _same_values(cells: np.ndarray, column: Any) -> bool:
    known = column.notna().to_numpy()
    return bool(known.any()) and bool(np.array_equal(cells[known].astype(object), column.to_numpy(dtype=object)[known]))


def _same_categories(cells: np.ndarray, column: Any) -> bool:
    """Whether each value of the one stands for one value of the other, where the column has one."""
    known = column.notna().to_numpy()
    pairs = set(zip(cells[known].tolist(), column[known].tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) > 0


def dropped_columns(pipe: Any, frame: Any) -> set[str]:
    """Columns that cannot change what the pipeline says: its first step was not fitted on them, or is a ColumnTransformer
    that drops them."""
    first = unwrapped(pipe)
    while isinstance(first, Pipeline):
        first = unwrapped(first.steps[0][1])
    names = _fitted_on(first, frame)
    unknown = set() if names is None else set(frame.columns) - set(names)
    if not isinstance(first, ColumnTransformer) or not hasattr(first, "transformers_"):
        return unknown
    frame = frame if names is None else frame[names]
    parts = [(part, _selected(columns, frame)) for _, part, columns in first.transformers_]
    used = {name for part, columns in parts if not (isinstance(part, str) and part == "drop") for name in columns}
    return unknown | {name for part, columns in parts if isinstance(part, str) and part == "drop" for name in columns} - used


def _selected(columns: Any, frame: Any) -> list[str]:
    """Names of what a ColumnTransformer selects by names, positions, slices or a mask."""
    if isinstance(columns, str):
        return [columns]
    if isinstance(columns, slice):
        by_name = isinstance(columns.start, str) or isinstance(columns.stop, str)
        return list(frame.loc[:, columns].columns if by_name else frame.columns[columns])
    columns = [columns] if np.ndim(columns) == 0 else list(columns)
    return columns if all(isinstance(name, str) for name in columns) else list(frame.columns[np.asarray(columns)])
