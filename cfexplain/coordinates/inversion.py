"""Inversion of a generator: the code z whose G(z) is nearest to x, found by gradients, many rows and restarts at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.progress import no_rehearsal
from cfexplain.foundation.tiles import TILE, in_tiles
from cfexplain.ops.search_step.reference import adam
from cfexplain.persistence import stored_by_constructor

__all__ = ["Inversion", "Inverter", "invert"]


@stored_by_constructor
@dataclass(frozen=True)
class Inversion:
    """How to invert a generator G.

    Minimises, for every row x by itself,

        mean (G(z) − x)² / scale² + prior_weight ‖z‖² / 2 + feature_weight · mean (h(G(z)) − h(x))²

    with Adam. The last term is eq. 11 of Diffeomorphic Counterfactuals. Both means are over one row's numbers, so that
    the weights suit any size of image.

    Parameters
    ----------
    steps : int, default=200
        Gradient steps of every restart. The learning rate falls to zero over the last half.
    restarts : int, default=4
        Starting points; the best one counts, row by row.
    lr : float, default=0.1
        Adam's, in standard deviations of z.
    prior_weight : float, default=1e-4
        Of the latent prior N(0, I): keeps z where the generator was trained.
    feature_weight : float, default=1.0
        Only used with a `feature_layer`.
    feature_layer : callable ``(B, *shape) -> (B, ...)``, optional
        h, differentiable; a module is borrowed in evaluation mode. For example the layers of a classifier without the
        last one.
    start : {"normal", "mean"}, default="normal"
        "normal": every restart begins at a draw of N(0, I), the same draws for every row. "mean": the first one begins
        at 0.
    tile : int, default=32
        Pairs of row and restart that are decoded together. Less memory, for large generators; a row's bits depend on it.

    Examples
    --------
    >>> Inversion(steps=50, restarts=2)
    Inversion(steps=50, restarts=2, lr=0.1, prior_weight=0.0001, feature_weight=1.0, feature_layer=None,
              start='normal', tile=32)
    """

    steps: int = 200
    restarts: int = 4
    lr: float = 0.1
    prior_weight: float = 1e-4
    feature_weight: float = 1.0
    feature_layer: Callable[[Tensor], Tensor] | None = None
    start: str = "normal"
    tile: int = TILE

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("restarts", 1), ("tile", 1)):
            value = getattr(self, name)
            if int(value) != value or value < least:
                raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr!r} must be positive.")
        for name in ("prior_weight", "feature_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must not be negative.")
        if self.start not in ("normal", "mean"):
            raise ValueError(f"start={self.start!r} is not known; choose 'normal' or 'mean'.")
        if self.feature_layer is not None and not callable(self.feature_layer):
            raise TypeError(f"feature_layer must be callable, got {type(self.feature_layer).__name__}.")

    def __sklearn_clone__(self) -> Inversion:
        return self  # cannot change, and its feature layer is not to be copied


def invert(
    decode: Callable[[Tensor], Tensor],
    x: Tensor,
    latent_dim: int,
    options: Inversion | None = None,
    start: Tensor | None = None,
    *,
    seed: int = 0,
    scale: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """The code of each row of `x`: the best iterate of its best restart, by the objective of `Inversion`.

    Runs under ``torch.no_grad`` too. The codes are constants: no gradient flows back to `x`.

    Parameters
    ----------
    decode : callable ``(B, latent_dim) -> (B, *shape)``
        G, deterministic and with rows independent of each other.
    x : Tensor of shape (n, *shape)
    latent_dim : int
    options : Inversion, optional
    start : Tensor of shape (n, latent_dim), optional
        Where the first restart of each row begins, say an encoder's guess.
    seed : int
        Of the other starting points, which are the same for every row.
    scale : float or Tensor that broadcasts to a row
        Unit of x: the width of its range for images, a standard deviation for each column of a table.

    Returns
    -------
    z : Tensor of shape (n, latent_dim)
    error : Tensor of shape (n,)
        Root mean square of (G(z) − x) / scale, a row; infinite if G(z) was never finite.

    References
    ----------
    Dombrowski, Gerken, Müller, Kessel: Diffeomorphic Counterfactuals with Generative Models, section 2.4 (eq. 11).

    Examples
    --------
    >>> import torch
    >>> G = torch.nn.Linear(2, 6).requires_grad_(False)
    >>> z, error = invert(G, G(torch.tensor([[1.0, -2.0]])), 2, Inversion(prior_weight=0.0))
    >>> z.round(decimals=2), bool(error < 1e-3)
    (tensor([[ 1., -2.]]), True)
    """
    no_rehearsal("searching codes")
    options = options or Inversion()
    points = _starting_points(latent_dim, options, seed).to(x)
    first = points[:1].expand(len(x), -1) if start is None else start.detach().to(x)
    rows = max(1, options.tile // options.restarts)
    h = options.feature_layer

    def descend(x: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        begin = torch.cat([first[:, None], points[1:].expand(len(x), -1, -1)], 1).flatten(0, 1)
        z, loss, error = _descend(decode, x.repeat_interleave(options.restarts, 0), begin, options, scale)
        best = loss.view(len(x), -1).argmin(1) + options.restarts * torch.arange(len(x), device=x.device)
        return z[best], error[best]

    x = x.detach()
    some = _without_padding(x, first)
    with torch.enable_grad(), frozen(h) if isinstance(h, nn.Module) else nullcontext():
        z, error = in_tiles(descend, x[:some], first[:some], tile=rows)
    place = torch.arange(len(x), device=x.device).clamp(max=some - 1)
    return z[place], error[place]


def _without_padding(*rows: Tensor) -> int:
    """How many rows there are before copies of the last one, with which `in_tiles` pads: they need no inversion."""
    differ = torch.stack([(r != r[-1:]).flatten(1).any(1) for r in rows]).any(0).nonzero()
    return min(len(rows[0]), 2 + int(differ.max())) if len(differ) else 1


def _starting_points(latent_dim: int, options: Inversion, seed: int) -> Tensor:
    # one draw after the other in float64: more restarts or another precision keep the points
    points = torch.randn(options.restarts, latent_dim, dtype=torch.float64, device="cpu",
                         generator=torch.Generator().manual_seed(seed))
    if options.start == "mean":
        points[0] = 0.0
    return points


def _descend(decode: Callable[[Tensor], Tensor], x: Tensor, z: Tensor, options: Inversion,
             scale: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best z of each row by its loss, with that loss and pixel error."""
    h = options.feature_layer
    with torch.no_grad():
        features = h(x) if h is not None else None
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    best_z, best_loss, best_error = z, z.new_full((len(z),), torch.inf), z.new_full((len(z),), torch.inf)
    for step in range(options.steps + 1):
        last = step == options.steps
        z = z.detach().requires_grad_(not last)
        out = decode(z)
        pixels = ((out - x) / scale).square().flatten(1).mean(1)
        loss = pixels + options.prior_weight / 2 * z.square().sum(1)
        if h is not None and features is not None:
            loss = loss + options.feature_weight * (h(out) - features).square().flatten(1).mean(1)
        gradient = None if last else torch.autograd.grad(loss.sum(), z)[0].nan_to_num(0.0, 0.0, 0.0)
        with torch.no_grad():
            better = loss < best_loss  # never where the loss is NaN
            best_z = torch.where(better[:, None], z, best_z)
            best_loss, best_error = torch.where(better, loss, best_loss), torch.where(better, pixels.sqrt(), best_error)
            if gradient is not None:
                move, first, second = adam(gradient, first, second, z.new_full((len(z),), step + 1.0))
                z = z - options.lr * _falling(step / options.steps) * move
    return best_z.detach(), best_loss.detach(), best_error.detach()


