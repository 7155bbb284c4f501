"""What is asked of the model: a class, or a value. Everything in which explaining the two differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.frozen import FrozenEstimator
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from cfexplain.classifiers import adapt_classifier, adapt_regressor
from cfexplain.foundation.arrays import to_numpy
from cfexplain.foundation.exceptions import TargetError, plain
from cfexplain.foundation.labels import label_indices, resolve_target
from cfexplain.objective.point import Point, ValuePoint
from cfexplain.persistence import stored_by_attributes

__all__ = ["Classification", "Goal", "Regression", "make_task", "stated_target"]


@dataclass
class Goal:
    """What one call of ``explain`` wants, row by row; ``goal[rows]`` is that of some rows.

    Attributes
    ----------
    rows : dict of str to ndarray of shape (n,)
        For the search: ``source`` and ``target``, indices of the groups whose density counts, and what terms need.
    already_valid : ndarray of bool, shape (n,)
        Rows that have their target before anything is changed.
    target : ndarray of shape (n,)
        In the user's own words.
    before : ndarray
        Probabilities (n, K), or values (n,), of X.
    unbounded : ndarray of bool, shape (n,)
        Rows without an end to reach ("maximize", "minimize"): moving the right way is all that is asked.
    """

    rows: dict[str, np.ndarray]
    already_valid: np.ndarray
    target: np.ndarray
    before: np.ndarray
    unbounded: np.ndarray

    @property
    def failed(self) -> np.ndarray:
        """Rows of which the model itself gives no finite answer, bool (n,)."""
        return ~np.isfinite(self.before.reshape(len(self.before), -1)).all(1)

    @property
    def moving(self) -> np.ndarray:
        """Rows that are searched, bool (n,): those that have not got their target, and a model that answers."""
        return ~(self.already_valid | self.failed)

    def __getitem__(self, index: Any) -> Goal:
        return Goal({name: values[index] for name, values in self.rows.items()}, self.already_valid[index],
                    self.target[index], self.before[index], self.unbounded[index])

    def each(self, k: int) -> Goal:
        """For k answers of each row: k times the first row, then k times the second, …"""
        return self[np.repeat(np.arange(len(self.already_valid)), k)]

    def repeated(self, k: int) -> Goal:
        """For k copies of the rows, one after the other."""
        return self[np.tile(np.arange(len(self.already_valid)), k)]


@stored_by_attributes(check=lambda task: task.classes.shape == task.counts.shape and task.classes.ndim == 1)
class Classification:
    """y are labels; a target is a label."""

    classes: np.ndarray
    groups: np.ndarray
    counts: np.ndarray

    name = "classification"
    point = Point

    def __init__(self, model: Any, y: np.ndarray):
        self.classes = model.classes_
        self.groups = label_indices(y, self.classes)
        self.counts = np.bincount(self.groups, minlength=len(self.classes))
        if self.counts.min() < 2:
            scarce = self.classes[self.counts.argmin()]
            raise ValueError(f"The classifier knows the class {scarce!r}, of which y has {self.counts.min()} "
                             "rows; at least 2 are needed to learn what it looks like.")

    @staticmethod
    def adapt(classifier: Any, X: np.ndarray, y: np.ndarray, **options: Any) -> Any:
        try:
            check_classification_targets(y)
        except ValueError as error:
            raise ValueError(f"{error} To explain a regressor: DiffeomorphicExplainer(model, task='regression').") from error
        return adapt_classifier(classifier, X, y, _check_classes(y), examine=True, **options)

    def goal(self, model: Any, X: np.ndarray, target: Any) -> Goal:
        return self.goal_from(*self.answers(model, X), target)

    def goal_from(self, predicted: np.ndarray, proba: np.ndarray, target: Any) -> Goal:
        """What is wanted of rows of which the model says the classes `predicted` (n,), with probabilities `proba` (n, K).

        -1 and NaN in rows that it has no answer for: any other class than the target stands for what they are.
        """
        failed = predicted < 0
        ranked = np.where(failed[:, None], 0.0, proba)
        # where predict and predict_proba differ, predict counts
        ranked[np.arange(len(ranked)), np.maximum(predicted, 0)] = np.inf
        wanted = resolve_target(target, self.classes, ranked)
        source = np.where(failed, _another(wanted), predicted)
        return Goal({"source": source, "target": wanted}, predicted == wanted, self.classes[wanted], proba,
                    np.zeros(len(predicted), dtype=bool))

    def answers(self, model: Any, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the explained model says of `X`: class indices (n,), and probabilities (n, K); -1 and NaN where it fails."""
        return model.answers(X)

    def failed(self, answers: Any) -> np.ndarray:
        """In which rows there is no answer, bool (n,)."""
        return answers[0] < 0

    def judge(self, answers: Any, goal: Goal) -> dict[str, np.ndarray]:
        """Fields of the result, from what the model says of the very array that is returned."""
        prediction, after = answers
        target, rows = goal.rows["target"], np.arange(len(after))
        shown = np.where(prediction < 0, np.where(goal.failed, goal.rows["source"], _another(target)), prediction)
        return {"source": self.classes[goal.rows["source"]], "prediction": self.classes[shown],
                "proba_before": goal.before[rows, target], "proba_after": after[rows, target],
                "valid": prediction == target}

    def metadata(self) -> dict[str, Any]:
        return {"task": self.name, "classes": self.classes.tolist(), "class_counts": self.counts.tolist()}


