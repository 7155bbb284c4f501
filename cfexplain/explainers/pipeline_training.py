"""What is known of a pipeline and its training rows before anything is trained."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone, is_regressor
from sklearn.utils.multiclass import type_of_target
from torch import nn

from cfexplain.classifiers.pipeline import PipelineModel
from cfexplain.classifiers.pipeline_steps import dropped_columns, encoded_columns, steps_of
from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.diffeomorphic import DiffeomorphicExplainer
from cfexplain.explainers.place import PLACEExplainer
from cfexplain.explainers.task import read_values
from cfexplain.foundation.exceptions import warn_caller
from cfexplain.foundation.labels import label_indices, resolve_target
from cfexplain.foundation.optional import is_instance
from cfexplain.tables.build import read_frame
from cfexplain.tables.column_kinds import unsearchable
from cfexplain.tables.mixed import MixedTable
from cfexplain.tables.row_rules import rules_of
from cfexplain.tables.rules import column_names

__all__ = ["RULES", "Training", "read_training"]

RULES = ("immutable", "bounds", "monotone", "transitions", "constraints", "causes", "costs")


@dataclass
class Training:
    """What is known before something is trained."""

    frame: Any
    y: np.ndarray
    table: MixedTable
    model: PipelineModel
    predicted: np.ndarray
    explainer: CounterfactualExplainer

    def check_call(self, X: Any, target: Any) -> None:
        """Raise what `explain` would raise of these rows and this target."""
        frame = read_frame(X)
        self.table.read(frame)
        target = self.explainer.target if target is None else target
        if self.model.reads == "values":
            read_values(target, np.zeros(len(frame)))
        else:
            resolve_target(target, self.model.classes_, np.zeros((len(frame), len(self.model.classes_))))


def read_training(whole: Any, X: Any, y: Any) -> Training:
    """Everything that can be known of the `PipelineExplainer` `whole` and its training rows before something is trained."""
    pipe, frame = whole.pipeline, read_frame(X)
    if isinstance(steps_of(pipe)[1], nn.Module) or callable(getattr(pipe, "predict", None)):
        X = X if hasattr(X, "columns") else np.asarray(X)
    else:
        raise TypeError(f"pipe ends in a {type(steps_of(pipe)[1]).__name__}, which predicts nothing; expected a fitted "
                        "Pipeline(…preprocessing…, classifier).")
    if y is not None and (np.ndim(y) != 1 or len(y) != len(frame)):
        raise ValueError(f"y_train has shape {np.shape(y)}; expected one label for each of the {len(frame)} rows.")
    y = None if y is None else np.asarray(y)
    regression = _explains_values(whole, y)
    categorical = encoded_columns(pipe, frame, X) | set(_names(whole.categorical, frame, "categorical"))
    dropped = dropped_columns(pipe, frame)
    reasons = unsearchable(frame.drop(columns=list(dropped)), categorical)
    table = MixedTable(frame, categorical, dropped | set(reasons), X)
    model = PipelineModel(pipe, table)
    if regression:
        predicted = model.predict_frame(frame)
    else:
        predicted = model.read_classes(frame, y, whole.classes, whole.classifier_output)
        label_indices([] if y is None else y, model.classes_)
    rules_of(table, table.values(frame), {name: getattr(whole, name) for name in RULES})
    said = [reason for name, reason in reasons.items() if name not in _names(whole.immutable, frame, "immutable")]
    if said:
        what = "A column cannot be searched, and is" if len(said) == 1 else (
            f"{len(said)} columns cannot be searched, and are")
        warn_caller(f"{what} held as {'it is' if len(said) == 1 else 'they are'}: {' '.join(said)} Name "
                    f"{'it' if len(said) == 1 else 'them'} in immutable= if that is meant.")
    if y is None and not regression:
        if (predicted < 0).any():
            raise ValueError(f"y_train is missing, and the pipeline has no answer for {int((predicted < 0).sum())} "
                             "rows of X_train. Leave them out, or pass their labels.")
        y = model.classes_[predicted]
    explainer = _new_explainer(whole.explainer, whole.random_state, model)
    return Training(frame, predicted if y is None else y, table, model, predicted, explainer)


def _explains_values(whole: Any, y: np.ndarray | None) -> bool:
    """Whether the pipeline is a regressor."""
    pipe, task = whole.pipeline, getattr(whole.explainer, "task", None)
    if task in ("classification", "regression") and whole.explainer is not None and "task" in whole.explainer.get_params():
        return task == "regression"
    with contextlib.suppress(AttributeError):  # tags that lack, of steps that are no estimators
        if is_regressor(pipe):
            return True
    if is_instance(steps_of(pipe)[1], "skorch", "NeuralNetRegressor"):
        return True
    return (whole.classes is None and not hasattr(pipe, "classes_") and y is not None
            and type_of_target(y).startswith("continuous"))


def _new_explainer(explainer: Any, random_state: Any, model: PipelineModel) -> CounterfactualExplainer:
    values = model.reads == "values"
    if explainer is None:
        explainer = DiffeomorphicExplainer(task="regression") if values else PLACEExplainer()
        return explainer.set_params(random_state=random_state)
    if isinstance(explainer, type) or not isinstance(explainer, CounterfactualExplainer):
        raise TypeError(f"explainer={explainer!r} is no explainer; expected one such as PLACEExplainer().")
    for name in ("classifier", "immutable", "bounds", "monotone", "constraints", "causes", "costs"):
        if getattr(explainer, name, None) is not None:
            fix = "the pipeline is what is explained" if name == "classifier" else f"pass {name}= beside the explainer"
            raise ValueError(f"{type(explainer).__name__}({name}=…) does not fit here: {fix}.")
    explainer = clone(explainer)
    if random_state is not None:
        explainer.set_params(random_state=random_state)
    if "task" in explainer.get_params():
        explainer.set_params(task="regression" if values else "classification")
    elif values:
        raise TypeError(f"pipe ends in a {model.name}, a regressor, and {type(explainer).__name__} explains classes. "
                        "Pass explainer=DiffeomorphicExplainer(), which explains values, too.")
    explainer.check_parameters()
    return explainer


def _names(columns: Any, frame: Any, parameter: str) -> list[str]:
    columns = column_names(columns, parameter)
    for name in columns:
        if name not in frame.columns:
            raise ValueError(f"{parameter} names the column {name!r}, but the columns are {list(frame.columns)}.")
    return columns
