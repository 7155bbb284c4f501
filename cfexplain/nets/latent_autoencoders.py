"""Encoder and decoder of latents that are themselves a picture, (C, h, w) of any scale: a code for each place."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LatentDecoder", "LatentEncoder", "Residual", "begin_at_components", "code_shape", "latent_networks"]

_GRID = 8  # places a side, at most
_CODES = 24  # numbers a place, of latents that are halved once
_GROUPS = 8


def code_shape(net_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(k, h, w) of the codes of latents of `net_shape`: halved until no side exceeds 8 places, once at least.

    >>> code_shape((32, 14, 14)), code_shape((16, 28, 25))
    ((24, 7, 7), (48, 7, 7))
    """
    halvings = _halvings(net_shape)
    height, width = (math.ceil(side / 2**halvings) for side in net_shape[1:])
    return _CODES * 2 ** (halvings - 1), height, width


def _halvings(net_shape: tuple[int, ...]) -> int:
    return max(1, math.ceil(math.log2(max(net_shape[1:]) / _GRID)))


class Residual(nn.Module):
    """x + two normalised 3×3 convolutions, which begin as nothing."""

    def __init__(self, channels: int):
        super().__init__()
        groups = math.gcd(_GROUPS, channels)
        self.net = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))
        for part in self.net[-1].parameters():
            nn.init.zeros_(part)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class _Pad(nn.Module):
    """Repeats the edges at the bottom and on the right; a negative number of places crops."""

    def __init__(self, more: tuple[int, int]):
        super().__init__()
        self.padding = (0, more[1], 0, more[0])

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding, mode="replicate" if max(self.padding) > 0 else "constant")


class LatentEncoder(nn.Module):
    """Latents (B, C, h, w) -> the code of each place, a linear one of its patch and what a network adds, flattened; and, if
    `variational`, the log-variances behind it. Each place has weights of its own beside: faces lie alike in their pictures.
    """

    def __init__(self, channels: int, codes: int, variational: bool, width: int, halvings: int, more: tuple[int, int],
                 sides: tuple[int, int]):
        super().__init__()
        self.pad = _Pad(more)
        self.linear = nn.Conv2d(channels, codes, 2**halvings, 2**halvings)
        widths = _widths(width, halvings)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), Residual(width)]
        for outer, inner in pairwise(widths):
            layers += [nn.Conv2d(outer, inner, 3, 2, 1), Residual(inner), Residual(inner)]
        self.net = nn.Sequential(*layers, nn.GroupNorm(math.gcd(_GROUPS, widths[-1]), widths[-1]), nn.SiLU(),
                                 _quiet(nn.Conv2d(widths[-1], codes * (2 if variational else 1), 1)))
        self.codes, self.spare = codes, codes if variational else 0
        self.places = nn.Parameter(torch.zeros(1, width, *sides))

    def forward(self, latents: Tensor) -> Tensor:
        x = self.pad(latents)
        first, *others = self.net.children()
        h = first(x) + self.places
        for layer in others:
            h = layer(h)
        mean, log_var = h.split_with_sizes([self.codes, self.spare], 1)
        return torch.cat([(self.linear(x) + mean).flatten(1), log_var.flatten(1)], 1)


class LatentDecoder(nn.Module):
    """The way back: a linear patch for each place, and what a network adds."""

    def __init__(self, channels: int, grid: tuple[int, int, int], width: int, halvings: int, more: tuple[int, int]):
        super().__init__()
        self.grid, self.crop = grid, _Pad((-more[0], -more[1]))
        self.linear = nn.ConvTranspose2d(grid[0], channels, 2**halvings, 2**halvings)
        widths = _widths(width, halvings)
        up: list[nn.Module] = []
        for outer, inner in pairwise(widths):
            up = [Residual(inner), Residual(inner), nn.Conv2d(inner, 4 * outer, 1), nn.PixelShuffle(2), Residual(outer), *up]
        self.net = nn.Sequential(nn.Conv2d(grid[0], widths[-1], 3, padding=1), *up,
                                 nn.GroupNorm(math.gcd(_GROUPS, width), width), nn.SiLU(),
                                 _quiet(nn.Conv2d(width, channels, 3, padding=1)))
        self.places = nn.Parameter(torch.zeros(1, widths[-1], *grid[1:]))

    def forward(self, z: Tensor) -> Tensor:
        code = z.unflatten(1, self.grid)
        first, *others = self.net.children()
        h = first(code) + self.places
        for layer in others:
            h = layer(h)
        return self.crop(self.linear(code) + h)


