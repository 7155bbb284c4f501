"""What tells pictures of one class from like pictures of another, among the latents of an autoencoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfexplain.foundation.blur import gaussian_blur
from cfexplain.foundation.threads import one_thread
from cfexplain.persistence import stored_by_sizes

__all__ = ["ClassDifference", "learn_class_difference"]

_COMPONENTS = 96  # of what surrounds the places where classes differ
_ROWS_A_COMPONENT = 20
_PRIOR = 400.0  # rows for which no influence of the surroundings stands
_HOLDS = 0.6  # of what tells the classes apart, in the places that may differ
_LEAST = 0.05  # a place that may differ by less stays as it is
_EDGE = 0.8  # places over which a difference fades
_CHUNK = 512


@stored_by_sizes(lambda net: {"shape": list(net.shape), "classes": net.classes, "components": net.components},
                 lambda shape, classes, components: ClassDifference(tuple(shape), classes, components))
class ClassDifference(nn.Module):
    """Latents l (B, C, h, w), classes y and ỹ (B,) -> E[l | what surrounds, ỹ] − E[l | what surrounds, y], shaped as l.

    Beside it l − E[l | what surrounds, y], what the picture has of its own. The expectations are linear in principal
    components of what lies around the places where the classes differ, which says how somebody is lit and turned, but not
    whether she smiles. Elsewhere both are 0. Added to a picture's latents, the difference keeps everything in which like
    pictures of the two classes agree.

    Parameters
    ----------
    shape : (C, h, w)
    classes : int
    components : int

    Notes
    -----
    Deep feature interpolation (Upchurch et al., CVPR 2017) takes the means of the nearest rows of each class in place of
    the regressions, for which it needs the rows.
    """

    places: Tensor
    mean: Tensor
    basis: Tensor
    weights: Tensor

    def __init__(self, shape: Sequence[int], classes: int, components: int):
        super().__init__()
        self.shape, self.classes, self.components = tuple(shape), classes, components
        numbers = int(np.prod(self.shape))
        self.register_buffer("places", torch.zeros(1, *self.shape[1:]))
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("basis", torch.zeros(numbers, components))
        self.register_buffer("weights", torch.zeros(classes, components + 1, numbers))

    def surroundings(self, latents: Tensor) -> Tensor:
        """Components of what surrounds the places, with a 1 before them, (B, 1 + components)."""
        around = ((latents - self.mean) * (self.places == 0)).flatten(1) @ self.basis
        return torch.cat([torch.ones_like(around[:, :1]), around], 1)

    def forward(self, latents: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        around, rows = self.surroundings(latents), torch.arange(len(latents), device=latents.device)
        expected = torch.stack([around @ weights for weights in self.weights], 1)
        before, after = (expected[rows, of].view_as(latents) for of in (source, target))
        return self.places * (after - before), self.places * (latents - self.mean - before)


def learn_class_difference(latents: np.ndarray, groups: np.ndarray, classes: int, seed: int) -> ClassDifference | None:
    """The differences of the classes `groups` (n,) of `latents` (n, C, h, w), which may lie in a file.

    None where no place tells the classes apart by more than chance would.
    """
    shape, n = latents.shape[1:], len(latents)
    counts = np.maximum(np.bincount(groups, minlength=classes), 1)
    sums, squares = np.zeros((classes, *shape)), np.zeros(shape)
    for rows, part in _chunks(latents):
        squares += np.square(part, dtype=np.float64).sum(0)
        for k in np.unique(groups[rows]):
            sums[k] += part[groups[rows] == k].sum(0, dtype=np.float64)
    mean = sums.sum(0) / n
    spread = (squares / n - mean**2).sum(0)
    between = np.square(sums / counts[:, None, None, None] - mean).sum(1)
    share = np.tensordot(counts / n, between, 1) / np.maximum(spread, 1e-12) - (classes - 1) / n
    places = differing_places(torch.from_numpy(share))
    if places is None:
        return None
    net = ClassDifference(shape, classes, max(1, min(_COMPONENTS, n // _ROWS_A_COMPONENT, int(np.prod(shape)))))
    net.places.copy_(places)
    net.mean.copy_(torch.from_numpy(mean))
    with one_thread(), torch.no_grad():
        net.basis.copy_(_principal_components(net, latents, seed))
        for k in range(classes):
            net.weights[k] = _regression(net, latents, np.flatnonzero(groups == k))
    return net.requires_grad_(False)


def differing_places(share: Tensor) -> Tensor | None:
    """Where classes may differ, (1, h, w) in [0, 1], of the `share` (h, w) of variance that they explain, but for chance.

    The places that hold most of it, without holes, with a soft edge; None where there is nothing to hold.

    >>> places = differing_places(torch.eye(6)[2:3].T @ torch.eye(6)[2:3] - 0.01)
    >>> places.argmax().item(), places.amin().item()
    (14, 0.0)
    """
    ranked = share.flatten().sort(descending=True).values
    if ranked[0] <= 0:
        return None
    held = ranked.clamp_min(0).cumsum(0)
    limit = ranked[int((held < _HOLDS * held[-1]).sum())]
    chosen = (share >= limit).float()[None, None]
    closed = -F.max_pool2d(-F.max_pool2d(chosen, 3, 1, 1), 3, 1, 1)
    soft = gaussian_blur(closed, _EDGE)[0].clamp(0, 1)
    return torch.where(soft < _LEAST, torch.zeros_like(soft), soft)


def _chunks(latents: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for first in range(0, len(latents), _CHUNK):
        yield slice(first, first + _CHUNK), np.asarray(latents[first : first + _CHUNK], np.float32)


def _principal_components(net: ClassDifference, latents: np.ndarray, seed: int) -> Tensor:
    """Of the surroundings, (numbers, components), by which they have variance 1: Halko's randomised subspace iteration."""
    def around(part: np.ndarray) -> Tensor:
        return ((torch.from_numpy(part) - net.mean) * (net.places == 0)).flatten(1)

    basis = torch.randn(net.basis.shape, generator=torch.Generator().manual_seed(seed))
    for _ in range(4):
        basis = torch.linalg.qr(sum(around(part).T @ (around(part) @ basis) for _, part in _chunks(latents)))[0]
    seen = torch.cat([around(part) @ basis for _, part in _chunks(latents)])
    _, size, turn = torch.linalg.svd(seen, full_matrices=False)
    size = size / len(latents) ** 0.5
    return basis @ turn.T * torch.where(size > 1e-6 * size[0], 1 / size.clamp_min(1e-12), 0.0)


def _regression(net: ClassDifference, latents: np.ndarray, rows: np.ndarray) -> Tensor:
    """Ridge regression of the latents of some rows on their surroundings, (1 + components, numbers)."""
    prior = torch.diag(torch.tensor([1e-3] + [_PRIOR] * net.components, dtype=torch.float64))
    moments, products = prior, torch.zeros(net.components + 1, net.basis.shape[0], dtype=torch.float64)
    for first in range(0, len(rows), _CHUNK):
        part = torch.from_numpy(np.asarray(latents[rows[first : first + _CHUNK]], np.float32))
        seen = net.surroundings(part)
        moments = moments + (seen.T @ seen).double()
        products += (seen.T @ (part - net.mean).flatten(1)).double()
    return torch.linalg.solve(moments, products).float()
