"""IM1 and IM2: whether autoencoders of the target class find a counterfactual as familiar as the model says it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from torch import Tensor

from cfexplain.coordinates import Autoencoder, Coordinates
from cfexplain.foundation.arrays import to_numpy
from cfexplain.metrics.checks import as_labels, as_rows

__all__ = ["class_autoencoders", "im1", "im2"]

Reconstruction = Coordinates | Callable[[Any], Any]


def im1(
    x_cf: ArrayLike | Tensor,
    source_autoencoder: Reconstruction,
    target_autoencoder: Reconstruction,
    *,
    squared: bool = False,
    epsilon: float = 1e-5,
) -> np.ndarray:
    """IM1 = ‖x' − AE_t(x')‖ / (‖x' − AE_c₀(x')‖ + ε): how well the target class's autoencoder knows x', by the source's.

    Lower is better; below 1 the target class explains x' better than the source class does. No unit, in [0, ∞).

    Parameters
    ----------
    x_cf : array-like or tensor of shape (n, ...)
        Counterfactuals of one source class and one target class, as the autoencoders take them.
    source_autoencoder, target_autoencoder : fitted Coordinates, or callable x -> reconstruction
        Trained on images of one class only, see :func:`class_autoencoders`. Anything fitted that has ``transform`` and
        ``inverse_transform`` will do.
    squared : bool, default=False
        Euclidean norms as in Diffeomorphic Counterfactuals (eq. 24, table 1: MNIST 1.06 in Z, 1.60 in X, 2.25 originals),
        or squared norms as in Van Looveren & Klaise. The two cannot be compared.
    epsilon : float, default=1e-5
        Keeps the denominator from 0; the papers say "small".

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        NaN or infinite values, or a reconstruction of another shape than x'.
    TypeError
        An autoencoder that can neither transform nor be called.

    Notes
    -----
    It is criticised: EvaluatingCounterfactuals finds it unable to tell adversarial examples from counterfactuals where an
    oracle and FID can. Report it beside other measures.

    References
    ----------
    Van Looveren & Klaise, *Interpretable counterfactual explanations guided by prototypes*, ECML PKDD 2021, eq. for IM1.
    Dombrowski, Gerken, Müller & Kessel, *Diffeomorphic Counterfactuals with Generative Models*, eq. 24.

    Examples
    --------
    Two subspaces as autoencoders: x' lies .1 off the target's and 1 off the source's.

    >>> import numpy as np
    >>> x_cf = np.array([[1.0, 0.1], [0.2, 0.2]])
    >>> im1(x_cf, lambda x: x * [0, 1], lambda x: x * [1, 0]).round(3).tolist()
    [0.1, 1.0]
    >>> im1(x_cf, lambda x: x * [0, 1], lambda x: x * [1, 0], squared=True).round(3).tolist()
    [0.01, 1.0]
    """
    power = _power(squared, epsilon)
    x = as_rows(x_cf, "x_cf")
    to_target = np.linalg.norm(x - _reconstruct(target_autoencoder, x_cf, x, "target_autoencoder"), axis=1)
    to_source = np.linalg.norm(x - _reconstruct(source_autoencoder, x_cf, x, "source_autoencoder"), axis=1)
    return to_target**power / (to_source**power + epsilon)


def im2(
    x_cf: ArrayLike | Tensor,
    target_autoencoder: Reconstruction,
    full_autoencoder: Reconstruction,
    *,
    squared: bool = False,
    epsilon: float = 1e-5,
) -> np.ndarray:
    """IM2 = ‖AE_t(x') − AE(x')‖ / (‖x'‖₁ + ε): how far the target class's autoencoder is from that of all classes, at x'.

    Lower is better. Unit: of x over its own sum, so no unit; in [0, ∞).

    Parameters
    ----------
    x_cf : array-like or tensor of shape (n, ...)
        Counterfactuals of one target class, as the autoencoders take them.
    target_autoencoder, full_autoencoder : fitted Coordinates, or callable x -> reconstruction
        Trained on the target class, and on all classes.
    squared : bool, default=False
        The norm in the numerator as in Diffeomorphic Counterfactuals (eq. 25), or squared as in Van Looveren & Klaise.
    epsilon : float, default=1e-5

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError, TypeError
        As :func:`im1`.

    Notes
    -----
    The 1-norm of x' rewards bright images, whatever they show; Diffeomorphic Counterfactuals therefore leaves IM2 out.

    Examples
    --------
    >>> import numpy as np
    >>> im2(np.array([[3.0, 1.0]]), lambda x: x * [1, 0], lambda x: x).round(3).tolist()
    [0.25]
    """
    power = _power(squared, epsilon)
    x = as_rows(x_cf, "x_cf")
    difference = (_reconstruct(target_autoencoder, x_cf, x, "target_autoencoder")
                  - _reconstruct(full_autoencoder, x_cf, x, "full_autoencoder"))
    return np.linalg.norm(difference, axis=1) ** power / (np.abs(x).sum(1) + epsilon)


def class_autoencoders(
    X: ArrayLike | Tensor,
    y: ArrayLike,
    autoencoder: Coordinates | None = None,
    *,
    random_state: int | None = 0,
) -> dict[Any, Coordinates]:
    """An autoencoder a class, fitted on the samples of this class alone: what :func:`im1` and :func:`im2` compare.

    Parameters
    ----------
    X : array or tensor of shape (n, ...)
    y : array-like of shape (n,)
    autoencoder : unfitted Coordinates, optional
        Cloned for every class. Default: ``Autoencoder(random_state=random_state)``; Diffeomorphic Counterfactuals uses a
        convolutional `VAE`.
    random_state : int or None, default=0
        Of the default autoencoder.

    Returns
    -------
    dict of label -> fitted Coordinates

    Raises
    ------
    ValueError
        Another number of labels than of samples.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> experts = class_autoencoders(X, y, Autoencoder(latent_dim=2, training_budget=0.1, random_state=0))
    >>> values = im1(X[y == 0], experts[1], experts[0])         # of real samples of the target class
    >>> values.shape, bool((values < 1).all())
    ((50,), True)
    """
    X = np.asarray(to_numpy(X))
    y = as_labels(y, len(X), "y")
    autoencoder = Autoencoder(random_state=random_state) if autoencoder is None else autoencoder
    return {label: clone(autoencoder).fit(X[y == label]) for label in np.unique(y).tolist()}


def _power(squared: bool, epsilon: float) -> int:
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon!r} must be positive.")
    return 2 if squared else 1


def _reconstruct(autoencoder: Reconstruction, x_cf: Any, x: np.ndarray, name: str) -> np.ndarray:
    if hasattr(autoencoder, "transform") and hasattr(autoencoder, "inverse_transform"):
        out = autoencoder.inverse_transform(autoencoder.transform(x_cf))
    elif callable(autoencoder):
        out = autoencoder(x_cf)
    else:
        raise TypeError(
            f"{name} must be fitted Coordinates or a function x -> reconstruction, got {type(autoencoder).__name__}.")
    rows = as_rows(out, f"The reconstruction of {name}")
    if rows.shape != x.shape:
        raise ValueError(
            f"{name} returned shape {np.shape(to_numpy(out))} for samples of shape {np.shape(to_numpy(x_cf))}; expected a "
            "reconstruction of each.")
    return rows