def _widths(width: int, halvings: int) -> list[int]:
    return [width * 2 ** min(i, 1) for i in range(halvings + 1)]


def _quiet(layer: nn.Conv2d) -> nn.Conv2d:
    """`layer`, which begins as the function 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def latent_networks(net_shape: tuple[int, ...], latent_dim: int, variational: bool, width: int,
                    ) -> tuple[LatentEncoder, LatentDecoder]:
    """Latents (B, C, h, w) -> codes (and their log-variances), and codes -> latents.

    Raises
    ------
    ValueError
        `latent_dim` is no multiple of the places.
    """
    channels, *sides = net_shape
    _, height, across = code_shape(net_shape)
    if latent_dim % (height * across):
        raise ValueError(f"latent_dim={latent_dim} must be a multiple of {height * across}: latents of {sides[0]}×{sides[1]}"
                         f" have a code for each of {height}×{across} places. {16 * height * across} is 16 numbers a place.")
    halvings, codes = _halvings(net_shape), latent_dim // (height * across)
    more = (height * 2**halvings - sides[0], across * 2**halvings - sides[1])
    whole = height * 2**halvings, across * 2**halvings
    return (LatentEncoder(channels, codes, variational, width, halvings, more, whole),
            LatentDecoder(channels, (codes, height, across), width, halvings, more))


@torch.no_grad()
def begin_at_components(encoder: LatentEncoder, decoder: LatentDecoder, latents: Tensor) -> None:
    """Let both begin as the principal components of the patches of `latents` (n, C, h, w), scaled to variance 1.

    Training then begins where a linear model ends: of photographs' latents 16 numbers a place keep .61 of the variance, to
    which networks that begin at random come in half of their training.
    """
    unit = encoder.linear.kernel_size[0]
    x = encoder.pad(latents.double())
    patches = F.unfold(x, unit, stride=unit).transpose(1, 2).flatten(0, 1)
    mean, count = patches.mean(0), min(encoder.codes, patches.shape[1])
    variance, vectors = torch.linalg.eigh(torch.cov(patches.T))
    variance, vectors = variance.flip(0).clamp_min(1e-8), vectors.flip(1)
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()  # which of the two is arbitrary
    scale, lost = variance[:count].sqrt(), variance[count:].sum() / len(variance)
    shape = encoder.linear.weight.shape[1:]
    for part in (encoder.linear.weight, decoder.linear.weight, encoder.linear.bias, decoder.linear.bias):
        part.zero_()  # type: ignore[union-attr]
    encoder.linear.weight[:count] = (vectors[:, :count] / scale).T.reshape(count, *shape).float()
    encoder.linear.bias[:count] = -(mean @ (vectors[:, :count] / scale)).float()  # type: ignore[index]
    decoder.linear.weight[:count] = (vectors[:, :count] * scale).T.reshape(count, *shape).float()
    # channels have about the mean 0, wherever in a patch
    decoder.linear.bias.copy_(mean.reshape(shape).mean((1, 2)).float())  # type: ignore[union-attr]
    if encoder.spare:  # the posterior is as wide as what the components lose
        last: nn.Conv2d = encoder.net[-1]  # type: ignore[assignment]
        last.bias[encoder.codes : encoder.codes + count] = (lost / variance[:count]).clamp(1e-3, 0.5).log().float()  # type: ignore
