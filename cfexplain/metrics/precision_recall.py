"""Whether counterfactuals lie where real images lie, and everywhere there: a judgement that no blob wins."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from torch import Tensor

from cfexplain.metrics.checks import Features, as_features, as_rows, check_count

__all__ = ["precision_recall", "precision_recall_f1"]


def precision_recall(x_real: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, features: Features | None = None, *,
                     k: int = 5) -> tuple[float, float]:
    """Improved precision and recall of a set of counterfactuals.

    Precision is the share of counterfactuals that lie in the ball around some real image that reaches to its k-th nearest
    other real image; recall is the share of real images that lie in the ball around some counterfactual that reaches to its
    k-th nearest other counterfactual. Both in 0 … 1, higher is better.

    Parameters
    ----------
    x_real : array-like or tensor of shape (m, ...)
        Real images of the target class.
    x_cf : array-like or tensor of shape (n, ...)
        Counterfactuals with this target.
    features : nn.Module or callable images -> (n, f), optional
        As in :func:`realism_percentile`. Default: the pixels.
    k : int, default=5

    Returns
    -------
    precision, recall : float

    Raises
    ------
    ValueError
        Not more than k images in a set, NaN, or features that do not fit.

    References
    ----------
    Kynkäänniemi, Karras, Laine, Lehtinen & Aila, *Improved precision and recall metric for assessing generative models*,
    NeurIPS 2019.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> real, same, centre = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)), np.zeros((200, 2))
    >>> [round(value, 2) for value in precision_recall(real, same)], precision_recall(real, centre)
    ([1.0, 1.0], (1.0, 0.0))
    """
    k = check_count(k, "k")
    real, found = as_rows(x_real, "x_real"), as_rows(x_cf, "x_cf")
    for name, rows in (("x_real", real), ("x_cf", found)):
        if len(rows) <= k:
            raise ValueError(f"{name} has {len(rows)} images; more than k={k} are needed.")
    if features is not None:
        real, found = (as_features(features, X, name).astype(np.float64)
                       for X, name in ((x_real, "x_real"), (x_cf, "x_cf")))
    apart = cdist(real, found)
    reach_real, reach_found = (np.partition(cdist(rows, rows), k, axis=1)[:, k] for rows in (real, found))
    return (float((apart <= reach_real[:, None]).any(0).mean()),
            float(((apart <= reach_found) & (reach_found > 0)).any(1).mean()))


def precision_recall_f1(x_real: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, features: Features, *, k: int = 5) -> float:
    """The harmonic mean of precision and recall, in pixels or in features, whichever is lower.

    Higher is better, in 0 … 1; held-out real images have about .9. A class's mean image, blurred images, and one prototype
    for all are nearer to real images than these are to each other, so that they win measures of nearness (realism
    percentile, precision, density, and coverage); they have no recall. Noise and images of another class have recall and no
    precision. What only fools the features loses in pixels, and the reverse.

    Parameters
    ----------
    x_real, x_cf, features, k
        As in :func:`precision_recall`.

    Returns
    -------
    float
        It depends on the number of images: compare with that of as many held-out real ones.

    Raises
    ------
    ValueError
        As :func:`precision_recall`.

    See Also
    --------
    realism_percentile : of each image, how near it is to real ones.

    References
    ----------
    Kynkäänniemi et al., NeurIPS 2019, for the two; Sajjadi, Bachem, Lucic, Bousquet & Gelly, *Assessing generative models
    via precision and recall*, NeurIPS 2018, for F₁. Naeem, Oh, Uh, Choi & Yoo, *Reliable fidelity and diversity metrics for
    generative models*, ICML 2020, for density and coverage.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> real, same, centre = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)), np.zeros((200, 2))
    >>> round(precision_recall_f1(real, same, lambda x: x), 2), precision_recall_f1(real, centre, lambda x: x)
    (1.0, 0.0)
    """
    values = [precision_recall(x_real, x_cf, space, k=k) for space in (None, features)]
    return min(2 * p * r / (p + r) if p + r else 0.0 for p, r in values)
