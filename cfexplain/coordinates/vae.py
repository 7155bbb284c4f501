"""Variational autoencoder with a small beta: the default coordinates of the package."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit
from torch import Tensor, nn

from cfexplain.coordinates.base import TrainedCoordinates, untrained_module
from cfexplain.foundation.progress import rehearsal
from cfexplain.foundation.random import seeded_torch, stream
from cfexplain.foundation.sharpness import laplacian_variance
from cfexplain.foundation.threads import one_thread
from cfexplain.foundation.tiles import in_tiles
from cfexplain.nets.autoencoders import AutoencoderNet
from cfexplain.nets.components import edges_after_components, from_components
from cfexplain.nets.losses import Rows, normal_loss
from cfexplain.nets.sharpening import Sharpening
from cfexplain.persistence import MayBeAbsent, storable

__all__ = ["VAE"]

MOST_CONTRAST = 3.0
_LOOKED_AT, _FEWEST = 256, 20  # held-out rows by which the contrast is chosen
_AGAINST, _LR, _PATCH = 0.3, 1e-3, 12  # share of the updates, rate, and the smallest side, of training against a critic
_WORSE = 2.25  # mean square error, as a multiple, that is too much: texture in other places only doubles it
BETA = 0.3  # of images of 28×28 numbers and more


@storable(network="module_", build=untrained_module)
class VAE(TrainedCoordinates):
    """Latents of a variational autoencoder; a row's code is its posterior mean.

    Minimises, for every row, −log p(x|z) + β KL(q(z|x) ‖ N(0, I)) with one sample z of the posterior; β grows to its
    value over the first third of training. A small β keeps reconstructions sharp while the latents, whose aggregate is
    about N(0, I), stay smooth enough for a search by gradients. Of pictures in colour, codes begin near principal
    components.

    Parameters
    ----------
    latent_dim : int or "auto", default="auto"
        "auto": images of ink 32, or 64 where a side exceeds 32 pixels; twice as many where shades count, and 128 in colour;
        latents 16 for each place of a grid of at most 8×8; tables as many as columns, at least 2, at most 16.
    beta : float or "auto", default="auto"
        Weight of the KL divergence. "auto" is 0.3, and less for images of fewer numbers than 28×28, of which it would
        otherwise weigh more than the picture: with 0.3 digits of 8×8 pixels lose a quarter of what tells them apart.
    likelihood : {"auto", "bernoulli", "gaussian", "edges"}, default="auto"
        p(x|z). "bernoulli" is the cross-entropy of pixels scaled to [0, 1]; "gaussian" has the fixed deviation `sigma`;
        "edges", of images, is that of the errors of pixels and of those of edges, both of scales that are learned. "auto":
        "bernoulli" for images that are nearly black and white, as digits are, "edges" for other images, and "gaussian" for
        tables and beside a perceptual distance.
    contrast : float or "auto", default="auto"
        What the logits of pixels are multiplied with after training. "auto", of "bernoulli": at least 1, and what makes the
        reconstructions of held-out rows as sharp as the rows. Where the network is not sure it draws grey, as the
        cross-entropy wants it, and strokes are blurred. 1 for other likelihoods.
    critic : bool or "auto", default="auto"
        Whether the decoder is trained for a while longer against a critic of patches, which draws texture where errors of
        pixels and edges leave blur; see `Sharpening`. "auto": of images where the likelihood is "edges".
    sigma : float, default=0.1
        Deviation of the Gaussian, as a share of ``data_range`` or of a column's standard deviation.
    width : int or "auto", default="auto"
        Channels of the first convolution (images): 32, or 16 where no side exceeds 16 pixels.
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
    likelihood_, beta_, contrast_ : str, float, float
        As they were given or chosen.
    sharpened_ : float
        Where a critic was asked: the share that was kept of what it taught, from 0, where it won, to 1.
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

    likelihood_: MayBeAbsent[str]  # not in files from before it was chosen, as beta_
    beta_: MayBeAbsent[float]
    contrast_: MayBeAbsent[float]
    sharpened_: MayBeAbsent[float]

    _variational = True

    def __init__(
        self,
        latent_dim: int | str = "auto",
        *,
        beta: float | str = "auto",
        likelihood: str = "auto",
        contrast: float | str = "auto",
        critic: bool | str = "auto",
        sigma: float = 0.1,
        width: int | str = "auto",
        hidden: tuple[int, ...] = (256, 256),
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        perceptual_weight: float = 1000.0,
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
        self.beta = beta
        self.likelihood = likelihood
        self.contrast = contrast
        self.critic = critic
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
            if self.likelihood in ("bernoulli", "edges"):
                raise ValueError(f"likelihood={self.likelihood!r} is for images; a table needs 'gaussian' (or 'auto').")
            if self.perceptual is not None:
                raise ValueError("perceptual= compares images, but X is a table.")
            if self.critic is True:
                raise ValueError("critic= looks at pictures, but X is a table.")
            if self.contrast != "auto":
                raise ValueError("contrast= is of pixels, but X is a table.")

    def _look_at(self, X: np.ndarray) -> None:
        super()._look_at(X)
        numbers = np.prod(self.layout_.net_shape) if self.layout_.is_image else np.inf
        self.beta_ = BETA * min(1.0, float(numbers) / 28**2) if self.beta == "auto" else float(self.beta)
        self.likelihood_ = self.likelihood
        if self.likelihood == "auto":
            plain = self.perceptual is not None or not self.layout_.is_image or self.data_range is None
            self.likelihood_ = "gaussian" if plain else "edges" if self.has_shades_ else "bernoulli"

    def _sharpen(self, net: AutoencoderNet, u: Tensor, seed: int) -> None:
        self.__dict__.pop("sharpened_", None)  # of an earlier fit
        if self.critic is False or self.critic == "auto" and (self.likelihood_ != "edges" or min(u.shape[2:]) < _PATCH):
            return
        from cfexplain.nets import training

        known = u[np.setdiff1d(np.arange(len(u)), self.held_out_)].clamp(0, 1)
        before = copy.deepcopy(net.decoder)
        with seeded_torch(seed), one_thread():
            sharpening = Sharpening(net, known)
        updates = training.updates_for(len(u), self._most_updates(), _AGAINST * self.training_budget)
        training.train_network(
            sharpening, Sharpening.loss, {"u": known}, updates=updates, seed=seed, lr=_LR, validation_fraction=0.0,
            clip=5.0, ema=0.99, best=False, apart=True, device=self.device, verbose=self.verbose, name="decoder and critic")
        if rehearsal() is None:
            self.sharpened_ = self._kept_of_critic(net, u, before)

    def _kept_of_critic(self, net: AutoencoderNet, u: Tensor, before: nn.Module) -> float:
        """Take back as much of what the critic taught as makes drawings sharper than rows, or worse than texture in other
        places explains: after a short training, or of few rows, the critic wins. The share that is kept.
        """
        some = self._looked_at(len(u))
        own = laplacian_variance(u[some].numpy())
        u, own, after = u[some[own > 0]].clamp(0, 1), own[own > 0], copy.deepcopy(net.decoder)

        def drawn(share: float) -> tuple[float, float]:
            """Sharpness, of the rows' own, and mean square error."""
            with torch.no_grad():
                for kept, early, late in zip(net.decoder.parameters(), before.parameters(), after.parameters(), strict=True):
                    kept.copy_(torch.lerp(early, late, share))
                again = in_tiles(lambda part: net.outputs(net.moments(part.to(self.device))[0]).sigmoid().cpu(), u).numpy()
            return float(np.median(laplacian_variance(again) / own)), float(np.square(again - u.numpy()).mean())

        if not len(u):
            return 1.0
        blurred, error = drawn(0.0)

        def holds(share: float) -> bool:
            sharp, wrong = drawn(share)
            return sharp <= 1 and wrong <= _WORSE * error

        low, high = (1.0, 1.0) if holds(1.0) else (0.0, 1.0)
        for _ in range(7 * (low < high)):
            middle = (low + high) / 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        if drawn(low)[0] <= blurred:  # halfway to a decoder that draws otherwise, drawings may be more blurred than before
            drawn(low := 0.0)
        return low

    def _finish(self, X: np.ndarray) -> None:
        if self.contrast != "auto":
            self.contrast_ = float(self.contrast)
        else:
            self.contrast_ = self._as_sharp_as(X) if self.likelihood_ == "bernoulli" else 1.0
        if self.contrast_ != 1:
            self.module_.raise_contrast(self.contrast_)

    def _looked_at(self, n: int) -> np.ndarray:
        """The rows, of `n`, by which drawings are judged: some that were not trained on, if there are enough."""
        return self.held_out_[:_LOOKED_AT] if len(self.held_out_) >= _FEWEST else np.arange(min(n, _LOOKED_AT))

    def _as_sharp_as(self, X: np.ndarray) -> float:
        """The contrast at which reconstructions are in the median as sharp as X, of rows that were not trained on."""
        x = X[self._looked_at(len(X))]
        x = x[laplacian_variance(x) > 0]  # a picture of one shade has no sharpness
        if not len(x):
            return 1.0

        def logits(x: Tensor) -> Tensor:
            return self.module_.outputs(self.module_.moments(self.module_.to_units(x))[0])

        out, own = self.in_tiles(logits, x), laplacian_variance(self.module_.to_units(torch.from_numpy(x)).numpy())
        low, high = 1.0, MOST_CONTRAST
        for _ in range(12):
            middle = (low + high) / 2
            blurred = np.median(laplacian_variance(expit(middle * out)) / own) < 1
            low, high = (middle, high) if blurred else (low, middle)
        return low

    def _loss(self, net: AutoencoderNet, rows: Rows, progress: float) -> Tensor:
        u = self._augmented(net, rows["u"])
        mean, log_var = net.moments(u)
        assert log_var is not None  # of a variational network
        mean, log_var = mean.float(), log_var.float()
        noise = torch.randn(mean.shape, generator=stream(), device=mean.device)
        out = net.outputs(mean + (log_var / 2).exp() * noise).float()
        if net.is_image and not net.bounded:
            fit = normal_loss(out - u)
        elif self.likelihood_ == "bernoulli":
            fit = F.binary_cross_entropy_with_logits(out, u, reduction="none").flatten(1).sum(1)
        elif self.likelihood_ == "edges":
            fit = edges_after_components(out.sigmoid() - u, rows, progress)
        else:
            error = (out.sigmoid() if net.is_image else out) - u
            fit = error.square().flatten(1).sum(1) / (2 * self.sigma**2)
        if self.perceptual is not None:
            fit = fit + self.perceptual_weight * self.perceptual(net.from_units(u), net.from_units(out.sigmoid()))
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        return fit + self.beta_ * min(1.0, 3 * progress) * kl + from_components(mean, rows, progress)
