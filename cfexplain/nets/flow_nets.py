"""What a flow needs around its transform: pixels or columns in, z and log densities out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfexplain.nets.autoencoders import unit_scale
from cfexplain.ops.coupling_flow import PackedFlow

__all__ = ["FlowNet", "ImageFlowNet", "LatentFlowNet", "VectorFlowNet", "standard_normal"]


class FlowNet(nn.Module, ABC):
    """``encode`` · ``decode`` · ``log_prob`` of an exact flow; a subclass writes ``push`` and ``pull``."""

    latent_dim: int

    @abstractmethod
    def push(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, d), and log |det ∂z/∂x| (B,), of x in the user's units."""

    @abstractmethod
    def pull(self, z: Tensor) -> Tensor:
        """x of z."""

    def encode(self, x: Tensor) -> Tensor:
        return self.push(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        return self.pull(z)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(x)
        return z, torch.zeros_like(z)

    def whitened(self, z: Tensor) -> Tensor:
        """The code that is N(0, I) where `z` is one of an unwhitened flow; else `z`."""
        return z

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (B,), per unit of x's own scale (eq. 6)."""
        z, ladj = self.push(x)
        return standard_normal(z) + ladj


def standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I), (B,)."""
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


class ImageFlowNet(FlowNet):
    """A multi-scale flow of pixels in `data_range`.

    A pixel is taken for the middle of one of 256 bins, v = (255 u + 1/2) / 256 with u in [0, 1], so that black and white
    stay off the ends of the logit; decoding undoes just this. Sides that the levels do not divide are padded by repeating
    the edge and cropped again if ``pad``.

    Parameters
    ----------
    net_shape : (C, H, W)
    n_bits : int
        Bits of a training pixel: 8, or 5 for smoother densities of faces. Changes training and `bits_per_dim` only.
    whiten : bool
        Whether the latents that leave early are divided by their learned deviation, see `MultiScale`.
    pad : bool
    **architecture
        Of `MultiScale`.
    """

    def __init__(self, net_shape: tuple[int, int, int], *, data_range: tuple[float, float] = (0.0, 1.0), n_bits: int = 8,
                 whiten: bool = True, pad: bool = False, **architecture: Any):
        super().__init__()
        from cfexplain.nets.image_flows import LogitPixels, MultiScale  # zuko is loaded when a flow is made

        channels, *sides = net_shape
        unit = 2 ** int(architecture["levels"])
        padded = [math.ceil(side / unit) * unit for side in sides] if pad else sides
        spare = [b - a for a, b in zip(sides, padded, strict=True)]
        self.padding = (spare[1] // 2, spare[1] - spare[1] // 2, spare[0] // 2, spare[0] - spare[0] // 2)
        self.flow = MultiScale((channels, *padded), **architecture)
        self.logits = LogitPixels()
        self.data_range, self.n_bits, self.whiten = data_range, n_bits, whiten
        self.latent_dim = channels * math.prod(padded)

    def bins(self, x: Tensor) -> Tensor:
        """Pixels to (0, 1), each in the middle of its bin of 256; padded."""
        low, high = self.data_range
        v = (255 * (x - low) / (high - low) + 0.5) / 256
        return F.pad(v, self.padding, mode="replicate") if any(self.padding) else v

    def push(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.data_range
        z, ladj = self._push(self.bins(x))
        return z, ladj + z.shape[1] * math.log(255 / 256 / (high - low))

    def _push(self, v: Tensor) -> tuple[Tensor, Tensor]:
        y, of_pixels = self.logits.push(v)
        z, ladj = self.flow.push(y)
        return z, ladj + of_pixels

    def encode(self, x: Tensor) -> Tensor:
        return self.flow.encode(self.logits.push(self.bins(x))[0], self.whiten)

    def pull(self, z: Tensor) -> Tensor:
        low, high = self.data_range
        v = self.logits.pull(self.flow.pull(z, self.whiten))
        if any(self.padding):
            v = F.pad(v, [-side for side in self.padding])
        return low + (high - low) * (256 * v - 0.5) / 255

    def whitened(self, z: Tensor) -> Tensor:
        return z if self.whiten else self.flow.encode(self.flow.pull(z, whiten=False))

    def dequantised(self, x: Tensor) -> Tensor:
        """Each pixel somewhere in its bin of 2**n_bits: (floor(2^n v) + U) / 2^n, what training sees."""
        v, levels = self.bins(x), 2**self.n_bits
        return (torch.floor(v * levels).clamp(0, levels - 1) + torch.rand_like(v)) / levels

    def initialise(self, x: Tensor) -> None:
        """Data-dependent actnorm (Glow, section 3.1) from a first batch."""
        self.flow.initialise(self.logits.push(self.dequantised(x))[0])

    def bits_per_dim(self, x: Tensor) -> Tensor:
        """n_bits − log₂ p(v) / d of dequantised pixels, (B,): an upper bound of −log₂ P(x) / d over whole pixel values."""
        z, ladj = self._push(self.dequantised(x))
        return self.n_bits - (standard_normal(z) + ladj) / (z.shape[1] * math.log(2))


class LatentFlowNet(FlowNet):
    """A multi-scale flow of latents (C, h, w) of another autoencoder, about of unit scale; nothing bounds them.

    Sides that the levels do not divide are padded by repeating the edge at the bottom and on the right, and cropped again.

    Parameters
    ----------
    net_shape : (C, h, w)
    noise : float
        Deviation of what training adds to each number: kept latents are rounded, and no density is finite there.
    whiten, **architecture
        See `MultiScale`.
    """

    def __init__(self, net_shape: tuple[int, int, int], *, noise: float = 0.03, whiten: bool = True, **architecture: Any):
        super().__init__()
        from cfexplain.nets.image_flows import MultiScale  # zuko is loaded when a flow is made

        channels, *sides = net_shape
        unit = 2 ** int(architecture["levels"])
        padded = [math.ceil(side / unit) * unit for side in sides]
        self.padding = (0, padded[1] - sides[1], 0, padded[0] - sides[0])
        self.flow = MultiScale((channels, *padded), **architecture)
        self.noise, self.whiten, self.latent_dim = noise, whiten, channels * math.prod(padded)

    def _pad(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding, mode="replicate") if any(self.padding) else x

    def push(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow.push(self._pad(x))

    def encode(self, x: Tensor) -> Tensor:
        return self.flow.encode(self._pad(x), self.whiten)

    def pull(self, z: Tensor) -> Tensor:
        x = self.flow.pull(z, self.whiten)
        return F.pad(x, [-side for side in self.padding]) if any(self.padding) else x

    def whitened(self, z: Tensor) -> Tensor:
        return z if self.whiten else self.flow.encode(self.flow.pull(z, whiten=False))

    def initialise(self, x: Tensor) -> None:
        """Data-dependent actnorm (Glow, section 3.1) from a first batch."""
        self.flow.initialise(self._noisy(x))

    def _noisy(self, x: Tensor) -> Tensor:
        """`x`, padded, with noise: on the padding, too, or the density there would grow without end."""
        x = self._pad(x)
        return x + self.noise * torch.randn_like(x)

    def nats_per_dim(self, x: Tensor) -> Tensor:
        """−log p(x) / d, (B,), of `x` with noise; d counts the padding."""
        z, ladj = self.flow.push(self._noisy(x))
        return -(standard_normal(z) + ladj) / self.latent_dim

    def bits_per_dim(self, x: Tensor) -> Tensor:
        """The same in bits, (B,): N(0, 1) has 2.05."""
        return self.nats_per_dim(x) / math.log(2)


class VectorFlowNet(FlowNet):
    """A flow of the columns of a table, standardised inside; a constant column passes through as its difference.

    Parameters
    ----------
    columns : int
    architecture : {"coupling", "spline"}
        Affine couplings (RealNVP) or rational-quadratic spline couplings (NSF), from zuko.
    steps : int
    hidden : tuple of int
    """

    loc: Tensor
    scale: Tensor
    varying: Tensor

    def __init__(self, columns: int, *, architecture: str = "coupling", steps: int = 8,
                 hidden: tuple[int, ...] = (128, 128)):
        super().__init__()
        self.latent_dim = columns
        self.architecture, self.steps, self.hidden = architecture, steps, tuple(hidden)
        self.register_buffer("loc", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        self.register_buffer("varying", torch.ones(columns, dtype=torch.bool))
        self._make_flow()

    def _make_flow(self) -> None:
        import zuko  # loaded when a flow is made

        count = int(self.varying.sum())
        if count == 1:  # nothing to couple with: one autoregressive transform of a single number
            self.flow = zuko.flows.NSF(1, transforms=2, hidden_features=self.hidden)
        elif self.architecture == "spline":
            self.flow = zuko.flows.NSF(count, transforms=self.steps, hidden_features=self.hidden, passes=2)
        else:
            self.flow = zuko.flows.NICE(count, transforms=self.steps, hidden_features=self.hidden)
        self.flow.to(self.loc)

    def set_columns(self, X: np.ndarray) -> None:
        """Standardise as `X` (n, d) says; columns that do not vary leave the flow."""
        mean, std, _ = unit_scale(X)
        self.loc.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(np.where(std > 0, std, 1.0)))
        if not (std > 0).any():
            raise ValueError("Every column of X is constant; a flow has nothing to learn.")
        self.varying.copy_(torch.from_numpy(std > 0))
        if not self.varying.all():
            self._make_flow()

    def push(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = (x - self.loc) / self.scale
        inside, ladj = self.flow.transform().call_and_ladj(u[:, self.varying])
        z = u.clone()
        z[:, self.varying] = inside
        return z, ladj - self.scale.log().sum()

    def pull(self, z: Tensor) -> Tensor:
        u = z.clone()
        u[:, self.varying] = self.flow.transform().inv(z[:, self.varying])
        return self.loc + self.scale * u

    def packed(self, dtype: torch.dtype | None = None) -> PackedFlow:
        """The tensors of what `log_prob` and `pull` compute, for the kernels of `cfexplain.ops.coupling_flow`.

        Raises
        ------
        NotPackable
            The flow is not made of affine couplings.
        """
        from cfexplain.ops.coupling_flow.packing import pack_couplings

        return pack_couplings(self.flow, self.loc, self.scale, dtype=dtype, moving=self.varying.nonzero()[:, 0].tolist())
