"""Distances of images in the features of a network: LPIPS, and the same idea with a backbone of your own."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.random import seeded_torch
from cfexplain.persistence import stored_by_constructor

__all__ = ["LPIPS", "FeatureDistance", "squeezenet_features"]

Features = tuple[Tensor, ...]


class _InFeatures(ABC):
    """A distance of features, one side of which can be kept while the other moves."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if cls.__module__ != __name__ and {"forward", "__call__"} & set(vars(cls)) and "distance_to" not in vars(cls):
            # it measures two images in a way of its own, and a reference in the old one
            cls.reference = None  # type: ignore[assignment, method-assign]

    @abstractmethod
    def features(self, x: Tensor) -> Features:
        """Of images x (B, C, H, W): one tensor (B, ...) a layer."""

    @abstractmethod
    def distance(self, a: Features, b: Features) -> Tensor:
        """Of two images' features, row by row: (B,)."""

    def reference(self, x: Tensor) -> Features:
        """:meth:`features` of images that stay, (B, ...) a layer, without a gradient: computed once for a whole search.

        Rows may be picked from each layer's tensor like from `x`.
        """
        with torch.no_grad():
            return self.features(x)

    def distance_to(self, reference: Features, y: Tensor) -> Tensor:
        """Distance of images y (B, C, H, W) to what :meth:`reference` has kept of others, (B,), in y's dtype.

        The same bits as the distance to the images themselves.
        """
        return self.distance(reference, self.features(y)).to(y.dtype)


@stored_by_constructor
class LPIPS(_InFeatures):
    """Learned perceptual image patch similarity (PLACE, eq. 5), by the package ``lpips``.

    The same numbers as the package, with two differences in how they are had: the features of x can be kept
    (:meth:`reference`, :meth:`distance_to`) instead of being computed again in every step of a search, and the gradient is
    finite where all features of a position are zero (it is NaN in the package).

    Parameters
    ----------
    net : {"squeeze", "alex", "vgg"}, default="squeeze"
        The backbone. Its ImageNet weights are downloaded by torchvision at the first call, not before.
    data_range : (low, high), default=(0, 1)
        Of the images, mapped to the [-1, 1] that LPIPS expects. Grey images count as three equal channels.

    References
    ----------
    Zhang et al.: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018.

    Examples
    --------
    >>> distance = LPIPS("squeeze", data_range=(0.0, 1.0))
    >>> distance(x, x_cf)                                                      # doctest: +SKIP
    tensor([0.0812, 0.1210])
    """

    def __init__(self, net: str = "squeeze", *, data_range: tuple[float, float] = (0.0, 1.0)):
        if net not in ("squeeze", "alex", "vgg"):
            raise ValueError(f"net={net!r} is not known; choose 'squeeze', 'alex' or 'vgg'.")
        self.net = net
        self.data_range = data_range
        self._model: Any = None

    def __repr__(self) -> str:
        return f"LPIPS({self.net!r}, data_range={self.data_range!r})"

    def features(self, x: Tensor) -> Features:
        """Unit-normalised features of images (B, 1 or 3, H, W), one tensor a layer.

        Raises
        ------
        ImportError
            The package ``lpips`` cannot be imported.
        OSError
            The backbone's weights cannot be downloaded.
        ValueError
            The images have neither 1 nor 3 channels, or are too small for the backbone.
        """
        model = self._loaded(x.device)
        low, high = self.data_range
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"LPIPS compares images (B, 1 or 3, H, W), got a tensor of shape {tuple(x.shape)}.")
        rgb = (2 * (x.float() - low) / (high - low) - 1).expand(-1, 3, -1, -1)
        try:
            outputs = model.net(model.scaling_layer(rgb))
        except RuntimeError as error:
            if "too small" not in str(error):
                raise
            raise ValueError(
                f"Images of {x.shape[2]}x{x.shape[3]} pixels are too small for the backbone {self.net!r}. "
                "Enlarge them first (64x64 suits all three).") from error
        return tuple(h / (_length(h) + 1e-10) for h in outputs)

    def distance(self, a: Features, b: Features) -> Tensor:
        """LPIPS of two sets of features, (B,)."""
        heads = self._loaded(a[0].device).lins
        parts = [head((f - g).square()).mean((2, 3))[:, 0] for head, f, g in zip(heads, a, b, strict=True)]
        return torch.stack(parts).sum(0)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """LPIPS of images x and y, each (B, 1 or 3, H, W), row by row: (B,), in y's dtype."""
        return self.distance_to(self.features(x), y)

    def _loaded(self, device: torch.device) -> Any:
        if self._model is None:
            lpips = optional_import("lpips", "LPIPS")
            try:
                with seeded_torch(0):  # building the network draws random weights before it loads them
                    model = lpips.LPIPS(net=self.net, verbose=False)
            except OSError as error:
                folder = Path(torch.hub.get_dir()) / "checkpoints"
                raise OSError(
                    f"The ImageNet weights of {self.net!r} could not be downloaded ({error}). Run "
                    f"`python -c \"import lpips; lpips.LPIPS(net='{self.net}')\"` once with a connection, and copy the "
                    f"file that it puts into {folder} to this machine; or use "
                    "cfexplain.perceptual.FeatureDistance with a backbone that you have.") from error
            self._model = model.requires_grad_(False)
        return self._model.to(device)


