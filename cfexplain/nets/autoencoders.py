"""Encoder and decoder networks: convolutional for images of any size, dense for tables."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfexplain.nets.latent_autoencoders import latent_networks

__all__ = ["AutoencoderNet", "unit_scale"]

# exp(LOG_VAR[0] / 2) is the sharpest posterior, exp(LOG_VAR[1] / 2) the widest: outside, exp() under- or overflows.
LOG_VAR = (-12.0, 4.0)


def unit_scale(values: np.ndarray, rtol: float = 1e-13) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and its inverse of each column; both are 0 where a column is constant.

    ``(values - mean) * inverse`` is then 0 in a constant column and ``u * std + mean`` is its value, whatever u is.

    Parameters
    ----------
    values : ndarray of shape (n, d)
    rtol : float
        A column whose standard deviation is below `rtol` times its largest magnitude is constant but for rounding.

    Examples
    --------
    >>> import numpy as np
    >>> [part.tolist() for part in unit_scale(np.array([[1.0, 7.0], [5.0, 7.0]]))]
    [[3.0, 7.0], [2.0, 0.0], [0.5, 0.0]]
    """
    values = np.asarray(values, dtype=np.float64)
    mean, std = values.mean(0), values.std(0)
    std[std <= rtol * np.abs(values).max(0)] = 0.0
    return mean, std, np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)


