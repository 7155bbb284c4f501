"""Pixels or columns as they are: the coordinates of adversarial examples."""

from __future__ import annotations

import math
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from cfexplain.coordinates.base import Coordinates, untrained_module
from cfexplain.foundation.parameters import Interval
from cfexplain.persistence import storable

__all__ = ["Identity"]


@storable(network="module_", build=untrained_module)
class Identity(Coordinates):
    """z = x, flattened; exact.

    The control of Diffeomorphic Counterfactuals (eq. 4 without a generator): a search in these coordinates finds
    adversarial examples.

    Parameters
    ----------
    image_shape : (C, H, W), optional
        Reads rows of shape (d,) as images.
    channels : {"auto", "first", "last"}, default="auto"
        Where an image has its channels: (C, H, W) or (H, W, C). "auto" tells by the shape; see `read_channels`.
    data_range : (low, high), default=(0, 1)
        Of images.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.linspace(0, 1, 2 * 3 * 4).reshape(2, 3, 4)
    >>> coordinates = Identity().fit(images)
    >>> coordinates.transform(images).shape, coordinates.exact
    ((2, 12), True)
    >>> bool((coordinates.inverse_transform(coordinates.transform(images)) == images).all())
    True
    """

    module_: _Reshape

    exact = True
    parameter_rules = {"data_range": Interval(none=True)}  # None: of latents, which nothing bounds

    def __init__(self, *, image_shape: tuple[int, ...] | None = None, channels: str = "auto",
                 data_range: tuple[float, float] | None = (0.0, 1.0)):
        self.image_shape = image_shape
        self.channels = channels
        self.data_range = data_range

    def fit(self, X: ArrayLike | Tensor, y: Any = None) -> Identity:
        """Record the shape of a sample; there is nothing to learn."""
        self._read_fit(X)
        self.latent_dim_ = math.prod(self.layout_.net_shape)
        self.module_ = self._make_module()
        return self

    def _make_module(self) -> _Reshape:
        return _Reshape(self.layout_.net_shape).eval()


class _Reshape(nn.Module):
    def __init__(self, net_shape: tuple[int, ...]):
        super().__init__()
        self.net_shape = net_shape

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        return z.reshape(len(z), *self.net_shape)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(x)
        return z, torch.zeros_like(z)
