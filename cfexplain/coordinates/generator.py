"""A generator of the user's own as coordinates: any G(z), with an encoder or without one."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from cfexplain.coordinates.base import Coordinates
from cfexplain.coordinates.inversion import Inversion, Inverter
from cfexplain.coordinates.pretrained import as_module, moved_to, read_latents, read_sample
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.random import draw_seed, seeded_torch
from cfexplain.foundation.settings import own_modes
from cfexplain.persistence import storable, stored_by_parts

__all__ = ["GeneratorCoordinates"]

LOOKED_AT = 256  # rows of X whose inversion error `fit` measures
_LATENT_NAMES = ("z_dim", "latent_dim", "latent_size", "nz")


@storable
class GeneratorCoordinates(Coordinates):
    """The latents of a generator G that is already trained (GAN, StyleGAN, any decoder), which is used as it is.

    `decode` is G. `encode` is the encoder where there is one, refined by `refine_steps` of inversion; without one it is
    inversion alone (eq. 11 of Diffeomorphic Counterfactuals), a search for every row: it costs ``steps · restarts``
    passes through G a row and is not differentiable in x. ``encoder_kind_`` says which it is. During each call the
    networks are in evaluation mode without parameter gradients; afterwards every flag is what it was.

    Parameters
    ----------
    generator : nn.Module or fitted skorch net
        z (B, *latent_shape) -> x (B, C, H, W) or (B, d), as a tensor, an object with ``sample``, or a tuple that starts
        with one. Must be deterministic: fix the noise of a StyleGAN (``noise_mode="const"``).
    encoder : nn.Module or fitted skorch net, optional
        x -> latents (B, *latent_shape).
    latent_dim : int, optional
        Length of z. Default: the generator's attribute ``z_dim``, ``latent_dim``, ``latent_size`` or ``nz``.
    latent_shape : tuple of int, optional
        Shape of one row's latents, where G does not take ``(latent_dim,)``: ``(100, 1, 1)`` for many dcGANs.
    inversion : Inversion, optional
        Default: ``Inversion()``.
    refine_steps : int, default=0
        With an encoder: gradient steps from its guess, with the other options of `inversion`, one restart.
    image_shape : (C, H, W), optional
        Reads rows of shape (d,) as images.
    channels : {"auto", "first", "last"}, default="auto"
        Where an image has its channels: (C, H, W) or (H, W, C). "auto" tells by the shape; see `read_channels`.
    data_range : (low, high), default=(0, 1)
        Of images, as X and the classifier have them.
    output_range : (low, high), optional
        Of G's images, and of those that the encoder reads: (-1, 1) for most GANs. Mapped linearly onto `data_range`.
    random_state : int, RandomState or None
        Starting points of the restarts.

    Attributes
    ----------
    latent_dim_, module_, layout_, dtype_
        See `Coordinates`. ``module_`` holds the user's networks by reference.
    encoder_kind_ : {"encoder", "encoder+inversion", "inversion"}
        How `encode` finds a code.
    inversion_error_ : ndarray of shape (min(n, 256),)
        Root mean square of G(encode(x)) − x of rows spread evenly over the X of `fit`: in shares of the width of
        `data_range` for images, in standard deviations of each column for tables.

    Notes
    -----
    Inversion starts at draws of N(0, I), and its prior is N(0, I): wrap a generator whose latents are distributed
    otherwise, such as the synthesis network of a StyleGAN, in a module that maps standard normal numbers onto them.

    A generator may draw larger images than the classifier reads: put `cfexplain.nets.resize.Resize` before the
    classifier. X has the size that G draws.

    A row's code has the same bits in any company only if the networks' own kernels allow it.
    ``sklearn.base.clone`` keeps the networks by reference: they are neither copied nor un-fitted.

    References
    ----------
    Dombrowski, Gerken, Müller, Kessel: Diffeomorphic Counterfactuals with Generative Models, sections 2.4 and 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> G = nn.Linear(2, 6)
    >>> X = np.random.default_rng(0).normal(size=(20, 2)) @ G.weight.detach().numpy().T + G.bias.detach().numpy()
    >>> coordinates = GeneratorCoordinates(G, latent_dim=2, random_state=0).fit(X)
    >>> coordinates.encoder_kind_, coordinates.transform(X).shape, bool(coordinates.inversion_error_.max() < 0.01)
    ('inversion', (20, 2), True)
    """

    module_: Inverter
    encoder_kind_: str
    inversion_error_: np.ndarray

    def __init__(
        self,
        generator: Any,
        encoder: Any = None,
        *,
        latent_dim: int | None = None,
        latent_shape: tuple[int, ...] | None = None,
        inversion: Inversion | None = None,
        refine_steps: int = 0,
        image_shape: tuple[int, ...] | None = None,
        channels: str = "auto",
        data_range: tuple[float, float] = (0.0, 1.0),
        output_range: tuple[float, float] | None = None,
        random_state: Any = None,
    ):
        self.generator = generator
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.latent_shape = latent_shape
        self.inversion = inversion
        self.refine_steps = refine_steps
        self.image_shape = image_shape
        self.channels = channels
        self.data_range = data_range
        self.output_range = output_range
        self.random_state = random_state

    @property
    def encodes_at_once(self) -> bool:
        return self.encoder is not None and not self.refine_steps

    @own_modes()
    def fit(self, X: ArrayLike | Tensor, y: Any = None) -> GeneratorCoordinates:
        """Check that the networks and X belong together, and measure the inversion error; nothing is trained.

        Raises
        ------
        TypeError
            Not a module, or a return value that cannot be read as latents or samples.
        NotFittedError
            A skorch net that is not initialised.
        ValueError
            The length of z is not known, G is not deterministic, G's samples or the encoder's latents have another
            shape than expected, or X cannot be used.
        """
        X = self._read_fit(X)
        generator = as_module(self.generator, "generator")
        encoder = None if self.encoder is None else as_module(self.encoder, "encoder")
        shape = self._latent_shape(generator)
        self.latent_dim_ = math.prod(shape)
        loc, gain = self._ranges()
        self.encoder_kind_ = (
            "inversion" if encoder is None else "encoder+inversion" if self.refine_steps else "encoder")
        scale = self.data_range[1] - self.data_range[0] if self.layout_.is_image else _spread(X)
        self.module_ = Inverter(
            _Decoder(generator, shape, loc, gain), None if encoder is None else _Encoder(encoder, shape, loc, gain),
            self.latent_dim_, self._options(), draw_seed(self.random_state),
            torch.as_tensor(scale, dtype=torch.from_numpy(X).dtype))
        self._check_generator(X)
        self.inversion_error_ = inversion_errors(self, X)
        return self

    def _latent_shape(self, generator: nn.Module) -> tuple[int, ...]:
        if self.latent_shape is not None:
            shape = tuple(int(side) for side in self.latent_shape)
            if not shape or min(shape) < 1:
                raise ValueError(f"latent_shape={self.latent_shape!r} must be positive integers, such as (100, 1, 1).")
            if self.latent_dim not in (None, math.prod(shape)):
                raise ValueError(f"latent_shape={shape} holds {math.prod(shape)} numbers, but latent_dim="
                                 f"{self.latent_dim}. Give one of the two, or make them agree.")
            return shape
        size: Any = self.latent_dim
        if size is None:
            size = next((v for v in (getattr(generator, name, None) for name in _LATENT_NAMES)
                         if isinstance(v, (int, np.integer)) and not isinstance(v, bool)), None)
        if size is None:
            raise ValueError(
                f"How long a z does {type(generator).__name__} take? It has no attribute {', '.join(_LATENT_NAMES)}. "
                "Pass latent_dim=100, or latent_shape=(100, 1, 1) if that is what it takes.")
        if int(size) != size or size < 1:
            raise ValueError(f"latent_dim={size!r} must be a positive integer.")
        return (int(size),)

    def _ranges(self) -> tuple[float, float]:
        """(loc, gain): x = loc + gain · G's output."""
        if self.output_range is None:
            return 0.0, 1.0
        low, high = self.output_range
        if not low < high:
            raise ValueError(f"output_range={self.output_range!r} must be (low, high) with low < high.")
        if not self.layout_.is_image:
            raise ValueError("output_range= is for images, but X is a table. Scale the table's columns as G's are.")
        gain = (self.data_range[1] - self.data_range[0]) / (high - low)
        return self.data_range[0] - low * gain, gain

    def _options(self) -> Inversion | None:
        options = Inversion() if self.inversion is None else self.inversion
        if not isinstance(options, Inversion):
            raise TypeError(f"inversion must be an Inversion(...), got {type(options).__name__}.")
        if self.refine_steps < 0 or int(self.refine_steps) != self.refine_steps:
            raise ValueError(f"refine_steps={self.refine_steps!r} must be an integer of at least 0.")
        if self.encoder is not None:
            return replace(options, steps=int(self.refine_steps), restarts=1) if self.refine_steps else None
        if self.refine_steps:
            raise ValueError("refine_steps= refines an encoder's code, but there is no encoder. "
                             "Set inversion=Inversion(steps=...) instead.")
        return options

    def _check_generator(self, X: np.ndarray) -> None:
        z = np.random.default_rng(0).normal(size=(2, self.latent_dim_))
        with seeded_torch(0):
            try:
                once, again = self.in_tiles(self.decode, z), self.in_tiles(self.decode, z)
            except (RuntimeError, IndexError) as error:
                generator: Any = self.module_.generator
                raise ValueError(
                    f"{type(generator.network).__name__} does not take z of shape (B, "
                    f"{', '.join(map(str, generator.shape))}): {error}. Pass the shape of one row's "
                    "latents: latent_shape=(100, 1, 1), say.") from error
        if once.shape[1:] != X.shape[1:]:
            raise ValueError(
                f"The generator draws samples of shape {once.shape[1:]}, but X has {X.shape[1:]}. Resize X to the "
                "generator's size (and put cfexplain.nets.resize.Resize before a classifier that reads another), or wrap "
                "the generator: nn.Sequential(G, Resize(size)). Images are (C, H, W), see image_shape=.")
        if not np.array_equal(once, again):
            raise ValueError("The generator returns different samples for the same z, so it cannot be inverted. Fix its "
                             'noise: noise_mode="const" in a StyleGAN.')
        if self.module_.encoder is not None:
            self.in_tiles(self.module_.encoder, X[:1])

    def __sklearn_clone__(self) -> GeneratorCoordinates:
        bare = copy.copy(self)
        bare.generator = bare.encoder = None
        twin = BaseEstimator.__sklearn_clone__(bare)
        twin.generator, twin.encoder = self.generator, self.encoder
        return twin


