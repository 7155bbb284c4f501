"""What classifiers say of a counterfactual: the explained one, and others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from cfexplain.foundation.arrays import to_numpy
from cfexplain.metrics.checks import as_labels, as_rows, run_module

__all__ = ["confidence_gain", "oracle_agreement", "validity"]


def validity(predictions: ArrayLike | Tensor, target: Any) -> np.ndarray:
    """1 where the explained classifier gives x' its target, else 0; the mean over rows is the success rate.

    Higher is better. No unit, 0 or 1.

    Parameters
    ----------
    predictions : array-like of shape (n,)
        The classifier's labels of the counterfactuals (of the user's own classifier, not of a surrogate).
    target : label, or array-like of n labels

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Not one label a row, NaN, or labels of another kind (numbers and strings).

    References
    ----------
    PLACE, tables 1 and 2 ("validity"). Dombrowski, Gerken, Müller & Kessel, *Diffeomorphic Counterfactuals with Generative
    Models*, section 5 (there with p(target|x') > Λ).

    Examples
    --------
    >>> validity(["cat", "dog", "cat"], "cat").tolist()
    [1.0, 0.0, 1.0]
    """
    said = np.asarray(to_numpy(predictions))
    if said.ndim != 1 or not len(said):
        raise ValueError(f"predictions must be one label a row, of shape (n,), got shape {said.shape}.")
    wanted = as_labels(target, len(said), "target")
    for name, labels in (("predictions", said), ("target", wanted)):
        if labels.dtype.kind == "f" and np.isnan(labels).any():
            raise ValueError(f"{name} has NaN in the rows {np.flatnonzero(np.isnan(labels))[:5].tolist()}.")
    strings = [labels.dtype.kind in "US" for labels in (said, wanted)]
    if strings[0] != strings[1] and "O" not in (said.dtype.kind, wanted.dtype.kind):
        raise ValueError(f"predictions are {said.dtype}, but target is {wanted.dtype}: pass labels, not indices.")
    return (said == wanted).astype(np.float64)


def confidence_gain(proba_before: ArrayLike | Tensor, proba_after: ArrayLike | Tensor) -> np.ndarray:
    """p(target|x') − p(target|x): how much more the explained classifier believes in the target.

    Higher is better. Unit: probability, in −1 … 1.

    Parameters
    ----------
    proba_before, proba_after : array-like of shape (n,), in 0 … 1
        Probability of the row's target, for x and for x'.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, NaN, or values that are no probabilities.

    Examples
    --------
    >>> confidence_gain([0.25, 0.5], [1.0, 0.5]).tolist()
    [0.75, 0.0]
    """
    values = []
    for name, proba in (("proba_before", proba_before), ("proba_after", proba_after)):
        proba = np.asarray(to_numpy(proba))
        if proba.ndim != 1:
            raise ValueError(f"{name} must be one probability a row, of shape (n,), got shape {proba.shape}.")
        values.append(as_rows(proba[:, None], name)[:, 0])
        wrong = np.flatnonzero((values[-1] < 0) | (values[-1] > 1 + 1e-6))
        if len(wrong):
            raise ValueError(f"{name} must lie in 0 … 1: it does not in the rows {wrong[:5].tolist()}. For logits, take the "
                             "softmax first.")
    before, after = values
    if before.shape != after.shape:
        raise ValueError(f"proba_before has {len(before)} rows, proba_after {len(after)}.")
    return after - before


def oracle_agreement(
    oracle: Any, x_cf: ArrayLike | Tensor, target: Any, *, classes: ArrayLike | None = None
) -> np.ndarray:
    """1 where another classifier, which took no part in the search, sees the target in x', else 0.

    Higher is better: what only the explained classifier sees is no feature of the class. No unit, 0 or 1. Compare its mean
    with the oracle's accuracy on real images.

    Parameters
    ----------
    oracle : object with ``predict``, or nn.Module
        A fitted scikit-learn estimator (images are flattened for one that was fitted on rows), a skorch net, or a module
        that returns logits (n, K), or (n, 1) for two classes. It is used in evaluation mode and left as it was.
    x_cf : array-like or tensor of shape (n, ...)
        Handed to ``predict`` as it is; a module gets its own dtype, and grey images (n, H, W) as (n, 1, H, W).
    target : label, or array-like of n labels
    classes : array-like of shape (K,), optional
        Labels of a module's outputs. Default: 0 … K − 1.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        NaN, a label that is missing, or outputs that are not one row of logits a sample.
    TypeError
        The oracle can neither predict nor is a module.

    References
    ----------
    Dombrowski, Gerken, Müller & Kessel, *Diffeomorphic Counterfactuals with Generative Models*, figure 10 and appendix B (a
    linear SVM). Hvilshøj, Iosifidis & Assent, *On quantitative evaluations of counterfactuals*, 2021 (a second network).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.svm import LinearSVC
    >>> X, y = load_iris(return_X_y=True)
    >>> oracle_agreement(LinearSVC(random_state=0).fit(X, y), X[[0, 1, 149]], target=2).tolist()
    [0.0, 0.0, 1.0]
    """
    rows = as_rows(x_cf, "x_cf")
    if callable(getattr(oracle, "predict", None)):
        X = x_cf if isinstance(x_cf, Tensor) else np.asarray(x_cf)
        # fitted on flat rows by scikit-learn; an explainer knows the layout of its images
        if X.ndim > 2 and getattr(oracle, "n_features_in_", None) == rows.shape[1] and not hasattr(oracle, "layout_"):
            X = X.reshape(len(rows), -1)
        return _same_count(validity(oracle.predict(X), target), rows)
    if not isinstance(oracle, nn.Module):
        raise TypeError(f"oracle must have a method predict or be a torch module, got {type(oracle).__name__}.")
    logits = run_module(oracle, x_cf)
    if logits.shape == (len(rows),):
        logits = logits[:, None]
    if logits.ndim != 2 or len(logits) != len(rows):
        raise ValueError(f"oracle returned shape {logits.shape} for {len(rows)} samples; expected logits (n, K).")
    as_rows(logits, "oracle(x_cf)")
    index = (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(1)
    labels = np.arange(max(2, logits.shape[1])) if classes is None else np.asarray(classes)
    if labels.shape != (max(2, logits.shape[1]),):
        raise ValueError(f"classes must name the oracle's {max(2, logits.shape[1])} classes, got shape {labels.shape}.")
    unknown = set(as_labels(target, len(rows), "target").tolist()) - set(labels.tolist())
    if unknown:
        raise ValueError(f"target {sorted(map(str, unknown))} is not among the oracle's classes {labels.tolist()[:20]}; "
                         "name them: classes=.")
    return validity(labels[index], target)


def _same_count(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if len(values) != len(rows):
        raise ValueError(f"oracle.predict returned {len(values)} labels for {len(rows)} samples.")
    return values
