"""A small network that says of a code what the explained model would say of what it decodes to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cfexplain.persistence import stored_by_sizes

__all__ = ["LatentJudge"]


def _sizes(net: LatentJudge) -> dict[str, Any]:
    """Sizes in files are 1 or more."""
    return {"latent_dim": net.latent_dim, "outputs": [net.n_logits, 1 + net.n_features, 1 + net.ink], "width": net.width}


def _of_sizes(latent_dim: int, outputs: list[int], width: int) -> LatentJudge:
    n_logits, features, ink = outputs
    return LatentJudge(latent_dim, n_logits, features - 1, ink > 1, width)


@stored_by_sizes(_sizes, _of_sizes)
class LatentJudge(nn.Module):
    """z (B, d) -> logits, distances to the classes in the model's features, and greyness, of what z decodes to.

    Beside z it is given z₀ (B, d), the code of the row itself, whose detail is put back.

    Parameters
    ----------
    latent_dim : int
    n_logits : int
        Classes, or 1 of a regressor.
    n_features : int
        Classes whose distances in features are learned; 0 for none.
    ink : bool
        Whether greyness is learned.
    width : int
        Of three hidden layers.

    Examples
    --------
    >>> logits, distances, grey = LatentJudge(4, 3, 3, ink=False)(torch.zeros(5, 4), torch.zeros(5, 4))
    >>> logits.shape, distances.shape, grey.shape
    (torch.Size([5, 3]), torch.Size([5, 3]), torch.Size([5, 0]))
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, n_logits: int, n_features: int = 0, ink: bool = False, width: int = 256):
        super().__init__()
        self.latent_dim, self.n_logits, self.n_features, self.ink, self.width = (
            latent_dim, n_logits, n_features, ink, width)
        outputs = n_logits + n_features + ink
        layers: list[nn.Module] = []
        for fan_in in (2 * latent_dim, width, width):
            layers += [nn.Linear(fan_in, width), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Linear(width, outputs))
        self.register_buffer("loc", torch.zeros(outputs))
        self.register_buffer("scale", torch.ones(outputs))

    def set_scale(self, logits: Tensor, distances: Tensor, grey: Tensor) -> None:
        """Take mean and spread from known answers."""
        raw = _raw(logits, distances, grey)
        self.loc.copy_(raw.mean(0))
        self.scale.copy_(raw.std(0).clamp_min(1e-6))

    def standardised(self, logits: Tensor, distances: Tensor, grey: Tensor) -> Tensor:
        """Answers, (B, k) each, as `outputs` has them."""
        return (_raw(logits, distances, grey) - self.loc) / self.scale

    def outputs(self, z: Tensor, z0: Tensor) -> Tensor:
        """What is trained: all answers, distances by their logarithm, of mean 0 and scale 1."""
        return self.body(torch.cat([z, z0], 1))

    def forward(self, z: Tensor, z0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raw = self.outputs(z, z0) * self.scale + self.loc
        logits, distances, grey = raw.split([self.n_logits, self.n_features, int(self.ink)], 1)
        return logits, distances.exp(), grey


def _raw(logits: Tensor, distances: Tensor, grey: Tensor) -> Tensor:
    return torch.cat([logits, distances.clamp_min(1e-6).log(), grey], 1)
