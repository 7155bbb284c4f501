"""Whether a counterfactual looks real, sharp, and like the same individual, in networks that took no part in the search."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cfexplain.foundation.sharpness import laplacian_variance
from cfexplain.metrics.checks import Features, as_features, as_images, as_labels, as_pair, as_rows, check_count

__all__ = [
    "identity_distance", "neighbour_distance", "rank_among", "realism_percentile", "sharpness", "sharpness_ratio",
]


def realism_percentile(
    x_cf: ArrayLike | Tensor,
    target: Any,
    features: Features,
    X_ref: ArrayLike | Tensor,
    y_ref: ArrayLike,
    X_real: ArrayLike | Tensor,
    y_real: ArrayLike,
    k: int = 5,
) -> np.ndarray:
    """100 · (1 − share of real images that are nearer than x' to their k nearest reference images of the target class).

    Higher is more real. In 0 … 100: a real image has 50 on average; much less is unlike the class, much more is an average
    of it. Distances are Euclidean, in the features of an independent network; log density does not see faint ink, this does.

    Parameters
    ----------
    x_cf : array-like or tensor of shape (n, ...)
    target : label, or array-like of n labels
    features : nn.Module or callable images -> (n, f)
        Of a network that took no part in the search, its last layer left out: ``network[:-1]``. A callable gets the images
        as they are; a module gets its own dtype, and grey images (n, H, W) as (n, 1, H, W).
    X_ref, y_ref : reference images (m, ...) and their labels
        For instance the training set.
    X_real, y_real : held-out real images (r, ...) and their labels
        None of them may be among the references.
    k : int, default=5

    Returns
    -------
    ndarray of float64, shape (n,)
        Distances are computed in the dtype of the features.

    Raises
    ------
    ValueError
        Mismatched shapes, NaN, a target class with fewer than k reference images or without a held-out one.

    See Also
    --------
    neighbour_distance, rank_among : its two steps, where reference features are kept for many calls.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X_ref, X_real, y = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)), np.repeat([0, 1], 100)
    >>> realism_percentile([[0.0, 0.0], [9.0, 9.0]], 1, lambda x: np.asarray(x), X_ref, y, X_real, y).round().tolist()
    [64.0, 0.0]
    """
    x, k = as_rows(x_cf, "x_cf"), check_count(k, "k")
    reference, real = as_rows(X_ref, "X_ref", like=x), as_rows(X_real, "X_real", like=x)
    targets = as_labels(target, len(x), "target")
    y_ref, y_real = as_labels(y_ref, len(reference), "y_ref"), as_labels(y_real, len(real), "y_real")
    for label in np.unique(targets).tolist():
        counts = int((y_ref == label).sum()), int((y_real == label).sum())
        if counts[0] < k or not counts[1]:
            raise ValueError(f"The class {label!r} has {counts[0]} images in X_ref and {counts[1]} in X_real; at least "
                             f"k={k} and 1 are needed.")
    found, reference, real = (
        as_features(features, X, name) for name, X in (("x_cf", x_cf), ("X_ref", X_ref), ("X_real", X_real)))
    percentile = np.empty(len(x))
    for label in np.unique(targets).tolist():
        own, rows = reference[y_ref == label], targets == label
        scale = np.sort(neighbour_distance(real[y_real == label], own, k))
        percentile[rows] = rank_among(neighbour_distance(found[rows], own, k), scale)
    return percentile


def neighbour_distance(features: ArrayLike, reference: ArrayLike, k: int = 5) -> np.ndarray:
    """Mean Euclidean distance of each row of `features` (n, f) to its k nearest of `reference` (m, f), in their dtype.

    Examples
    --------
    >>> neighbour_distance(np.zeros((1, 1)), np.array([[1.0], [-2.0], [9.0]]), k=2).tolist()
    [1.5]
    """
    rows, others = np.asarray(features), np.asarray(reference)
    common = np.result_type(rows, others)
    distance = torch.cdist(torch.from_numpy(rows.astype(common)), torch.from_numpy(others.astype(common)))
    return distance.topk(k, largest=False)[0].mean(1).numpy()


def rank_among(distance: ArrayLike, real: ArrayLike) -> np.ndarray:
    """Percentage of the sorted distances `real` that are no smaller than each of `distance`.

    Examples
    --------
    >>> rank_among([0.5, 1.0, 3.5], [1.0, 2.0, 3.0, 4.0]).tolist()
    [100.0, 100.0, 25.0]
    """
    return 100 * (1 - np.searchsorted(np.asarray(real), distance) / np.size(real))


def sharpness(images: ArrayLike | Tensor) -> np.ndarray:
    """Variance of the Laplacian over all pixels (and channels) of an image.

    Higher is sharper, or noisier. Unit: of the images, squared; in [0, ∞).

    Parameters
    ----------
    images : array-like or tensor of shape (n, H, W), (n, C, H, W) or (n, H, W, C)

    Returns
    -------
    ndarray of float64, shape (n,)

    References
    ----------
    Pech-Pacheco, Cristóbal, Chamorro-Martínez & Fernández-Valdivia, *Diatom autofocusing in brightfield microscopy*, 2000.

    Examples
    --------
    >>> sharpness(np.array([np.ones((4, 4)), np.eye(4)])).round(2).tolist()
    [0.0, 4.0]
    """
    (images,) = as_images({"images": images})
    return laplacian_variance(images)


def sharpness_ratio(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor) -> np.ndarray:
    """Sharpness of x' over that of x: what the decoder blurred (below 1), or the search roughened (above 1).

    Best near 1. No unit, in [0, ∞]. Rows where both are without any contrast have 1, where only x is, ∞.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, H, W), (n, C, H, W) or (n, H, W, C)

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, NaN, or no images.

    See Also
    --------
    sharpness : variance of the Laplacian.

    Examples
    --------
    >>> sharpness_ratio(np.eye(4)[None], np.eye(4)[None] / 2).tolist()
    [0.25]
    """
    as_pair(x, x_cf)
    before, after = sharpness(x), sharpness(x_cf)
    nothing = before == 0
    ratio = after / np.where(nothing, 1, before)
    return np.where(nothing, np.where(after == 0, 1.0, np.inf), ratio)


def identity_distance(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, features: Features) -> np.ndarray:
    """‖φ(x') − φ(x)‖ for the embedding φ of a network that tells individuals apart, a face recogniser for instance.

    Lower is better: the same individual. Unit: of the embedding; in [0, ∞). Compare it with the network's own threshold (.6
    for dlib's face recogniser).

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, ...)
    features : nn.Module or callable images -> (n, f)
        As in :func:`realism_percentile`.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, NaN, or features that are not one row an image.

    Examples
    --------
    >>> identity_distance([[0.0, 0.0]], [[3.0, 4.0]], lambda x: np.asarray(x) / 10).tolist()
    [0.5]
    """
    as_pair(x, x_cf)
    before, after = (as_features(features, X, name).astype(np.float64) for name, X in (("x", x), ("x_cf", x_cf)))
    if before.shape != after.shape:
        raise ValueError(f"features returned shapes {before.shape} for x and {after.shape} for x_cf.")
    return np.linalg.norm(after - before, axis=1)
