"""Classifiers that torch cannot differentiate: how they are asked, and the network that is distilled from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import is_regressor
from sklearn.utils.validation import check_is_fitted

from cfexplain.classifiers.labels import check_count, check_one_target, read_predictions, reconcile, without_failed
from cfexplain.classifiers.outputs import finite_rows, tiled
from cfexplain.classifiers.training import train_classifier
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.exceptions import ClassifierOutputError, NotFittedError, warn_caller
from cfexplain.foundation.labels import class_indices
from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.threads import one_thread
from cfexplain.nets.classifiers import ClassifierNet
from cfexplain.persistence import MayBeAbsent, stored_by_attributes
from cfexplain.persistence.user_objects import without_frozen

__all__ = ["BlackBox", "can_predict", "distil", "rows_between"]

_BETWEEN = 12_000  # rows made up between and around the data, labelled by the teacher
_HELD_OUT = 0.2
_FAITHFUL = 0.9
_DECISIONS = 2048  # rows on which `predict` and `predict_proba` are compared
_EXPLAINED = 0.97  # of their decisions, or the surrogate learns the decisions and not the probabilities


def can_predict(black_box: BlackBox) -> bool:
    """Whether the estimator that was given beside a file can be asked; taken out of ``FrozenEstimator``."""
    black_box.estimator = without_frozen(black_box.estimator)
    return callable(getattr(black_box.estimator, "predict", None))


@stored_by_attributes(
    check=lambda box: can_predict(box) and box.asks in ("predict_proba", "decision_function", "predict"))
class BlackBox:
    """A fitted estimator with ``predict``, asked in the layout that it was trained on.

    Probabilities are the estimator's own ``predict_proba`` where it has one. Otherwise they are the softmax of its
    ``decision_function`` times one factor, chosen by maximum likelihood on the fit data with Platt's smoothed targets
    (Platt 1999), which leaves every decision where it was; decision values that disagree with ``predict`` (a
    one-vs-one SVC's, say) are not used. Otherwise they are 1 for the predicted class.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    asks : {"predict_proba", "decision_function", "predict"}
    """

    estimator: Any
    name: str
    sample_shape: tuple[int, ...]
    channels_last: MayBeAbsent[bool] = False
    classes_: np.ndarray
    asks: str
    factor: float

    def __init__(self, estimator: Any, X: np.ndarray, y: np.ndarray, classes: np.ndarray, layout: Layout):
        self.estimator, self.name = estimator, type(estimator).__name__
        if hasattr(estimator, "__sklearn_tags__") and is_regressor(estimator):
            raise TypeError(f"classifier={self.name} is a regressor; expected a classifier.")
        self.sample_shape = self._find_layout(X, layout)
        own = getattr(estimator, "classes_", None)
        check_one_target(own, self.name)
        self.classes_ = classes if own is None else reconcile(np.asarray(own), classes)
        self.asks, self.factor = "predict", 1.0
        if hasattr(estimator, "predict_proba"):
            self.asks = "predict_proba"
            columns = self._ask("predict_proba", X[:2])
            if columns.ndim != 2 or columns.shape[1] < 2:
                raise ClassifierOutputError(
                    f"{self.name}.predict_proba returned shape {columns.shape}; expected (n, K) with a column a class."
                )
            check_count(columns.shape[1], self.classes_, "y has" if own is None else "its classes_ are")
        elif hasattr(estimator, "decision_function"):
            self._calibrate(X, class_indices(y, self.classes_))

    def answers(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class indices (n,) by the estimator's own ``predict``, and probabilities (n, K) in float64.

        -1 and NaN in rows of which it gives none, or numbers that are not finite.
        """
        predicted, proba = self._predictions(X)
        if self.asks != "predict":
            proba = self.probabilities(X)
        elif proba is None:
            proba = np.eye(len(self.classes_))[predicted]
        return without_failed(predicted, proba)

    def decided(self, X: np.ndarray) -> np.ndarray:
        """Class indices (n,) by ``predict``; -1 where it gives no label."""
        return self._predictions(X)[0]

    def probabilities(self, X: np.ndarray) -> np.ndarray:
        """Probabilities of shape (n, K), in float64; NaN where the estimator gives NaN or infinity."""
        if self.asks == "predict":
            return self.answers(X)[1]
        if self.asks == "decision_function":
            return softmax(self.factor * self._decisions(X), axis=1)
        return self._ask("predict_proba", X).astype(np.float64)

    def _predictions(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return read_predictions(self._ask("predict", X), self.classes_, len(X), self.name)

    def decision_bias(self, X: np.ndarray) -> tuple[np.ndarray | None, float]:
        """What ``predict`` adds to the logarithms of ``predict_proba`` before it takes the largest, and how well that fits.

        None, for nothing, where both agree, and where ``predict`` is not decided by the probabilities at all: the second
        value is the share of rows of `X` on which the decision is explained.
        """
        if self.asks != "predict_proba":
            return None, 1.0
        predicted, proba = self.answers(X[np.unique(np.linspace(0, len(X) - 1, min(len(X), _DECISIONS)).astype(int))])
        known = predicted >= 0
        return decision_bias(proba[known], predicted[known])

    def _find_layout(self, X: np.ndarray, layout: Layout) -> tuple[int, ...]:
        """Flat rows as scikit-learn wants them, or the user's own shape, whichever `predict` takes."""
        errors: list[tuple[tuple[int, ...], Exception]] = []
        for shape, last in sorted(layout.fed, key=lambda way: len(way[0])):
            self.sample_shape, self.channels_last = shape, last
            try:
                self._ask("predict", X[:2])
            except Exception as error:  # the estimator's own, whatever it is: shown to the user below
                errors.append((shape, error))
            else:
                return shape
        if self._is_unfitted(errors[0][1]):
            raise NotFittedError(
                f"classifier={self.name} is not fitted. Call classifier.fit(X, y) before the explainer's fit: a "
                "classifier that is explained is used as it is, never trained. (classifier=None trains one.)"
            ) from errors[0][1]
        tried = "\n  ".join(f"rows of shape {shape}: {type(error).__name__}: {error}" for shape, error in errors)
        raise ClassifierOutputError(
            f"{self.name}.predict takes none of the layouts of this data. Tried\n  {tried}"
        ) from errors[0][1]

    def _is_unfitted(self, error: Exception) -> bool:
        """Not every estimator says so itself; a fitted one of another library may look unfitted, if it works."""
        if isinstance(error, NotFittedError):
            return True
        try:
            check_is_fitted(self.estimator)
        except NotFittedError:
            return True
        except TypeError:  # no fit method: nothing that could be fitted
            return False
        return False

    @one_thread()
    def _ask(self, method: str, X: np.ndarray) -> np.ndarray:
        rows: Any = (X.transpose(0, 2, 3, 1) if self.channels_last else X).reshape(len(X), *self.sample_shape)
        names = getattr(self.estimator, "feature_names_in_", None)
        if names is not None and rows.shape[1:] == names.shape:  # fitted on a data frame: it may pick columns by name
            rows = optional_import("pandas", "A classifier fitted on a data frame").DataFrame(rows, columns=names)
        return np.asarray(getattr(self.estimator, method)(rows))

    def _decisions(self, X: np.ndarray) -> np.ndarray:
        values = self._ask("decision_function", X).astype(np.float64).reshape(len(X), -1)
        values[~np.isfinite(values).all(1)] = np.nan
        return np.hstack([np.zeros_like(values), values]) if values.shape[1] == 1 else values

    def _calibrate(self, X: np.ndarray, codes: np.ndarray) -> None:
        values, decided = self._decisions(X), self.decided(X)
        count = len(self.classes_)
        finite = finite_rows(np.hstack([values, np.where(decided < 0, np.nan, decided)[:, None]]), self.name)
        values, decided, codes = values[finite], decided[finite], codes[finite]
        if values.shape[1] != count or (values.argmax(1) == decided).mean() < 0.99:
            return
        self.asks = "decision_function"
        members = np.bincount(codes, minlength=count)[codes]
        smoothed = np.repeat(1.0 / (members + count)[:, None], count, axis=1)
        smoothed[np.arange(len(codes)), codes] = (members + 1) / (members + count)

        def misfit(log_factor: float) -> float:
            return -float((smoothed * log_softmax(np.exp(log_factor) * values, axis=1)).sum())

        centre = -np.log(max(float(np.abs(values).mean()), 1e-300))  # the factor that makes a usual value 1
        self.factor = float(np.exp(minimize_scalar(misfit, bounds=(centre - 5, centre + 5), method="bounded").x))


def distil(
    teacher: BlackBox,
    X: np.ndarray,
    *,
    seed: int,
    training_budget: float = 1.0,
    device: str | torch.device = "cpu",
    verbose: int | str = 0,
    bias: np.ndarray | None = None,
    soft: bool = True,
) -> tuple[ClassifierNet, float]:
    """A network that answers as `teacher` does, on the data and between the classes; and how often it does.

    The student sees the teacher's probabilities (Hinton, Vinyals & Dean 2015, temperature 1: the Kullback-Leibler
    divergence up to a constant) on the rows of `X` and on rows made up where a counterfactual search will walk: on
    lines between two rows, most of them of two classes, and around rows at all scales of noise.

    Parameters
    ----------
    teacher : BlackBox
    X : ndarray of shape (n, C, H, W) or (n, d)
        A fifth of the rows is kept from the student, to measure its fidelity.
    bias : ndarray of shape (K,), optional
        Added to the student's logits before the largest is taken; see `BlackBox.decision_bias`.
    soft : bool, default=True
        Teach the teacher's probabilities; else, where ``predict`` does not go by them, its decisions.

    Returns
    -------
    net : ClassifierNet
        In float32 and evaluation mode, on `device`.
    fidelity : float
        Share of the held-out rows on which student and teacher predict the same class.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    held = order[: max(1, int(_HELD_OUT * len(X)))]
    own = X[order[len(held) :]] if len(X) > 1 else X
    predicted, targets = _taught(teacher, own, soft)
    finite = finite_rows(targets, teacher.name)
    own, predicted, targets = own[finite], predicted[finite], targets[finite]
    count = max(500, int(_BETWEEN * min(1.0, training_budget)))
    made_up = rows_between(own, predicted, count, rng)
    between = _taught(teacher, made_up, soft)[1]
    known = np.isfinite(between).all(1)  # rows that are made up may lie where the model has no answer
    # as many real rows as made-up ones: a few hundred must not drown among thousands
    repeats = max(1, count // len(own))
    net = train_classifier(
        np.concatenate([own] * repeats + [made_up[known]]),
        np.concatenate([targets] * repeats + [between[known]]),
        updates=3000, weight_decay=0.0, seed=seed, training_budget=training_budget, device=device, verbose=verbose,
        name="surrogate",
    )
    columns = tiled(lambda x: net.body(net.standardise(x).float()), X[held], device)
    said, seen = teacher.decided(X[held]), columns if bias is None else columns + bias
    fidelity = float((seen.argmax(1) == said)[said >= 0].mean()) if (said >= 0).any() else 0.0
    if fidelity < _FAITHFUL:
        warn_caller(
            f"The surrogate agrees with {teacher.name} on {fidelity:.1%} of the {len(held)} held-out rows only "
            f"(below {_FAITHFUL:.0%}): counterfactuals are searched on the surrogate and checked with the real model, "
            "so more of them will fail the check. Pass more rows, a larger training_budget, or a torch classifier.",
            UserWarning,
        )
    return net, fidelity


def _taught(teacher: BlackBox, X: np.ndarray, soft: bool) -> tuple[np.ndarray, np.ndarray]:
    """Class indices of `X`, and what the student learns to say of it, NaN where the teacher says nothing."""
    predicted, proba = teacher.answers(X)
    if not soft:
        proba = np.where(predicted[:, None] < 0, np.nan, np.eye(len(teacher.classes_))[predicted])
    return predicted, proba


def decision_bias(proba: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray | None, float]:
    """The b with which argmax(log p + b) is what was predicted on most rows, and on which share of the rows it is.

    A threshold is a bias, and so are the costs of calling a class by another name. Each class's entry in turn takes the
    middle of the widest interval in which most rows come out right. None where nothing need be added, or would not do.

    >>> p = np.array([0.2, 0.5, 0.8, 0.85, 0.95])
    >>> bias, share = decision_bias(np.stack([1 - p, p], axis=1), np.array([0, 0, 0, 0, 1]))
    >>> share, [f"{1 / (1 + np.exp(bias[1] - bias[0])):.2f}", "is the threshold"]
    (1.0, ['0.91', 'is the threshold'])
    """
    count = proba.shape[1]
    logs = np.log(proba.clip(np.finfo(np.float32).tiny))
    if not len(logs) or (proba.argmax(1) == predicted).all():
        return None, 1.0
    bias, classes = np.zeros(count), [1] if count == 2 else range(count)
    for _ in range(1 if count == 2 else 5):
        for k in classes:
            others = np.delete(logs + bias, k, axis=1)
            needed = others.max(1) - logs[:, k]  # a row says k where its bias is above this
            right = np.delete(np.arange(count), k)[others.argmax(1)] == predicted
            gain = np.where(predicted == k, 1, -right.astype(int))
            order = np.argsort(needed)
            ends = np.concatenate([[needed[order[0]] - 2], needed[order], [needed[order[-1]] + 2]])
            total, width = np.concatenate([[0], np.cumsum(gain[order])]), np.diff(ends)
            now = total[np.searchsorted(needed[order], bias[k])]
            best = total[width > 0].max()
            if best > now:
                place = np.flatnonzero((total == best) & (width > 0))
                place = place[width[place].argmax()]
                bias[k] = (ends[place] + ends[place + 1]) / 2
    share = float(((logs + bias).argmax(1) == predicted).mean())
    return (bias, share) if share >= _EXPLAINED else (None, share)


def rows_between(X: np.ndarray, codes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Half on lines between pairs of rows, half around rows, all with noise; images stay in the data's own range."""
    first, second = rng.integers(len(X), size=(2, count))
    for _ in range(4):  # redraw pairs of one class: what lies between two classes is what the search asks about
        same = codes[first] == codes[second]
        second[same] = rng.integers(len(X), size=int(same.sum()))
    one_a_row = (count,) + (1,) * (X.ndim - 1)
    share = rng.uniform(0, 1, one_a_row) * (np.arange(count) % 2).reshape(one_a_row)
    rows = X[first] + share * (X[second] - X[first])
    spread = X.std(axis=0) if X.ndim == 2 else X.std(axis=(0, 2, 3), keepdims=True)[0]
    scale = np.exp(rng.uniform(np.log(0.01), np.log(0.5), one_a_row))
    rows = rows + scale * spread * rng.standard_normal(X[first].shape)
    if X.ndim == 4:
        rows = rows.clip(X.min(), X.max())
    return rows.astype(X.dtype)
