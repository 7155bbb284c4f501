"""A decoder learns from a critic what errors of pixels and edges leave blurred: the texture that no code holds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfexplain.foundation.random import stream
from cfexplain.nets.autoencoders import AutoencoderNet
from cfexplain.nets.critics import PatchCritic
from cfexplain.nets.losses import Rows

__all__ = ["Sharpening"]

_WIDTH = 32
# Beside the error of pixels: how far the critic's features are from the picture's, and its opinion
_FEATURES, _OPINION = 0.5, 0.1


class Sharpening(nn.Module):
    """A trained autoencoder, and the critic that its decoder is trained against for a while; the encoder stays as it is.

    The critic sees pictures and, beside them, how each pixel differs from its neighbours, in units of real pictures: by
    this it tells blur at once. It looks at reconstructions, and at what lies between two rows, where a search comes by.

    Parameters
    ----------
    net : AutoencoderNet
        Of images, trained. Its BatchNorm keeps the statistics that it has.
    u : Tensor of shape (n, C, H, W)
        Training pictures in [0, 1].
    """

    units: Tensor
    hues: Tensor

    def __init__(self, net: AutoencoderNet, u: Tensor):
        super().__init__()
        self.net, self.critic = net, PatchCritic(2 * u.shape[1], _WIDTH, (2, 2, 1))
        self.register_buffer("units", torch.stack([u.mean(), u.std(), _finest(u).std()]).clamp_min(1e-6))
        self.register_buffer("hues", _hues(u).std().clamp_min(1e-2))

    def train(self, mode: bool = True) -> Sharpening:
        super().train(mode)
        self.net.eval()
        return self

    def loss(self, rows: Rows, progress: float) -> Tensor:
        """Of each of the rows ``u``, (B,); decoder and critic each learn from their own part of it."""
        u, generator = rows["u"], stream()
        with torch.no_grad():
            mean, log_var = self.net.moments(u)
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            own = mean if log_var is None else mean + (log_var / 2).exp() * noise
            share = 0.5 * torch.rand(len(mean), 1, generator=generator, device=mean.device)
            between = mean + share * (mean.roll(1, 0) - mean)
        drawn = self.net.outputs(torch.cat([own, between])).float().sigmoid()
        again, _ = drawn.chunk(2)
        of_real, wanted = self._seen(u)
        of_drawn, _ = self._seen(drawn.detach())
        critic = F.relu(1 - of_real) + sum(F.relu(1 + part) for part in of_drawn.chunk(2)) / 2
        opinion, features = self._seen(drawn, learns=False)
        error = (again - u).abs().flatten(1).mean(1)
        if u.shape[1] == 3:
            error = error + _hues(again - u).abs().flatten(1).mean(1) / self.hues
        unlike = sum((one.chunk(2)[0].float() - two.detach().float()).abs().flatten(1).mean(1)
                     for one, two in zip(features, wanted, strict=True))
        convinced = sum(part.flatten(1).mean(1) for part in opinion.chunk(2)) / 2
        return (critic.flatten(1).mean(1) + error + _FEATURES * unlike
                - _OPINION * min(1.0, 4 * progress) * convinced)

    def _seen(self, u: Tensor, learns: bool = True) -> tuple[Tensor, list[Tensor]]:
        mean, std, finest = self.units
        opinion, features = self.critic(torch.cat([(u - mean) / std, _finest(u) / finest], 1), learns)
        return opinion.float(), features


def _finest(u: Tensor) -> Tensor:
    """How each pixel differs from those around it."""
    return u - F.avg_pool2d(F.pad(u, (1, 1, 1, 1), "replicate"), 3, 1)


def _hues(u: Tensor) -> Tensor:
    """How each colour differs from the mean of the three, of four pixels together."""
    return F.avg_pool2d(u - u.mean(1, keepdim=True), 2)
