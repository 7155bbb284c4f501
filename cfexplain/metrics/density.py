"""Log density of counterfactuals under one common model, whichever method made them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.metrics.checks import as_labels, as_rows

__all__ = ["density_percentile_of", "log_density_of"]


def log_density_of(explainer: Any, x_cf: ArrayLike | Tensor, target: Any) -> np.ndarray:
    """log p(z|target) of the re-encoded images z = encode(x'), in the coordinates and density of one fitted explainer.

    Higher is more plausible. Unit: nats; any real number, comparable only between rows of the same class under the same
    explainer. Each method's own ``log_density`` is of the code that its search found, in its own coordinates: between
    methods, compare this one, under an explainer that judges all of them.

    Parameters
    ----------
    explainer : fitted explainer
        Has coordinates and a density (all explainers of this package).
    x_cf : array-like or tensor of shape (n, ...)
        Counterfactuals of any method, in the layout of the explainer's `fit`.
    target : label, or array-like of n labels
        Of a regression (one density for all values) it is not looked at.

    Returns
    -------
    ndarray of float64, shape (n,)
        Computed in the explainer's precision; −∞ where the density overflows.

    Raises
    ------
    ValueError
        NaN, another shape than in `fit`, images outside the data range, or an unknown label.
    TypeError
        Not an explainer.
    NotFittedError
        It is not fitted.

    References
    ----------
    PLACE, tables 1 and 2 ("log p").

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> own, other = (log_density_of(explainer, X[y == 0], target) for target in (0, 2))
    >>> bool((own > other).all())
    True
    """
    if not callable(getattr(explainer, "score_samples", None)) or not callable(getattr(explainer, "explain", None)):
        raise TypeError(f"explainer must be a fitted explainer of cfexplain, got {type(explainer).__name__}.")
    check_is_fitted(explainer)
    rows = as_rows(x_cf, "x_cf")
    labels = as_labels(target, len(rows), "target") if hasattr(explainer, "classes_") else None
    return explainer.score_samples(x_cf, labels).astype(np.float64)


def density_percentile_of(explainer: Any, x_cf: ArrayLike | Tensor, target: Any) -> np.ndarray:
    """Share of real rows of the target class that are no denser than x': :func:`log_density_of`, ranked among rows as those
    that the density was not trained on.

    Higher is more plausible. Unit: percent, in 0 … 100; 50 is as typical as the class's median.

    Parameters
    ----------
    explainer, x_cf, target
        As in :func:`log_density_of`.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError, TypeError, NotFittedError
        As :func:`log_density_of`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> bool(density_percentile_of(explainer, X[y == 0], 0).mean() > 50)  # the density was trained on them
    True
    """
    values = log_density_of(explainer, x_cf, target)
    index = np.zeros(len(values), dtype=int)
    if hasattr(explainer, "classes_"):
        position = {label: k for k, label in enumerate(explainer.classes_.tolist())}
        index = np.array([position[label] for label in as_labels(target, len(values), "target").tolist()])
    return explainer.density_.percentile(values, index)