def _falling(progress: float) -> float:
    return 1.0 if progress < 0.5 else 0.5 + 0.5 * math.cos(math.pi * (2 * progress - 1))


class Inverter(nn.Module):
    """``posterior`` · ``encode`` · ``decode`` of a generator, with inversion for want of an encoder, or after one.

    Parameters
    ----------
    generator : nn.Module
        z (B, latent_dim) -> x (B, *net_shape).
    encoder : nn.Module, optional
        x -> z: where the first restart of an inversion begins.
    latent_dim : int
    options : Inversion or None
        None: the code is the encoder's, and differentiable.
    seed : int
    scale : Tensor that broadcasts to a row
        See `invert`.
    """

    generator: nn.Module
    encoder: nn.Module | None
    latent_dim: int
    options: Inversion | None
    seed: int
    scale: Tensor

    def __init__(self, generator: nn.Module, encoder: nn.Module | None, latent_dim: int, options: Inversion | None,
                 seed: int, scale: Tensor):
        super().__init__()
        self.generator, self.encoder = generator, encoder
        self.latent_dim, self.options, self.seed = latent_dim, options, seed
        self.register_buffer("scale", scale)
        self.training = False  # of this wrapper alone: the networks may be the user's

    def invert(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of `x` and their error, as `invert` returns them; an encoder's code is judged as it is."""
        if self.options is None:
            options = replace(Inversion(), steps=0, restarts=1, tile=TILE)
        else:
            options = self.options
        start = None if self.encoder is None else self.encoder(x)
        return invert(self.decode, x, self.latent_dim, options, start, seed=self.seed, scale=self.scale.to(x))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(x)
        return z, torch.zeros_like(z)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x) if self.encoder is not None and self.options is None else self.invert(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        return self.generator(z)
