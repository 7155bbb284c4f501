"""Methods compared on one model: each explains the same rows, and the results are measured and compared in pairs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from cfexplain.evaluation import file, words
from cfexplain.evaluation.bootstrap import PairedDifference, Resampling, Statistic, paired, statistic
from cfexplain.evaluation.metric import BUILT_IN, Metric, comparable, find_metric, measure, read_metrics
from cfexplain.foundation.arrays import to_numpy
from cfexplain.foundation.exceptions import warn_caller
from cfexplain.foundation.files import atomic_write
from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.parameters import Number, check_options
from cfexplain.foundation.random import draw_seed
from cfexplain.persistence import file_kind
from cfexplain.plotting.evaluation import EvaluationDisplay
from cfexplain.result import STATUSES, Counterfactuals

if TYPE_CHECKING:
    from pandas import DataFrame

RULES = {"confidence_level": Number(0, 1, between=True), "n_bootstrap": Number(1, 10**7, whole=True)}

__all__ = ["BUILT_IN", "Evaluation", "Metric", "evaluate", "find_metric"]


def evaluate(explainers: Any, X: Any, target: Any = None, y: Any = None, *, k: int = 1, metrics: Any = None,
             n_bootstrap: int = 1000, confidence_level: float = 0.95, random_state: Any = 0,
             n_jobs: int | None = None) -> Evaluation:
    """Explain `X` by every explainer, and measure and compare what they find.

    No row is dropped: failed rows count in a method's means, except in a metric with ``only_valid=True``, whose heading says
    so. Statuses are counted, and a metric that raises is shown as failed.

    Parameters
    ----------
    explainers : dict of str to fitted explainer, or one fitted explainer
        A single explainer is named by its class.
    X : array-like or tensor, in the layout of ``fit``
    target : as in ``explain``
        None is each row's runner-up class of the explainer's own classifier.
    y : array-like of labels, shape (n,), optional
        True labels: rows that the classifier gets wrong are counted and not left out.
    k : int, default=1
        Answers for each row: each of them counts as a row.
    metrics : list of str or Metric, dict of str to callable or Metric, optional
        Names in `BUILT_IN` (default: all that can be measured), or functions of your own,
        ``(cf, explainer) -> values (n,) or a float``.
    n_bootstrap : int, default=1000
    confidence_level : float in (0, 1), default=0.95
    random_state : int, RandomState or None, default=0
        Seed of the bootstrap.
    n_jobs : int, optional
        Processes in each ``explain``.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        No explainers, explainers fitted on different shapes, or an unknown metric.
    TypeError
        An element of `explainers` has no ``explain``.
    NotFittedError
        An explainer is not fitted.

    Warns
    -----
    RuntimeWarning
        A metric raised an error; see ``Evaluation.failures``.

    Notes
    -----
    Log densities and distances in z are measured by each method's own density and coordinates. Where these differ, the
    methods are not compared on them. To compare them by a common density, pass a metric of your own:
    ``{"density": lambda cf, _: judge.score_samples(cf.x_cf, cf.target)}``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import GradientExplainer, PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> methods = {"PLACE": PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y),
    ...            "gradient": GradientExplainer(training_budget=0.1, random_state=0).fit(X, y)}
    >>> report = evaluate(methods, X[:8], target=1, metrics=["validity", "l2"])
    >>> report
    <Evaluation: 2 methods on 8 rows, 2 metrics>
    >>> report.table["PLACE"]["validity"].n
    8
    """
    explainers = dict(explainers) if isinstance(explainers, Mapping) else {type(explainers).__name__: explainers}
    chosen = None if metrics is None else read_metrics(metrics)
    _check_explainers(explainers)
    options = {**({} if n_jobs is None else {"n_jobs": n_jobs}), **({} if k == 1 else {"k": k})}
    y = y if y is None or k == 1 else np.repeat(to_numpy(y), k)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # statuses are counted and shown
        results = {name: explainer.explain(X, target, **options) for name, explainer in explainers.items()}
    return Evaluation(results, explainers, y=y, metrics=chosen, n_bootstrap=n_bootstrap, confidence_level=confidence_level,
                      random_state=random_state)


@file_kind("evaluation")
class Evaluation:
    """Results of several methods on the same rows, measured and compared; made by `evaluate` or from results.

    Parameters
    ----------
    results : dict of str to Counterfactuals
        Of the same rows, in the same order.
    explainers : dict of str to explainer, optional
        Passed to the metrics.
    y, metrics, n_bootstrap, confidence_level, random_state
        See `evaluate`.

    Attributes
    ----------
    results : dict of str to Counterfactuals
    metrics : dict of str to Metric
    values : dict of (method, metric) to ndarray (n,), float or None
        As measured; None if the method has nothing to measure or the metric failed.
    table : dict of method to dict of metric to Statistic
        ``mean``, ``std``, ``low``, ``high``, ``n`` and ``missing``. The intervals are percentile intervals over one
        resampling of the rows that all methods share. A share of 0 or 1 has an interval of no width, however few the rows.
    failures : dict of (method, metric) to str
        Error messages of metrics that raised.
    comparable : dict of metric to bool
        False if the methods are measured by different parts.
    statuses : dict of method to dict of status to int
    misclassified : dict of method to int, or None
        How many rows the classifier gets wrong, if `y` was passed.
    rows : dict of str to ndarray of shape (methods · n,)
        Long per-row data: ``method``, ``row``, ``status``, ``misclassified`` if `y` was passed, and each metric of rows.

    Raises
    ------
    ValueError
        Results of different rows, or parameters out of range.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> near, far = explainer.explain(X[:6], 1), explainer.explain(X[:6], 2)
    >>> [pair] = Evaluation({"to 1": near, "to 2": far}, metrics=["l2"]).pairs()
    >>> pair.n, pair.better
    (6, 'to 1')
    """

    def __init__(self, results: Mapping[str, Counterfactuals], explainers: Mapping[str, Any] | None = None, *, y: Any = None,
                 metrics: Any = None, n_bootstrap: int = 1000, confidence_level: float = 0.95, random_state: Any = 0):
        self.results = {str(name): cf for name, cf in results.items()}
        _check_results(self.results)
        check_options({"confidence_level": confidence_level, "n_bootstrap": n_bootstrap}, RULES)
        n_bootstrap = int(n_bootstrap)
        chosen = read_metrics(metrics)
        self.n_bootstrap, self.confidence_level, self._seed = n_bootstrap, confidence_level, draw_seed(random_state)
        of = [(explainers or {}).get(name) for name in self.results]
        self.values: dict[tuple[str, str], np.ndarray | float | None] = {}
        self.failures: dict[tuple[str, str], str] = {}
        for metric in chosen:
            for (name, cf), explainer in zip(self.results.items(), of, strict=True):
                self.values[name, metric.name] = self._measured(metric, name, cf, explainer)
        if metrics is None:  # of the default metrics, those that no method has are left out
            chosen = [m for m in chosen if any(self.values[name, m.name] is not None or (name, m.name) in self.failures
                                               for name in self.results)]
        self.metrics = {metric.name: metric for metric in chosen}
        self.comparable = {m.name: len(of) < 2 or comparable(m, self.results.values(), of) for m in chosen}
        self._wrong = None if y is None else {name: _wrong(cf, y) for name, cf in self.results.items()}
        self._summarise()

    def _measured(self, metric: Metric, name: str, cf: Counterfactuals, explainer: Any) -> np.ndarray | float | None:
        try:
            return measure(metric, cf, explainer)
        except Exception as error:  # a metric of the user's may raise anything, and the others are still worth having
            self.failures[name, metric.name] = f"{type(error).__name__}: {error}"
            warn_caller(f"The metric {metric.name!r} failed for {name!r} and is shown as failed "
                          f"({self.failures[name, metric.name]}).", RuntimeWarning)
            return None

    def _summarise(self) -> None:
        """Statistics, counts and long rows, from the values."""
        self._resampling = Resampling(len(self), self.n_bootstrap, self.confidence_level, self._seed)
        keys = [key for key, value in self.values.items() if isinstance(value, np.ndarray)]
        counted = self._stack([self._counted(*key) for key in keys])
        intervals = dict(zip(keys, self._resampling.intervals(counted), strict=True))
        self.table: dict[str, dict[str, Statistic]] = {name: {} for name in self.results}
        for name, metric in ((name, metric) for metric in self.metrics for name in self.results):
            value = self.values[name, metric]
            if isinstance(value, np.ndarray):
                self.table[name][metric] = statistic(value, self._mask(name, metric), intervals[name, metric])
            else:
                self.table[name][metric] = Statistic(
                    mean=np.nan if value is None else value, missing=len(self) if (name, metric) in self.failures else 0)
        self.statuses = {name: {status: int((cf.status == status).sum()) for status in STATUSES}
                         for name, cf in self.results.items()}
        self.misclassified = None if self._wrong is None else {name: int(w.sum()) for name, w in self._wrong.items()}
        each = self.results.values()
        self.rows = {"method": np.repeat(list(self.results), len(self)), "row": np.tile(np.arange(len(self)), len(each)),
                     "status": np.concatenate([cf.status for cf in each])}
        if self._wrong is not None:
            self.rows["misclassified"] = np.concatenate(list(self._wrong.values()))
        for metric in self.metrics:
            columns = [self.values[name, metric] for name in self.results]
            if any(isinstance(column, np.ndarray) for column in columns):
                self.rows[metric] = np.concatenate([
                    column if isinstance(column, np.ndarray) else np.full(len(self), np.nan) for column in columns])

    def _stack(self, columns: list[np.ndarray]) -> np.ndarray:
        return np.stack(columns, 1) if columns else np.empty((len(self), 0))

    def _mask(self, name: str, metric: str) -> np.ndarray:
        return self.results[name].valid.astype(bool) if self.metrics[metric].only_valid else np.ones(len(self), bool)

    def _counted(self, name: str, metric: str) -> np.ndarray:
        """Values a row, NaN for rows that the metric leaves out."""
        return np.where(self._mask(name, metric), np.asarray(self.values[name, metric]), np.nan)

    def __len__(self) -> int:
        """Number of rows that each method explained."""
        return len(next(iter(self.results.values())))

    def __repr__(self) -> str:
        methods, metrics = len(self.results), len(self.metrics)
        return (f"<Evaluation: {methods} method{'s' * (methods != 1)} on {len(self)} row{'s' * (len(self) != 1)}, {metrics} "
                f"metric{'s' * (metrics != 1)}{f', {len(self.failures)} failed' if self.failures else ''}>")

    # ----------------------------------------------------------------- pairs
    def pairs(self, a: str | None = None, b: str | None = None) -> list[PairedDifference]:
        """Paired comparisons on the same rows, one for each pair of methods and metric of rows; see `compare`.

        Raises
        ------
        ValueError
            A method that is not known, only one of the two, or twice the same.
        """
        if (a is None) != (b is None) or (a is not None and (a == b or not {a, b} <= set(self.results))):
            raise ValueError(f"compare({a!r}, {b!r}): pass two different methods of {list(self.results)}, or none for all "
                             "pairs.")
        keys = [(metric, *pair) for pair in ([(a, b)] if a is not None and b is not None else combinations(self.results, 2))
                for metric in self.metrics if all(isinstance(self.values[name, metric], np.ndarray) for name in pair)]
        with np.errstate(invalid="ignore"):
            differences = [self._counted(first, metric) - self._counted(second, metric) for metric, first, second in keys]
        intervals = self._resampling.intervals(self._stack(differences))
        return [paired(*key, difference, interval, self.metrics[key[0]].sign, self.comparable[key[0]])
                for key, difference, interval in zip(keys, differences, intervals, strict=True)]

    def compare(self, a: str | None = None, b: str | None = None) -> DataFrame:
        """Paired comparison of `a` with `b`, or of all pairs: a DataFrame with the fields of `PairedDifference`.

        Raises
        ------
        ImportError
            pandas is not installed; `pairs` needs none.
        """
        pandas = optional_import("pandas", "compare()")
        return pandas.DataFrame([asdict(pair) for pair in self.pairs(a, b)], columns=list(PairedDifference.__annotations__))

    # ---------------------------------------------------------------- tables
    def to_frame(self, *, rows: bool = False) -> DataFrame:
        """One row a method, columns (metric, statistic) and (rows, status); or, with ``rows=True``, the long per-row data.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        pandas = optional_import("pandas", "to_frame()")
        if rows:
            return pandas.DataFrame(self.rows)
        counts = {name: {("rows", "n"): len(self), **{("rows", status): k for status, k in self.statuses[name].items()}}
                  for name in self.results}
        for name, k in (self.misclassified or {}).items():
            counts[name]["rows", "misclassified"] = k
        return pandas.DataFrame.from_dict({
            name: {**counts[name], **{(metric, key): value for metric, entry in self.table[name].items()
                                      for key, value in asdict(entry).items()}} for name in self.results}, orient="index")

    def to_markdown(self) -> str:
        """One line for each metric, one column for each method: mean ± standard deviation [interval]; failures below."""
        return words.markdown(self)

    def summary(self) -> str:
        """Sentences: which method is best on which metrics, which are not distinguishable, and what failed."""
        return words.summary(self)

    def _repr_html_(self) -> str:
        return words.fragment(self)

    def to_html(self, path: str | os.PathLike) -> None:
        """Write summary and table as one self-contained HTML file, atomically."""
        atomic_write(path, words.page(self).encode("utf-8", "xmlcharrefreplace"))

    def plot(self, kind: str = "bar", *, metrics: Iterable[str] | None = None, ax: Any = None, figure: Any = None,
             ) -> EvaluationDisplay:
        """Draw; see `EvaluationDisplay`."""
        return EvaluationDisplay.from_evaluation(self, kind, metrics=metrics, ax=ax, figure=figure)

    # ------------------------------------------------------------------ file
    def save(self, path: str | os.PathLike) -> None:
        """Write results and values to one file, atomically, without pickle. Functions and explainers are not saved."""
        file.save(vars(self), path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Evaluation:
        """Read what `save` wrote. Its metrics have their values but no functions.

        Raises
        ------
        ValueError
            The file is damaged, written by a newer version, or holds something else.
        """
        self = cls.__new__(cls)
        vars(self).update(file.load(path))
        try:
            check_options({name: getattr(self, name) for name in RULES}, RULES)
            _check_results(self.results)
            if any(isinstance(value, np.ndarray) and value.shape != (len(self),) for value in self.values.values()):
                raise ValueError("values of other rows")
            if set(self.comparable) != set(self.metrics) or {type(value) for value in self.comparable.values()} - {bool}:
                raise ValueError("comparisons of other metrics")
            if any(not isinstance(message, str) or set(key) - {*self.results, *self.metrics}
                   for key, message in self.failures.items()):
                raise ValueError("failures of other metrics")
            self._summarise()
        except Exception as error:  # whatever a strange file makes happen, the user's problem is the same
            raise ValueError(f"{os.fspath(path)} is not a whole evaluation: {error}. Nothing was loaded.") from error
        return self


def _check_explainers(explainers: dict[str, Any]) -> None:
    if not explainers:
        raise ValueError("explainers is empty; pass at least one fitted explainer, or a dict of name -> explainer.")
    layouts = {}
    for name, explainer in explainers.items():
        if not hasattr(explainer, "explain"):
            raise TypeError(f"{name!r} is a {type(explainer).__name__}, which has no explain(X, target); pass fitted "
                            "explainers. Of a pipeline pass its last step, and X as that step sees it.")
        if isinstance(explainer, BaseEstimator):
            check_is_fitted(explainer)
        if hasattr(explainer, "layout_"):
            layouts[name] = explainer.layout_.user_shape
    if len(set(layouts.values())) > 1:
        raise ValueError(f"The explainers were fitted on samples of different shapes: {layouts}. To compare them, fit all "
                         "on the same layout.")


def _check_results(results: dict[str, Counterfactuals]) -> None:
    if not results:
        raise ValueError("results is empty; pass at least one result, a dict of name -> Counterfactuals.")
    (first_name, first), *others = results.items()
    if len(first) == 0:
        raise ValueError("There is nothing to evaluate: the results have no rows.")
    for name, cf in others:
        # each explainer computes in the dtype that it was fitted on
        if cf.x.shape != first.x.shape or not np.allclose(cf.x, first.x, rtol=1e-5, atol=1e-6, equal_nan=True):
            raise ValueError(f"{name!r} explains other rows (shape {cf.x.shape}) than {first_name!r} ({first.x.shape}); "
                             "methods are compared on the same rows in the same order.")


def _wrong(cf: Counterfactuals, y: Any) -> np.ndarray:
    """Rows whose true label `y` the classifier does not give, bool (n,)."""
    y = np.asarray(to_numpy(y))
    if cf.is_regression:
        raise ValueError("y= are labels, to count what a classifier gets wrong; a regressor has none. Leave y out.")
    if y.shape != (len(cf),):
        raise ValueError(f"y has the shape {y.shape}; expected ({len(cf)},): the true label of each row of X.")
    known = set(cf.metadata.get("classes") or cf.source.tolist())
    if not known & set(y.tolist()):
        raise ValueError(f"No label of y is a class of the classifier: y has {sorted(set(map(str, y.tolist())))[:10]}, the "
                         f"classifier {sorted(map(str, known))[:10]}.")
    return np.array([predicted != true for predicted, true in zip(cf.source.tolist(), y.tolist(), strict=True)], dtype=bool)
