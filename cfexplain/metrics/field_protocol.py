"""The protocol by which papers compare visual counterfactuals: FVA, FS, S³, MNAC, CD, COUT, sFID and σ_L.

Definitions are those of the code that published tables come from (DiME, ACE, FastDiME). Which rows count differs there from
measure to measure, and is the commonest reason why two tables cannot be compared: FVA, MNAC, CD and FID of successful flips
alone, COUT and S³ of every original that the model gets right. Here every function measures the rows that it is given, one
value a row where that is possible; `cfexplain.evaluation.protocol_metrics` gives each for all rows and for flips alone.
FR is the mean of `validity`, MAD that of ``abs(confidence_gain(...))``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid
from torch import Tensor

from cfexplain.foundation.arrays import read_channels, to_numpy
from cfexplain.foundation.random import draw_seed
from cfexplain.metrics.checks import Features, as_features, as_labels, as_pair, as_rows, check_count
from cfexplain.metrics.distribution import fid
from cfexplain.metrics.similarity import lpips

__all__ = [
    "attributes_changed", "correlation_difference", "cout", "feature_cosine", "lpips_diversity", "sfid", "verified",
]


def feature_cosine(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, features: Features) -> np.ndarray:
    """cos(φ(x), φ(x')) in the features of a network: FS with a face recogniser, S³ with the encoder of SimSiam.

    Higher is more alike. No unit, in −1 … 1.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, ...)
    features : nn.Module or callable images -> (n, f)
        Name it with the number. The field's FS is of VGGFace2's ResNet-50 (224 pixels, BGR less the mean), its S³ of the
        ResNet-50 *encoder* of SimSiam, without the predictor. A callable gets the images as they are and sees to size and
        range; a module gets its own dtype, and grey images (n, H, W) as (n, 1, H, W).

    Returns
    -------
    ndarray of float64, shape (n,)
        Its mean over rows is FS, or S³.

    Raises
    ------
    ValueError
        Different shapes, NaN, features that are not one row an image, or all zeros.

    References
    ----------
    Jeanneret, Simon & Jurie, *Diffusion models for counterfactual explanations* (DiME), ACCV 2022, and *Adversarial
    counterfactual visual explanations* (ACE), CVPR 2023.

    Examples
    --------
    >>> feature_cosine([[1.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 3.0]], lambda x: np.asarray(x)).round(3).tolist()
    [1.0, 0.707]
    """
    as_pair(x, x_cf)
    before, after = (as_features(features, X, name).astype(np.float64) for name, X in (("x", x), ("x_cf", x_cf)))
    if before.shape != after.shape:
        raise ValueError(f"features returned shapes {before.shape} for x and {after.shape} for x_cf.")
    lengths = [np.linalg.norm(rows, axis=1) for rows in (before, after)]
    for name, length in zip(("x", "x_cf"), lengths, strict=True):
        if not (length > 0).all():
            raise ValueError(f"features are all zero for {name} in the rows {np.flatnonzero(length == 0)[:5].tolist()}: no "
                             "cosine exists.")
    return (before * after).sum(1) / (lengths[0] * lengths[1])


def verified(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, features: Features, threshold: float = 0.5) -> np.ndarray:
    """1 where a face recogniser takes x and x' for one person, cos(φ(x), φ(x')) > threshold: FVA is its mean.

    Higher is better. No unit, 0 or 1.

    Parameters
    ----------
    x, x_cf, features
        As in :func:`feature_cosine`.
    threshold : float in [-1, 1], default=0.5
        The field's, for VGGFace2. Other recognisers have their own, and at .5 some say "the same" of any two faces: dlib's
        descriptors of different people have a cosine of about .85. Look at real pairs before you believe a 100 %.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        As in :func:`feature_cosine`, or a threshold that is no cosine.

    Examples
    --------
    >>> verified([[1.0, 0.0], [1.0, 0.0]], [[2.0, 0.1], [0.0, 3.0]], lambda x: np.asarray(x)).tolist()
    [1.0, 0.0]
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r} must be a cosine, in -1 ... 1.")
    return (feature_cosine(x, x_cf, features) > threshold).astype(np.float64)