@stored_by_attributes()
class Regression:
    """y are numbers; a target is a value, an interval, "maximize" or "minimize"."""

    groups: np.ndarray
    counts: np.ndarray
    spread: float
    slack: float

    name = "regression"
    point = ValuePoint

    def __init__(self, model: Any, y: np.ndarray):
        self.groups = np.zeros(len(y), dtype=int)  # one group: every row's density counts
        self.counts = np.array([len(y)])
        self.spread = float(np.std(y))
        # rounding in another batch must not undo a value that was just reached
        self.slack = 1e-5 * self.spread

    @staticmethod
    def adapt(regressor: Any, X: np.ndarray, y: np.ndarray, differentiable: bool, **options: Any) -> Any:
        return adapt_regressor(regressor, X, y, examine=True, **options)

    def goal(self, model: Any, X: np.ndarray, target: Any) -> Goal:
        return self.goal_from(self.answers(model, X), target, X.dtype)

    def goal_from(self, before: np.ndarray, target: Any, dtype: Any) -> Goal:
        """What is wanted of rows of which the model says the values `before` (n,)."""
        low, high, target = read_values(target, before)
        zeros = np.zeros(len(before), dtype=int)
        rows = {"source": zeros, "target": zeros, **{name: np.asarray(values, dtype=dtype) for name, values in (
            ("low", low), ("high", high), ("before", before))}}
        return Goal(rows, (before >= low) & (before <= high), target, before, np.isinf(low) & (low == high))

    def answers(self, model: Any, X: np.ndarray) -> np.ndarray:
        """What the explained model says of `X`: values (n,), NaN where it fails."""
        return model.predict(X)

    def failed(self, answers: Any) -> np.ndarray:
        """In which rows there is no answer, bool (n,)."""
        return ~np.isfinite(answers)

    def judge(self, answers: Any, goal: Goal) -> dict[str, np.ndarray]:
        """Fields of the result, from what the model says of the very array that is returned."""
        low, high = goal.rows["low"], goal.rows["high"]
        valid = (answers >= low - self.slack) & (answers <= high + self.slack)
        valid = np.where(np.isposinf(low), answers > goal.before,
                         np.where(np.isneginf(high), answers < goal.before, valid))
        unknown = np.full(len(answers), np.nan)
        return {"source": goal.before, "prediction": answers, "proba_before": unknown, "proba_after": unknown,
                "valid": valid}

    def metadata(self) -> dict[str, Any]:
        return {"task": self.name}


def _another(target: np.ndarray) -> np.ndarray:
    """A class that is not the target, for rows of which nobody knows what they are."""
    return (target == 0).astype(target.dtype)


def make_task(task: str, model: Any, y: np.ndarray) -> type[Classification] | type[Regression]:
    """The task that `task` names; "auto" asks the model, then y.

    Raises
    ------
    ValueError
        If `task` is not known.
    """
    known: dict[str, type[Classification] | type[Regression]] = {
        "classification": Classification, "regression": Regression}
    if task == "auto":
        return Regression if _is_regressor(model) or type_of_target(y).startswith("continuous") else Classification
    if task not in known:
        raise ValueError(f"task={task!r} is not known; choose 'auto', 'classification' or 'regression'.")
    return known[task]


