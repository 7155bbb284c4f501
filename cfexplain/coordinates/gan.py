"""A dcGAN trained on the images at hand, and its inverse by inversion."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from cfexplain.coordinates.base import Coordinates, untrained_module
from cfexplain.coordinates.generator import inversion_errors
from cfexplain.coordinates.inversion import Inversion, Inverter
from cfexplain.foundation.parameters import Number
from cfexplain.foundation.random import draw_seed, seeded_torch
from cfexplain.foundation.settings import own_modes
from cfexplain.nets.gan import Discriminator, GANNet
from cfexplain.nets.losses import Rows
from cfexplain.persistence import storable

__all__ = ["GAN"]


@storable(network="module_", build=untrained_module)
class GAN(Coordinates):
    """Latents z ~ N(0, I) of a dcGAN: sharp images, but no encoder of its own.

    A generator G and a spectrally normalised discriminator are trained in turns with the hinge loss, the discriminator at
    three times the learning rate; G's weights are averaged over the updates. `encode` is inversion (eq. 11 of
    Diffeomorphic Counterfactuals): Adam over z, from the guess of an encoder that was trained on pairs (G(z), z) and from
    further starting points, for every row. It costs ``steps · restarts`` passes through G a row and is not differentiable
    in x.

    Parameters
    ----------
    latent_dim : int, default=64
    width : int, default=24
        Channels of the largest hidden layer of generator, discriminator and encoder; deeper layers have up to four times
        as many.
    inversion : Inversion, optional
        Default: ``Inversion(steps=100, restarts=2)``, of which one restart begins at the encoder's guess.
    image_shape : (C, H, W), optional
        Reads rows of shape (d,) as images.
    channels : {"auto", "first", "last"}, default="auto"
        Where an image has its channels: (C, H, W) or (H, W, C). "auto" tells by the shape; see `read_channels`.
    data_range : (low, high), default=(0, 1)
        Of images.
    batch_size : int, default=32
    lr : float, default=2e-3
        Adam's, of the generator; falls to zero over the last half.
    training_budget : float, default=1.0
        Multiplies the gradient updates: 2500 of each network.
    random_state : int, RandomState or None
    verbose : int or "auto", default=0
        1 shows progress; "auto" as in `PLACEExplainer`.
    device : str, default="cpu"

    Attributes
    ----------
    latent_dim_, module_, layout_, dtype_
        See `Coordinates`.
    inversion_error_ : ndarray of shape (min(n, 256),)
        Root mean square of G(encode(x)) − x, as a share of the width of `data_range`, of rows spread evenly over the X
        of `fit`.
    history_ : list of dict
        Losses of each epoch.
    seed_ : int
        Drawn from `random_state`.

    References
    ----------
    Goodfellow et al.: Generative Adversarial Nets, NeurIPS 2014. Radford et al.: dcGAN, ICLR 2016. Miyato et al.:
    Spectral Normalization for GANs, ICLR 2018. Dombrowski et al.: Diffeomorphic Counterfactuals, section 2.4.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> images = load_digits().images / 16
    >>> gan = GAN(latent_dim=8, width=8, training_budget=0.01, random_state=0).fit(images)
    >>> gan.sample(3, random_state=0).shape, gan.transform(images[:3]).shape
    ((3, 8, 8), (3, 8))
    """

    module_: Inverter
    seed_: int
    history_: list[dict[str, Any]]
    inversion_error_: np.ndarray

    _updates = 2500

    encodes_at_once = False
    parameter_rules = {"latent_dim": Number(1, whole=True), "width": Number(1, whole=True)}

    def __init__(
        self,
        latent_dim: int = 64,
        *,
        width: int = 24,
        inversion: Inversion | None = None,
        image_shape: tuple[int, ...] | None = None,
        channels: str = "auto",
        data_range: tuple[float, float] = (0.0, 1.0),
        batch_size: int = 32,
        lr: float = 2e-3,
        training_budget: float = 1.0,
        random_state: Any = None,
        verbose: int | str = 0,
        device: str = "cpu",
    ):
        self.latent_dim = latent_dim
        self.width = width
        self.inversion = inversion
        self.image_shape = image_shape
        self.channels = channels
        self.data_range = data_range
        self.batch_size = batch_size
        self.lr = lr
        self.training_budget = training_budget
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    @own_modes()
    def fit(self, X: ArrayLike | Tensor, y: Any = None) -> GAN:
        """Train the networks on the images `X`, and measure the inversion error.

        Parameters
        ----------
        X : array-like or tensor of shape (n, H, W), (n, C, H, W), (n, H, W, C), or (n, d) with `image_shape`
            Floats in ``data_range``.
        y : ignored

        Raises
        ------
        ValueError
            X is a table or cannot be used, or a parameter is out of range.
        DataRangeError
            Images outside ``data_range``, or of integers.
        FloatingPointError
            Training ended in a loss that is not finite.
        """
        X = self._read_fit(X)
        self._check_parameters()
        self.latent_dim_ = int(self.latent_dim)
        self.seed_ = draw_seed(self.random_state)
        with seeded_torch(self.seed_):
            self.module_ = self._make_module()
            net: Any = self.module_.generator.net
            critic = Discriminator(self.layout_.net_shape, width=self.width)
        u = net.to_units(torch.from_numpy(X).float()).clamp(0, 1)
        updates = max(1, round(self._updates * self.training_budget))
        from cfexplain.nets.adversaries import train_adversaries  # skorch is loaded when something is trained

        self.history_ = train_adversaries(
            net, critic, u, updates=updates, lr=self.lr, batch_size=self.batch_size, seed=self.seed_,
            device=self.device, verbose=self.verbose)
        self._train_encoder(net, max(1, updates // 5))
        self.module_.to(torch.from_numpy(X).dtype)
        self.inversion_error_ = inversion_errors(self, X)
        return self

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Images G(z) of `n_samples` draws z ~ N(0, I), in the layout that X had at `fit`."""
        z = np.random.default_rng(draw_seed(random_state)).normal(size=(n_samples, self.latent_dim_))
        return self.inverse_transform(z)

    def _make_module(self) -> Inverter:
        """The networks, untrained, as the parameters, ``layout_`` and ``latent_dim_`` say."""
        net = GANNet(self.layout_.net_shape, self.latent_dim_, width=self.width, data_range=self.data_range)
        net.to(memory_format=torch.channels_last)
        options = Inversion(steps=100, restarts=2) if self.inversion is None else self.inversion
        return Inverter(_Generator(net), _Encoder(net), self.latent_dim_, options, self.seed_,
                        torch.tensor(float(self.data_range[1] - self.data_range[0]))).eval()

    def _train_encoder(self, net: GANNet, updates: int) -> None:
        """Teach the encoder to guess z from G(z)."""
        with seeded_torch(self.seed_ + 1), torch.no_grad():
            z = torch.randn(min(20_000, 50 * updates), self.latent_dim_)
            u = torch.cat([net.outputs(part.to(self.device)).sigmoid().cpu() for part in z.split(200)])

        from cfexplain.nets.training import train_network  # skorch is loaded when something is trained

        def loss(net: GANNet, rows: Rows, progress: float) -> Tensor:
            return (net.moments(rows["u"])[0] - rows["z"]).square().mean(1)

        train_network(net, loss, {"u": u, "z": z}, updates=updates, seed=self.seed_, lr=4e-3, batch_size=100,
                      device=self.device, verbose=self.verbose, name="encoder of the GAN")

    def _check_parameters(self) -> None:
        if not self.layout_.is_image:
            raise ValueError(
                f"GAN draws images, but X is a table of {self.layout_.net_shape[0]} columns. Pass images (n, H, W) or "
                "(n, C, H, W), or image_shape=(C, H, W) if the rows are flattened images; VAE() is for tables.")
        if self.inversion is not None and not isinstance(self.inversion, Inversion):
            raise TypeError(f"inversion must be an Inversion(...), got {type(self.inversion).__name__}.")


class _Generator(nn.Module):
    def __init__(self, net: GANNet):
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        return self.net.decode(z)


class _Encoder(_Generator):
    def forward(self, x: Tensor) -> Tensor:
        return self.net.encode(x)