def attributes_changed(x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, oracle: Features) -> np.ndarray:
    """Σₐ 1[oracleₐ(x) > .5 ≠ oracleₐ(x') > .5], how many attributes an oracle sees changed: MNAC is its mean.

    Lower is better at equal validity, and 1 is what a flip costs: the asked attribute counts. Unit: attributes; in 0 … K.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, ...)
    oracle : nn.Module or callable images -> probabilities (n, K)
        Of K attributes, each in [0, 1]; of CelebA's forty in the field. A network that took no part in the search. One that
        gives logits: ``nn.Sequential(network, nn.Sigmoid())``.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, NaN, or answers that are no probabilities.

    References
    ----------
    Rodríguez et al., *Beyond trivial counterfactual explanations with diverse valuable explanations*, ICCV 2021.

    Examples
    --------
    >>> attributes_changed([[0.9, 0.1, 0.6]], [[0.2, 0.2, 0.4]], lambda x: np.asarray(x)).tolist()
    [2.0]
    """
    before, after = _seen(x, x_cf, oracle)
    return (before != after).sum(1).astype(np.float64)


def correlation_difference(
    x: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, oracle: Features, query: int, y_train: ArrayLike | Tensor,
) -> float:
    """CD = Σₐ |corr(δₐ, δ_q) − corr(yₐ, y_q)|: whether what changes together with the asked attribute q does so in the data.

    Lower is better. No unit, in [0, 2K]. δ is the change, −1, 0 or 1, that the oracle sees in an attribute; the first
    correlation is over the rows, the second over training labels. An attribute that never changes, or never varies, has no
    correlation and counts with 0.

    Parameters
    ----------
    x, x_cf, oracle
        As in :func:`attributes_changed`.
    query : int
        Which of the K attributes was asked to change.
    y_train : array-like of shape (m, K)
        Labels of the attributes, 0 and 1 (or −1 and 1).

    Returns
    -------
    float
        Measure rows that gain the attribute and rows that lose it together, as the field does: among rows of one direction,
        all flipped, δ_q does not vary, and CD is Σₐ |corr(yₐ, y_q)|, whatever was done.

    Raises
    ------
    ValueError
        As in :func:`attributes_changed`, fewer than 2 rows, labels of other attributes, or a query that is none of them.

    References
    ----------
    Jeanneret, Simon & Jurie, *Diffusion models for counterfactual explanations*, ACCV 2022.

    Examples
    --------
    >>> x, x_cf = np.zeros((2, 2)), np.array([[1.0, 1.0], [0.0, 0.0]])         # both change together ...
    >>> round(correlation_difference(x, x_cf, lambda x: x, 0, y_train=[[0, 1], [1, 0]]), 6)    # but never in training
    2.0
    """
    before, after = _seen(x, x_cf, oracle)
    labels, count = as_rows(y_train, "y_train"), before.shape[1]
    if labels.shape[1] != count:
        raise ValueError(f"y_train has {labels.shape[1]} attributes, but the oracle {count}.")
    if isinstance(query, bool) or not isinstance(query, int | np.integer) or not 0 <= query < count:
        raise ValueError(f"query={query!r} must be the index of one of the oracle's {count} attributes.")
    if min(len(before), len(labels)) < 2:
        raise ValueError(f"x has {len(before)} rows and y_train {len(labels)}; a correlation needs at least 2.")
    change = after.astype(np.float64) - before
    return float(np.abs(_correlations(change, query) - _correlations(labels, query)).sum())


