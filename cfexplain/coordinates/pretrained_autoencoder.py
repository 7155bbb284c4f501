"""A pretrained autoencoder of pictures as coordinates: its latents, of pictures of any size, on the scale of 1."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from cfexplain.coordinates.pretrained import PretrainedCoordinates, moved_to, read_latents, read_sample
from cfexplain.coordinates.published import read_networks
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.parameters import Choice
from cfexplain.foundation.precision import faster_in_bfloat16
from cfexplain.foundation.settings import own_modes
from cfexplain.nets.autoencoders import unit_scale
from cfexplain.nets.of_diffusers import OfDiffusers
from cfexplain.persistence import storable, stored_by_parts

__all__ = ["PretrainedAutoencoder"]

_TRIED = 64  # pixels a side, of which every usual stride is a divisor
_LOOKED_AT = 256  # rows whose latents give the scale
_DIFFUSERS = (-1.0, 1.0)  # the range of pixels there


@storable
class PretrainedAutoencoder(PretrainedCoordinates):
    """The latents of an autoencoder of pictures that somebody has trained on many more pictures than you have.

    It carries the detail of photographs. Its latents are thousands of numbers that know no class, so that an explainer
    searches a small model of them: ``PLACEExplainer(coordinates=PretrainedAutoencoder(...))`` makes a `TwoStage` of it.
    The networks are never trained or changed; what `fit` looks at is the scale of each channel of the latents.

    Pictures whose sides the stride does not divide are padded by repeating the edge, and cropped again. Grey pictures are
    given to a network of colours as three equal channels, and the mean of the three comes back.

    Parameters
    ----------
    encoder : nn.Module, fitted skorch net, path or str
        A network x (B, C, H, W) -> latents (B, k, h, w); or, without `decoder`, one module with ``encode`` and ``decode``,
        such as `AutoencoderTiny` or `AutoencoderKL` of diffusers. A path: weights in the layout of the TAESD family
        (TAESD, TAESD3, TAEF1, TAEF2, …), safetensors or a state dict, or a folder that diffusers has written. A str that is
        no path is the name of a model on the hub, which diffusers reads: ``"madebyollin/taesd"``.
    decoder : nn.Module, fitted skorch net or path, optional
        Latents -> x.
    subfolder : str, optional
        Of a folder or of the hub's model: ``"vae"`` in a whole pipeline.
    download : bool, default=False
        Whether the hub may be asked for what this machine has not got.
    network_range : (low, high), optional
        Of the pixels that the networks take and draw. Default: (0, 1), and (-1, 1) for modules of diffusers.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        In which a search draws, and in which latents to learn from are encoded. "auto": bfloat16 where that is
        faster. What is found is always judged in float32.
    cache : path, optional
        Folder in which latents are kept from one process to the next, by the weights and by the pictures. Without it they
        are kept as long as the networks are, in memory or, where they are many, in a temporary file.
    image_shape, channels, data_range
        See `VAE`.

    Attributes
    ----------
    latent_shape_ : (k, h, w)
    latent_dim_, module_, layout_, dtype_
        See `Coordinates`. ``module_`` holds the user's networks by reference; those read from weights it owns.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ConnectionError
        At `fit`: half a pair, weights of another layout, channels that the networks do not take, pictures smaller than the
        stride, a hub that cannot be reached.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> encoder, decoder = nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 3, 4, 4)
    >>> autoencoder = PretrainedAutoencoder(encoder, decoder).fit(torch.rand(5, 3, 18, 32))
    >>> autoencoder.latent_shape_, autoencoder.inverse_transform(autoencoder.transform(torch.rand(2, 3, 18, 32))).shape
    ((8, 5, 8), (2, 3, 18, 32))
    """

    together = 64  # photographs are large
    parameter_rules = {"precision": Choice(("auto", "float32", "bfloat16")), "download": Choice((True, False))}

    def __init__(
        self,
        encoder: Any,
        decoder: Any = None,
        *,
        subfolder: str | None = None,
        download: bool = False,
        network_range: tuple[float, float] | None = None,
        precision: str = "auto",
        cache: str | os.PathLike | None = None,
        image_shape: tuple[int, ...] | None = None,
        channels: str = "auto",
        data_range: tuple[float, float] = (0.0, 1.0),
    ):
        super().__init__(encoder, decoder, image_shape=image_shape, channels=channels, data_range=data_range)
        self.subfolder = subfolder
        self.download = download
        self.network_range = network_range
        self.precision = precision
        self.cache = cache

    @own_modes()
    def fit(self, X: ArrayLike | Tensor, y: Any = None) -> PretrainedAutoencoder:
        """Look at the shapes of X and of the latents, and at the scale of each channel of these."""
        super().fit(X)
        drawing: Any = self.module_.decoder
        with frozen(drawing), torch.no_grad():
            some = moved_to(torch.zeros(1, *self.latent_shape_), drawing)
            drawing.plain = isinstance(drawing.network.decode(some) if drawing.whole else drawing.network(some), Tensor)
        return self

    @property
    def network(self) -> nn.Module:
        """The user's encoder, or the one that was read: the same object after another fit."""
        return self.module_.encoder.network  # type: ignore[return-value]

    @property
    def computes_in(self) -> str:
        """The precision of a search: float32 or bfloat16."""
        if self.precision != "auto":
            return self.precision
        device = next(self.module_.parameters()).device
        return "bfloat16" if faster_in_bfloat16(device) else "float32"

    def decode_module(self) -> nn.Module:
        drawing: Any = self.module_.decoder
        same = all(part.dtype == self.module_.loc.dtype for part in drawing.parameters())
        return _Decoding(self.module_) if same else super().decode_module()

    def _networks(self) -> tuple[nn.Module, nn.Module | None]:
        if self.encoder is None:
            raise TypeError("There is half a pair: a decoder and no encoder. Give both, of networks that were trained "
                            "together: PretrainedAutoencoder(encoder, decoder).")
        if isinstance(self.encoder, (str, os.PathLike)) and isinstance(self.decoder, (str, os.PathLike, type(None))):
            encoder, decoder = read_networks(
                self.encoder, self.decoder, subfolder=self.subfolder, download=self.download)
        else:
            for role in ("encoder", "decoder"):
                if isinstance(getattr(self, role), (str, os.PathLike)):
                    raise TypeError(f"One half is a module and the {role} is a path, {getattr(self, role)}. Give two "
                                    "modules, or two paths.")
            if self.subfolder:
                raise ValueError(f"subfolder={self.subfolder!r} is of a folder or of a hub's model, but modules were given.")
            encoder, decoder = super()._networks()
        if not self.layout_.is_image:
            raise ValueError(f"X holds a table of {self.layout_.net_shape[0]} columns; a PretrainedAutoencoder draws "
                             "pictures. Flattened pictures need image_shape=(C, H, W).")
        low, high = self._range(encoder)
        gain = (high - low) / (self.data_range[1] - self.data_range[0])
        channels, height, width = self.layout_.net_shape
        takes = _takes(encoder, channels)
        plan = Reading(encoder, decoder is None, self.data_range[0], low, gain, takes if takes != channels else 0,
                       (0, 0, 0, 0))
        stride = plan.stride(takes)
        if min(height, width) < stride:
            raise ValueError(f"X holds pictures of {height}×{width} pixels, but one latent of this autoencoder stands for "
                             f"{stride}×{stride}. Enlarge them to a few times {stride} pixels a side, or use a VAE.")
        spare = [-side % stride for side in (width, height)]
        plan.padding = tuple(part for more in spare for part in (more // 2, more - more // 2))
        drawing = Drawing(encoder if decoder is None else decoder, decoder is None, self.data_range[0], low, gain,
                          channels if takes != channels else 0, plan.padding)
        return plan, drawing

    def _range(self, network: nn.Module) -> tuple[float, float]:
        if self.network_range is None:
            theirs = isinstance(network, OfDiffusers) or type(network).__module__.partition(".")[0] == "diffusers"
            return _DIFFUSERS if theirs else (0.0, 1.0)
        low, high = self.network_range
        if not low < high:
            raise ValueError(f"network_range={self.network_range!r} must be (low, high) with low < high.")
        return float(low), float(high)

    def _set_scale(self, X: np.ndarray) -> None:
        """By channel: places differ in what lies there, and not in what a change of one means."""
        if len(self.latent_shape_) != 3:
            raise ValueError(f"The encoder returns latents of shape {self.latent_shape_} a row; expected (channels, height, "
                             "width). Latents that are no picture go into PretrainedCoordinates.")
        some = X[np.unique(np.linspace(0, len(X) - 1, min(len(X), _LOOKED_AT)).astype(int))]
        codes = self.encode_dataset(some)[0].reshape(len(some), *self.latent_shape_)
        channels = unit_scale(codes.transpose(0, 2, 3, 1).reshape(-1, self.latent_shape_[0]), rtol=1e-5)
        size = int(np.prod(self.latent_shape_[1:]))
        self.module_.set_scale(tuple(np.repeat(part, size) for part in channels))


def _takes(encoder: nn.Module, channels: int) -> int:
    """Channels of the pictures that the encoder takes, which may be the three of a network of colours for grey ones."""
    first = next((part for part in encoder.modules() if isinstance(part, nn.Conv2d)), None)
    takes = channels if first is None else first.in_channels
    if takes == channels or (channels, takes) == (1, 3):
        return takes
    raise ValueError(f"X holds pictures of {channels} channels, but the encoder takes {takes}. Bring X to {takes} channels "
                     "(an opacity is left out by X[:, :3], grey is made of colours by X.mean(1, keepdims=True)), or pass an "
                     f"autoencoder of {channels}.")


class _Half(nn.Module):
    """A half of the user's autoencoder, between pictures in `data_range` and in the range of the network."""

    network: nn.Module
    whole: bool
    low: float
    network_low: float
    gain: float
    channels: int
    padding: tuple[int, ...]

    def __init__(self, network: nn.Module, whole: bool, low: float, network_low: float, gain: float, channels: int,
                 padding: tuple[int, ...]):
        super().__init__()
        self.network, self.whole, self.low, self.network_low = network, whole, low, network_low
        self.gain, self.channels, self.padding = gain, channels, padding
        self.training = False  # of this wrapper alone: eval() would reach into the user's network


@stored_by_parts(lambda half: len(half.padding) == 4 and min(half.padding) >= 0 and half.channels >= 0)
class Reading(_Half):
    """Pictures to what the encoder returns."""

    def forward(self, x: Tensor) -> Any:
        if self.channels:
            x = x.expand(-1, self.channels, -1, -1)
        if self.padding != (0, 0, 0, 0):
            x = F.pad(x, self.padding, mode="replicate")
        if (self.low, self.network_low, self.gain) != (0.0, 0.0, 1.0):
            x = self.network_low + self.gain * (x - self.low)
        network: Any = self.network
        return network.encode(x) if self.whole else network(x)

    def stride(self, channels: int) -> int:
        """Pixels to one latent along a side, by trying."""
        with frozen(self.network), torch.no_grad():
            some = moved_to(torch.full((1, channels, _TRIED, _TRIED), self.low), self.network)
            try:
                latents = read_latents(self(some))[0]
            except RuntimeError as error:  # torch's, of shapes
                raise ValueError(f"The encoder cannot take a picture, an array of shape {tuple(some.shape)}: "
                                 f"{str(error).splitlines()[0]}. Expected a network of pictures (B, C, H, W).") from error
        if latents.ndim != 4 or _TRIED % latents.shape[-1] or latents.shape[-1] != latents.shape[-2]:
            raise ValueError(
                f"The encoder makes latents of shape {tuple(latents.shape[1:])} of a picture of {_TRIED}×{_TRIED} pixels; "
                f"expected (channels, height, width) with sides that divide {_TRIED}. Networks for one size of pictures go "
                "into PretrainedCoordinates(encoder, decoder).")
        return _TRIED // latents.shape[-1]


@stored_by_parts(lambda half: len(half.padding) == 4 and min(half.padding) >= 0 and half.channels >= 0)
class Drawing(_Half):
    """Latents (B, k, h, w) to pictures; `plain` says that the network returns nothing but the picture."""

    plain: bool = False

    def forward(self, latents: Tensor) -> Tensor:
        network: Any = self.network
        x = network.decode(latents) if self.whole else network(latents)
        x = x if self.plain else read_sample(x)
        if (self.low, self.network_low, self.gain) != (0.0, 0.0, 1.0):
            x = self.low + (x - self.network_low) / self.gain
        if self.padding != (0, 0, 0, 0):
            x = F.pad(x, [-side for side in self.padding])
        return x.mean(1, keepdim=True) if self.channels else x


class _Decoding(nn.Module):
    """What `module`, borrowed networks, decodes: as plain operations, of networks that are frozen already."""

    loc: Tensor
    scale: Tensor

    def __init__(self, module: Any):
        super().__init__()
        self.drawing, self.shape = module.decoder, module.latent_shape
        self.register_buffer("loc", module.loc)
        self.register_buffer("scale", module.scale)

    def forward(self, z: Tensor) -> Tensor:
        return self.drawing((self.loc + self.scale * z).unflatten(1, self.shape))
