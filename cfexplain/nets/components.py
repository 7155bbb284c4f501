"""Principal components of pictures in colour, and a training that begins near them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cfexplain.foundation.random import seeded_torch
from cfexplain.foundation.threads import one_thread
from cfexplain.nets.losses import Rows, edges_loss

__all__ = ["edges_after_components", "from_components", "principal_components"]

_MOST_ROWS, _SIDE = 10_000, 32  # that components are found from, and to which pictures are averaged down before
_WEIGHT, _UNTIL = 100.0, 0.4  # of components, at the start of training, and the share of it at whose end it is 0
_EDGES = (0.3, 0.6)  # shares of the training between which edges get their weight
_BEYOND = 10  # components that are found and not used: the last of a randomised search are inexact


def principal_components(images: Tensor, most: int, seed: int) -> Tensor:
    """The first components of `images` (n, C, H, W), each of mean 0 and variance 1: (n, k) with k at most `most`.

    Of at most 10,000 rows, chosen by `seed`, and of pictures averaged down to 32 pixels a side.

    >>> tinted = torch.rand(50, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(50, 3, 40, 40)
    >>> found = principal_components(tinted, 1, seed=0)[:, 0]
    >>> round(abs(torch.corrcoef(torch.stack([found, tinted[:, 0, 0, 0]]))[0, 1].item()), 4)
    1.0
    """
    height, width = images.shape[2:]

    def averaged(part: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(part, (min(_SIDE, height), min(_SIDE, width))).flatten(1)

    with seeded_torch(seed), one_thread(), torch.no_grad():
        small = averaged(images[torch.randperm(len(images))[:_MOST_ROWS]])
        mean = small.mean(0)
        _, size, basis = torch.pca_lowrank(small - mean, min(most + _BEYOND, *small.shape), center=False, niter=4)
        scale = size[:most] / len(small) ** 0.5
        varies = scale > 1e-6 * scale[0]
        basis, scale = basis[:, :most][:, varies], scale[varies]
        return torch.cat([(averaged(part) - mean) @ basis / scale for part in images.split(_MOST_ROWS)])


def from_components(codes: Tensor, rows: Rows, progress: float) -> Tensor | float:
    """How far, at first, `codes` are from ``rows["components"]`` (B, k), a loss of each row."""
    weight = _WEIGHT * (1 - progress / _UNTIL)
    if "components" not in rows or weight <= 0:
        return 0.0
    wanted = rows["components"]
    return weight * (codes[:, : wanted.shape[1]] - wanted).square().sum(1)


def edges_after_components(errors: Tensor, rows: Rows, progress: float) -> Tensor:
    """`edges_loss`, at first of pixels alone where codes begin with components.

    Edges of brightness are strong, and keep a network from learning faint hues, but not from keeping them.
    """
    begin, end = _EDGES
    share = (progress - begin) / (end - begin) if "components" in rows else 1.0
    return edges_loss(errors, min(max(share, 0.0), 1.0))