def inversion_errors(coordinates: Coordinates, X: np.ndarray) -> np.ndarray:
    """Error of G(encode(x)) of up to 256 rows, spread evenly over `X` (n, *net_shape), as `invert` measures it."""
    some = np.unique(np.linspace(0, len(X) - 1, min(len(X), LOOKED_AT)).astype(int))
    return coordinates.in_tiles(coordinates.module_.invert, X[some])[1]


def _spread(X: np.ndarray) -> np.ndarray:
    spread = X.std(0, dtype=np.float64)
    return np.where(spread > 0, spread, 1.0)


class _Lent(nn.Module):
    """A network of the user's, borrowed for each call; x = loc + gain · its images."""

    network: nn.Module
    shape: tuple[int, ...]
    loc: float
    gain: float

    def __init__(self, network: nn.Module, shape: tuple[int, ...], loc: float, gain: float):
        super().__init__()
        self.network, self.shape, self.loc, self.gain = network, shape, loc, gain
        self.training = False  # of this wrapper alone: eval() would reach into the user's network

    @contextmanager
    def lent(self) -> Iterator[nn.Module]:
        with frozen(self.network):
            yield self.network


@stored_by_parts(lambda part: min(part.shape) > 0)
class _Decoder(_Lent):
    def forward(self, z: Tensor) -> Tensor:
        with self.lent() as G:
            out = read_sample(G(moved_to(z.reshape(len(z), *self.shape), G))).to(z)
        return out if (self.loc, self.gain) == (0.0, 1.0) else self.loc + self.gain * out


@stored_by_parts(lambda part: min(part.shape) > 0)
class _Encoder(_Lent):
    def forward(self, x: Tensor) -> Tensor:
        with self.lent() as encoder:
            latents = read_latents(encoder(moved_to((x - self.loc) / self.gain, encoder)))[0].to(x)
        if latents.ndim < 2 or math.prod(latents.shape[1:]) != math.prod(self.shape) or len(latents) != len(x):
            raise ValueError(
                f"The encoder returned latents of shape {tuple(latents.shape)} for {len(x)} rows; the generator takes "
                f"(B, {', '.join(map(str, self.shape))}). They must hold as many numbers a row.")
        return latents.flatten(1)


# of the user's networks; that of a `GAN` is built from its parameters and is not stored like this
stored_by_parts(lambda part: part.latent_dim == math.prod(part.generator.shape),
                types={"generator": _Decoder, "encoder": _Encoder | None})(Inverter)
