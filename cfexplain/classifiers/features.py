"""How typical an image is for a class in the explained classifier's own features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from cfexplain.foundation.numbers import quantile_of_sorted
from cfexplain.foundation.tiles import linear
from cfexplain.persistence import stored_by_parts

__all__ = ["ClassFeatures", "PenultimateFeatures"]

# Features of which each row gets the matrix of its own class
_NARROW = 128


class PenultimateFeatures(TorchFunctionMode):
    """Within the block, remembers what the last linear layer was given; the network is not touched.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> with PenultimateFeatures() as seen:
    ...     _ = net(torch.ones(5, 4))
    >>> seen.features.shape
    torch.Size([5, 3])
    """

    features: Tensor | None = None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (F.linear, linear):
            given = args[0] if args else kwargs["input"]
            self.features = given.flatten(1)
        return function(*args, **(kwargs or {}))


def _fit_each_other(module: ClassFeatures) -> bool:
    count, width = module.mean.shape
    return (module.whiten.shape == (count, width, width) and module.offset.shape == (count, width)
            and len(module.distances) == count and all(own.ndim == 1 and len(own) for own in module.distances))


@stored_by_parts(_fit_each_other)
class ClassFeatures(nn.Module):
    """Mahalanobis distance of features to each class of the training data.

    m(h, y) = ‖L_y⁻¹ (h − μ_y)‖₂ with L_y Lᵀ_y the class's covariance, shrunk as Ledoit & Wolf do, so that a class of fewer
    rows than features has one too. What is usual for a class is measured on rows that took no part in its mean and
    covariance (five folds): a class's own rows are near themselves by construction.

    Parameters
    ----------
    features : ndarray of shape (n, f)
    y : ndarray of int, shape (n,)
        Class indices.
    n_classes : int

    References
    ----------
    Lee, Lee, Lee, Shin: A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks,
    NeurIPS 2018 (there with one covariance for all classes).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> near = ClassFeatures(rng.normal(size=(500, 4)), np.zeros(500, dtype=int), 1)
    >>> bool(abs(near.quantiles(0.5)[0] - 1.83) < 0.1)  # the median of a chi distribution with 4 degrees of freedom
    True
    """

    mean: Tensor
    whiten: Tensor
    offset: Tensor
    distances: list[np.ndarray]

    def __init__(self, features: np.ndarray, y: np.ndarray, n_classes: int):
        super().__init__()
        fitted = [_standards(features[y == k].astype(np.float64)) for k in range(n_classes)]
        dtype = torch.from_numpy(features).dtype
        self.register_buffer("mean", torch.from_numpy(np.stack([mean for mean, _ in fitted])).to(dtype))
        self.register_buffer("whiten", torch.from_numpy(np.stack([whiten for _, whiten in fitted])).to(dtype))
        self.register_buffer("offset", torch.einsum("kij,kj->ki", self.whiten, self.mean))
        self.distances = [np.sort(_held_out_distances(features[y == k].astype(np.float64))) for k in range(n_classes)]

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """m(h, y) of each row, shape (B,); differentiable once in `features`."""
        return _Mahalanobis.apply(features, target, self.whiten, self.offset)

    def quantiles(self, q: float) -> np.ndarray:
        """The distance that a share `q` of each class's own rows stays within, shape (K,).

        Infinite, and so no limit, for a class whose rows are all alike: nothing else is near to them.
        """
        limits = np.array([quantile_of_sorted(own, q) for own in self.distances])
        return np.where(limits > 0, limits, np.inf)


class _Mahalanobis(torch.autograd.Function):
    """‖W_y h − offset_y‖₂, with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, target: Tensor, whiten: Tensor, offset: Tensor) -> Tensor:
        n_classes, width = offset.shape
        if width <= _NARROW:
            whitened = torch.bmm(features[:, None], whiten[target].mT)[:, 0]
        else:  # towards every class in one product: a matrix for each row would be more to read
            every = linear(features, whiten.reshape(n_classes * width, width)).view(-1, n_classes, width)
            whitened = every.gather(1, target[:, None, None].expand(-1, 1, width))[:, 0]
        whitened = whitened - offset[target]
        distance = (whitened.square().sum(1) + torch.finfo(features.dtype).tiny).sqrt_()
        ctx.save_for_backward(whitened, distance, target, whiten)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        whitened, distance, target, whiten = ctx.saved_tensors
        scaled, (n_classes, width, _) = whitened * (gradient / distance)[:, None], whiten.shape
        if width <= _NARROW:
            return torch.bmm(scaled[:, None], whiten[target])[:, 0], None, None, None
        every = scaled.new_zeros(len(scaled), n_classes, width).scatter_(
            1, target[:, None, None].expand(-1, 1, width), scaled[:, None])
        return linear(every.flatten(1), whiten.reshape(n_classes * width, width).mT), None, None, None


def _standards(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and L⁻¹ of the rows `h`."""
    covariance = LedoitWolf().fit(h).covariance_
    # a feature that never varies (a dead unit) has no scale of its own; it gets a sliver of the others'
    covariance[np.diag_indices_from(covariance)] += 1e-3 * np.trace(covariance) / len(covariance) + 1e-12
    return h.mean(0), np.linalg.inv(np.linalg.cholesky(covariance))


def _held_out_distances(h: np.ndarray, folds: int = 5) -> np.ndarray:
    fold = np.arange(len(h)) % min(folds, len(h))
    distances = np.empty(len(h))
    for k in np.unique(fold):
        mean, whiten = _standards(h[fold != k])
        distances[fold == k] = np.linalg.norm((h[fold == k] - mean) @ whiten.T, axis=1)
    return distances
