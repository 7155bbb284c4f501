"""Counterfactuals of a whole fitted pipeline, from DataFrames to DataFrames, in the columns' own units and categories."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import nn

from cfexplain.classifiers.pipeline import PipelineModel, unwrapped
from cfexplain.classifiers.pipeline_steps import dropped_columns, encoded_columns, read_pipeline
from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.pipeline_repair import Repair
from cfexplain.explainers.place import PLACEExplainer
from cfexplain.explainers.task import Classification
from cfexplain.foundation.labels import label_indices
from cfexplain.foundation.settings import own_modes
from cfexplain.result import Counterfactuals
from cfexplain.tables.mixed import MixedTable, read_frame
from cfexplain.tables.rules import MixedRules

__all__ = ["PipelineExplainer", "explain_pipeline"]

_SAME = object()


def explain_pipeline(
    pipe: Any, X: Any, target: Any = None, *, X_train: Any = None, y_train: Any = None, explainer: Any = None,
    immutable: Iterable[str] | None = None, bounds: Mapping | None = None, monotone: Mapping[str, str] | None = None,
    categorical: Iterable[str] | None = None, sparse: bool = True, n_jobs: int | None = None,
) -> Counterfactuals:
    """What would have to change in the rows of `X` for a fitted pipeline to say `target`.

    Parameters
    ----------
    pipe : fitted Pipeline, estimator, or search such as GridSearchCV
        ``Pipeline(…preprocessing…, classifier)``: any classifier of scikit-learn, a skorch net, or an nn.Module as the last
        step. It is used as it is and never trained.
    X : DataFrame or array-like of shape (n, columns)
        Rows to explain, as the pipeline takes them.
    target : label, array-like of shape (n,), or None
        None is each row's runner-up class.
    X_train : DataFrame or array-like of shape (m, columns)
        Rows that the explainer learns from: what is plausible, and which values each column takes.
    y_train : array-like of shape (m,), optional
        Their labels. None: what the pipeline says of them.
    explainer : CounterfactualExplainer or PipelineExplainer, optional
        Any explainer of this package, with its parameters; it is cloned and trained on X_train. Default:
        `PLACEExplainer` with as much confidence as the pipeline has in a usual row. A fitted `PipelineExplainer` is used
        as it is, without X_train: that saves the training.
    immutable : list of str, optional
        Columns that stay as they are.
    bounds : dict, optional
        ``{"age": (18, 65), "income": (0, None), "job": ["clerk", "cook"]}``, in original units.
    monotone : dict, optional
        ``{"age": "increase", "debts": "decrease"}``: columns that may only go one way.
    categorical : list of str, optional
        Columns of numbers that are names of categories. Text, bools, pandas categories, and columns that the pipeline
        itself encodes (OneHotEncoder, OrdinalEncoder, TargetEncoder) are categories anyway.
    sparse : bool, default=True
        Take back changes that turn out not to be needed.
    n_jobs : int, optional

    Returns
    -------
    Counterfactuals
        ``x, x_cf = cf.to_frames()`` are DataFrames as the pipeline takes them, and ``cf.changes()`` is a list of what
        changed. `valid` is the pipeline's verdict on that very x_cf. Distances are in standardised units, in which
        another category is √2.

    Raises
    ------
    ValueError
        X_train is missing, a rule names no column, or X does not fit X_train.
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
    ...                       explainer=PLACEExplainer(training_budget=0.2, random_state=0))
    >>> before, after = cf.to_frames()
    >>> pipe.predict(after).tolist(), after["age"].dtype.name, after["job"].tolist()
    (['yes', 'yes'], 'int64', ['cook', 'clerk'])
    """
    rules: dict[str, Any] = {"immutable": immutable, "bounds": bounds, "monotone": monotone}
    if isinstance(explainer, PipelineExplainer):
        check_is_fitted(explainer, "explainer_")
        if X_train is not None or y_train is not None or categorical is not None:
            raise ValueError("explainer is fitted already: leave X_train, y_train and categorical out, or pass one that is "
                             "not, for instance PLACEExplainer().")
        if explainer.pipeline is not pipe:
            raise ValueError("explainer was fitted for another pipeline; fit one for this: "
                             "PipelineExplainer(pipe).fit(X_train, y_train).")
        given = {name: rule for name, rule in rules.items() if rule is not None}
        return explainer.explain(X, target, sparse=sparse, n_jobs=n_jobs, **given)
    if X_train is None:
        raise ValueError("X_train is missing: the explainer learns from it what is plausible. Pass the rows that the "
                         "pipeline was trained on: explain_pipeline(pipe, X, target, X_train=X_train, y_train=y_train).")
    fitted = PipelineExplainer(pipe, explainer, categorical=categorical, **rules).fit(X_train, y_train)
    return fitted.explain(X, target, sparse=sparse, n_jobs=n_jobs)


class PipelineExplainer(BaseEstimator):
    """An explainer for a fitted pipeline: trained once, for any number of rows; see :func:`explain_pipeline`.

    Parameters
    ----------
    pipeline : fitted Pipeline or estimator
    explainer : CounterfactualExplainer, optional
        Default: `PLACEExplainer`, whose `confidence` is the median probability that the pipeline gives to its own label,
        of the class where that is least, between 0.55 and 0.99. It is cloned; its `classifier`, `immutable` and `bounds`
        must be None.
    immutable, bounds, monotone, categorical
        See :func:`explain_pipeline`. Read by `explain`, where they can be changed for one call; all but `categorical`.
    classifier_output : {"auto", "logits", "probabilities"}, default="auto"
        What a bare module as the last step returns.

    Attributes
    ----------
    explainer_ : CounterfactualExplainer
        Fitted on codes of the table.
    table_ : MixedTable
        Its columns.
    model_ : PipelineModel
        The pipeline as a classifier of those codes.
    classes_ : ndarray of shape (K,)
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
    >>> explainer = PipelineExplainer(pipe, PLACEExplainer(training_budget=0.1, random_state=0)).fit(X, y)
    >>> cf = explainer.explain(X[:2], 1, immutable=["sepal width (cm)"])
    >>> explainer.exact_, len(cf), list(cf.to_frames()[1].columns) == list(X.columns)
    (True, 2, True)
    """

    def __init__(self, pipeline: Any, explainer: CounterfactualExplainer | None = None, *,
                 immutable: Iterable[str] | None = None, bounds: Mapping | None = None,
                 monotone: Mapping[str, str] | None = None, categorical: Iterable[str] | None = None,
                 classifier_output: str = "auto"):
        self.pipeline = pipeline
        self.explainer = explainer
        self.immutable = immutable
        self.bounds = bounds
        self.monotone = monotone
        self.categorical = categorical
        self.classifier_output = classifier_output

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
            The pipeline is a regressor, or `explainer` is no explainer.
        NotFittedError
            The pipeline is not fitted.
        ValueError
            Columns that cannot be searched, or rules that name none.
        """
        frame, pipe = read_frame(X), unwrapped(self.pipeline)
        steps, last = read_pipeline(pipe)
        detected = encoded_columns(steps, frame)
        wanted = set(_names(self.categorical, frame, "categorical"))
        table = MixedTable(frame, detected | wanted, dropped_columns(steps, frame))
        model = PipelineModel(pipe, table, as_array=not hasattr(X, "columns"))
        if isinstance(last, nn.Module):
            if y is None:
                raise ValueError("y_train is missing: an nn.Module does not know the labels of its outputs.")
            model.read_module(frame, np.asarray(y), self.classifier_output)
        predicted = model.predict_frame(frame)
        MixedRules(table, self.immutable, self.bounds, self.monotone)  # before anything is trained
        explainer, codes = self._new_explainer(model, frame), table.encode(frame)
        explainer.set_params(classifier=model).fit(codes, predicted if y is None else np.asarray(y))
        self.table_, self.model_, self.explainer_, self.classes_ = table, model, explainer, explainer.classes_
        self.exact_ = not explainer.classifier_.is_surrogate and explainer.differentiable
        self.codes_, self.predicted_ = codes, label_indices(predicted, self.classes_)
        self.feature_names_in_, self.n_features_in_ = np.array(frame.columns, dtype=object), frame.shape[1]
        return self

    def _new_explainer(self, model: PipelineModel, frame: Any) -> CounterfactualExplainer:
        if self.explainer is None:
            return PLACEExplainer(confidence=_usual_confidence(model, frame))
        explainer = self.explainer
        if isinstance(explainer, type) or not isinstance(explainer, CounterfactualExplainer):
            raise TypeError(f"explainer={explainer!r} is no explainer; expected one such as PLACEExplainer().")
        for name in ("classifier", "immutable", "bounds"):
            if getattr(explainer, name, None) is not None:
                fix = "the pipeline is what is explained" if name == "classifier" else f"pass {name}= beside the explainer"
                raise ValueError(f"{type(explainer).__name__}({name}=…) does not fit here: {fix}.")
        return clone(explainer)

    @own_modes()
    def explain(self, X: Any, target: Any = None, *, immutable: Any = _SAME, bounds: Any = _SAME, monotone: Any = _SAME,
                sparse: bool = True, record_path: bool = False, n_jobs: int | None = None, backend: str = "auto",
                ) -> Counterfactuals:
        """Counterfactuals of the rows of `X`; see :func:`explain_pipeline`.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, columns)
        target : label, array-like of shape (n,), or None
        immutable, bounds, monotone : optional
            For this call, in place of the constructor's.
        sparse : bool, default=True
        record_path, n_jobs, backend
            See `CounterfactualExplainer.explain`.
        """
        check_is_fitted(self, "explainer_")
        started, frame, table = time.perf_counter(), read_frame(X), self.table_
        if not len(frame):
            raise ValueError("X has no rows.")
        values = table.values(frame)
        codes, carried = table.codes(values), frame[table.carried].to_numpy(dtype=object)
        explainer = copy.copy(self.explainer_)
        rules: Any = MixedRules(table, *(
            getattr(self, name) if given is _SAME else given
            for name, given in (("immutable", immutable), ("bounds", bounds), ("monotone", monotone))))
        explainer.column_rules_ = rules
        assert isinstance(explainer.task_, Classification)
        goal = explainer.task_.goal_from(*self._answers(frame, codes), explainer.target if target is None else target)
        found = explainer.search(codes, goal, record_path=record_path, n_jobs=n_jobs, backend=backend)
        repaired = Repair(explainer, self.model_, self.codes_, self.predicted_)(found, codes, goal, sparse)
        values_cf = table.decode(found.x_cf, like=(codes, values))
        after = table.frame(values_cf, carried if table.carried else None)
        cf = explainer.result(codes, goal, found, answers=self._answers(after, found.x_cf),
                              seconds=time.perf_counter() - started)
        numbers = [column.get("std", 1.0) for column in table.searched]
        return dataclasses.replace(
            cf, x=values, x_cf=values_cf, reconstruction=table.decode(found.reconstruction),
            index=frame.index.to_numpy() if hasattr(X, "columns") else None, carried=carried if table.carried else None,
            metadata={**cf.metadata, "columns": table.columns, "feature_names": table.names, "feature_scale": numbers,
                      "user_shape": [len(numbers)], "net_shape": [len(numbers)], "exact_gradient": self.exact_, **repaired})

    def _answers(self, frame: Any, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class indices by the pipeline's ``predict``, and probabilities, of one and the same DataFrame."""
        predicted = label_indices(self.model_.predict_frame(frame), self.classes_)
        if hasattr(self.model_, "predict_proba"):
            return predicted, self.model_.predict_proba_frame(frame)
        return predicted, self.explainer_.task_.answers(self.explainer_.classifier_, codes)[1]

    # ------------------------------------------------------ scikit-learn's side
    def transform(self, X: Any) -> Any:
        """The counterfactuals of `X`, for the explainer's `target`, as a DataFrame."""
        return self.explain(X).to_frames()[1]

    def predict(self, X: Any) -> np.ndarray:
        """The pipeline's labels."""
        check_is_fitted(self, "explainer_")
        return self.model_.predict_frame(read_frame(X))

    @available_if(lambda self: not hasattr(self, "model_") or hasattr(self.model_, "predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """The pipeline's probabilities, (n, K), columns as in ``classes_``."""
        check_is_fitted(self, "explainer_")
        return self.model_.predict_proba_frame(read_frame(X))

    def score(self, X: Any, y: Any = None) -> float:
        """How good the counterfactuals of `X` are, in [0, 1], as `CounterfactualExplainer.score` has it; y is ignored."""
        found = self.explain(X)
        near = np.exp(-found.distance_x / np.linalg.norm(self.explainer_.scale_))
        return float(np.mean(found.valid * np.minimum(found.density_percentile / 50, 1) * near))

    def __sklearn_clone__(self) -> PipelineExplainer:
        """A clone explains the same fitted pipeline: it is neither copied nor un-fitted."""
        bare = copy.copy(self)
        bare.pipeline = None
        twin = BaseEstimator.__sklearn_clone__(bare)
        twin.pipeline = self.pipeline
        return twin


def _usual_confidence(model: PipelineModel, frame: Any) -> float:
    """How sure the pipeline is of a usual row, of the class of which it is least sure; in [0.55, 0.99].

    Classes of tables overlap: 0.99 may be a probability that the pipeline gives to no real row of the class.
    """
    if not hasattr(model, "predict_proba"):
        return 0.55
    proba = model.predict_proba_frame(frame)
    predicted = proba.argmax(1)
    return float(np.clip(min(np.median(proba[predicted == k, k]) for k in np.unique(predicted)), 0.55, 0.99))


def _names(columns: Any, frame: Any, parameter: str) -> list[str]:
    columns = [columns] if isinstance(columns, str) else list(columns or ())
    for name in columns:
        if name not in frame.columns:
            raise ValueError(f"{parameter} names the column {name!r}, but the columns are {list(frame.columns)}.")
    return columns
