"""Multi-scale normalizing flows of images, Glow and RealNVP, as zuko-compatible lazy transforms.

zuko has flows of vectors. Here a transform maps images (B, C, H, W) to z (B, C·H·W), so that
``zuko.flows.Flow(MultiScale(...), UnconditionalDistribution(DiagNormal, ...))`` is a density of images like any other.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from zuko.lazy import LazyTransform

from cfexplain.nets.resize import levels_that_divide

__all__ = ["Couple", "LogitPixels", "MultiScale", "Step"]

# A coupling scales by a factor in exp(-LOG_SCALE) … exp(LOG_SCALE): unbounded ones blow up on single batches.
LOG_SCALE = 2.0
ALPHA = 0.05
IMAGE = constraints.independent(constraints.real, 3)
VECTOR = constraints.independent(constraints.real, 1)


def _zero(layer: nn.Conv2d) -> None:
    """Let `layer` begin as the function 0."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class _Built(Transform):
    """A transform made of two functions of tensors; ``domain`` and ``codomain`` as torch.distributions wants them."""

    bijective = True

    def __init__(self, owner: Any, domain: Any = IMAGE, codomain: Any = IMAGE):
        super().__init__()
        self.owner, self.domain, self.codomain = owner, domain, codomain

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        batch = y.shape[: y.ndim - self.codomain.event_dim]
        x = self.owner.pull(y.reshape(-1, *y.shape[len(batch):]))
        return x.reshape(*batch, *x.shape[1:])

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch = x.shape[:-3]
        y, ladj = self.owner.push(x.reshape(-1, *x.shape[-3:]))
        return y.reshape(*batch, *y.shape[1:]), ladj.reshape(batch)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.codomain is IMAGE else (*shape[:-3], math.prod(shape[-3:]))

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.codomain is IMAGE else (*shape[:-1], *self.owner.image_shape)


