"""Variational autoencoder with a small beta: the default coordinates of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cfexplain.coordinates.base import TrainedCoordinates, untrained_module
from cfexplain.nets.autoencoders import AutoencoderNet
from cfexplain.nets.losses import Rows
from cfexplain.persistence import storable

__all__ = ["VAE"]


@storable(network="module_", build=untrained_module)
class VAE(TrainedCoordinates):
    """Latents of a variational autoencoder; a row's code is its posterior mean.

    Minimises, for every row, −log p(x|z) + β KL(q(z|x) ‖ N(0, I)) with one sample z of the posterior; β grows to its
    value over the first third of training. A small β keeps reconstructions sharp while the latents, whose aggregate is
    about N(0, I), stay smooth enough for a search by gradients.

    Parameters
    ----------
    latent_dim : int or "auto", default="auto"
        "auto": images 32, or 64 where a side exceeds 32 pixels; tables as many as columns, at least 2, at most 16.
    beta : float, default=0.3
        Weight of the KL divergence.
    likelihood : {"auto", "bernoulli", "gaussian"}, default="auto"
        p(x|z). "bernoulli" is the cross-entropy of pixels scaled to [0, 1]; "gaussian" has the fixed deviation `sigma`.
        "auto": "bernoulli" for images, but "gaussian" for tables and beside a perceptual distance.
    sigma : float, default=0.1
        Deviation of the Gaussian, as a share of ``data_range`` or of a column's standard deviation.
    width : int, default=32
        Channels of the first convolution (images).
    hidden : tuple of int, default=(256, 256)
        Dense layers (tables).
    perceptual : callable ``(x, y) -> (B,)``, optional
        A distance of images in ``data_range``, added to the loss with `perceptual_weight`; sharpens faces. See
        `cfexplain.perceptual`.
    perceptual_weight : float, default=1000.0
    augment : {None, "mirror"}
        "mirror" flips half of the training images from left to right.
    image_shape : (C, H, W), optional
        Reads rows of shape (d,) as images.
    channels : {"auto", "first", "last"}, default="auto"
        Where an image has its channels: (C, H, W) or (H, W, C). "auto" tells by the shape; see `read_channels`.
    data_range : (low, high), default=(0, 1)
        Of images. Columns of a table may have any scale: they are standardised inside.
    batch_size : int, default=200
    lr : float, default=4e-3
        Peak of the one-cycle schedule.
    weight_decay : float, default=0.0
    training_budget : float, default=1.0
        Multiplies the gradient updates: 900 for images, 1000 for tables.
    random_state : int, RandomState or None
    verbose : int, default=0
    device : str, default="cpu"

    Attributes
    ----------
    latent_dim_, module_, layout_, dtype_
        See `Coordinates`.
    history_ : list of dict
        Losses of each epoch.

    References
    ----------
    Kingma, Welling: Auto-Encoding Variational Bayes, ICLR 2014. Higgins et al.: beta-VAE, ICLR 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> vae = VAE(training_budget=0.1, random_state=0).fit(X)
    >>> Z = vae.transform(X)
    >>> Z.shape, vae.inverse_transform(Z).shape
    ((150, 4), (150, 4))
    """

    _variational = True

    def __init__(
        self,
        latent_dim: int | str = "auto",
        *,
        beta: float = 0.3,
        likelihood: str = "auto",
        sigma: float = 0.1,
        width: int = 32,
        hidden: tuple[int, ...] = (256, 256),
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        perceptual_weight: float = 1000.0,
        augment: str | None = None,
        image_shape: tuple[int, ...] | None = None,
        channels: str = "auto",
        data_range: tuple[float, float] = (0.0, 1.0),
        batch_size: int = 200,
        lr: float = 4e-3,
        weight_decay: float = 0.0,
        training_budget: float = 1.0,
        random_state: Any = None,
        verbose: int = 0,
        device: str = "cpu",
    ):
        self.latent_dim = latent_dim
        self.beta = beta
        self.likelihood = likelihood
        self.sigma = sigma
        self.width = width
        self.hidden = hidden
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
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
        if not self.layout_.is_image:
            if self.likelihood == "bernoulli":
                raise ValueError("likelihood='bernoulli' is for images; a table needs 'gaussian' (or 'auto').")
            if self.perceptual is not None:
                raise ValueError("perceptual= compares images, but X is a table.")

    def _is_bernoulli(self) -> bool:
        if self.likelihood == "auto":
            return self.layout_.is_image and self.perceptual is None
        return self.likelihood == "bernoulli"

    def _loss(self, net: AutoencoderNet, rows: Rows, progress: float) -> Tensor:
        u = self._augmented(net, rows["u"])
        mean, log_var = net.moments(u)
        assert log_var is not None  # of a variational network
        out = net.outputs(mean + (log_var / 2).exp() * torch.randn_like(mean))
        if self._is_bernoulli():
            fit = F.binary_cross_entropy_with_logits(out, u, reduction="none").flatten(1).sum(1)
        else:
            error = (out.sigmoid() if net.is_image else out) - u
            fit = error.square().flatten(1).sum(1) / (2 * self.sigma**2)
        if self.perceptual is not None:
            fit = fit + self.perceptual_weight * self.perceptual(net.from_units(u), net.from_units(out.sigmoid()))
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        return fit + self.beta * min(1.0, 3 * progress) * kl
