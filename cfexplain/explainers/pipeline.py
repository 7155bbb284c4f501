"""Counterfactuals of a whole fitted pipeline, from DataFrames to DataFrames, in the columns' own units and categories."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from cfexplain.classifiers.labels import without_failed
from cfexplain.classifiers.pipeline import PipelineModel
from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.binding import ROWS, binding_rules
from cfexplain.explainers.column_rules import warn_of_broken_rules
from cfexplain.explainers.columns import Columns
from cfexplain.explainers.pipeline_file import KIND, read_file, write_file
from cfexplain.explainers.pipeline_search import AskedPipeline, Within, scan_within, search_within
from cfexplain.explainers.pipeline_training import RULES, Training, read_training
from cfexplain.explainers.pipeline_view import PipelineView
from cfexplain.explainers.plans import MOST, ORDERS, plans_of
from cfexplain.explainers.task import Classification, Goal, Regression, stated_target
from cfexplain.foundation.deadline import read_limits
from cfexplain.foundation.exceptions import warn_caller
from cfexplain.foundation.in_words import count_rows
from cfexplain.foundation.one_sample import as_batch
from cfexplain.foundation.parameters import Choice, check_options
from cfexplain.foundation.settings import own_modes
from cfexplain.metrics.of_result import class_spread
from cfexplain.persistence import MayBeAbsent, storable
from cfexplain.persistence.persistent import file_kind
from cfexplain.result import Counterfactuals
from cfexplain.tables.build import read_frame
from cfexplain.tables.mixed import MixedTable, TableRows
from cfexplain.tables.plan import Plan
from cfexplain.tables.row_rules import read_row_rules, rules_of
from cfexplain.tables.rules import MixedRules

__all__ = ["PipelineExplainer", "explain_pipeline"]

_SAME = object()


def explain_pipeline(
    pipe: Any, X: Any, target: Any = None, *, X_train: Any = None, y_train: Any = None, explainer: Any = None,
    immutable: Iterable[str] | None = None, bounds: Mapping | None = None, monotone: Mapping[str, str] | None = None,
    transitions: Mapping | None = None, constraints: Iterable[str] | None = None, causes: Mapping | None = None,
    costs: Mapping | None = None, row_rules: Any = None,
    categorical: Iterable[str] | None = None, classes: Any = None, sparse: bool = True, max_changes: int | None = None,
    k: int = 1, time_limit: float | None = None, n_jobs: int | None = None, random_state: Any = None,
) -> Counterfactuals:
    """What would have to change in the rows of `X` for a fitted pipeline to say `target`.

    Parameters
    ----------
    pipe : fitted Pipeline, estimator, or search such as GridSearchCV
        ``Pipeline(…preprocessing…, model)``: any classifier or regressor with ``predict``, a skorch net, or an nn.Module as
        the last step, and any steps before it, samplers of imbalanced-learn included. It is used as it is and never trained.
    X : DataFrame of pandas or polars, or array-like of shape (n, columns)
        Rows to explain, as the pipeline takes them. Cells that training rows do not have (missing where it was whole, a new
        category) stay as they are, if the pipeline takes them.
    target : label, value, array-like of shape (n,), or None
        None is each row's runner-up class. Of a regressor: a value, ``(low, high)``, "maximize" or "minimize".
    X_train : DataFrame or array-like of shape (m, columns)
        Rows that the explainer learns from: what is plausible, and which values each column takes.
    y_train : array-like of shape (m,), optional
        Their labels. None: what the pipeline says of them.
    explainer : CounterfactualExplainer or PipelineExplainer, optional
        Any explainer of this package, with its parameters; it is cloned and trained on X_train. Default:
        `PLACEExplainer`; `DiffeomorphicExplainer` for a regressor. A fitted `PipelineExplainer` is used
        as it is, without X_train: that saves the training.
    immutable : list of str, optional
        Columns that stay as they are. Columns that cannot be searched (text, dates, identifiers, nothing at all) do so
        anyway, with a warning.
    bounds : dict, optional
        ``{"age": (18, 65), "income": (0, None), "job": ["clerk", "cook"]}``, in original units.
    monotone : dict, optional
        ``{"age": "increase", "debts": "decrease"}``: columns that may only go one way.
    transitions : dict, optional
        ``{"job": {"clerk": ["cook", "office"]}}``: the categories that may follow one.
    constraints : list of str, optional
        Rules between columns of numbers: ``["part <= whole", "ratio == debt / income"]``, with names that are no single word
        in backticks. Nothing of the text is run. An equality makes its column of the others, rounded as that column is in
        training, wherever one of these changes. What a row breaks as it comes may stay so while none of the rule's columns
        changes.
    causes : dict, optional
        Cause to effects, ``{"education": ["wage"]}``: an effect follows its causes, by a linear or quadratic model of
        X_train to which the row's own noise is added, unless it is itself acted on. Effects are numbers.
    costs : dict, optional
        ``{"wage": 2.0, "age": inf, ("job", "clerk", "cook"): 5, "debt": (0.001, "unit")}``: the price of a standard
        deviation of a number, or of one unit of it, of another category, of one step between categories. What is not named
        costs 1. The total is minimised; ``cf.cost`` has it, ``cf.costs`` that of each change. What follows from other
        columns costs nothing.
    row_rules : DataFrame with the rows of X, or callable ``row -> dict``, optional
        Of single rows, beside those of all: cells are "fixed", "increase", "decrease", (low, high), a list of categories, or
        None.
    categorical : list of str, optional
        Columns of numbers that are names of categories. Text, bools, pandas categories, and columns that the pipeline
        itself encodes (OneHotEncoder, OrdinalEncoder, TargetEncoder), wherever in it, are categories anyway.
    classes : array-like of shape (K,), optional
        Labels in the order of the model's outputs, for models that do not know them: Keras, ONNX, boosters of their own.
        Default: the model's ``classes_``, else the sorted labels of y_train.
    sparse : bool, default=True
        Change few columns; see `PLACEExplainer`.
    max_changes : int, optional
        The most columns that may change in a row; another category is one change.
    k : int, default=1
        Answers for each row, which change other columns where they can.
    time_limit : float, optional
        Seconds for the explanation, without training; see `CounterfactualExplainer.explain`.
    n_jobs : int, optional
    random_state : int, RandomState or None
        Of the explainer's training; None is what `explainer` has.

    Returns
    -------
    Counterfactuals
        ``x, x_cf = cf.to_frames()`` are DataFrames as the pipeline takes them, and ``cf.changes()`` is a list of what
        changed. `valid` is the pipeline's verdict on that very x_cf. Distances are in standardised units, in which
        another category is √2.

    Raises
    ------
    ValueError
        X_train is missing, a rule names no column, the target is none, X does not fit X_train, or what the pipeline
        predicts does not fit the classes: all of this before anything is trained.
    NotFittedError
        `pipe` is not fitted.

    See Also
    --------
    PipelineExplainer : the same as an estimator, for when more rows come later.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn.compose import make_column_transformer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import OneHotEncoder, StandardScaler
    >>> from cfexplain import PLACEExplainer
    >>> X = pd.DataFrame({"age": [20, 25, 31, 38, 44, 52, 58, 63] * 10, "job": ["cook", "clerk"] * 40})
    >>> y = ["yes" if age > 40 else "no" for age in X["age"]]
    >>> prepare = make_column_transformer((StandardScaler(), ["age"]), (OneHotEncoder(), ["job"]))
    >>> pipe = make_pipeline(prepare, LogisticRegression(C=100)).fit(X, y)
    >>> cf = explain_pipeline(pipe, X[:2], "yes", X_train=X, y_train=y, immutable=["job"],
    ...                       explainer=PLACEExplainer(training_budget=0.05, random_state=0))
    >>> before, after = cf.to_frames()
    >>> pipe.predict(after).tolist(), after["age"].dtype.name, after["job"].tolist()
    (['yes', 'yes'], 'int64', ['cook', 'clerk'])
    """
    rules: dict[str, Any] = {"immutable": immutable, "bounds": bounds, "monotone": monotone, "transitions": transitions,
                             "constraints": constraints, "causes": causes, "costs": costs}
    of_call = {"sparse": sparse, "max_changes": max_changes, "k": k, "time_limit": time_limit, "n_jobs": n_jobs,
               "row_rules": row_rules}
    if isinstance(explainer, PipelineExplainer):
        check_is_fitted(explainer, "explainer_")
        if any(given is not None for given in (X_train, y_train, categorical, classes, random_state)):
            raise ValueError("explainer is fitted already: leave X_train, y_train, categorical, classes and random_state "
                             "out, or pass one that is not, for instance PLACEExplainer().")
        if explainer.pipeline is not pipe:
            raise ValueError("explainer was fitted for another pipeline; fit one for this: "
                             "PipelineExplainer(pipe).fit(X_train, y_train).")
        given = {name: rule for name, rule in rules.items() if rule is not None}
        return explainer.explain(X, target, **of_call, **given)
    if X_train is None:
        raise ValueError("X_train is missing: the explainer learns from it what is plausible. Pass the rows that the "
                         "pipeline was trained on: explain_pipeline(pipe, X, target, X_train=X_train, y_train=y_train).")
    fitted = PipelineExplainer(pipe, explainer, categorical=categorical, classes=classes, random_state=random_state, **rules)
    training = read_training(fitted, X_train, y_train)
    training.check_call(X, target)
    fitted._train(training)
    return fitted.explain(X, target, **of_call)


@file_kind(KIND)
@storable
class PipelineExplainer(BaseEstimator):
    """An explainer for a fitted pipeline: trained once, for any number of rows; see :func:`explain_pipeline`.

    Parameters
    ----------
    pipeline : fitted Pipeline or estimator
    explainer : CounterfactualExplainer, optional
        Default: `PLACEExplainer`, or `DiffeomorphicExplainer` for a regressor. It is cloned; its `classifier`, `immutable`
        and `bounds` must be None.
    immutable, bounds, monotone, transitions, constraints, causes, costs, categorical, classes
        See :func:`explain_pipeline`. Read by `explain`, where they can be changed for one call; all but the last two.
    classifier_output : {"auto", "logits", "probabilities"}, default="auto"
        What a bare module as the last step returns.
    random_state : int, RandomState or None
        In place of the explainer's own.

    Attributes
    ----------
    explainer_ : CounterfactualExplainer
        Fitted on codes of the table.
    table_ : MixedTable
        Its columns.
    model_ : PipelineModel
        The pipeline as a classifier of those codes.
    classes_ : ndarray of shape (K,)
        Of a classifier.
    exact_ : bool
        The search follows the pipeline's own gradient: its preprocessing is affine in numbers and categories (scalers,
        encoders, imputers, PCA), and its last step a network or linear. Otherwise it follows a distilled surrogate.
    feature_names_in_ : ndarray of str

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    >>> explainer = PipelineExplainer(pipe, PLACEExplainer(training_budget=0.05, random_state=0)).fit(X, y)
    >>> cf = explainer.explain(X[:2], 1, immutable=["sepal width (cm)"])
    >>> explainer.exact_, len(cf), list(cf.to_frames()[1].columns) == list(X.columns)
    (True, 2, True)
    """

    table_: MixedTable
    model_: PipelineModel
    explainer_: CounterfactualExplainer
    classes_: MayBeAbsent[np.ndarray]
    exact_: bool
    codes_: np.ndarray
    predicted_: np.ndarray
    feature_names_in_: np.ndarray

    def __init__(self, pipeline: Any, explainer: CounterfactualExplainer | None = None, *,
                 immutable: Iterable[str] | None = None, bounds: Mapping | None = None,
                 monotone: Mapping[str, str] | None = None, transitions: Mapping | None = None,
                 constraints: Iterable[str] | None = None, causes: Mapping | None = None, costs: Mapping | None = None,
                 categorical: Iterable[str] | None = None,
                 classes: Any = None, classifier_output: str = "auto", random_state: Any = None):
        self.pipeline = pipeline
        self.explainer = explainer
        self.immutable = immutable
        self.bounds = bounds
        self.monotone = monotone
        self.transitions = transitions
        self.constraints = constraints
        self.causes = causes
        self.costs = costs
        self.categorical = categorical
        self.classes = classes
        self.classifier_output = classifier_output
        self.random_state = random_state

    @own_modes()
    def fit(self, X: Any, y: Any = None) -> PipelineExplainer:
        """Learn what is plausible from rows as the pipeline takes them.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, columns)
        y : array-like of shape (n,), optional
            None: what the pipeline says of X.

        Raises
        ------
        TypeError
            The pipeline predicts nothing, or `explainer` is no explainer, or explains classes and the pipeline a regressor.
        NotFittedError
            The pipeline is not fitted.
        ValueError
            No column can be searched, rules name none, or what the pipeline predicts does not fit the classes.

        Warns
        -----
        UserWarning
            Columns cannot be searched and are held as they are.
        """
        self._train(read_training(self, X, y))
        return self

    def _train(self, read: Training) -> None:
        table, model, explainer, codes = read.table, read.model, read.explainer, read.table.encode(read.frame)
        explainer.set_params(classifier=model).fit(codes, read.y)
        # results are of whole columns, not of codes, a rare category's among them in deviations
        explainer.training_["class_spread"] = class_spread(codes, explainer.task_.groups, len(explainer.task_.counts))
        self.table_, self.model_, self.explainer_ = table, model, explainer
        self.__dict__.pop("classes_", None)  # perhaps fitted before, on labels
        if not explainer.is_regression:
            self.classes_ = explainer.classes_
        self.exact_ = not explainer.classifier_.is_surrogate and explainer.differentiable
        self.codes_ = codes
        self.predicted_ = read.predicted
        self.feature_names_in_, self.n_features_in_ = np.array(read.frame.columns, dtype=object), read.frame.shape[1]

    @own_modes()
    def explain(self, X: Any, target: Any = None, *, immutable: Any = _SAME, bounds: Any = _SAME, monotone: Any = _SAME,
                transitions: Any = _SAME, constraints: Any = _SAME, causes: Any = _SAME, costs: Any = _SAME,
                row_rules: Any = None, sparse: bool = True, max_changes: int | None = None, k: int = 1,
                time_limit: float | None = None, record_path: bool = False, n_jobs: int | None = None, backend: str = "auto",
                ) -> Counterfactuals:
        """Counterfactuals of the rows of `X`; see :func:`explain_pipeline`.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, columns), or a single row
            As a Series, ``frame.loc[7]``, a dict of its cells, or an array of shape (columns,).
        target : label, value, array-like of shape (n,), or None
        immutable, bounds, monotone, transitions, constraints, causes, costs : optional
            For this call, in place of the constructor's.
        row_rules : DataFrame or callable, optional
        sparse : bool, default=True
        max_changes : int, optional
        k, time_limit, record_path, n_jobs, backend
            See `CounterfactualExplainer.explain`.

        Warns
        -----
        UserWarning
            Cells that training rows do not have are held as they are.
        """
        check_is_fitted(self, "explainer_")
        deadline, k = read_limits(k, time_limit)
        names = [column["name"] for column in self.table_.columns]  # those that are not searched, too
        X, single = as_batch(X, (len(names),), names)
        started, frame, table = time.perf_counter(), read_frame(X), self.table_
        if not len(frame):
            raise ValueError("X has no rows.")
        rows = table.read(frame)
        before = self._answers(frame, rows)
        goal = self._goal(rows, before, self.explainer_.target if target is None else target)
        rules = {name: getattr(self, name) if given is _SAME else given
                 for name, given in zip(RULES, (immutable, bounds, monotone, transitions, constraints, causes, costs),
                                        strict=True)}
        _, rows.relations, _ = rules_of(table, table.decode(self.codes_), rules)
        own_rules = read_row_rules(row_rules, frame, table.names)
        if rows.relations:
            warn_of_broken_rules(rows.relations, dict(zip(table.names, rows.values.T, strict=True)))
        if rows.strange.any():
            names = [name for name, strange in zip(table.names, rows.strange.T, strict=True) if strange.any()]
            count = int(rows.strange.any(1).sum())
            warn_caller(f"{count_rows(count)} {'has' if count == 1 else 'have'} cells that no training row has (missing, or "
                        f"a new category), in the columns {names}: these cells are held as they are.")
        # the pipeline is asked about all rows again in the end, as they are and as they came out
        deadline.reserve((k + 1) * (time.perf_counter() - started))
        options = {"record_path": record_path, "n_jobs": n_jobs, "backend": backend, "k": k, "deadline": deadline}
        within = Within(rules, own_rules, sparse, max_changes)
        explainer, found = search_within(self, rows, goal, within, options)
        each = np.repeat(np.arange(len(frame)), k)
        rows, goal = (rows, goal) if k == 1 else (rows[each], goal[each])
        values_cf = rows.completed(table.decode(found.x_cf, like=(rows.codes, rows.values)))
        broken = rows.broken(values_cf)  # the best effort of a row that was not found
        values_cf[broken], found.x_cf[broken] = rows.values[broken], rows.codes[broken]
        after = self._answers(table.whole_frame(found.x_cf, rows), dataclasses.replace(rows, codes=found.x_cf))
        cf = explainer.result(rows.codes, goal, found, answers=after, seconds=time.perf_counter() - started, k=k)
        binding, missed = {}, np.flatnonzero(cf.status == "not_found")[:ROWS]
        if len(missed) and not deadline.passed and within.scans:
            some, missed_goal, own = rows[missed], goal[missed], [own_rules[each[i]] for i in missed]
            binding = binding_rules({**rules, "max_changes": max_changes}, lambda left: scan_within(
                self, some, missed_goal, Within(left, own, True, left["max_changes"])),
                len(missed))
        numbers = [column.get("std", 1.0) for column in table.searched]
        limits = [[column.get("low", 0) for column in table.searched],
                  [column.get("high", len(column.get("categories", ()))) for column in table.searched]]
        index = frame.index.to_numpy()[each] if table.source == "pandas" else None
        plans = None if deadline.passed else self._plans(explainer, rows, found.x_cf, goal)
        return dataclasses.replace(
            cf, plans=plans, x=rows.values, x_cf=values_cf, reconstruction=table.decode(found.reconstruction), index=index,
            carried=rows.carried if rows.carried.shape[1] else None,
            metadata={**cf.metadata, "columns": rows.columns, "feature_names": table.names, "feature_scale": numbers,
                      "feature_range": limits, "user_shape": [len(numbers)], "net_shape": [len(numbers)],
                      "exact_gradient": self.exact_, **({"priced": True} if rules["costs"] else {}),
                      **({"binding": binding} if binding else {}),
                      **({"source": "polars"} if table.source == "polars" else {}), **({"single": True} if single else {})})

    @own_modes()
    def plan(self, cf: Counterfactuals, i: int = 0, *, order: str = "cheapest") -> Plan:
        """The changes of row `i` of a result in order; see `CounterfactualExplainer.plan`."""
        check_is_fitted(self, "explainer_")
        check_options({"order": order}, {"order": Choice(ORDERS)})
        before, after = cf[i].to_frames()
        frame = read_frame(before)
        rows, codes = self.table_.read(frame), self.table_.read(read_frame(after)).codes
        goal = self._goal(rows, self._answers(frame, rows), stated_target(cf[i].target))
        return cf.plan_of(i, self._plans(self.explainer_, rows, codes, goal, order, len(self.table_.names))[0])

    def _plans(self, explainer: CounterfactualExplainer, rows: TableRows, x_cf: np.ndarray, goal: Goal,
               order: str = "cheapest", most: int = MOST) -> list[np.ndarray]:
        return plans_of(self.columns_of(explainer.column_rules_), rows.codes, x_cf, goal, self.asked_of(rows), order, most)

    @property
    def drawn(self) -> PipelineView:
        """What displays and reports ask in its place."""
        check_is_fitted(self, "explainer_")
        return PipelineView(self)

    def columns_of(self, rules: Any = None) -> Columns:
        """The columns of the table as a search moves them, within `rules` or those of the constructor."""
        rules = MixedRules(self.table_, self.immutable, self.bounds, self.monotone) if rules is None else rules
        return Columns.of_mixed(self.table_, rules, self.codes_)

    def asked_of(self, rows: TableRows) -> AskedPipeline:
        """What the pipeline says of codes in place of `rows`: a function of codes and the places of rows."""
        return AskedPipeline(self.model_, rows, self.explainer_.is_regression)

    def goal_of(self, rows: TableRows, frame: Any, target: Any) -> Goal:
        """What is wanted of `rows`, which `frame` holds."""
        return self._goal(rows, self._answers(frame, rows), target)

    def _goal(self, rows: TableRows, before: Any, target: Any) -> Goal:
        explainer = self.explainer_
        if isinstance(explainer.task_, Regression):
            goal = explainer.task_.goal_from(before, target, rows.codes.dtype)
        else:
            predicted, proba = before
            goal = explainer.task_.goal_from(predicted, proba, target)
            target = goal.target
        if type(explainer).goal is not CounterfactualExplainer.goal:  # what the method itself wants to know of a row
            goal.rows = {**explainer.goal(rows.codes, target).rows, **goal.rows}
        return goal

    def _answers(self, frame: Any, rows: TableRows) -> Any:
        """Class indices by the pipeline's ``predict``, and probabilities, of one and the same DataFrame; or values."""
        model, task = self.model_, self.explainer_.task_
        try:
            if not isinstance(task, Classification):
                return model.predict_frame(frame)
            predicted, proba = model.answers_frame(frame)
        except Exception as error:  # the pipeline's own
            if rows.strange.any():
                raise ValueError(f"{self.table_.tell_strange(rows)} (The pipeline does not take it: {error})") from error
            raise
        if proba is None:
            proba = task.answers(self.explainer_.classifier_, rows.codes)[1]
        return without_failed(predicted, proba)

    # ------------------------------------------------------ scikit-learn's side
    def transform(self, X: Any) -> Any:
        """The counterfactuals of `X`, for the explainer's `target`, as a DataFrame."""
        return self.explain(X).to_frames()[1]

    def predict(self, X: Any) -> np.ndarray:
        """The pipeline's labels."""
        check_is_fitted(self, "explainer_")
        return self.model_.predict_frame(read_frame(X))

    @available_if(lambda self: not hasattr(self, "model_") or self.model_.gives_probabilities)
    def predict_proba(self, X: Any) -> np.ndarray:
        """The pipeline's probabilities, (n, K), columns as in ``classes_``."""
        check_is_fitted(self, "explainer_")
        return self.model_.predict_proba_frame(read_frame(X))

    def score(self, X: Any, y: Any = None) -> float:
        """How good the counterfactuals of `X` are, in [0, 1], as `CounterfactualExplainer.score` has it; y is ignored."""
        found = self.explain(X)
        near = np.exp(-found.distance_x / np.linalg.norm(self.explainer_.scale_))
        return float(np.mean(found.valid * np.minimum(found.density_percentile / 50, 1) * near))

    # ------------------------------------------------------------------ file
    def save(self, path: str | os.PathLike) -> None:
        """Write what was learned to one file, without pickle; the pipeline is not in it.

        Raises
        ------
        NotFittedError, TypeError, OSError
            As ``CounterfactualExplainer.save``.

        Examples
        --------
        >>> import os, tempfile
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import LogisticRegression
        >>> from cfexplain import PLACEExplainer
        >>> X, y = load_iris(return_X_y=True, as_frame=True)
        >>> pipe = LogisticRegression(max_iter=500).fit(X, y)
        >>> explainer = PipelineExplainer(pipe, PLACEExplainer(training_budget=0.05, random_state=0)).fit(X, y)
        >>> path = os.path.join(tempfile.mkdtemp(), "iris.safetensors")
        >>> explainer.save(path)
        >>> again = PipelineExplainer.load(path, pipeline=pipe)
        >>> (again.explain(X[:3], 1).x_cf == explainer.explain(X[:3], 1).x_cf).all()
        np.True_
        """
        check_is_fitted(self, "explainer_")
        write_file(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike, *, pipeline: Any = None, device: Any = None, verify: bool = True,
             **given: Any) -> PipelineExplainer:
        """The explainer that `save` wrote. Reading runs no code from the file.

        Parameters
        ----------
        path : str or path
        pipeline : fitted Pipeline or estimator
            The one that is explained.
        device, verify, **given
            As in ``CounterfactualExplainer.load``.

        Raises
        ------
        ValueError, TypeError, OSError
            As ``CounterfactualExplainer.load``; `pipeline` is missing, or answers otherwise than the one that was explained.
        """
        return read_file(path, cls, pipeline, device, verify, given)

    def __sklearn_clone__(self) -> PipelineExplainer:
        """A clone explains the same fitted pipeline: it is neither copied nor un-fitted."""
        bare = copy.copy(self)
        bare.pipeline = None
        twin = BaseEstimator.__sklearn_clone__(bare)
        twin.pipeline = self.pipeline
        return twin