class AutoencoderNet(nn.Module):
    """x -> posterior of z, and z -> x, for one shape of samples.

    Images: 4x4 convolutions of stride 2 with BatchNorm and ReLU, as many as bring the sides to about 4 pixels (one for
    8x8, three for 28x28 and 32x32, four for 64x64, six for 256x256), of ``width`` · (1, 2, 4, 4, …) channels; the
    decoder is the mirror image and ends in a sigmoid onto `data_range`. Sides that do not divide are padded by
    repeating the edge, and cropped after decoding. Tables: dense layers with SiLU on standardised columns
    (:meth:`set_columns`); a constant column decodes to its constant.

    Parameters
    ----------
    net_shape : (C, H, W) or (d,)
    latent_dim : int
    variational : bool
        Whether the encoder has a standard deviation besides its mean.
    width : int
        Channels of the first convolution.
    hidden : tuple of int
        Sizes of the dense layers.
    data_range : (low, high) or None
        Of images. None: they are latents of another autoencoder, of any scale (`latent_networks`).

    Examples
    --------
    >>> import torch
    >>> net = AutoencoderNet((3, 33, 45), 16, variational=True).eval()
    >>> mean, std = net.posterior(torch.rand(2, 3, 33, 45))
    >>> mean.shape, std.shape, net.decode(mean).shape
    (torch.Size([2, 16]), torch.Size([2, 16]), torch.Size([2, 3, 33, 45]))
    """

    x_loc: Tensor
    x_scale: Tensor
    x_inverse: Tensor
    z_loc: Tensor
    z_scale: Tensor
    z_inverse: Tensor

    def __init__(
        self,
        net_shape: tuple[int, ...],
        latent_dim: int,
        *,
        variational: bool,
        width: int = 32,
        hidden: tuple[int, ...] = (256, 256),
        data_range: tuple[float, float] | None = (0.0, 1.0),
    ):
        super().__init__()
        self.is_image, self.latent_dim, self.variational = len(net_shape) == 3, latent_dim, variational
        self.encoder: nn.Module
        self.decoder: nn.Module
        self.bounded = self.is_image and data_range is not None
        outputs = latent_dim * (2 if variational else 1)
        if self.is_image and data_range is None:
            self.encoder, self.decoder = latent_networks(net_shape, outputs, latent_dim, width)
        elif self.is_image:
            self.encoder, self.decoder = _convolutional(net_shape, outputs, latent_dim, width)
        else:
            self.encoder = _dense(net_shape[0], *hidden, outputs)
            self.decoder = _dense(latent_dim, *reversed(hidden), net_shape[0])
        low, high = data_range if self.is_image and data_range is not None else (0.0, 1.0)
        units = () if self.is_image else tuple(net_shape)
        for name, shape, loc, scale in (("x", units, low, high - low), ("z", (latent_dim,), 0.0, 1.0)):
            self.register_buffer(f"{name}_loc", torch.full(shape, float(loc)))
            self.register_buffer(f"{name}_scale", torch.full(shape, float(scale)))
            self.register_buffer(f"{name}_inverse", torch.full(shape, 1.0 / scale))

    def set_columns(self, X: np.ndarray) -> None:
        """Standardise the columns of a table as `X` (n, d) says, in the module's dtype."""
        self._set_scale("x", unit_scale(X))

    def set_codes(self, codes: np.ndarray) -> None:
        """Make the latents of `codes` (n, latent_dim), encoded so far without a scale, have mean 0 and std 1."""
        self._set_scale("z", unit_scale(codes, rtol=1e-5))

    def _set_scale(self, name: str, parts: tuple[np.ndarray, ...]) -> None:
        for part, values in zip(("loc", "scale", "inverse"), parts, strict=True):
            getattr(self, f"{name}_{part}").copy_(torch.from_numpy(values))

    def to_units(self, x: Tensor) -> Tensor:
        """Images to [0, 1], columns to mean 0 and standard deviation 1."""
        return (x - self.x_loc) * self.x_inverse

    def from_units(self, u: Tensor) -> Tensor:
        """The inverse of :meth:`to_units` (constant columns get their constant)."""
        return self.x_loc + self.x_scale * u

    def moments(self, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and log-variance (None if deterministic) of the code of `u`, before the scale of the latents."""
        h = self.encoder(u)
        if not self.variational:
            return h, None
        mean, log_var = h.chunk(2, dim=1)
        return mean, log_var.clamp(*LOG_VAR)

    def raise_contrast(self, factor: float) -> None:
        """Multiply the logits of all pixels."""
        last = [layer for layer in self.decoder.children() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))][-1]
        with torch.no_grad():
            for values in last.parameters():
                values.mul_(factor)

    def outputs(self, z: Tensor) -> Tensor:
        """What training compares with `u`: logits of pixels, or standardised columns, of an unscaled code."""
        return self.decoder(z)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z given x, each (B, latent_dim)."""
        mean, log_var = self.moments(self.to_units(x))
        mean = (mean - self.z_loc) * self.z_inverse
        std = torch.zeros_like(mean) if log_var is None else (log_var / 2).exp() * self.z_inverse
        return mean, std

    def encode(self, x: Tensor) -> Tensor:
        """The posterior mean, (B, latent_dim)."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """x of z: (B, C, H, W) within the data range, or (B, d)."""
        u = self.outputs(self.z_loc + self.z_scale * z)
        return self.from_units(u.sigmoid() if self.bounded else u)


def _dense(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _convolutional(net_shape: tuple[int, ...], outputs: int, latent_dim: int, width: int) -> tuple[nn.Module, nn.Module]:
    channels, *sides = net_shape
    stages = round(math.log2(max(math.prod(sides) ** 0.5 / 4, 1)))
    stages = max(1, min(stages, 6, int(math.log2(max(min(sides) / 2, 1)))))
    unit = 2**stages
    # at least 2x2 in the middle, so that BatchNorm has something to average over in a batch of one
    grid = [max(2, math.ceil(side / unit)) for side in sides]
    padding = _padding(sides, [unit * side for side in grid])
    sizes = [channels, *(width * min(2**i, 4) for i in range(max(2, stages)))]
    halved = [i >= len(sizes) - 1 - stages for i in range(len(sizes) - 1)]
    down: list[nn.Module] = [nn.ReplicationPad2d(padding)] if any(padding) else []
    up: list[nn.Module] = []
    for (outer, inner), half in zip(pairwise(sizes), halved, strict=True):
        down += [nn.Conv2d(outer, inner, *((4, 2, 1) if half else (3, 1, 1))), nn.BatchNorm2d(inner), nn.ReLU()]
    for i in reversed(range(len(halved))):
        outer, inner = sizes[i], sizes[i + 1]
        up.append(nn.ConvTranspose2d(inner, outer, 4, 2, 1) if halved[i] else nn.Conv2d(inner, outer, 3, 1, 1))
        up += [nn.BatchNorm2d(outer), nn.ReLU()] if i else []
    features = sizes[-1] * math.prod(grid)
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(features, outputs))
    decoder = nn.Sequential(
        nn.Linear(latent_dim, features), nn.ReLU(), nn.Unflatten(1, (sizes[-1], *grid)), *up,
        *([_Crop(padding)] if any(padding) else []))
    return encoder, decoder


def _padding(sides: list[int], padded: list[int]) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) that brings `sides` (H, W) to `padded`."""
    (top, bottom), (left, right) = (((b - a) // 2, (b - a) - (b - a) // 2) for a, b in zip(sides, padded, strict=True))
    return left, right, top, bottom


class _Crop(nn.Module):
    """Takes a padding off again."""

    def __init__(self, padding: tuple[int, int, int, int]):
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, [-side for side in self.padding])
