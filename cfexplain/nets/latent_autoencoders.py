"""Encoder and decoder of latents that are themselves a picture, (C, h, w) of any scale: a code for each place."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Residual", "code_shape", "latent_networks", "latent_width"]

_GRID = 8  # places a side, at most
_CODES = 16  # numbers a place, of latents that are halved once
_GROUPS = 8
_WIDTH = 64  # channels of latents that are halved once


def code_shape(net_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(k, h, w) of the codes of latents of `net_shape`: halved until no side exceeds 8 places, once at least.

    >>> code_shape((32, 14, 14)), code_shape((16, 28, 25))
    ((16, 7, 7), (32, 7, 7))
    """
    halvings = _halvings(net_shape)
    height, width = (math.ceil(side / 2**halvings) for side in net_shape[1:])
    return _CODES * 2 ** (halvings - 1), height, width


def _halvings(net_shape: tuple[int, ...]) -> int:
    return max(1, math.ceil(math.log2(max(net_shape[1:]) / _GRID)))


def latent_width(net_shape: tuple[int, ...]) -> int:
    """Channels of the first convolution: half as many of latents that are halved twice and more, of which one update with as
    many would take three times as long.

    >>> latent_width((32, 14, 14)), latent_width((32, 28, 28))
    (64, 32)
    """
    return _WIDTH if _halvings(net_shape) == 1 else _WIDTH // 2


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


def latent_networks(net_shape: tuple[int, ...], outputs: int, latent_dim: int, width: int) -> tuple[nn.Module, nn.Module]:
    """Latents (B, C, h, w) -> `outputs` numbers, and `latent_dim` numbers -> latents.

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
    widths = [min(width * 2**i, 2 * max(width, _WIDTH)) for i in range(halvings + 1)]
    down: list[nn.Module] = [_Pad(more)] if any(more) else []
    down += [nn.Conv2d(channels, width, 3, padding=1), Residual(width)]
    up: list[nn.Module] = []
    for outer, inner in zip(widths, widths[1:], strict=False):
        down += [nn.Conv2d(outer, inner, 3, 2, 1), Residual(inner), Residual(inner)]
        up = [Residual(inner), Residual(inner), nn.Conv2d(inner, 4 * outer, 1), nn.PixelShuffle(2), Residual(outer), *up]
    last = widths[-1]
    encoder = nn.Sequential(*down, nn.GroupNorm(math.gcd(_GROUPS, last), last), nn.SiLU(),
                            nn.Conv2d(last, outputs // (height * across), 1), nn.Flatten())
    decoder = nn.Sequential(
        nn.Unflatten(1, (codes, height, across)), nn.Conv2d(codes, last, 3, padding=1), *up,
        nn.GroupNorm(math.gcd(_GROUPS, width), width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1),
        *([_Pad((-more[0], -more[1]))] if any(more) else []))
    return encoder, decoder
