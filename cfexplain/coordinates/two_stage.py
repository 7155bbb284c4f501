"""Coordinates of coordinates: a small model of the latents of a pretrained autoencoder, which carries the detail."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from cfexplain.coordinates.autoencoder import Autoencoder
from cfexplain.coordinates.base import Coordinates
from cfexplain.coordinates.flow import Flow
from cfexplain.coordinates.identity import Identity
from cfexplain.coordinates.kept_latents import KeptLatents
from cfexplain.coordinates.vae import VAE
from cfexplain.foundation.digest import weights_digest
from cfexplain.foundation.parameters import Choice
from cfexplain.foundation.random import draw_seed
from cfexplain.foundation.settings import own_modes
from cfexplain.foundation.weight_cache import cached_by_weights
from cfexplain.persistence import MayBeAbsent, storable

__all__ = ["TwoStage"]

INNER: dict[str, type[Coordinates]] = {"vae": VAE, "autoencoder": Autoencoder, "flow": Flow, "identity": Identity}


@storable
class TwoStage(Coordinates):
    """z = inner(outer(x)): a model of few numbers, trained on the latents of a pretrained autoencoder.

    The outer coordinates know how pictures look, the inner ones learn what tells yours apart. What the inner model loses of
    the latents, an explainer puts back among the latents, where the pretrained decoder makes seamless pixels of it; what the
    outer one loses is put back in pixels (``detail=``).

    Each picture is encoded once, at `fit`, and its latents are kept as long as the outer networks are, or in the ``cache``
    folder of a `PretrainedAutoencoder`: another fit on the same pictures never runs the outer networks.

    Parameters
    ----------
    outer : Coordinates, or FrozenEstimator of fitted ones
        Most often a `PretrainedAutoencoder`.
    inner : {"vae", "autoencoder", "flow", "identity"} or Coordinates, default="vae"
        Of the latents: a `VAE` with a code for each place, a `Flow`, which is exact (Glow), or coordinates of your own,
        which are fitted on arrays of the shape of the latents.
    augment : {None, "mirror"}
        "mirror" learns from latents of mirrored pictures as well, which are encoded and kept, too.
    image_shape, channels, data_range
        See `VAE`.
    training_budget : float, default=1.0
        Of an inner model that is named.
    random_state : int, RandomState or None
    verbose : int, default=0
    device : str, default="cpu"

    Attributes
    ----------
    outer_, inner_ : Coordinates
        Fitted.
    latent_shape_ : tuple of int
        Shape of the outer latents of one row.
    latent_dim_, layout_, dtype_
        See `Coordinates`.
    held_out_ : ndarray
        Rows that the inner model was not trained on, where it says so.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from cfexplain.coordinates import PretrainedAutoencoder
    >>> X = torch.rand(40, 3, 32, 32)
    >>> outer = PretrainedAutoencoder(nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 3, 4, 4))
    >>> coordinates = TwoStage(outer, training_budget=0.01, random_state=0).fit(X)
    >>> coordinates.latent_shape_, coordinates.inverse_transform(coordinates.transform(X)).shape
    ((8, 8, 8), (40, 3, 32, 32))
    """

    outer_: Coordinates
    inner_: Coordinates
    latent_shape_: tuple[int, ...]
    held_out_: MayBeAbsent[np.ndarray]

    together = 64  # photographs are large
    parameter_rules = {"augment": Choice((None, "mirror"))}

    def __init__(
        self,
        outer: Any,
        inner: Any = "vae",
        *,
        augment: str | None = None,
        image_shape: tuple[int, ...] | None = None,
        channels: str = "auto",
        data_range: tuple[float, float] = (0.0, 1.0),
        training_budget: float = 1.0,
        random_state: Any = None,
        verbose: int | str = 0,
        device: str = "cpu",
    ):
        self.outer = outer
        self.inner = inner
        self.augment = augment
        self.image_shape = image_shape
        self.channels = channels
        self.data_range = data_range
        self.training_budget = training_budget
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    @own_modes()
    def fit(self, X: ArrayLike | Tensor, y: Any = None) -> TwoStage:
        """Encode `X` by the outer coordinates, keep the latents, and train the inner ones on them.

        Raises
        ------
        ValueError, TypeError
            X, the coordinates or a parameter cannot be used, or do not fit each other.
        """
        X = self._read_fit(X)
        self.outer_ = self._outer(X)
        self.latent_shape_ = tuple(getattr(self.outer_, "latent_shape_", (self.outer_.latent_dim_,)))
        if self.augment and not self.layout_.is_image:
            raise ValueError("augment='mirror' flips images, but X is a table.")
        self.inner_ = self._inner()
        rows = self._kept(X)
        mirrored = self._kept(X[..., ::-1]) if self.augment else None
        learns = getattr(self.inner_, "fit_latents", None)
        if learns is not None:
            learns(rows, mirrored)
        else:
            self.inner_.fit(np.concatenate([rows, *([] if mirrored is None else [mirrored])]).astype(np.float32))
        self.inner_.dtype_ = self.dtype_
        self.inner_.module_.to(torch.from_numpy(X[:0]).dtype)
        self.latent_dim_ = self.inner_.latent_dim_
        held = getattr(self.inner_, "held_out_", None)
        if held is not None:
            self.held_out_ = held
        return self

    def _outer(self, X: np.ndarray) -> Coordinates:
        outer = self.outer
        if isinstance(outer, FrozenEstimator):
            fitted: Any = outer.estimator
            if fitted.layout_.net_shape != self.layout_.net_shape:
                raise ValueError(f"The outer coordinates were fitted on samples of shape {fitted.layout_.net_shape}, but X "
                                 f"has {self.layout_.net_shape}.")
            return fitted
        if not isinstance(outer, Coordinates):
            raise TypeError(f"outer must be coordinates, such as PretrainedAutoencoder(encoder, decoder), got "
                            f"{type(outer).__name__}.")
        made = clone(outer)
        known = made.get_params(deep=False)
        already = {"channels": "first", "image_shape": None, "data_range": self.data_range, "random_state": self._seed(0)}
        made.set_params(**{name: value for name, value in already.items()
                           if name in known and (name != "random_state" or known[name] is None)})
        return made.fit(X)

    def _inner(self) -> Coordinates:
        inner = self.inner
        if isinstance(inner, str):
            if inner not in INNER:
                raise ValueError(f"inner={inner!r} is not known; choose one of {sorted(INNER)}, or pass coordinates.")
            known = INNER[inner]().get_params(deep=False)
            given = {"training_budget": self.training_budget, "verbose": self.verbose, "device": self.device}
            made = INNER[inner](**{name: value for name, value in given.items() if name in known})
        elif isinstance(inner, Coordinates):
            made = clone(inner)
        else:
            raise TypeError(f"inner must be coordinates or one of {sorted(INNER)}, got {type(inner).__name__}.")
        known = made.get_params(deep=False)
        # latents have no range; what is not of ours may want one
        latents = {"channels": "first", "image_shape": None, "random_state": self._seed(1) if known.get(
            "random_state") is None else known["random_state"], "data_range": None if isinstance(
                made, tuple(INNER.values())) else known.get("data_range")}
        return made.set_params(**{name: value for name, value in latents.items() if name in known})

    def _seed(self, place: int) -> int:
        return (draw_seed(self.random_state) + place) % 2**31

    def _kept(self, X: np.ndarray) -> np.ndarray:
        """The outer latents of the rows of `X`, (n, \\*latent_shape_), in half precision."""
        outer, module = self.outer_, self.outer_.module_
        folder = getattr(outer, "cache", None)
        half = getattr(outer, "computes_in", "float32") == "bfloat16"
        # weights, and the scale that `fit` found
        name = f"{weights_digest([module])[:24]}-{'x'.join(map(str, self.layout_.net_shape))}{'-bfloat16' * half}"

        def make() -> KeptLatents:
            return KeptLatents(self.latent_shape_, folder, name)

        def encode(rows: np.ndarray) -> np.ndarray:
            device = next(iter(module.parameters()), torch.zeros(())).device.type
            with torch.autocast(device, torch.bfloat16, enabled=half, cache_enabled=False):
                return self.outer_.in_tiles(lambda x: outer.encode(x), rows)

        return cached_by_weights(getattr(outer, "network", module), (name, str(folder)), make).of(X, encode)

    # ---------------------------------------------------------- the maps
    @property
    def module_(self) -> nn.ModuleList:  # type: ignore[override]
        """The networks of both."""
        return nn.ModuleList([self.inner_.module_, self.outer_.module_])

    @property
    def stages(self) -> list[Coordinates]:
        return [*self.inner_.stages, *self.outer_.stages]

    @property
    def encodes_at_once(self) -> bool:
        return self.outer_.encodes_at_once and self.inner_.encodes_at_once

    def latents(self, x: Tensor) -> Tensor:
        """The outer latents of x, (B, \\*latent_shape_)."""
        return self.outer_.encode(x).reshape(-1, *self.latent_shape_)

    def encode(self, x: Tensor) -> Tensor:
        return self.inner_.encode(self.latents(x))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner_.posterior(self.latents(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.outer_.decode(self.inner_.decode(z).flatten(1))

    def log_prior(self, z: Tensor) -> Tensor:
        return self.inner_.log_prior(z)

    def training_codes(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.inner_.encode_dataset(self._kept(X))

    def training_latents(self, X: np.ndarray) -> np.ndarray:
        """The outer latents of rows to learn from, (n, ...), float16: those that were kept, as far as they were."""
        return self._kept(X)
