"""The trade-off between near and plausible: one explainer at many weights of its objective, in one batch."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterable, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.evaluation.evaluation import Evaluation
from cfexplain.evaluation.metric import BUILT_IN, Metric, find_metric
from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.foundation.described import described
from cfexplain.foundation.optional import optional_import
from cfexplain.plotting.evaluation import FrontierDisplay
from cfexplain.result import Counterfactuals

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Frontier", "compare_frontier", "pareto_optimal"]


def compare_frontier(explainer: CounterfactualExplainer, X: Any, target: Any = None, *,
                     weights: Mapping[str, Iterable[float]], x: str | Metric = "distance_x", y: str | Metric = "log_density",
                     n_bootstrap: int = 1000, confidence_level: float = 0.95, random_state: Any = 0,
                     n_jobs: int | None = None) -> Frontier:
    """Explain `X` at many weights of an explainer's objective: the trade-off between, for example, near and plausible.

    All settings are rows of one batched search. Each gives the bits of ``explainer.set_params(...).explain(X, target)``. A
    term of weight 0 is not computed and sets no condition, so settings with a weight of 0 form a batch of their own.

    Parameters
    ----------
    explainer : fitted CounterfactualExplainer
        It is not changed.
    X : array-like or tensor, in the layout of ``fit``
    target : as in ``explain``
    weights : dict of parameter to list of float
        Weights of the explainer, ``{"plausibility_weight": [0, 0.1, 1, 10]}``. With several parameters every combination.
    x, y : str or Metric, default="distance_x", "log_density"
        The two axes: built-in metrics, fields of `Counterfactuals`, or metrics of your own, with a direction.
    n_bootstrap, confidence_level, random_state
        Of the intervals; see `evaluate`.
    n_jobs : int, optional
        As in ``explain``.

    Returns
    -------
    Frontier

    Raises
    ------
    ValueError
        A parameter that weighs no term of this explainer, weights that are negative or repeated, or an axis that is unknown
        or has no direction.
    NotFittedError

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> frontier = compare_frontier(explainer, X[:8], target=1, weights={"plausibility_weight": [0, 1, 10]})
    >>> frontier
    <Frontier: 3 settings of plausibility_weight on 8 rows, l2 against log_density>
    >>> len(frontier.results["plausibility_weight=10"])
    8
    """
    check_is_fitted(explainer)
    axes = [find_metric(axis) for axis in (x, y)]
    for axis in axes:
        if not axis.sign:
            raise ValueError(f"The axis {axis.name!r} has no better side, so that no setting can be better on it; choose "
                             f"one of {[name for name, metric in BUILT_IN.items() if metric.sign]}.")
    settings = _read_settings(explainer, weights)
    variants = [copy.copy(explainer).set_params(**setting) for setting in settings]
    results, seconds = _explain_all(variants, settings, X, target, n_jobs)
    names = [", ".join(f"{name}={value:g}" for name, value in setting.items()) for setting in settings]
    metrics = {**BUILT_IN, **{axis.name: axis for axis in axes}}
    evaluation = Evaluation(
        dict(zip(names, results, strict=True)), dict(zip(names, variants, strict=True)), metrics=list(metrics.values()),
        n_bootstrap=n_bootstrap, confidence_level=confidence_level, random_state=random_state)
    return Frontier(evaluation, settings, axes[0].name, axes[1].name, seconds)


class Frontier:
    """The settings of one explainer on a plane of two metrics; made by `compare_frontier`.

    Attributes
    ----------
    evaluation : Evaluation
        Each setting as a method: tables, paired comparisons, and per-row data (``rows``).
    results : dict of str to Counterfactuals
        Of each setting, by its name, ``"plausibility_weight=0.1"``.
    settings : list of dict
        The weights.
    x, y : str
        Names of the two metrics.
    means : ndarray of shape (settings, 2)
        Means of both over all rows, failed ones too.
    validity : ndarray of shape (settings,)
    optimal : ndarray of bool, shape (settings,)
        Pareto-optimal: no other setting is as good on both and better on one. Near is easy for a setting that fails: look at
        ``validity`` too.
    seconds : float
        Seconds of the whole run.
    """

    def __init__(self, evaluation: Evaluation, settings: list[dict[str, float]], x: str, y: str, seconds: float):
        self.evaluation, self.settings, self.x, self.y, self.seconds = evaluation, settings, x, y, seconds
        table = list(evaluation.table.values())
        self.means = np.array([[entry[axis].mean for axis in (x, y)] for entry in table])
        self.validity = np.array([entry["validity"].mean for entry in table])
        signs = [evaluation.metrics[axis].sign for axis in (x, y)]
        self.optimal = pareto_optimal(self.means * signs)

    @property
    def results(self) -> dict[str, Counterfactuals]:
        return self.evaluation.results

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """Long per-row data: as ``Evaluation.rows``, and the weights of each row's setting."""
        n = len(self.evaluation)
        return {**self.evaluation.rows,
                **{name: np.repeat([setting[name] for setting in self.settings], n) for name in self.settings[0]}}

    def __len__(self) -> int:
        """Number of settings."""
        return len(self.settings)

    def __repr__(self) -> str:
        return (f"<Frontier: {len(self)} settings of {', '.join(self.settings[0])} on {len(self.evaluation)} rows, {self.x} "
                f"against {self.y}>")

    def to_frame(self, *, rows: bool = False) -> DataFrame:
        """One row a setting: weights, mean, low and high of both metrics, validity, optimal; or the long per-row data.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        pandas = optional_import("pandas", "to_frame()")
        if rows:
            return pandas.DataFrame(self.rows)
        lines = []
        for k, (setting, entry) in enumerate(zip(self.settings, self.evaluation.table.values(), strict=True)):
            numbers = {f"{axis}{end}": getattr(entry[axis], key) for axis in (self.x, self.y)
                       for end, key in (("", "mean"), ("_low", "low"), ("_high", "high"), ("_missing", "missing"))}
            lines.append({**setting, **numbers, "validity": self.validity[k], "optimal": self.optimal[k]})
        return pandas.DataFrame(lines, index=list(self.results))

    def summary(self) -> str:
        """The Pareto-optimal settings, in words."""
        best = [name for name, good in zip(self.results, self.optimal, strict=True) if good]
        lines = [f"{len(best)} of {len(self)} settings are Pareto-optimal in the means of {self.x} and {self.y}: "
                 f"{'; '.join(best)}."]
        shares = zip(self.results, self.validity, strict=True)
        short = [f"{name} ({100 * share:.3g} %)" for name, share in shares if share < 1]
        if short:
            lines.append(f"Not every row is valid, and a row that fails can stay near: {'; '.join(short)}.")
        return "\n".join(lines)

    def plot(self, *, ax: Any = None, figure: Any = None) -> FrontierDisplay:
        """Draw; see `FrontierDisplay`."""
        return FrontierDisplay.from_frontier(self, ax=ax, figure=figure)


def pareto_optimal(points: np.ndarray) -> np.ndarray:
    """Which of `points` (k, c) are Pareto-optimal, where larger is better; points with NaN are not.

    >>> pareto_optimal(np.array([[0.0, 3.0], [1.0, 2.0], [0.5, 2.0], [1.0, 2.0]])).tolist()
    [True, True, False, True]
    """
    as_good = (points[:, None] >= points[None]).all(2)
    better = (points[:, None] > points[None]).any(2)
    return ~(as_good & better).any(0) & ~np.isnan(points).any(1)


# ------------------------------------------------------------------------------------------------------ one batched run
def _read_settings(explainer: CounterfactualExplainer, weights: Mapping[str, Iterable[float]]) -> list[dict[str, float]]:
    """Every combination of `weights`, checked."""
    known = [name for name in explainer.get_params(deep=False) if name.endswith("weight")]
    read = {}
    for name, values in weights.items():
        values = [values] if isinstance(values, (int, float)) else list(values)
        if name not in known:
            raise ValueError(f"{name!r} is not a weight of {type(explainer).__name__}; its weights are {known}.")
        good = all(isinstance(v, (int, float, np.number)) and np.isfinite(v) and v >= 0 for v in values)
        if not values or not good or len(set(values)) < len(values):
            raise ValueError(f"weights[{name!r}]={values!r} must be at least one finite number, none negative, none twice.")
        read[name] = [float(value) for value in values]
        light, heavy = (_weights(copy.copy(explainer).set_params(**{name: weight})) for weight in (1.0, 2.0))
        if light == heavy:
            raise ValueError(f"{name!r} does not weigh a term of this explainer as it was fitted, so that every setting "
                             "would find the same.")
    if not read:
        raise ValueError("weights is empty; pass a dict of parameter -> weights, {'plausibility_weight': [0.1, 1, 10]}.")
    return [dict(zip(read, values, strict=True)) for values in product(*read.values())]


def _weights(explainer: CounterfactualExplainer) -> dict[tuple[int, str], float]:
    """The weights of the terms that are not 0, by position and name, since two terms may share a name."""
    return {(i, term.name): term.weight for i, term in enumerate(explainer.terms()) if term.weight}


def _explain_all(variants: list[CounterfactualExplainer], settings: list[dict[str, float]], X: Any, target: Any,
                 n_jobs: int | None) -> tuple[list[Counterfactuals], float]:
    """The result of each variant, and the seconds of all: one batch for each set of terms with a weight."""
    first, started = variants[0], time.perf_counter()
    container = "torch" if isinstance(X, Tensor) else "numpy"
    X = first.read_samples(X)
    goal, n = first.goal(X, first.target if target is None else target), len(X)
    weights = [_weights(variant) for variant in variants]
    found: dict[int, Counterfactuals] = {}
    for terms in dict.fromkeys(tuple(each) for each in weights):
        members = [k for k, each in enumerate(weights) if tuple(each) == terms]
        every = goal.repeated(len(members))
        for place, term in enumerate(terms):  # positions among these terms: `Objective` leaves out those of weight 0
            own = [weights[k][term] for k in members]
            if len(set(own)) > 1:
                every.rows[f"weight:{place}"] = np.repeat(own, n).astype(X.dtype)
        lead, again = variants[members[0]], np.concatenate([X] * len(members))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # statuses are counted and shown
            together = lead.result(again, every, lead.search(again, every, n_jobs=n_jobs), container=container)
        for i, k in enumerate(members):
            found[k] = together[i * n : (i + 1) * n]
            found[k].metadata["parameters"] = described(variants[k])
    return [found[k] for k in range(len(variants))], time.perf_counter() - started
