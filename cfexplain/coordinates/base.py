"""What all coordinates share: arrays in and out on scikit-learn's side, tensors and gradients on torch's side."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor, nn

from cfexplain.foundation.arrays import CHANNELS, Layout, read_samples, restore_samples, to_numpy
from cfexplain.foundation.ink import ink_sign
from cfexplain.foundation.optional import check_device
from cfexplain.foundation.parameters import TRAINING, Choice, Interval, Number, Rule, check_parameters
from cfexplain.foundation.precision import faster_in_bfloat16
from cfexplain.foundation.random import draw_seed, seeded_torch, stream
from cfexplain.foundation.settings import own_modes
from cfexplain.foundation.tiles import in_tiles, tile_for
from cfexplain.nets.autoencoders import AutoencoderNet
from cfexplain.nets.components import principal_components
from cfexplain.nets.flow_nets import standard_normal
from cfexplain.nets.latent_autoencoders import code_shape, latent_width
from cfexplain.nets.losses import Rows, perhaps_mirrored
from cfexplain.persistence import MayBeAbsent
from cfexplain.persistence.networks import State, check_repeats, on_meta

__all__ = ["Coordinates", "DecodeModule", "TrainedCoordinates", "untrained_module"]


class Coordinates(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of all coordinates: a map from samples x to codes z in R^d, and back.

    Two faces. scikit-learn's: `fit`, `transform`, `inverse_transform` on arrays in the user's layout. Torch's, after
    `fit`: `encode`, `posterior` and `decode` on tensors (B, C, H, W) or (B, d) in ``dtype_``, on the networks' device,
    differentiable row by row. A subclass writes `fit`, which calls :meth:`_read_fit` and sets ``module_``, a network with
    ``posterior``, ``encode`` and ``decode``, and ``latent_dim_``.

    Attributes
    ----------
    exact : bool
        Whether ``decode(encode(x)) == x`` for every x. Of the class.
    latent_dim_ : int
        d, the length of a code.
    module_ : nn.Module
        The networks: evaluation mode, no parameter gradients.
    layout_ : Layout
        Shape of one sample to the user and to the networks.
    dtype_ : numpy dtype
        float32 or float64, as X had at `fit`.
    """

    layout_: Layout
    dtype_: np.dtype
    n_features_in_: int
    feature_names_in_: MayBeAbsent[np.ndarray]
    latent_dim_: int
    module_: Any  # a subclass says more: an nn.Module

    exact = False
    together: ClassVar[int] = 512  # rows that are decoded at once on a GPU
    data_range: Any  # (low, high); of what models latents also None
    image_shape: tuple[int, ...] | None
    # what parameters must be, beside what a subclass says of its own
    parameter_rules: ClassVar[Mapping[str, Rule]] = {**TRAINING, "channels": Choice(CHANNELS)}
    channels: str = "auto"

    @property
    def encodes_at_once(self) -> bool:
        """Whether a code is computed in one pass; False where it is found by a search of its own (GAN inversion)."""
        return True

    def _read_fit(self, X: Any) -> np.ndarray:
        """X as networks want it, with ``layout_``, ``n_features_in_`` and ``dtype_`` recorded."""
        check_parameters(self)
        if getattr(self, "device", None) is not None:
            check_device(self.device)
        X = read_samples(self, X, reset=True, image_shape=self.image_shape, data_range=self.data_range,
                         channels=self.channels)
        self.dtype_ = X.dtype
        return np.require(X, requirements="W")  # torch warns of memory-mapped arrays that are read-only

    def _read_latents(self, latents: np.ndarray, mirrored: np.ndarray | None) -> dict[str, Tensor]:
        """As `_read_fit`, of latents (n, C, h, w) or (n, d) of other coordinates, of any scale and precision: by name, those
        of the rows and of the mirrored rows, where they lie.
        """
        check_parameters(self)
        self.layout_, self.dtype_ = Layout.of(latents.shape[1:], None, "first"), np.dtype(np.float32)
        self.n_features_in_ = int(np.prod(latents.shape[1:]))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and is not written to
            return {name: torch.from_numpy(part) for name, part in (("u", latents), ("mirrored", mirrored))
                    if part is not None}

    # ---------------------------------------------------------- torch's side
    def encode(self, x: Tensor) -> Tensor:
        """z, shape (B, latent_dim_), of x (B, *net_shape); the posterior mean where there is a posterior."""
        return self.module_.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        """x, shape (B, *net_shape), of z (B, latent_dim_)."""
        return self.module_.decode(z)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z given x, each (B, latent_dim_); zero deviation if deterministic."""
        return self.module_.posterior(x)

    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, I) in nats, (B,): the density that these coordinates mean their codes to have."""
        return standard_normal(z)

    def encode_dataset(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`posterior` of many rows, in tiles of one size: a row's bits do not depend on its company.

        Parameters
        ----------
        X : ndarray of shape (n, C, H, W) or (n, d)
            As networks want it, not checked.

        Returns
        -------
        mean, std : ndarray of shape (n, latent_dim_)
        """
        mean, std = self.in_tiles(self.posterior, X)
        return mean, std

    def training_codes(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_dataset`, of rows to learn from: what was kept of them at `fit` will do, whose last bits may differ."""
        return self.encode_dataset(X)

    @property
    def stages(self) -> list[Coordinates]:
        """What decodes a code, one after the other: the code of each is what the one before decodes to."""
        return [self]

    @property
    def computes_in(self) -> str:
        """The precision in which a search decodes, if nobody asks for another: float32 stands for the networks' own."""
        return "float32"

    def decode_module(self) -> nn.Module:
        """`decode` as a module of plain operations, to make a faster copy of."""
        return DecodeModule(self.module_)

    def in_tiles(self, function: Callable[..., Any], rows: np.ndarray) -> Any:
        """`function` of the rows on the networks' device, as arrays of ``dtype_``."""
        device = next((t.device for t in (*self.module_.parameters(), *self.module_.buffers())), torch.device("cpu"))
        tensor = torch.from_numpy(np.require(rows, self.dtype_, ["C", "W"]))

        def on_device(tile: Tensor) -> Any:
            out = function(tile.to(device))
            return tuple(o.cpu() for o in out) if isinstance(out, tuple) else out.cpu()

        with own_modes(device), torch.no_grad():
            out = in_tiles(on_device, tensor, tile=tile_for(self.layout_.net_shape))
        return tuple(o.numpy() for o in out) if isinstance(out, tuple) else out.numpy()

    # --------------------------------------------------- scikit-learn's side
    def transform(self, X: ArrayLike | Tensor) -> np.ndarray:
        """Codes of `X`, shape (n, latent_dim_).

        Raises
        ------
        ValueError
            X has another shape than at `fit`, or NaN or infinite values.
        DataRangeError
            Images outside ``data_range``, or of integers.
        """
        check_is_fitted(self)
        return self.encode_dataset(read_samples(self, X, reset=False, data_range=self.data_range))[0]

    def inverse_transform(self, Z: ArrayLike | Tensor) -> np.ndarray:
        """Samples of the codes `Z` (n, latent_dim_), in the layout that X had at `fit`."""
        check_is_fitted(self)
        codes = check_array(to_numpy(Z), dtype=(np.float64, np.float32), input_name="Z")
        if codes.shape[1] != self.latent_dim_:
            raise ValueError(
                f"Z has {codes.shape[1]} columns, but the codes of this {type(self).__name__} have {self.latent_dim_}.")
        return restore_samples(self.in_tiles(self.decode, codes), self.layout_)

    @property
    def _n_features_out(self) -> int:
        return self.latent_dim_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def untrained_module(coordinates: Any, state: State) -> nn.Module:
    """The networks that a file holds the weights of, before they have them."""
    check_repeats(coordinates, state, layers=getattr(coordinates, "hidden", None))
    return on_meta(coordinates._make_module)


class TrainedCoordinates(Coordinates):
    """Coordinates that are an `AutoencoderNet` trained on X: what `VAE` and `Autoencoder` share."""

    module_: AutoencoderNet
    width_: MayBeAbsent[int]  # not in files from before it was chosen
    held_out_: MayBeAbsent[np.ndarray]
    has_shades_: MayBeAbsent[bool]
    history_: list[dict[str, Any]]
    _variational: bool
    parameter_rules = {
        "latent_dim": Number(1, whole=True, words=("auto",)), "width": Number(1, whole=True, words=("auto",)),
        "batch_size": Number(1, 2**16, whole=True, words=("auto",)), "lr": Number(0, between=True, words=("auto",)),
        "beta": Number(0, words=("auto",)), "contrast": Number(0, between=True, words=("auto",)),
        "sigma": Number(0, between=True), "perceptual_weight": Number(0),
        "likelihood": Choice(("auto", "bernoulli", "gaussian", "edges")),
        "reconstruction": Choice(("auto", "bce", "mse", "edges")),
        "augment": Choice((None, "mirror")), "critic": Choice(("auto", True, False)), "data_range": Interval(none=True)}
    # gradient updates of 60,000 rows at training_budget=1
    _updates = {"image": 900, "small image": 2400, "table": 1000, "latents": 5000}
    # times as many: after those of ink, shades are blurred still, and colours are not there
    _more_updates = {"shades": 2, "colours": 3}

    @own_modes()
    def fit(self, X: ArrayLike | Tensor, y: Any = None) -> TrainedCoordinates:
        """Train the networks on `X`.

        Parameters
        ----------
        X : array-like or tensor of shape (n, d), (n, H, W), (n, C, H, W) or (n, H, W, C)
            Images are floats in ``data_range``; `channels` says where they have their channels.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            X or a parameter cannot be used.
        DataRangeError
            Images outside ``data_range``, or of integers.
        FloatingPointError
            Training ended in a loss that is not finite.
        """
        from cfexplain.nets import training  # skorch is loaded when something is trained

        X = self._read_fit(X)
        self._look_at(X)
        self._check_parameters()
        seed = draw_seed(self.random_state)
        with seeded_torch(seed):
            net = self._make_module()
        # Scaled in X's own precision: a column of 10^9 ± 1 would lose its variation in float32.
        scaled = net.double()
        if not self.layout_.is_image:
            scaled.set_columns(X)
        u = scaled.to_units(torch.from_numpy(X)).float()
        columns = {name: buffer.clone() for name, buffer in scaled.named_buffers() if name.startswith("x_")}
        net.float()
        lr: Any = self._lr() if self.lr == "auto" else self.lr
        batch_size: Any = None if self.batch_size == "auto" else self.batch_size
        rows = {"u": u.clamp(0, 1) if self.layout_.is_image else u}
        if self._begins_with_components():
            rows["components"] = principal_components(rows["u"], net.latent_dim, seed)
        self.history_ = training.train_network(
            net, self._loss, rows,
            updates=training.updates_for(len(X), self._most_updates(), self.training_budget), seed=seed, lr=lr,
            batch_size=batch_size, weight_decay=self.weight_decay, apart=self._draws_apart(), device=self.device,
            verbose=self.verbose, name=type(self).__name__)
        self.held_out_ = training.held_out_rows(len(X), seed)
        self._sharpen(net, u, seed)
        net.to(torch.from_numpy(X).dtype)
        for name, buffer in columns.items():
            getattr(net, name).copy_(buffer)
        self.module_ = net
        self._finish(X)
        return self

    @own_modes()
    def fit_latents(self, latents: np.ndarray, mirrored: np.ndarray | None = None) -> TrainedCoordinates:
        """Train on latents of other coordinates, (n, C, h, w) or (n, d), which may lie in a file; ``data_range`` is None.

        Parameters
        ----------
        latents : ndarray of floats of any precision
        mirrored : ndarray, optional
            Those of the same rows, mirrored: half of the rows of a batch are taken from here.
        """
        from cfexplain.nets import training

        rows = self._read_latents(latents, mirrored)
        if not self.layout_.is_image:
            return self.fit(np.concatenate([latents, *([] if mirrored is None else [mirrored])]).astype(np.float32))
        self._look_at(latents)
        self._check_parameters()
        seed = draw_seed(self.random_state)
        with seeded_torch(seed):
            net = self._make_module()
        self.history_ = training.train_network(
            net, self._loss_of_latents, rows, updates=training.updates_for(
                len(latents), self._updates["latents"], self.training_budget),
            seed=seed, lr=2e-3 if self.lr == "auto" else float(self.lr),
            batch_size=64 if self.batch_size == "auto" else int(self.batch_size), weight_decay=self.weight_decay,
            apart=True, device=self.device, verbose=self.verbose, name=type(self).__name__)
        self.held_out_ = training.held_out_rows(len(latents), seed)
        self.module_ = net
        self._finish(latents)
        return self

    def _loss_of_latents(self, net: AutoencoderNet, rows: Rows, progress: float) -> Tensor:
        """As `_loss`, of latents, in bfloat16 where that is faster."""
        u = perhaps_mirrored(rows, net.training)
        with torch.autocast(u.device.type, torch.bfloat16, enabled=net.training and faster_in_bfloat16(u.device),
                            cache_enabled=False):
            return self._loss(net, {"u": u}, progress)

    def _make_module(self) -> AutoencoderNet:
        """The networks, untrained, as the parameters, ``layout_`` and ``latent_dim_`` say."""
        return AutoencoderNet(
            self.layout_.net_shape, self.latent_dim_, variational=self._variational, width=self._width(),
            hidden=self.hidden, data_range=self.data_range)

    def _loss(self, net: AutoencoderNet, rows: Rows, progress: float) -> Tensor:
        """Loss of each row, (B,); ``rows["u"]`` are pixels in [0, 1] or standardised columns."""
        raise TypeError(f"{type(self).__name__} must say what it is trained for")

    def _begins_with_components(self) -> bool:
        """Whether codes are first held near principal components: of pictures in colour.

        Of 10,000 photographs of 32×32 pixels the first 128 components lose 8 % of the variance, and a network that was left
        to find codes by itself lost 17 % after 900 updates, nearly all of the hues among it.
        """
        return self.has_shades_ and self.layout_.net_shape[0] == 3 and self.augment is None

    def _draws_apart(self) -> bool:
        """Whether training draws from its own stream alone: a perceptual distance of the user's may draw from torch's."""
        return getattr(self, "perceptual", None) is None

    def _sharpen(self, net: AutoencoderNet, u: Tensor, seed: int) -> None:
        """What is learned after the loss of training has stopped falling."""

    def _finish(self, X: np.ndarray) -> None:
        """What is left to do after training."""

    def _look_at(self, X: np.ndarray) -> None:
        """Choose what the parameters leave to the data."""
        of_pixels = self.layout_.is_image and self.data_range is not None
        self.has_shades_ = of_pixels and not ink_sign(X[:: len(X) // 1000 + 1], self.data_range)
        self.latent_dim_ = self._latent_dim(self.layout_)
        self.width_ = self._width()

    def _latent_dim(self, layout: Layout) -> int:
        if self.latent_dim == "auto":
            if layout.is_image and self.data_range is None:
                return math.prod(code_shape(layout.net_shape))
            if layout.is_image:
                of_ink = 32 if max(layout.net_shape[1:]) <= 32 else 64
                return of_ink if not self.has_shades_ else 2 * of_ink if layout.net_shape[0] == 1 else 128
            return min(16, max(2, layout.net_shape[0]))
        return int(self.latent_dim)

    def _width(self) -> int:
        """Channels of the first convolution, as the parameter or the size of the images says."""
        if self.width != "auto":
            return int(self.width)
        if self.data_range is None and self.layout_.is_image:
            return latent_width(self.layout_.net_shape)
        return 16 if self._is_small() else 32

    def _is_small(self) -> bool:
        """Whether these are images of which half as many channels are enough."""
        return self.layout_.is_image and max(self.layout_.net_shape[1:]) <= 16

    def _most_updates(self) -> float:
        """Of 60,000 rows."""
        if not self.layout_.is_image:
            return self._updates["table"]
        most = self._updates["small image" if self._is_small() else "image"]
        if self.has_shades_:
            most *= self._more_updates["shades" if self.layout_.net_shape[0] == 1 else "colours"]
        return most

    def _lr(self) -> float:
        """Half as many channels bear twice the rate."""
        return 4e-3 * 32 / min(32, self.width_)

    def _check_parameters(self) -> None:
        """Raise an error for what does not fit the samples; `_read_fit` has looked at every parameter by itself."""

    def _augmented(self, net: nn.Module, u: Tensor) -> Tensor:
        """`u`, with half of the images mirrored while training if ``augment="mirror"``."""
        if self.augment is None or not net.training:
            return u
        return torch.where(torch.rand(len(u), 1, 1, 1, generator=stream(), device=u.device) < 0.5, u.flip(3), u)

    def _check_augment(self) -> None:
        if self.augment and not self.layout_.is_image:
            raise ValueError("augment='mirror' flips images, but X is a table.")


class DecodeModule(nn.Module):
    """``decode`` of coordinates as the forward of a module."""

    module: Any

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, z: Tensor) -> Tensor:
        return self.module.decode(z)