def _is_regressor(model: Any) -> bool:
    while isinstance(model, FrozenEstimator):
        model = model.estimator
    if hasattr(model, "__sklearn_tags__"):
        return is_regressor(model)
    return any(base.__name__ == "NeuralNetRegressor" for base in type(model).__mro__)


def read_values(target: Any, before: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest wanted value of each row, and the target in words or numbers, each (n,).

    A value is reached from the side that a row starts on: 7 means [7, ∞) for a row at 3, (−∞, 7] for a row at 9.
    "maximize" is an interval at infinity.

    >>> low, high, target = read_values(7, np.array([3.0, 9.0]))
    >>> low.tolist(), high.tolist(), target.tolist()
    ([7.0, -inf], [inf, 7.0], [7.0, 7.0])
    >>> read_values("maximize", np.zeros(1))[:2]
    (array([inf]), array([inf]))
    """
    n = len(before)
    if target is None:
        raise TargetError("A regression needs a target: a value, one value a row, an interval (low, high), 'maximize' or "
                          "'minimize'. Pass explain(X, target=...) or the constructor's target=.")
    if isinstance(target, str):
        if target not in ("maximize", "minimize"):
            raise TargetError(f"target={target!r} is not known for a regression; choose a value, (low, high), 'maximize' "
                              "or 'minimize'.")
        end = np.full(n, np.inf if target == "maximize" else -np.inf)
        return end, end, np.full(n, target)
    if isinstance(target, tuple):
        return _interval(target, n)
    try:
        value = np.asarray(to_numpy(target), dtype=float)
    except (TypeError, ValueError) as error:
        raise TargetError(f"target={target!r} is not a number: a regression's target is a value, one value a row, an "
                          "interval (low, high), 'maximize' or 'minimize'.") from error
    if value.ndim > 1 or (value.ndim == 1 and len(value) != n):
        raise TargetError(f"target has shape {value.shape}; expected one value, one a row: ({n},), or a tuple (low, high).")
    if not np.isfinite(value).all():
        raise TargetError("target holds NaN or infinite values; for no limit pass 'maximize' or 'minimize'.")
    value = np.broadcast_to(value, n).copy()
    up = before < value
    return np.where(up, value, -np.inf), np.where(up, np.inf, value), value


def stated_target(target: np.ndarray) -> Any:
    """The target of one row of a result, (1,), as `read_values` or ``goal`` take it.

    >>> stated_target(np.array(["[1, 2.5]"])), stated_target(np.array(["maximize"])), stated_target(np.array([7.0]))
    ((1.0, 2.5), 'maximize', array([7.]))
    """
    text = str(target[0])
    if target.dtype.kind not in "UO" or not (text in ("maximize", "minimize") or text.startswith("[")):
        return target
    return text if not text.startswith("[") else tuple(float(end) for end in text[1:-1].split(","))


def _interval(target: Sequence[Any], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        low, high = (float(end) for end in target)
    except (TypeError, ValueError) as error:
        raise TargetError(f"target={plain(target)!r} must be an interval (low, high) of two numbers.") from error
    if not low <= high or not (np.isfinite(low) or np.isfinite(high)):
        raise TargetError(f"target={plain(target)!r} must be an interval (low, high) with low <= high, one of them finite.")
    return np.full(n, low), np.full(n, high), np.full(n, f"[{low:g}, {high:g}]")


def _check_classes(y: np.ndarray) -> np.ndarray:
    labels, counts = np.unique(y, return_counts=True)
    if len(labels) < 2:
        raise ValueError(f"y has 1 class ({plain(labels[0])!r}); a counterfactual needs at least 2 to choose from.")
    if counts.min() < 2:
        values = np.issubdtype(labels.dtype, np.number) and len(labels) > 20
        raise ValueError(f"The class {plain(labels[counts.argmin()])!r} has 1 row in y; at least 2 rows a class are "
                         "needed. Add rows of it, or leave the class out." + (
                             " If y holds values and not labels, use DiffeomorphicExplainer(task='regression')."
                             if values else ""))
    return labels
