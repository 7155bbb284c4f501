"""FID and KID: how far the set of counterfactuals is from a set of real images, in the features of a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cfexplain.foundation.exceptions import warn_caller
from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.random import draw_seed, seeded_torch
from cfexplain.foundation.tiles import in_tiles
from cfexplain.metrics.checks import Features, as_features, as_images, as_rows, check_count

__all__ = ["fid", "kid"]

_ENOUGH = 2000
_ROWS = 1024


def fid(
    x_real: ArrayLike | Tensor,
    x_cf: ArrayLike | Tensor,
    features: Features | None = None,
    *,
    data_range: tuple[float, float] = (0.0, 1.0),
) -> float:
    """Fréchet distance ‖μ − μ'‖² + tr(Σ + Σ' − 2(ΣΣ')^½) of two Gaussians fitted to features of the sets.

    Lower is better. Unit: of the features, squared; in [0, ∞), 0 for identical sets. A number is comparable only with the
    same features and the same number of images: with few images it is far too high.

    Parameters
    ----------
    x_real : array-like or tensor of shape (m, ...)
        Real images; of the target class, if class and quality are both to count.
    x_cf : array-like or tensor of shape (n, ...)
    features : nn.Module or callable images -> (n, f), optional
        Name it with the number: "FID" alone means the default, the Inception network's 2048 pooled features by torchmetrics
        and torch-fidelity, whose weights are downloaded at first use. A callable gets the images as they are; a module gets
        its own dtype, and grey images (n, H, W) as (n, 1, H, W).
    data_range : (low, high), default=(0, 1)
        Of the images, for the Inception network, which sees them rounded to 8 bits, grey ones as RGB. Features of your own
        take care of their range.

    Returns
    -------
    float
        Covariances are unbiased (n − 1), all sums are in float64.

    Raises
    ------
    ValueError
        Fewer than 2 images in a set, NaN, or features that do not fit.
    DataRangeError
        Images outside `data_range`, or of integers, for the Inception network.
    ImportError, OSError
        torch-fidelity or the Inception network's weights cannot be had.

    Warns
    -----
    UserWarning
        Fewer than 2000 images in a set.

    References
    ----------
    Heusel, Ramsauer, Unterthiner, Nessler & Hochreiter, *GANs trained by a two time-scale update rule converge to a local
    Nash equilibrium*, NeurIPS 2017. PLACE, table 1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> real, moved = rng.normal(size=(2000, 3)), rng.normal(size=(2000, 3)) + [2, 0, 0]
    >>> round(fid(real, moved, features=lambda x: x), 1), round(fid(real, real, features=lambda x: x), 9)
    (4.2, 0.0)
    """
    real, found = _two_sets(x_real, x_cf, features, data_range, "FID is far too high for few images: compare it only with "
                            "FIDs of as many, or take kid, which has no such bias.")
    return _frechet(real, found)


def kid(
    x_real: ArrayLike | Tensor,
    x_cf: ArrayLike | Tensor,
    features: Features | None = None,
    *,
    subsets: int | None = None,
    subset_size: int = 1000,
    random_state: int | None = 0,
    data_range: tuple[float, float] = (0.0, 1.0),
) -> float:
    """Unbiased MMD² = mean_{i≠j} k(aᵢ, aⱼ) + mean_{i≠j} k(bᵢ, bⱼ) − 2 mean k(aᵢ, bⱼ), with k(a, b) = (aᵀb / f + 1)³.

    Lower is better. No unit. Its expectation is 0 for sets of one distribution, whatever their sizes; a single value may
    therefore be negative, and that of identical sets is, a little: the pairs of equal images count in the last mean only.

    Parameters
    ----------
    x_real, x_cf, features, data_range
        As in :func:`fid`.
    subsets : int, optional
        Mean over this many random subsets, as the paper reports it (100). Default: all images at once, which has the least
        variance.
    subset_size : int, default=1000
        Images of each set in a subset.
    random_state : int or None, default=0
        Of the subsets.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Fewer than 2 images in a set, a subset larger than a set, NaN, or features that do not fit.
    DataRangeError, ImportError, OSError
        As in :func:`fid`.

    Warns
    -----
    UserWarning
        Fewer than 2000 images in a set.

    References
    ----------
    Bińkowski, Sutherland, Arbel & Gretton, *Demystifying MMD GANs*, ICLR 2018.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> real, same, moved = (rng.normal(size=(2000, 3)) + offset for offset in (0, 0, 1))
    >>> [bool(abs(kid(real, other, features=lambda x: x)) < 0.1) for other in (same, moved)]
    [True, False]
    """
    real, found = _two_sets(x_real, x_cf, features, data_range, "KID is unbiased, but its variance is large.")
    if subsets is None:
        return _mmd(real, found)
    subsets, size = check_count(subsets, "subsets"), check_count(subset_size, "subset_size")
    if not 2 <= size <= min(len(real), len(found)):
        raise ValueError(f"subset_size={size} must lie in 2 … {min(len(real), len(found))}, the size of the smaller set.")
    rng = np.random.default_rng(draw_seed(random_state))
    return float(np.mean([_mmd(*(rows[rng.choice(len(rows), size, replace=False)] for rows in (real, found)))
                          for _ in range(subsets)]))


def _two_sets(
    x_real: ArrayLike | Tensor, x_cf: ArrayLike | Tensor, features: Features | None, data_range: tuple[float, float],
    warning: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of both sets, float64."""
    sets = {"x_real": x_real, "x_cf": x_cf}
    counts = {name: len(as_rows(X, name)) for name, X in sets.items()}
    for name, n in counts.items():
        if n < 2:
            raise ValueError(f"{name} has {n} image; at least 2 are needed for a covariance.")
    if min(counts.values()) < _ENOUGH:
        warn_caller(f"{counts['x_real']} real images and {counts['x_cf']} counterfactuals; fewer than {_ENOUGH} are few. "
                      + warning, UserWarning)
    if features is None:
        real, found = _inception(as_images(sets, data_range), data_range)
    else:
        real, found = (as_features(features, X, name) for name, X in sets.items())
    if real.shape[1] != found.shape[1]:
        raise ValueError(f"features returned {real.shape[1]} values a real image, but {found.shape[1]} a counterfactual.")
    return real.astype(np.float64), found.astype(np.float64)


def _inception(images: list[np.ndarray], data_range: tuple[float, float]) -> list[np.ndarray]:
    """The 2048 pooled features of each set of images (n, 1 or 3, H, W)."""
    if any(X.shape[1] not in (1, 3) for X in images):
        raise ValueError("The Inception network takes images of 1 or 3 channels. Pass features= for others.")
    instead = "Or pass features=, a network that you have, and name it with the number"
    try:
        optional_import("torch_fidelity", "FID or KID by the Inception network")
        module = optional_import("torchmetrics.image.fid", "FID or KID by the Inception network")
        with seeded_torch(0):  # building the network draws random weights before it loads them
            network = module.FrechetInceptionDistance(feature=2048).inception
    except ImportError as error:
        raise ImportError(f"{error} {instead}.") from error
    except OSError as error:
        raise OSError(f"The weights of the Inception network could not be downloaded ({error}). Run fid once with a "
                      f"connection, and copy the file that it puts into {Path(torch.hub.get_dir()) / 'checkpoints'} to this "
                      f"machine. {instead}.") from error
    low, high = data_range
    found = []
    for X in images:
        bytes_ = (255 * (X - low) / (high - low)).round().clip(0, 255).astype(np.uint8)
        with torch.no_grad():
            found.append(in_tiles(lambda x: network(x.expand(-1, 3, -1, -1)), torch.from_numpy(bytes_), tile=16).numpy())
    return found


def _frechet(a: np.ndarray, b: np.ndarray) -> float:
    # torchmetrics' class takes images only, sums raw squares, and roots the eigenvalues of the product ΣΣ', which is not
    # symmetric: rounding of 1e-16 becomes 1e-8 each. With Σ = RᵀR, tr (ΣΣ')^½ is the sum of the singular values of RR'ᵀ.
    means = a.mean(0), b.mean(0)
    roots = [np.linalg.qr(rows - mean, mode="r") / np.sqrt(len(rows) - 1)
             for rows, mean in zip((a, b), means, strict=True)]
    common = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    value = ((means[0] - means[1]) ** 2).sum() + sum((root**2).sum() for root in roots) - 2 * common
    return max(float(value), 0.0)


def _mmd(a: np.ndarray, b: np.ndarray) -> float:
    n, m = len(a), len(b)
    own = [_kernel_sum(rows, rows) - float(((np.einsum("ij,ij->i", rows, rows) / rows.shape[1] + 1) ** 3).sum())
           for rows in (a, b)]
    return own[0] / (n * (n - 1)) + own[1] / (m * (m - 1)) - 2 * _kernel_sum(a, b) / (n * m)


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    return sum(float(((a[i : i + _ROWS] @ b.T / a.shape[1] + 1) ** 3).sum()) for i in range(0, len(a), _ROWS))
