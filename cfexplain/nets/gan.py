"""dcGAN for images of any size: a generator with a fast approximate inverse, and the discriminator that trains it."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cfexplain.nets.autoencoders import AutoencoderNet

__all__ = ["Discriminator", "GANNet", "refresh_statistics"]


class GANNet(AutoencoderNet):
    """z -> x, trained against a `Discriminator`, and an encoder x -> z, trained on pairs (G(z), z).

    The networks of `AutoencoderNet`, so any image shape; the decoder, the dcGAN generator, has BatchNorm after its first
    layer too, and ends in a sigmoid onto `data_range`.

    Parameters
    ----------
    net_shape : (C, H, W)
    latent_dim : int
        z ~ N(0, I) of that length.
    width : int
        Channels of the generator's last hidden layer; up to four times as many at 4x4.
    data_range : (low, high)

    References
    ----------
    Radford, Metz, Chintala: Unsupervised Representation Learning with DCGAN, ICLR 2016.

    Examples
    --------
    >>> import torch
    >>> net = GANNet((1, 28, 28), 64).eval()
    >>> x = net.decode(torch.randn(2, 64))
    >>> x.shape, net.encode(x).shape
    (torch.Size([2, 1, 28, 28]), torch.Size([2, 64]))
    """

    def __init__(self, net_shape: tuple[int, ...], latent_dim: int, *, width: int = 32,
                 data_range: tuple[float, float] = (0.0, 1.0)):
        super().__init__(net_shape, latent_dim, variational=False, width=width, data_range=data_range)
        first, relu, unflatten, *up = self.decoder.children()
        assert isinstance(unflatten, nn.Unflatten)
        self.decoder = nn.Sequential(first, unflatten, nn.BatchNorm2d(unflatten.unflattened_size[0]), relu, *up)


class Discriminator(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> one number (B,), large for real ones; spectrally normalised, no BatchNorm.

    4x4 convolutions of stride 2 with LeakyReLU until a side is about 4 pixels, of ``width`` · (1, 2, 4, 4, …) channels,
    and a linear layer.

    References
    ----------
    Miyato et al.: Spectral Normalization for Generative Adversarial Networks, ICLR 2018.

    Examples
    --------
    >>> import torch
    >>> Discriminator((3, 64, 64))(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2])
    """

    def __init__(self, net_shape: tuple[int, ...], *, width: int = 32):
        super().__init__()
        channels, *sides = net_shape
        stages = max(1, round(math.log2(max(min(sides) / 4, 1))))
        sizes = [channels, *(width * min(2**i, 4) for i in range(stages))]
        layers: list[nn.Module] = []
        for outer, inner in pairwise(sizes):
            layers += [spectral_norm(nn.Conv2d(outer, inner, 4, 2, 1)), nn.LeakyReLU(0.2)]
            sides = [max(1, side // 2) for side in sides]
        self.body = nn.Sequential(*layers, nn.Flatten(), spectral_norm(nn.Linear(sizes[-1] * math.prod(sides), 1)))

    def forward(self, u: Tensor) -> Tensor:
        return self.body(2 * u - 1)[:, 0]


@torch.no_grad()
def refresh_statistics(net: nn.Module, batches: list[Tensor]) -> None:
    """BatchNorm statistics of `net` as its present weights give them: averages of weights have none of their own."""
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    momentum = [part.momentum for part in norms]
    for part in norms:
        part.reset_running_stats()
        part.momentum = None  # a plain average over the batches
    net.train()
    for batch in batches:
        net(batch)
    net.eval()
    for part, value in zip(norms, momentum, strict=True):
        part.momentum = value
