"""Exact coordinates: the base space of a normalizing flow."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from cfexplain.coordinates.base import Coordinates, untrained_module
from cfexplain.foundation.arrays import read_samples, restore_samples
from cfexplain.foundation.parameters import Choice, Interval, Number
from cfexplain.foundation.precision import faster_in_bfloat16
from cfexplain.foundation.random import draw_seed, seeded_torch
from cfexplain.foundation.settings import own_modes
from cfexplain.nets.flow_nets import FlowNet, ImageFlowNet, LatentFlowNet, VectorFlowNet
from cfexplain.nets.losses import Rows, perhaps_mirrored
from cfexplain.nets.resize import levels_that_divide
from cfexplain.persistence import MayBeAbsent, storable
from cfexplain.persistence.networks import State, check_repeats, check_size, dense_size

__all__ = ["SIZES", "Flow"]

_SPARE = 200_000_000  # numbers that a file may make for columns that a table's flow then leaves out

# "paper" is what the authors' code runs: Glow 4 levels of 32 additive steps, RealNVP residual blocks of 64 channels
SIZES: dict[tuple[str, str], dict[str, Any]] = {
    ("glow", "small"): dict(levels=2, steps=12, hidden=64, blocks=0, affine=True),
    ("glow", "paper"): dict(levels=4, steps=32, hidden=512, blocks=0, affine=False),
    ("realnvp", "small"): dict(levels=2, steps=12, hidden=64, blocks=0, affine=True),
    ("realnvp", "paper"): dict(levels=2, steps=12, hidden=64, blocks=4, affine=True),
    ("coupling", "small"): dict(steps=8, hidden=(128, 128)),
    ("coupling", "paper"): dict(steps=12, hidden=(256, 256)),
    ("spline", "small"): dict(steps=4, hidden=(64, 64)),
    ("spline", "paper"): dict(steps=8, hidden=(256, 256)),
}
# Of the latents of a pretrained autoencoder: many channels, few places. Sixteen steps in all.
LATENT_SIZE: dict[str, Any] = dict(levels=2, steps=8, hidden=128, blocks=0, affine=True)


def _untrained_flow(flow: Flow, state: State) -> nn.Module:
    """The network that a file holds the weights of. A table's is made after a look at which of its columns vary."""
    check_repeats(flow, state, {name: getattr(flow, name) for name in ("levels", "steps", "blocks")}, flow.hidden)
    if flow.layout_.is_image:
        return untrained_module(flow, state)
    varying = torch.as_tensor(state["varying"]).cpu()
    columns, count = flow.layout_.net_shape[0], int(varying.sum())
    hidden = [int(width) for width in np.atleast_1d((1,) if flow.hidden is None else flow.hidden)]
    steps = 1 if flow.steps is None else int(flow.steps)
    widths = [count // 2, *hidden, count // 2] if count > 1 else []  # a single number has nothing to depend on
    check_size(columns + dense_size(widths, steps), state)
    if columns * hidden[0] * steps > _SPARE and count < columns:
        raise ValueError(f"a flow of {columns:,} columns, of which {count:,} vary")
    with seeded_torch(0):
        module: Any = flow._make_module()
        if not varying.all():
            module.varying.copy_(varying)
            module._make_flow()
    return module


# a file must not choose by `checkpoint` where a later fit writes
@storable(network="module_", build=_untrained_flow, left_out=["checkpoint"])
class Flow(Coordinates):
    """z = f(x) in the base space of a normalizing flow; x = f⁻¹(z) exactly, and log p(x) in closed form (eq. 6).

    Trained by maximum likelihood (eq. 7): images in bits per dimension of dequantised pixels, by Adam on a moving average
    of the weights; tables in nats. z ~ N(0, I), so a distance in Z is a distance in base space.

    Parameters
    ----------
    architecture : {"auto", "glow", "realnvp", "coupling", "spline"}, default="auto"
        Images: "glow" (default) or "realnvp". Tables: "coupling" (default; affine couplings) or "spline", from zuko.
    size : {"small", "paper"}, default="small"
        "small" learns 28x28 images in an hour on two cores; "paper" is the published size. What follows overrides it.
    levels : int, optional
        Times that an image is halved.
    steps : int, optional
        Steps of flow, at each level for images.
    hidden : int or tuple of int, optional
        Channels, or layers of a table's couplings.
    blocks : int, optional
        Residual blocks of a coupling; 0 is Glow's three convolutions.
    affine : bool, optional
        Affine or additive couplings of images. Additive ones never spike in training and fit less well.
    whiten : bool, default=True
        False leaves the latents that a multi-scale flow splits off unwhitened, as the published code does; a distance in
        Z then weighs them by their learned deviation.
    pad : bool, default=False
        Pad images whose sides the levels do not divide, and crop back; latent_dim_ then counts the padding. Without it,
        such sides are an error that says which sizes work.
    n_bits : int, default=8
        Bits of a pixel in training and in bits/dim. 5 for faces, as published. Encoding always sees the whole pixel.
    noise : float, default=0.0
        Tables: deviation of Gaussian noise on standardised columns in training, against columns of few values and
        curves of no width.
    ema : float, default=0.998
        Decay of the moving average of the weights an update; 0 for none.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the couplings of images while training; "auto" takes bfloat16 where that is faster.
    checkpoint : path, optional
        File to which training saves itself after each epoch, and from which it goes on if it was interrupted. Needs an
        int as random_state, and the same X.
    image_shape, channels, data_range
        See `VAE`.
    batch_size : int, default=64
    lr : float, optional
        Highest learning rate: 2e-3 for images, 3e-3 for tables.
    training_budget : float, default=1.0
        Multiplies the gradient updates: for 60,000 rows 12,000 of images, 3,000 of tables, and less for fewer, as their
        fourth root. Training ends before, if the loss of held-out rows stops falling.
    random_state : int, RandomState or None
    verbose : int or "auto", default=0
        1 shows progress; "auto" as in `PLACEExplainer`.
        1 shows the epochs and their loss: bits/dim, or nats for tables.
    device : str, default="cpu"

    Attributes
    ----------
    latent_dim_, module_, layout_, dtype_
        See `Coordinates`.
    history_ : list of dict
        ``train_loss`` and ``valid_loss`` of each epoch: bits per dimension for images, −log p in nats for tables.

    References
    ----------
    Dinh et al.: Density estimation using Real NVP, ICLR 2017. Kingma, Dhariwal: Glow, NeurIPS 2018. Dombrowski et al.:
    Diffeomorphic Counterfactuals with Generative Models, section 2.3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> flow = Flow(training_budget=0.05, random_state=0).fit(X)
    >>> bool(abs(flow.inverse_transform(flow.transform(X)) - X).max() < 1e-4)
    True
    >>> flow.score_samples(X).shape
    (150,)
    """

    module_: FlowNet
    history_: list[dict[str, Any]]
    held_out_: MayBeAbsent[np.ndarray]
    levels_: MayBeAbsent[int]  # of latents

    exact = True
    parameter_rules = {
        "data_range": Interval(none=True),
        **dict.fromkeys(("levels", "steps", "blocks"), Number(1, whole=True, none=True)),
        "n_bits": Number(1, 16, whole=True), "noise": Number(0), "ema": Number(0, 1), "size": Choice(("small", "paper")),
        "precision": Choice(("auto", "float32", "bfloat16"))}

    def __init__(
        self,
        architecture: str = "auto",
        *,
        size: str = "small",
        levels: int | None = None,
        steps: int | None = None,
        hidden: int | tuple[int, ...] | None = None,
        blocks: int | None = None,
        affine: bool | None = None,
        whiten: bool = True,
        pad: bool = False,
        n_bits: int = 8,
        noise: float = 0.0,
        ema: float = 0.998,
        precision: str = "auto",
        checkpoint: str | os.PathLike | None = None,
        image_shape: tuple[int, ...] | None = None,
        channels: str = "auto",
        data_range: tuple[float, float] | None = (0.0, 1.0),
        batch_size: int = 64,
        lr: float | None = None,
        training_budget: float = 1.0,
        random_state: Any = None,
        verbose: int | str = 0,
        device: str = "cpu",
    ):
        self.architecture = architecture
        self.size = size
        self.levels = levels
        self.steps = steps
        self.hidden = hidden
        self.blocks = blocks
        self.affine = affine
        self.whiten = whiten
        self.pad = pad
        self.n_bits = n_bits
        self.noise = noise
        self.ema = ema
        self.precision = precision
        self.checkpoint = checkpoint
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
    def fit(self, X: ArrayLike | Tensor, y: Any = None) -> Flow:
        """Train the flow on `X`.

        Raises
        ------
        ValueError
            X or a parameter cannot be used, or the levels do not divide an image's sides (the message says what works).
        DataRangeError
            Images outside ``data_range``, or of integers.
        FloatingPointError
            Training ended in a loss that is not finite.
        """
        from cfexplain.nets.training import held_out_rows, train_network, updates_for  # it loads skorch

        X = self._read_fit(X)
        self._check_parameters(len(X))
        seed, is_image = draw_seed(self.random_state), self.layout_.is_image
        with seeded_torch(seed):
            net: Any = self._make_module()
        self.latent_dim_ = net.latent_dim
        rows = torch.from_numpy(X)
        if is_image:
            rows = rows.float()
            with seeded_torch(seed):
                net.initialise(rows[torch.randperm(len(rows))[:256]])
        else:
            net.double()  # a column of 10^9 ± 1 would lose its variation in float32
            with seeded_torch(seed):
                net.set_columns(X)
        fraction = 0.05 if is_image else 0.1
        self.history_ = train_network(
            net, self._image_loss if is_image else self._table_loss, {"x": rows},
            updates=updates_for(len(X), 12_000 if is_image else 3_000, self.training_budget), seed=seed,
            lr=self.lr or (2e-3 if is_image else 3e-3), batch_size=self.batch_size, clip=5.0,
            ema=self.ema,
            validation_fraction=fraction, checkpoint=self.checkpoint, device=self.device,
            verbose=self.verbose, name="flow")
        self.held_out_ = held_out_rows(len(X), seed, fraction)
        self.module_ = net.to(torch.from_numpy(X).dtype)
        return self

    @own_modes()
    def fit_latents(self, latents: np.ndarray, mirrored: np.ndarray | None = None) -> Flow:
        """Train on latents of other coordinates, (n, C, h, w) or (n, d), which may lie in a file; ``data_range`` is None.

        Parameters
        ----------
        latents : ndarray of floats of any precision
        mirrored : ndarray, optional
            Those of the same rows, mirrored: half of the rows of a batch are taken from here.
        """
        from cfexplain.nets.training import held_out_rows, train_network, updates_for

        rows = self._read_latents(latents, mirrored)
        if not self.layout_.is_image:
            return self.fit(np.concatenate([latents, *([] if mirrored is None else [mirrored])]).astype(np.float32))
        self._check_parameters(len(latents))
        # as many as the sides can be halved, because padding is numbers that say nothing: 1 for 14×14
        possible = levels_that_divide(self.layout_.net_shape[1:])
        self.levels_ = self.levels or min(LATENT_SIZE["levels"], max(1, possible))
        seed, some = draw_seed(self.random_state), np.random.RandomState(0).permutation(len(latents))[:256]
        with seeded_torch(seed):
            net: Any = self._make_module()
            net.initialise(torch.from_numpy(latents[np.sort(some)].astype(np.float32)))
        self.latent_dim_ = net.latent_dim
        self.history_ = train_network(
            net, self._latent_loss, rows, updates=updates_for(len(latents), 5000, self.training_budget), seed=seed,
            lr=self.lr or 1e-3, batch_size=self.batch_size, clip=5.0, ema=self.ema, validation_fraction=0.05,
            checkpoint=self.checkpoint, device=self.device, verbose=self.verbose, name="flow of latents")
        self.held_out_ = held_out_rows(len(latents), seed, 0.05)
        self.module_ = net
        return self

    def _latent_loss(self, net: LatentFlowNet, rows: Rows, progress: float) -> Tensor:
        return net.nats_per_dim(perhaps_mirrored(rows, net.training))

    def _image_loss(self, net: ImageFlowNet, rows: Rows, progress: float) -> Tensor:
        return net.bits_per_dim(rows["x"])

    def _table_loss(self, net: VectorFlowNet, rows: Rows, progress: float) -> Tensor:
        x = rows["x"]
        return -net.log_prob(x + self.noise * net.scale * torch.randn_like(x) if self.noise and net.training else x)

    def _check_parameters(self, n: int) -> None:
        if self.ema == 1:
            raise ValueError(f"ema={self.ema!r} must be less than 1: at 1 the average would never leave the first weights.")
        if self.hidden is not None and np.ndim(self.hidden) != (0 if self.layout_.is_image else 1):
            raise ValueError(f"hidden={self.hidden!r} does not fit: images take one number of channels (hidden=64), tables "
                             "the widths of some layers (hidden=(128, 128)).")
        if n < 2:
            raise ValueError(f"n_samples={n}: a flow learns a density, for which it needs at least 2 rows.")

    def _make_module(self) -> FlowNet:
        shape, kind = self.layout_.net_shape, self.architecture
        known = ("glow", "realnvp") if self.layout_.is_image else ("coupling", "spline")
        if kind == "auto":
            kind = known[0]
        if kind not in known:
            raise ValueError(f"architecture={kind!r} is not for {'images' if self.layout_.is_image else 'tables'}; "
                             f"choose 'auto', {known[0]!r} or {known[1]!r}.")
        chosen = {name: getattr(self, name) for name in ("levels", "steps", "hidden", "blocks", "affine")
                  if getattr(self, name) is not None}
        if not self.layout_.is_image:
            unused = [name for name in ("levels", "blocks", "affine") if name in chosen] + [
                name for name, usual in (("whiten", True), ("pad", False), ("n_bits", 8)) if getattr(self, name) != usual]
            if unused:
                raise ValueError(f"{unused[0]}= is for flows of images, but X is a table.")
            return VectorFlowNet(shape[0], architecture=kind, **SIZES[kind, self.size] | chosen)
        if self.noise:
            raise ValueError("noise= is for flows of tables; images are dequantised, see n_bits=.")
        settings = SIZES[kind, self.size] | chosen
        if not self.pad and self.data_range is not None:
            possible = self._levels(shape, settings["levels"])
            settings["levels"] = possible if self.levels is None else self.levels
        if self.data_range is None:
            if self.pad or self.n_bits != 8:
                raise ValueError("pad= and n_bits= are for flows of pixels; latents are padded as they need it.")
            levels = getattr(self, "levels_", LATENT_SIZE["levels"])  # two in files from before it was chosen
            steps = LATENT_SIZE["levels"] * LATENT_SIZE["steps"] // levels
            settings = {**LATENT_SIZE, "steps": max(1, steps), **chosen, "levels": levels}
        bfloat16 = self.precision == "bfloat16" or self.precision == "auto" and faster_in_bfloat16(self.device)
        settings |= {"mixing": "conv" if kind == "glow" else "masks", "precision": "bfloat16" if bfloat16 else "float32"}
        image = (shape[0], shape[1], shape[2])
        if self.data_range is None:
            return LatentFlowNet(image, whiten=self.whiten, **settings)
        return ImageFlowNet(
            image, data_range=self.data_range, n_bits=self.n_bits, whiten=self.whiten, pad=self.pad, **settings)

    def _levels(self, shape: tuple[int, ...], wanted: int) -> int:
        """As many levels as wanted, or as the sides allow: a 28x28 image can be halved twice."""
        possible = levels_that_divide(shape[1:])
        if not possible:
            raise ValueError(f"A multi-scale flow halves images, but {shape[1]}x{shape[2]} has an odd side. Flow(pad=True) "
                             "pads them and crops back; of an explainer it is generator=Flow(pad=True), or "
                             "coordinates=Flow(pad=True). Or pass images with even sides (multiples of 4 or 8 are best).")
        return min(wanted, possible)

    # ------------------------------------------------------------- densities
    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, I) in nats, (B,); where the flow is not whitened, of the whitened code."""
        return super().log_prior(self.module_.whitened(z))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (B,), of x (B, *net_shape); differentiable."""
        return self.module_.log_prob(x)

    def score_samples(self, X: ArrayLike | Tensor) -> np.ndarray:
        """log p(x) in nats, shape (n,), per unit of X's own scale."""
        check_is_fitted(self)
        return self.in_tiles(self.log_prob, read_samples(self, X, reset=False, data_range=self.data_range))

    def bits_per_dim(self, X: ArrayLike | Tensor, random_state: Any = 0) -> np.ndarray:
        """Bits per dimension of images, shape (n,), dequantised with noise from `random_state`; smaller is better.

        n_bits − log₂ p(v)/d over v in (0, 1)^d, each pixel anywhere in its bin (uniform dequantisation; Theis et al.,
        2016): the convention of RealNVP and Glow. Latents of another autoencoder have no bins: −log₂ p/d, with the noise of
        training, where N(0, 1) has 2.05.
        """
        check_is_fitted(self)
        if not self.layout_.is_image:
            raise ValueError("Bits per dimension are of quantised pixels, but this flow is of a table; see score_samples.")
        rows = read_samples(self, X, reset=False, data_range=self.data_range)
        with seeded_torch(draw_seed(random_state)):
            bits_per_dim: Any = self.module_.bits_per_dim
            return self.in_tiles(bits_per_dim, rows)

    def sample(self, n_samples: int = 1, *, temperature: float = 1.0, random_state: Any = None) -> np.ndarray:
        """Samples in the layout of `fit`; `temperature` scales the deviation of z (0.7 gives cleaner images)."""
        check_is_fitted(self)
        z = np.random.RandomState(draw_seed(random_state)).standard_normal((n_samples, self.latent_dim_))
        return restore_samples(self.in_tiles(self.decode, (temperature * z).astype(self.dtype_)), self.layout_)
