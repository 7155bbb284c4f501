"""Whether nearly the same x gets nearly the same counterfactual."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.foundation.arrays import to_numpy
from cfexplain.foundation.random import draw_seed
from cfexplain.metrics.checks import as_labels, as_rows, check_count

__all__ = ["stability"]


def stability(
    explainer: Any,
    x: ArrayLike | Tensor,
    target: Any,
    *,
    noise: ArrayLike = 0.01,
    n_repeats: int = 4,
    random_state: int | None = 0,
) -> np.ndarray:
    """Mean over repeats of ‖x'(x + ε) − x'(x)‖ / ‖ε‖, ε Gaussian: how much the explanation magnifies a change of x.

    Lower is more stable. No unit, in [0, ∞); 1 where x' moves as much as x does, 0 where it does not move.

    Parameters
    ----------
    explainer : fitted explainer
    x : array-like or tensor of shape (n, ...)
        In the layout of `fit`.
    target : label or value, or one a row
        Of the clean and of the noisy rows. For an explainer of a regression, anything that its ``explain`` takes.
    noise : float or array-like that broadcasts to a sample, default=0.01
        Standard deviation of ε, in units of x. For tables, one a column: ``0.01 * X.std(0)``. Noisy images are clipped to
        the explainer's ``data_range``; ε is what is left of the noise.
    n_repeats : int, default=4
    random_state : int or None, default=0

    Returns
    -------
    ndarray of float64, shape (n,)
        All rows are counted, valid or not. A row's value does not depend on the rows after it.

    Raises
    ------
    ValueError
        NaN, no target, noise that is negative, does not fit, or vanishes in a row.
    NotFittedError
        The explainer is not fitted.

    Notes
    -----
    All n · (1 + n_repeats) rows are explained in one call.

    References
    ----------
    Alvarez-Melis & Jaakkola, *On the robustness of interpretability methods*, 2018 (local Lipschitz estimate; there the
    largest ratio, here the mean).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> stability(explainer, X[:3], 1).shape
    (3,)
    """
    check_is_fitted(explainer)
    as_rows(x, "x")
    n_repeats = check_count(n_repeats, "n_repeats")
    clean = np.asarray(to_numpy(x)).astype(explainer.dtype_)
    moved = _noisy(explainer, clean, noise, n_repeats, random_state)
    step = np.linalg.norm((moved.astype(np.float64) - clean[:, None]).reshape(len(clean), n_repeats, -1), axis=2)
    if not (step > 0).all():
        bad = np.flatnonzero(~(step > 0).all(1))
        raise ValueError(f"noise={noise!r} leaves {len(bad)} rows as they were, first {bad[:5].tolist()}. Make it larger.")
    everything = np.concatenate([clean[:, None], moved], 1).reshape(-1, *clean.shape[1:])
    found = explainer.explain(everything, target=_repeated(explainer, target, len(clean), n_repeats + 1))
    x_cf = as_rows(np.asarray(found), "x_cf").reshape(len(clean), n_repeats + 1, -1)
    return (np.linalg.norm(x_cf[:, 1:] - x_cf[:, :1], axis=2) / step).mean(1)


def _noisy(explainer: Any, clean: np.ndarray, noise: ArrayLike, n_repeats: int, random_state: int | None) -> np.ndarray:
    """Noisy copies (n, n_repeats, ...); row by row, so that the first rows do not depend on how many follow."""
    try:
        scale = np.broadcast_to(np.asarray(to_numpy(noise), dtype=np.float64), clean.shape[1:])
    except ValueError as error:
        raise ValueError(f"noise of shape {np.shape(noise)} does not broadcast to a sample's {clean.shape[1:]}.") from error
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise ValueError("noise must be finite and not negative.")
    rng = np.random.default_rng(draw_seed(random_state))
    moved = clean[:, None] + scale * rng.standard_normal((len(clean), n_repeats, *clean.shape[1:]))
    if explainer.layout_.is_image:
        moved = moved.clip(*explainer.data_range)
    return moved.astype(clean.dtype)


def _repeated(explainer: Any, target: Any, n: int, times: int) -> Any:
    """The target of each row for all its copies."""
    if target is None:
        raise ValueError("Name the target, for instance that of a result, cf.target: without one, a noisy row may be asked "
                         "for another class than the clean one.")
    if not hasattr(explainer, "classes_") and (isinstance(target, tuple | str) or np.ndim(to_numpy(target)) == 0):
        return target  # a value or an interval of a regression
    return np.repeat(as_labels(target, n, "target"), times)
