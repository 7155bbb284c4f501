"""An ensemble of small classifiers of the latent, evaluated as one: the second opinion of a search."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfexplain.foundation.numbers import fitting_width
from cfexplain.foundation.random import seeded_torch, stream
from cfexplain.foundation.tiles import baddbmm, least_rows, padded
from cfexplain.nets.losses import Rows
from cfexplain.persistence import stored_by_sizes

__all__ = ["LatentEnsemble", "opinion_width", "train_latent_ensemble"]

WIDTH = 256  # of hidden layers, at most


def _sizes(ensemble: LatentEnsemble) -> dict[str, Any]:
    return {"members": ensemble.members, "sizes": [*(w.shape[1] for w in ensemble.weights), ensemble.weights[-1].shape[2]]}


def _of_sizes(members: int, sizes: tuple[int, ...]) -> LatentEnsemble:
    first, *hidden, last = sizes
    return LatentEnsemble(first, last, members, tuple(hidden))


def opinion_width(rows: int, classes: int) -> int:
    """Of the hidden layers: what tells ten digits apart among 60,000 is too wide for two classes among 1,000.

    >>> [opinion_width(rows, classes) for rows, classes in ((60_000, 10), (10_000, 10), (10_000, 2), (1_000, 2))]
    [256, 192, 160, 96]
    """
    share = min(1.0, rows * classes / (60_000 * 10))
    return fitting_width(share ** (1 / 6), WIDTH)


@stored_by_sizes(_sizes, _of_sizes)
class LatentEnsemble(nn.Module):
    """`members` multilayer perceptrons side by side: z (B, d) -> logits (members, B, K).

    One batched product a layer instead of a loop over members.

    Examples
    --------
    >>> import torch
    >>> LatentEnsemble(4, 3, members=2)(torch.zeros(5, 4)).shape
    torch.Size([2, 5, 3])
    """

    def __init__(self, latent_dim: int, n_classes: int, members: int = 3, hidden: tuple[int, ...] = (WIDTH, WIDTH)):
        super().__init__()
        sizes = (latent_dim, *hidden, n_classes)
        self.members = members
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
            bound = fan_in**-0.5
            self.weights.append(torch.empty(members, fan_in, fan_out).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, 1, fan_out).uniform_(-bound, bound))

    def forward(self, z: Tensor) -> Tensor:
        n = z.shape[-2]
        if not self.training and z.ndim == 2:
            z = padded(z, least_rows())  # here, and not in front of every layer
        h = z if z.ndim == 3 else z.expand(self.members, *z.shape)
        product = torch.baddbmm if self.training else baddbmm
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = product(bias, h.relu() if i else h, weight)
        return h[:, :n]


def train_latent_ensemble(
    mean: np.ndarray,
    std: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    *,
    members: int = 3,
    seed: int,
    training_budget: float = 1.0,
    device: str | torch.device = "cpu",
    verbose: int | str = 0,
) -> LatentEnsemble:
    """Train on posterior samples; classes weigh the same, and every member draws its own samples.

    Parameters
    ----------
    mean, std : ndarray of shape (n, d)
        The posterior of each training row (`std` zero for deterministic coordinates).
    y : ndarray of int, shape (n,)
        Class indices.
    """
    weight = torch.tensor(len(y) / (n_classes * np.bincount(y, minlength=n_classes)), dtype=torch.float32)

    from cfexplain.nets.training import batch_for, train_network, updates_for  # skorch is loaded when something is trained

    def loss(ensemble: LatentEnsemble, rows: Rows, progress: float) -> Tensor:
        mean = rows["mean"]
        noise = torch.randn((ensemble.members, *mean.shape), dtype=mean.dtype, device=mean.device, generator=stream())
        logits = ensemble(mean + rows["std"] * noise)
        target = rows["y"].expand(ensemble.members, -1)
        each = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none", label_smoothing=0.001)
        return (each.view(ensemble.members, -1) * weight.to(each.device)[rows["y"]]).sum(0)

    with seeded_torch(seed):
        ensemble = LatentEnsemble(mean.shape[1], n_classes, members, 2 * (opinion_width(len(y), n_classes),))
    rows = {"mean": torch.from_numpy(mean).float(), "std": torch.from_numpy(std).float(), "y": torch.from_numpy(y)}
    # as many as it takes to be sure of its own rows: the search follows an ensemble that is not to the middle of a class
    train_network(
        ensemble, loss, rows, updates=updates_for(len(y), 1200, training_budget), seed=seed, lr=2e-3,
        batch_size=batch_for(len(y), 512), weight_decay=1e-3, strata=y, apart=True, device=device, verbose=verbose,
        name="second opinion")
    return ensemble