def cout(
    x: ArrayLike | Tensor,
    x_cf: ArrayLike | Tensor,
    probabilities: Callable[[Any], Any],
    source: Any,
    target: Any,
    *,
    steps: int = 50,
) -> np.ndarray:
    """COUT: the pixels of x' replace those of x, the most changed first; area under p(target) less that under p(source).

    Higher is better: the few pixels that change most decide. No unit, in −1 … 1. Pixels are ordered by Σ_c |x' − x|, and
    ⌊HW / steps⌋ of them are replaced at once; areas are trapezoids over the share of the steps.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, H, W), (n, C, H, W) or (n, H, W, C)
    probabilities : callable images -> (n, K)
        The explained classifier's, of the images as they are given: ``explainer.predict_proba``.
    source, target : int, or array-like of n ints
        Columns of `probabilities`: the class that the classifier gives x, and the one that was asked for.
    steps : int, default=50
        The classifier is asked ⌈HW / ⌊HW / steps⌋⌉ + 1 times: 52 times for 112×112 pixels.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        Different shapes, NaN, no images, fewer pixels than steps, classes that are no columns, or answers that are no
        probabilities.

    References
    ----------
    Khorram & Fuxin, *Cycle-consistent counterfactuals by latent transformations*, CVPR 2022.

    Examples
    --------
    One pixel of four decides: of the five looks at x, all but the first see the target.

    >>> def sees_corner(images):
    ...     bright = images[:, 0, 0] > 0.5
    ...     return np.stack([~bright, bright], 1).astype(float)
    >>> x = np.zeros((1, 2, 2))
    >>> cout(x, x + [[0.9, 0.2], [0.1, 0.3]], sees_corner, source=0, target=1, steps=4).tolist()
    [0.75]
    """
    as_pair(x, x_cf)
    before, after = (np.asarray(to_numpy(X)) for X in (x, x_cf))
    if before.ndim not in (3, 4):
        raise ValueError(f"x must be images of shape (n, H, W) or (n, C, H, W), got shape {before.shape}.")
    n, steps = len(before), check_count(steps, "steps")
    mixed = before.copy()
    # views with the channels last, whichever layout was given: what is written into them is in `mixed`
    now, new = (_channels_last(X) for X in (mixed, after))
    height, width = now.shape[1:3]
    at_once = height * width // steps
    if at_once == 0:
        raise ValueError(f"steps={steps} is more than the {height * width} pixels of an image.")
    order = np.argsort(-np.abs(new.astype(np.float64) - now).sum(3).reshape(n, -1), axis=1, kind="stable")
    columns = [as_labels(label, n, name) for label, name in ((source, "source"), (target, "target"))]
    rows, less = np.arange(n), []
    for first in range(0, height * width + at_once, at_once):
        less.append(_gap(probabilities(mixed), n, rows, *columns))
        places = (rows[:, None], *np.unravel_index(order[:, first : first + at_once], (height, width)))
        now[places] = new[places]
    return trapezoid(np.stack(less), dx=1 / (len(less) - 1), axis=0)


def sfid(
    x: ArrayLike | Tensor,
    x_cf: ArrayLike | Tensor,
    features: Features | None = None,
    *,
    random_state: int | None = 0,
    data_range: tuple[float, float] = (0.0, 1.0),
) -> float:
    """sFID: rows in random halves, the mean of FID(x of one half, x' of the other) both ways.

    Lower is better. Unit: of the features, squared. Plain FID of x and x' is low for whatever hardly changes x; here no
    counterfactual is compared with its own original.

    Parameters
    ----------
    x, x_cf : array-like or tensor of shape (n, ...)
        At least 4.
    features, data_range
        As in :func:`fid`.
    random_state : int or None, default=0
        Of the halves.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Different shapes, NaN, fewer than 4 rows, or features that do not fit.
    DataRangeError, ImportError, OSError
        As in :func:`fid`.

    Warns
    -----
    UserWarning
        Fewer than 4000 rows.

    References
    ----------
    Jeanneret, Simon & Jurie, *Adversarial counterfactual visual explanations*, CVPR 2023.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(4000, 2))
    >>> round(sfid(x, x + [2.0, 0.0], features=lambda x: x), 1)
    4.0
    """
    as_pair(x, x_cf)
    before, after = (np.asarray(to_numpy(X)) for X in (x, x_cf))
    if len(before) < 4:
        raise ValueError(f"x has {len(before)} rows; at least 4 are needed, 2 in each half.")
    order = np.random.default_rng(draw_seed(random_state)).permutation(len(before))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    return float(np.mean([fid(before[one], after[other], features, data_range=data_range)
                          for one, other in (halves, halves[::-1])]))


