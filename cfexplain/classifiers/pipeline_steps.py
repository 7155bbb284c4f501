"""What a fitted pipeline consists of: its steps, and what they do with the columns of a DataFrame."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import nn

from cfexplain.classifiers.pipeline import unwrapped

__all__ = ["dropped_columns", "encoded_columns", "read_pipeline"]


def read_pipeline(pipe: Any) -> tuple[list[Any], Any]:
    """Its preprocessing steps and its last step, if it is a fitted classifier."""
    steps = [step for _, step in pipe.steps] if isinstance(pipe, Pipeline) else [pipe]
    last = unwrapped(steps[-1])
    if not isinstance(last, nn.Module):
        if not callable(getattr(pipe, "predict", None)):
            raise TypeError(f"pipe ends in a {type(last).__name__}, which predicts nothing; expected a fitted "
                            "Pipeline(…preprocessing…, classifier).")
        if hasattr(pipe, "__sklearn_tags__") and is_regressor(pipe):
            raise TypeError(f"pipe ends in a {type(last).__name__}, a regressor; classifiers can be explained.")
        if not hasattr(pipe, "classes_"):
            raise NotFittedError("pipe is not fitted: it has no classes_. Call pipe.fit(X_train, y_train) first.")
    for step in steps[:-1]:
        if step is not None and not isinstance(step, str):  # "passthrough"
            check_is_fitted(step)
    return _flat(steps[:-1]), last


def _flat(steps: list[Any]) -> list[Any]:
    """Steps of pipelines inside pipelines."""
    return [one for step in steps
            for one in (_flat([inner for _, inner in step.steps]) if isinstance(step, Pipeline) else [step])]


def _parts(steps: list[Any], frame: Any) -> list[tuple[Any, list[str]]]:
    """Each transformer of a ColumnTransformer that is the first step, and the columns that it is given."""
    if not steps or not isinstance(steps[0], ColumnTransformer):
        return [(step, list(frame.columns)) for step in steps[:1]]
    return [(part, _selected(columns, frame)) for _, part, columns in steps[0].transformers_]


def _selected(columns: Any, frame: Any) -> list[str]:
    """Names of what a ColumnTransformer selects by names, positions, slices or a mask."""
    if isinstance(columns, str):
        return [columns]
    if isinstance(columns, slice):
        by_name = isinstance(columns.start, str) or isinstance(columns.stop, str)
        return list(frame.loc[:, columns].columns if by_name else frame.columns[columns])
    columns = [columns] if np.ndim(columns) == 0 else list(columns)
    return columns if all(isinstance(name, str) for name in columns) else list(frame.columns[np.asarray(columns)])


def encoded_columns(steps: list[Any], frame: Any) -> set[str]:
    """Columns that an encoder of categories is fitted on."""
    found = set()
    for part, columns in _parts(steps, frame):
        inner = [step for _, step in part.steps] if isinstance(part, Pipeline) else [part]
        if any(hasattr(step, "categories_") for step in inner):
            found.update(columns)
    return found


def dropped_columns(steps: list[Any], frame: Any) -> set[str]:
    """Columns that no part of the pipeline looks at: they cannot change what it says."""
    parts = _parts(steps, frame)
    used = {name for part, columns in parts if part != "drop" for name in columns}
    return {name for part, columns in parts if part == "drop" for name in columns} - used
