"""Deterministic autoencoder, as PLACE names it, with latents of unit scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from cfexplain.coordinates.base import TrainedCoordinates, untrained_module
from cfexplain.nets.autoencoders import AutoencoderNet
from cfexplain.nets.components import edges_after_components, from_components
from cfexplain.nets.losses import Rows, normal_loss
from cfexplain.persistence import storable

__all__ = ["Autoencoder"]


@storable(network="module_", build=untrained_module)
class Autoencoder(TrainedCoordinates):
    """Latents of a deterministic autoencoder (PLACE, section 3), scaled to mean 0 and standard deviation 1.

    Nothing in its training sets the scale of a latent, but step sizes and distances of a search do: after training, each
    latent is standardised on the training codes, and `decode` undoes it. A latent that does not vary stays at 0.

    Parameters
    ----------
    latent_dim : int or "auto", default="auto"
        "auto": images of ink 32, or 64 where a side exceeds 32 pixels; twice as many where shades count, and 128 in colour;
        latents 16 for each place of a grid of at most 8×8; tables as many as columns, at least 2, at most 16.
    reconstruction : {"auto", "bce", "mse", "edges"}, default="auto"
        Loss: cross-entropy of pixels scaled to [0, 1], squared error, or the "edges" of `VAE`. "auto" is "mse" for tables,
        and for images "bce" or "edges" as there.
    width : int or "auto", default="auto"
        Channels of the first convolution (images): 32, or 16 where no side exceeds 16 pixels.
    hidden : tuple of int, default=(256, 256)
        Dense layers (tables).
    augment : {None, "mirror"}
        "mirror" flips half of the training images from left to right.
    image_shape : (C, H, W), optional
        Reads rows of shape (d,) as images.
    channels : {"auto", "first", "last"}, default="auto"
        Where an image has its channels: (C, H, W) or (H, W, C). "auto" tells by the shape; see `read_channels`.
    data_range : (low, high) or None, default=(0, 1)
        Of images. None: X holds latents of another autoencoder, which nothing bounds; a `TwoStage` sets it. Columns of a
        table may have any scale: they are standardised inside.
    batch_size : int or "auto", default="auto"
        200 for 60,000 rows and more, 80 for 1,500.
    lr : float or "auto", default="auto"
        The highest learning rate: 4e-3 for a width of 32, twice that for half as many channels.
    weight_decay : float, default=0.0
    training_budget : float, default=1.0
        Multiplies the gradient updates: for 60,000 rows 900 of images (2400 where no side exceeds 16 pixels), 1000 of
        tables, and less for fewer, as their fourth root. Training ends before, if the loss of held-out rows stops falling.
    random_state : int, RandomState or None
    verbose : int or "auto", default=0
        1 shows progress; "auto" as in `PLACEExplainer`.
    device : str, default="cpu"

    Attributes
    ----------
    latent_dim_, module_, layout_, dtype_
        See `Coordinates`.
    width_ : int
        Of images.
    history_ : list of dict
        Losses of each epoch.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> Z = Autoencoder(training_budget=0.1, random_state=0).fit(X).transform(X)
    >>> Z.mean(0).round(6) + 0.0, Z.std(0).round(6)
    (array([0., 0., 0., 0.]), array([1., 1., 1., 1.]))
    """

    _variational = False

    def __init__(
        self,
        latent_dim: int | str = "auto",
        *,
        reconstruction: str = "auto",
        width: int | str = "auto",
        hidden: tuple[int, ...] = (256, 256),
        augment: str | None = None,
        image_shape: tuple[int, ...] | None = None,
        channels: str = "auto",
        data_range: tuple[float, float] | None = (0.0, 1.0),
        batch_size: int | str = "auto",
        lr: float | str = "auto",
        weight_decay: float = 0.0,
        training_budget: float = 1.0,
        random_state: Any = None,
        verbose: int | str = 0,
        device: str = "cpu",
    ):
        self.latent_dim = latent_dim
        self.reconstruction = reconstruction
        self.width = width
        self.hidden = hidden
        self.augment = augment
        self.image_shape = image_shape
        self.channels = channels
        self.data_range = data_range
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.training_budget = training_budget
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._check_augment()
        if self.reconstruction in ("bce", "edges") and not self.layout_.is_image:
            raise ValueError(f"reconstruction={self.reconstruction!r} is for images; a table needs 'mse' (or 'auto').")

    def _loss(self, net: AutoencoderNet, rows: Rows, progress: float) -> Tensor:
        u = self._augmented(net, rows["u"])
        codes = net.moments(u)[0]
        out = net.outputs(codes).float()
        if net.is_image and not net.bounded:
            return normal_loss(out - u)
        if self.reconstruction == "edges" or self.reconstruction == "auto" and self.has_shades_:
            return edges_after_components(out.sigmoid() - u, rows, progress) + from_components(codes.float(), rows, progress)
        if net.is_image and self.reconstruction != "mse":
            return F.binary_cross_entropy_with_logits(out, u, reduction="none").flatten(1).sum(1)
        return ((out.sigmoid() if net.is_image else out) - u).square().flatten(1).sum(1)

    def _finish(self, X: np.ndarray) -> None:
        self.module_.set_codes(self.encode_dataset(X)[0])