def lpips_diversity(
    x_cf: ArrayLike | Tensor,
    data_range: tuple[float, float] = (0.0, 1.0),
    net: str = "vgg",
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> np.ndarray:
    """σ_L: mean LPIPS among all pairs of the counterfactuals of one image.

    Higher is more diverse, at equal validity: noise is diverse, too. No unit, in [0, ∞).

    Parameters
    ----------
    x_cf : array-like or tensor of shape (n, k, ...), k at least 2
        The k counterfactuals of each of n images, each (H, W), (C, H, W) or (H, W, C).
    data_range, distance
        As in :func:`lpips`.
    net : {"vgg", "alex", "squeeze"}, default="vgg"
        The field's is VGG.

    Returns
    -------
    ndarray of float64, shape (n,)
        Its mean over images is σ_L.

    Raises
    ------
    ValueError
        One counterfactual an image, NaN, or as :func:`lpips`.
    DataRangeError, ImportError, OSError
        As in :func:`lpips`.

    References
    ----------
    Jeanneret, Simon & Jurie, *Diffusion models for counterfactual explanations*, ACCV 2022.

    Examples
    --------
    >>> x_cf = np.zeros((1, 3, 2, 2))
    >>> x_cf[0, 1] = 1.0
    >>> lpips_diversity(x_cf, distance=lambda a, b: (a - b).abs().mean((1, 2, 3))).round(3).tolist()
    [0.667]
    """
    many = np.asarray(to_numpy(x_cf))
    if many.ndim not in (4, 5) or many.shape[1] < 2:
        raise ValueError(f"x_cf must be (n, k, ...), at least k=2 images of each of n, got shape {many.shape}.")
    pairs = list(combinations(range(many.shape[1]), 2))
    a, b = (np.concatenate([many[:, pair[side]] for pair in pairs]) for side in (0, 1))
    return lpips(a, b, data_range, net, distance).reshape(len(pairs), len(many)).mean(0)


def _seen(x: Any, x_cf: Any, oracle: Features) -> tuple[np.ndarray, np.ndarray]:
    """Which attributes the oracle sees, bool (n, K), in x and in x'."""
    as_pair(x, x_cf)
    before, after = (_probabilities(as_features(oracle, X, name), name) for name, X in (("x", x), ("x_cf", x_cf)))
    if before.shape != after.shape:
        raise ValueError(f"The oracle returned shapes {before.shape} for x and {after.shape} for x_cf.")
    return before > 0.5, after > 0.5


def _probabilities(answers: np.ndarray, name: str) -> np.ndarray:
    if answers.min() < -1e-6 or answers.max() > 1 + 1e-6:
        raise ValueError(f"The answers for {name} lie in [{answers.min():g}, {answers.max():g}]; expected probabilities. "
                         "For logits: torch.nn.Sequential(network, torch.nn.Sigmoid()), or Softmax of classes.")
    return answers


def _channels_last(images: np.ndarray) -> np.ndarray:
    """A view of images (n, H, W), (n, C, H, W) or (n, H, W, C) as (n, H, W, C)."""
    if images.ndim == 3:
        return images[..., None]
    return images if read_channels(images.shape[1:])[0] == "last" else np.moveaxis(images, 1, -1)


def _correlations(columns: np.ndarray, query: int) -> np.ndarray:
    """Pearson's correlation of each column with that of `query`; 0 where one of the two does not vary."""
    centred = columns - columns.mean(0)
    lengths = np.linalg.norm(centred, axis=0)
    product = lengths * lengths[query]
    return (centred * centred[:, [query]]).sum(0) / np.where(product > 0, product, 1)


def _gap(answers: Any, n: int, rows: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """p(target) − p(source), (n,)."""
    found = np.asarray(to_numpy(answers), dtype=np.float64)
    if found.ndim != 2 or len(found) != n:
        raise ValueError(f"probabilities returned shape {found.shape} for {n} images; expected ({n}, K).")
    as_rows(_probabilities(found, "mixed images"), "probabilities(images)")
    for name, labels in (("source", source), ("target", target)):
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= found.shape[1]:
            raise ValueError(f"{name} must be columns of the {found.shape[1]} probabilities, got {np.unique(labels)[:5]}.")
    return found[rows, target] - found[rows, source]