class _Lazy(LazyTransform):
    """A lazy transform without context: ``push(x) -> (y, log |det|)`` and ``pull(y) -> x``."""

    def forward(self, c: Tensor | None = None) -> Transform:
        return _Built(self)

    @abstractmethod
    def push(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y, and log |det ∂y/∂x| (B,)."""

    @abstractmethod
    def pull(self, y: Tensor) -> Tensor:
        """x of y."""


class LogitPixels(_Lazy):
    """Pixels in (0, 1) to logits: y = logit(α + (1 − 2α) x), RealNVP's preprocessing (Dinh et al., 2017, section 4.1).

    The inverse is a sigmoid and a stretch, so a point of Z may decode to pixels a little outside: −α / (1 − 2α) …
    1 + α / (1 − 2α), that is −0.056 … 1.056 at α = 0.05. Hence the explainers' clip modes.

    >>> import torch
    >>> x = torch.rand(2, 1, 4, 4)
    >>> bool(torch.isclose(LogitPixels()().inv(LogitPixels()()(x)), x, atol=1e-6).all())
    True
    """

    def push(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = ALPHA + (1 - 2 * ALPHA) * x
        log_p, log_q = p.log(), (1 - p).log()
        return log_p - log_q, (math.log(1 - 2 * ALPHA) - log_p - log_q).flatten(1).sum(1)

    def pull(self, y: Tensor) -> Tensor:
        return (y.sigmoid() - ALPHA) / (1 - 2 * ALPHA)


class Couple(nn.Module):
    """Shift and log scale of one half of the channels, given the other half.

    Glow's three convolutions (3x3, 1x1, 3x3), or with ``blocks`` residual blocks between the first and the last as in
    RealNVP. The last layer starts at zero, so a fresh coupling is the identity. ``precision="bfloat16"`` holds while
    training only (2 to 3 times faster on a CPU that has the instructions): a flow inverts a coupling only as exactly as
    the coupling repeats itself.
    """

    def __init__(self, given: int, changed: int, hidden: int, *, blocks: int = 0, affine: bool = True,
                 precision: str = "float32"):
        super().__init__()
        self.affine, self.precision = affine, precision
        middle: list[nn.Module] = [_Residual(hidden) for _ in range(blocks)] or [nn.Conv2d(hidden, hidden, 1)]
        head = nn.Conv2d(hidden, changed * (2 if affine else 1), 3, padding=1)
        _zero(head)
        self.net = nn.Sequential(nn.Conv2d(given, hidden, 3, padding=1), nn.ReLU(), *middle, nn.ReLU(), head)
        self.gain = nn.Parameter(torch.zeros(head.out_channels, 1, 1))

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor | None]:
        half = self.training and self.precision == "bfloat16"
        # within a caller's autocast what is cached would outlive a step of training
        with torch.autocast(a.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            h = self.net(a.to(torch.bfloat16, memory_format=torch.channels_last) if half else a)
        out = h.to(a.dtype) * (3 * self.gain).exp()
        if not self.affine:
            return out, None
        shift, log_scale = out.chunk(2, 1)
        return shift, LOG_SCALE * torch.tanh(log_scale / LOG_SCALE)


class _Residual(nn.Module):
    def __init__(self, hidden: int):
        super().__init__()
        self.net = nn.Sequential(nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.net(h)


class Step(_Lazy):
    """One step of flow: actnorm, a mixing of the channels, a coupling.

    Parameters
    ----------
    channels : int
        Even.
    hidden, blocks, affine, precision
        Of the coupling's network, see `Couple`.
    mixing : {"conv"} or sequence of int
        "conv" is Glow's invertible 1x1 convolution in LU form (Kingma & Dhariwal, 2018, eq. 10). A sequence is a fixed
        order of the channels: RealNVP's masks.
    """

    def __init__(self, channels: int, hidden: int, *, mixing: str | Sequence[int] = "conv", blocks: int = 0,
                 affine: bool = True, precision: str = "float32"):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.learned = mixing == "conv"
        if self.learned:
            rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0]
            permutation, lower, upper = (part.float() for part in torch.linalg.lu(rotation))
            self.register_buffer("permutation", permutation)
            self.register_buffer("sign", upper.diag().sign())
            self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))
            self.log_diagonal = nn.Parameter(upper.diag().abs().log())
        else:
            self.register_buffer("permutation", torch.eye(channels)[list(mixing)])
        half = channels // 2
        self.couple = Couple(half, channels - half, hidden, blocks=blocks, affine=affine, precision=precision)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Actnorm from a first batch: every channel to mean 0 and standard deviation 1."""
        self.bias.copy_(-x.mean((0, 2, 3)).view(-1, 1, 1))
        self.log_scale.copy_(-(x.std((0, 2, 3)) + 1e-6).log().view(-1, 1, 1))

    def _mixing(self) -> Tensor:
        if not self.learned:
            return self.permutation
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())
        return self.permutation @ (self.lower.tril(-1) + torch.eye(len(upper)).to(upper)) @ upper

    def push(self, x: Tensor) -> tuple[Tensor, Tensor]:
        change = self.log_scale.sum() + (self.log_diagonal.sum() if self.learned else 0)
        x = F.conv2d((x + self.bias) * self.log_scale.exp(), self._mixing()[:, :, None, None])
        a, b = x.tensor_split([x.shape[1] // 2], 1)
        shift, log_scale = self.couple(a)
        b, ladj = b + shift, change * (x.shape[2] * x.shape[3]) * torch.ones(len(x), dtype=x.dtype, device=x.device)
        if log_scale is not None:
            b, ladj = b * log_scale.exp(), ladj + log_scale.flatten(1).sum(1)
        return torch.cat([a, b], 1), ladj

    def pull(self, y: Tensor) -> Tensor:
        a, b = y.tensor_split([y.shape[1] // 2], 1)
        shift, log_scale = self.couple(a)
        b = (b if log_scale is None else b * (-log_scale).exp()) - shift
        mixing = self._mixing()
        unmixing = torch.linalg.inv(mixing.double()).to(mixing) if self.learned else mixing.T
        return F.conv2d(torch.cat([a, b], 1), unmixing[:, :, None, None]) * (-self.log_scale).exp() - self.bias


class MultiScale(_Lazy):
    """Levels of squeeze, steps and split (RealNVP, section 3.6; Glow, figure 2): images to vectors.

    After each level but the last, half of the channels leave. Given the half that stays, they are Gaussian with a learned
    mean and deviation; by these they are *whitened*, so that z ~ N(0, I) in every coordinate and a distance in Z is a
    distance in base space. ``encode(x, whiten=False)`` leaves them as they are, as the Diffeomorphic Counterfactuals'
    code does.

    Parameters
    ----------
    image_shape : (C, H, W)
        Sides that 2**levels divides.
    levels, steps : int
        Steps at each level.
    hidden, blocks, affine, precision
        Of the couplings, see `Couple`.
    mixing : {"conv", "masks"}
        Glow's 1x1 convolutions, or RealNVP's alternating masks: in the squeezed image, a checkerboard of pixels is half
        of the channels, and so are rows, columns and RealNVP's channel-wise mask.

    Examples
    --------
    >>> import torch
    >>> flow = MultiScale((1, 28, 28), levels=2, steps=1, hidden=8)
    >>> x = torch.randn(5, 1, 28, 28)
    >>> z, ladj = flow().call_and_ladj(x)
    >>> z.shape, ladj.shape, bool(torch.isclose(flow().inv(z), x, atol=1e-5).all())
    (torch.Size([5, 784]), torch.Size([5]), True)
    """

    def __init__(self, image_shape: tuple[int, int, int], *, levels: int, steps: int, hidden: int, blocks: int = 0,
                 affine: bool = True, mixing: str = "conv", precision: str = "float32"):
        super().__init__()
        channels, *sides = image_shape
        possible = levels_that_divide(sides)
        if levels < 1:
            raise ValueError(f"levels={levels!r} must be at least 1.")
        if levels > possible:
            raise ValueError(
                f"A flow of {levels} levels halves an image {levels} times, but {sides[0]}x{sides[1]} can be halved "
                f"{possible} times. Choose levels <= {possible}, or sides that are multiples of {2**levels}.")
        self.image_shape = tuple(image_shape)
        self.levels = nn.ModuleList()
        self.priors = nn.ModuleList()
        for level in range(levels):
            channels *= 4
            orders = ["conv"] * steps if mixing == "conv" else _masks(channels, steps)
            self.levels.append(nn.ModuleList(
                Step(channels, hidden, mixing=order, blocks=blocks, affine=affine, precision=precision)
                for order in orders))
            if level < levels - 1:
                stay = channels // 2
                prior = nn.Conv2d(stay, 2 * (channels - stay), 3, padding=1)
                _zero(prior)
                self.priors.append(prior)
                channels = stay

    def forward(self, c: Tensor | None = None) -> Transform:
        return _Built(self, IMAGE, VECTOR)

    def initialise(self, x: Tensor) -> None:
        """Data-dependent actnorm of every step, from a first batch."""
        self._down(x, initialise=True)

    def push(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._down(x)

    def encode(self, x: Tensor, whiten: bool = True) -> Tensor:
        return self._down(x, whiten)[0]

    def _down(self, x: Tensor, whiten: bool = True, initialise: bool = False) -> tuple[Tensor, Tensor]:
        ladj, left = torch.zeros(len(x), dtype=x.dtype, device=x.device), []
        for level in range(len(self.levels)):
            x = _squeeze(x)
            for step in self._steps(level):
                if initialise:
                    step.initialise(x)
                x, change = step.push(x)
                ladj = ladj + change
            if level < len(self.priors):
                x, b = x.tensor_split([x.shape[1] // 2], 1)
                if whiten:
                    mean, log_std = self._prior(level, x)
                    b, ladj = (b - mean) * (-log_std).exp(), ladj - log_std.flatten(1).sum(1)
                left.append(b.flatten(1))
        return torch.cat([*left, x.flatten(1)], 1), ladj

    def pull(self, y: Tensor, whiten: bool = True) -> Tensor:
        parts, shapes = [], self._shapes()
        for shape in shapes:
            size = math.prod(shape)
            parts.append(y[:, :size].reshape(len(y), *shape))
            y = y[:, size:]
        x = parts[-1]
        for level in reversed(range(len(self.levels))):
            if level < len(self.priors):
                b = parts[level]
                if whiten:
                    mean, log_std = self._prior(level, x)
                    b = b * log_std.exp() + mean
                x = torch.cat([x, b], 1)
            for step in reversed(self._steps(level)):
                x = step.pull(x)
            x = _unsqueeze(x)
        return x

    def _steps(self, level: int) -> list[Any]:
        return list(self.levels.get_submodule(str(level)).children())

    def _prior(self, level: int, stay: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.priors[level](stay).chunk(2, 1)
        return mean, log_std.clamp(-5, 5)

    def _shapes(self) -> list[tuple[int, int, int]]:
        """Of what leaves at each level, and of what remains at the end."""
        channels, height, width = self.image_shape
        shapes = []
        for level in range(len(self.levels)):
            channels, height, width = 4 * channels, height // 2, width // 2
            if level < len(self.priors):
                shapes.append((channels - channels // 2, height, width))
                channels //= 2
        return [*shapes, (channels, height, width)]


def _squeeze(x: Tensor) -> Tensor:
    """Pixels of 2x2 blocks to channels; torch's own function leaves an empty batch in its shape."""
    channels, height, width = x.shape[1:]
    return F.pixel_unshuffle(x, 2) if len(x) else x.reshape(0, 4 * channels, height // 2, width // 2)


def _unsqueeze(x: Tensor) -> Tensor:
    channels, height, width = x.shape[1:]
    return F.pixel_shuffle(x, 2) if len(x) else x.reshape(0, channels // 4, 2 * height, 2 * width)


def _masks(channels: int, steps: int) -> list[list[int]]:
    """Orders of the channels whose first halves are RealNVP's masks in turn; each is relative to the one before."""
    # channel 4k + i of a squeezed image is pixel i of a 2x2 block: (0, 0), (0, 1), (1, 0), (1, 1)
    pixels = [(0, 3), (1, 2), (0, 1), (2, 3), (0, 2), (1, 3)]
    kept = [[c for c in range(channels) if c % 4 in pair] for pair in pixels]
    if channels > 4:
        half = list(range(channels // 2))
        kept[2:2] = [half, [c for c in range(channels) if c not in half]]
    orders, current = [], list(range(channels))
    for k in range(steps):
        first = kept[k % len(kept)]
        wanted = [*first, *(c for c in range(channels) if c not in first)]
        orders.append([current.index(c) for c in wanted])
        current = wanted
    return orders