class FeatureDistance(_InFeatures, nn.Module):
    """An LPIPS-like distance in the features of any sequential backbone; its numbers are not LPIPS.

    Features of each layer are normalised to unit length over channels; squared differences are summed over channels,
    averaged over positions, and summed over layers (LPIPS without the learned weights of channels).

    Parameters
    ----------
    backbone : nn.Sequential
        Layers that are applied in turn. A copy is kept, frozen, in evaluation mode: yours stays as it is.
    layers : tuple of int
        Indices of the layers whose outputs are compared.
    mean, std : sequence of float, optional
        A channel's offset and scale: the backbone sees ``(x - mean) / std`` with x mapped to [0, 1]. Defaults 0 and 1.
    bgr : bool, default=False
        Reverse the order of the channels first (Caffe's convention).
    data_range : (low, high), default=(0, 1)
        Of the images. Grey images are repeated for a backbone with several channels.

    Examples
    --------
    >>> import torch
    >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    >>> distance = FeatureDistance(backbone, layers=(1, 3), mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> x = torch.rand(2, 3, 16, 16)
    >>> distance(x, x)
    tensor([0., 0.])

    The features of images that do not change can be kept:

    >>> y = torch.rand(2, 3, 16, 16)
    >>> torch.equal(distance.distance_to(distance.reference(x), y), distance(x, y))
    True
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Sequential,
        layers: Sequence[int],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        bgr: bool = False,
        data_range: tuple[float, float] = (0.0, 1.0),
    ):
        super().__init__()
        if not isinstance(backbone, nn.Sequential):
            raise TypeError(f"backbone must be an nn.Sequential of layers, got {type(backbone).__name__}.")
        self.layers = tuple(int(layer) for layer in layers)
        if not self.layers or not all(0 <= layer < len(backbone) for layer in self.layers):
            raise ValueError(f"layers={layers!r} must be indices of the backbone's {len(backbone)} layers.")
        first = next((part for part in backbone.modules() if isinstance(part, nn.Conv2d)), None)
        self.channels = len(mean) if mean is not None else (3 if first is None else first.in_channels)
        self.bgr, self.data_range = bgr, data_range
        for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            values = (default,) * self.channels if values is None else tuple(values)
            if len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values, but the backbone takes {self.channels} channels.")
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))
        self.backbone = copy.deepcopy(backbone[: max(self.layers) + 1]).requires_grad_(False)
        self.to(next((p.dtype for p in self.backbone.parameters()), torch.float32)).eval()

    def train(self, mode: bool = True) -> FeatureDistance:
        """Stays in evaluation mode: a distance has nothing to learn."""
        return super().train(False)

    def features(self, x: Tensor) -> Features:
        """Unit-normalised features of images (B, C, H, W), one tensor a layer, in the backbone's dtype.

        Raises
        ------
        ValueError
            x is not a batch of images with 1 channel or as many as the backbone takes.
        """
        if x.ndim != 4 or x.shape[1] not in (1, self.channels):
            raise ValueError(
                f"Expected images of shape (B, {self.channels}, H, W), or (B, 1, H, W), got {tuple(x.shape)}.")
        if x.device != self.mean.device:
            self.to(x.device)
        low, high = self.data_range
        h = ((x.to(self.mean.dtype) - low) / (high - low)).expand(-1, self.channels, -1, -1)
        h = ((h.flip(1) if self.bgr else h) - self.mean) / self.std
        found: dict[int, Any] = {}
        for index, layer in enumerate(self.backbone):
            h = layer(h)
            # a later layer may work in place
            found[index] = h / (h.square().sum(1, keepdim=True) + 1e-6).sqrt() if index in self.layers else None
        return tuple(found[index] for index in self.layers)

    def distance(self, a: Features, b: Features) -> Tensor:
        """Distance of two sets of features, (B,)."""
        return torch.stack([(f - g).square().sum(1).mean((1, 2)) for f, g in zip(a, b, strict=True)]).sum(0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of images x and y, each (B, C, H, W), row by row: (B,), in y's dtype."""
        return self.distance_to(self.features(x), y)


def squeezenet_features(path: str | Path, *, data_range: tuple[float, float] = (0.0, 1.0)) -> FeatureDistance:
    """A `FeatureDistance` on SqueezeNet 1.1 with the original Caffe weights; its numbers are not LPIPS.

    The network is built here, without torchvision, under torchvision's names of parameters. Compared are the outputs of
    the first convolution and of the second fire module on each of the next two scales (layers 1, 4 and 7). The Caffe
    model takes BGR values from 0 to 255 minus (104, 117, 123); images in `data_range` are converted.

    Parameters
    ----------
    path : str or Path
        A file of ``torch.save(state_dict)`` with the keys ``features.0.weight``, ``features.3.squeeze.weight``, …
    data_range : (low, high), default=(0, 1)
        Of the images.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file holds other parameters.

    References
    ----------
    Iandola et al.: SqueezeNet, 2016.

    Examples
    --------
    >>> distance = squeezenet_features("squeezenet1_1_caffe.pth")              # doctest: +SKIP
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r} with the weights of SqueezeNet 1.1.")
    state = torch.load(path, map_location="cpu", weights_only=True)
    with seeded_torch(0):
        net = _squeezenet()
    prefix = "features."
    try:
        net.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    except RuntimeError as error:
        raise ValueError(f"{str(path)!r} does not hold the weights of SqueezeNet 1.1: {error}") from error
    return FeatureDistance(
        net, (1, 4, 7), mean=[v / 255 for v in (104.0, 117.0, 123.0)], std=[1 / 255] * 3, bgr=True, data_range=data_range)


def _length(h: Tensor) -> Tensor:
    """L2 norm over channels, whose gradient at 0 is 0."""
    square = h.square().sum(1, keepdim=True)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


class _Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1).relu()


def _squeezenet() -> nn.Sequential:
    """The feature layers of SqueezeNet 1.1."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(),
        _Fire(64, 16, 64), _Fire(128, 16, 64), pool(),
        _Fire(128, 32, 128), _Fire(256, 32, 128), pool(),
        _Fire(256, 48, 192), _Fire(384, 48, 192), _Fire(384, 64, 256), _Fire(512, 64, 256))
