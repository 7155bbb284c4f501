"""Networks of the user's own as coordinates: used as they are, never trained, never changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from cfexplain.coordinates.base import Coordinates
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.settings import own_modes
from cfexplain.nets.autoencoders import unit_scale
from cfexplain.persistence import storable, stored_by_parts

__all__ = ["PretrainedCoordinates", "as_module", "moved_to", "read_latents", "read_sample"]


@storable
class PretrainedCoordinates(Coordinates):
    """The latents of an encoder and a decoder that are already trained.

    `fit` only looks: it records the shapes, measures the scale of the latents on X, and checks that the decoder returns
    samples of X's shape. During each call the networks are in evaluation mode without parameter gradients; afterwards
    every flag is what it was. They stay on their device and in their precision; codes and samples are cast around them.

    Parameters
    ----------
    encoder : nn.Module or fitted skorch net
        x (B, C, H, W) or (B, d) -> latents of any shape. With ``decoder=None``, one module with methods ``encode`` and
        ``decode``. `encode` may return a tensor, an object with ``latent_dist`` (its mean is the code, its ``std`` the
        posterior's) or ``latents`` (as diffusers does), a distribution with a ``mean``, or a tuple whose first entry is
        one of these.
    decoder : nn.Module or fitted skorch net, optional
        latents -> x, as a tensor, an object with ``sample`` (as diffusers does), or a tuple that starts with one of these.
    standardize : bool, default=True
        Scale each latent to mean 0 and standard deviation 1 on the X of `fit`: steps and distances of a search then mean
        the same in every latent.
    image_shape : (C, H, W), optional
        Reads rows of shape (d,) as images.
    channels : {"auto", "first", "last"}, default="auto"
        Where an image has its channels: (C, H, W) or (H, W, C). "auto" tells by the shape; see `read_channels`.
    data_range : (low, high), default=(0, 1)
        Of images, as the networks expect them.

    Attributes
    ----------
    latent_dim_, module_, layout_, dtype_
        See `Coordinates`. ``module_`` holds the user's networks by reference.
    latent_shape_ : tuple of int
        Shape of one row's latents, before flattening.

    Notes
    -----
    A row's code has the same bits in any company only if the networks' own kernels allow it (dense layers whose sizes are
    not multiples of 8 may round by a row's place in the batch).

    ``sklearn.base.clone`` keeps the networks by reference: they are neither copied nor un-fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> encoder, decoder = nn.Linear(6, 2), nn.Linear(2, 6)
    >>> X = np.random.default_rng(0).normal(size=(50, 6))
    >>> Z = PretrainedCoordinates(encoder, decoder).fit(X).transform(X)
    >>> Z.shape, Z.std(0).round(4).tolist()
    ((50, 2), [1.0, 1.0])
    """

    module_: _Borrowed
    latent_shape_: tuple[int, ...]

    def __init__(
        self,
        encoder: Any,
        decoder: Any = None,
        *,
        standardize: bool = True,
        image_shape: tuple[int, ...] | None = None,
        channels: str = "auto",
        data_range: tuple[float, float] = (0.0, 1.0),
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.standardize = standardize
        self.image_shape = image_shape
        self.channels = channels
        self.data_range = data_range

    @own_modes()
    def fit(self, X: ArrayLike | Tensor, y: Any = None) -> PretrainedCoordinates:
        """Record shapes and the scale of the latents, and check that ``decode(encode(X))`` has X's shape.

        Raises
        ------
        TypeError
            Not a module, no ``encode``/``decode``, or a return value that cannot be read as latents or samples.
        NotFittedError
            A skorch net that is not initialised.
        ValueError
            The decoder returns another shape than X has, or X cannot be used.
        """
        X = self._read_fit(X)
        self.module_ = borrowed = _Borrowed(*self._networks())
        with torch.no_grad():
            latents = borrowed.latents(torch.from_numpy(X[:1]))[0]
            self.latent_shape_ = tuple(latents.shape[1:])
            self.latent_dim_ = latents[0].numel()
            borrowed.set_latents(self.latent_shape_, torch.from_numpy(X).dtype)
            back = self.decode(self.encode(torch.from_numpy(X[:2])))
        if back.shape != X[:2].shape:
            raise ValueError(
                f"decode(encode(x)) has shape {back.shape[1:]} a row, but x has {X.shape[1:]}. The decoder must return "
                "samples of the shape that the encoder takes; images are (C, H, W), see image_shape=.")
        if self.standardize:
            self._set_scale(X)
        return self

    def _set_scale(self, X: np.ndarray) -> None:
        self.module_.set_scale(unit_scale(self.encode_dataset(X)[0], rtol=1e-5))

    def _networks(self) -> tuple[nn.Module, nn.Module | None]:
        encoder = as_module(self.encoder, "encoder")
        if self.decoder is not None:
            return encoder, as_module(self.decoder, "decoder")
        for method in ("encode", "decode"):
            if not callable(getattr(encoder, method, None)):
                raise TypeError(
                    f"{type(encoder).__name__} has no method {method}(). Pass a module with encode() and decode(), or "
                    f"two modules: {type(self).__name__}(encoder, decoder).")
        return encoder, None

    def __sklearn_clone__(self) -> PretrainedCoordinates:
        bare = copy.copy(self)
        bare.encoder = bare.decoder = None
        twin = BaseEstimator.__sklearn_clone__(bare)
        twin.encoder, twin.decoder = self.encoder, self.decoder
        return twin


def as_module(network: Any, role: str) -> nn.Module:
    if isinstance(network, nn.Module):
        return network
    if hasattr(network, "initialize") and hasattr(network, "get_params_for"):  # a skorch net
        if not getattr(network, "initialized_", False):
            raise NotFittedError(f"The {role} is a skorch net that is not fitted; call its fit() first.")
        return network.module_
    raise TypeError(f"{role} must be an nn.Module or a fitted skorch net, got {type(network).__name__}.")


def _fit_each_other(module: _Borrowed) -> bool:
    return module.loc.shape == module.scale.shape == module.inverse.shape == (math.prod(module.latent_shape),)


@stored_by_parts(_fit_each_other)
class _Borrowed(nn.Module):
    """The user's networks behind ``posterior`` · ``encode`` · ``decode``."""

    encoder: nn.Module
    decoder: nn.Module | None
    latent_shape: tuple[int, ...]
    loc: Tensor
    scale: Tensor
    inverse: Tensor

    def __init__(self, encoder: nn.Module, decoder: nn.Module | None):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.training = False  # of this wrapper alone: eval() would reach into the user's networks

    def set_latents(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.latent_shape = shape
        size = int(np.prod(shape))
        for name, value in (("loc", 0.0), ("scale", 1.0), ("inverse", 1.0)):
            self.register_buffer(name, torch.full((size,), value, dtype=dtype, device=_home(self.encoder)[1]))

    def set_scale(self, parts: tuple[np.ndarray, ...]) -> None:
        for name, values in zip(("loc", "scale", "inverse"), parts, strict=True):
            getattr(self, name).copy_(torch.from_numpy(values))

    def latents(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and (if there is one) standard deviation, as the user's network shapes them, in x's dtype."""
        with self._lent():
            encode: Any = self.encoder.encode if self.decoder is None else self.encoder
            out = encode(moved_to(x, self.encoder))
        mean, std = read_latents(out)
        if mean.ndim < 2 or len(mean) != len(x):
            raise ValueError(f"encode(x) returned shape {tuple(mean.shape)} for {len(x)} rows; expected (B, ...).")
        return mean.to(x), None if std is None else std.to(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.latents(x)
        mean = (mean.flatten(1) - self.loc.to(x)) * self.inverse.to(x)
        if std is None:
            return mean, torch.zeros_like(mean)
        return mean, std.expand(-1, *self.latent_shape).flatten(1) * self.inverse.to(x)

    def encode(self, x: Tensor) -> Tensor:
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        decoder: Any = self.encoder if self.decoder is None else self.decoder
        latents = (self.loc.to(z) + self.scale.to(z) * z).reshape(len(z), *self.latent_shape)
        with self._lent():
            out = (decoder.decode if self.decoder is None else decoder)(moved_to(latents, decoder))
        return read_sample(out).to(z)

    @contextmanager
    def _lent(self) -> Iterator[None]:
        with ExitStack() as stack:
            for network in (self.encoder, self.decoder):
                if network is not None:
                    stack.enter_context(frozen(network))
            yield


def _home(network: nn.Module) -> tuple[torch.dtype | None, torch.device]:
    """Precision and device of a network; one without floating-point state takes any precision."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return None, torch.device("cpu")


def moved_to(x: Tensor, network: nn.Module) -> Tensor:
    dtype, device = _home(network)
    return x if dtype is None else x.to(device=device, dtype=dtype)


def read_latents(out: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(out, (tuple, list)) and out:
        out = out[0]
    if isinstance(out, Tensor):
        return out, None
    for name in ("latent_dist", "latents"):
        if hasattr(out, name):
            return read_latents(getattr(out, name))
    mean = getattr(out, "mean", None)
    if isinstance(mean, Tensor):  # a distribution, of diffusers or of torch
        std = getattr(out, "std", None)
        std = std if isinstance(std, Tensor) else getattr(out, "stddev", None)
        return mean, std if isinstance(std, Tensor) else None
    raise TypeError(
        f"encode(x) returned {type(out).__name__}; expected a tensor, or an object with .latent_dist, .latents or .mean.")


def read_sample(out: Any) -> Tensor:
    if isinstance(out, (tuple, list)) and out:
        out = out[0]
    if not isinstance(out, Tensor):
        out = getattr(out, "sample", out)
    if not isinstance(out, Tensor):
        raise TypeError(f"decode(z) returned {type(out).__name__}; expected a tensor, or an object with .sample.")
    return out
