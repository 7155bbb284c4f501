"""The classifier that is trained when the user brings none, and the student of a distilled surrogate."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from cfexplain.persistence import stored_by_sizes

__all__ = ["ClassifierNet", "cnn", "mlp"]

_WIDTHS = (32, 64, 64, 128, 128)
_SMALLEST_SIDE = 6  # a side of at least so many pixels is halved once more
_GRID = 7  # what the dense head sees at most: 28x28 is 3x3, 32x32 is 4x4, 256x256 is averaged to 4x4


def cnn(net_shape: tuple[int, ...], n_classes: int) -> nn.Sequential:
    """A plain convolutional classifier: 3x3 convolution, BatchNorm, 2x2 max-pooling, ReLU, then a dense head.

    Two to five stages of 32-64-64-128-128 channels: a side is halved as long as it has six pixels, so that 28x28 and
    32x32 digits get three stages. Sides that are still long after five stages are averaged down.

    Parameters
    ----------
    net_shape : (C, H, W)
        Any number of channels, sides from 2 pixels up.
    n_classes : int
        Number of outputs (logits).

    Examples
    --------
    >>> import torch
    >>> from cfexplain.nets.classifiers import cnn
    >>> cnn((1, 28, 28), 10)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """
    channels, *sides = net_shape
    layers: list[nn.Module] = []
    for stage, width in enumerate(_WIDTHS):
        halve = [side >= _SMALLEST_SIDE for side in sides]
        if stage >= 2 and not any(halve):
            break
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
        if any(halve):
            layers.append(nn.MaxPool2d((1 + halve[0], 1 + halve[1])))
        layers.append(nn.ReLU())  # the same behind a maximum, of a quarter of the numbers
        channels, sides = width, [side // 2 if half else side for side, half in zip(sides, halve, strict=True)]
    if max(sides) > _GRID:
        sides = [side if side <= _GRID else 4 for side in sides]
        layers.append(nn.AdaptiveAvgPool2d(tuple(sides)))
    head = [nn.Flatten(), nn.Linear(channels * math.prod(sides), 128), nn.ReLU(), nn.Linear(128, n_classes)]
    return nn.Sequential(*layers, *head)


def mlp(n_features: int, n_classes: int, width: int = 128, depth: int = 2) -> nn.Sequential:
    """A dense classifier of `depth` hidden layers with SiLU, whose gradient is continuous.

    Examples
    --------
    >>> import torch
    >>> from cfexplain.nets.classifiers import mlp
    >>> mlp(4, 3)(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(n_features, width), nn.SiLU()]
        n_features = width
    return nn.Sequential(*layers, nn.Linear(n_features, n_classes))


@stored_by_sizes(lambda net: {"net_shape": list(net.net_shape), "n_classes": net.body[-1].out_features})
class ClassifierNet(nn.Module):
    """Standardised columns (tables) or channels (images), then :func:`mlp` or :func:`cnn`; returns logits.

    The network can be rebuilt from its two arguments and its ``state_dict()``: the scale is part of the state.

    Parameters
    ----------
    net_shape : (C, H, W) or (d,)
        Shape of one sample.
    n_classes : int
        Number of outputs (logits).

    Examples
    --------
    >>> import numpy as np, torch
    >>> from cfexplain.nets.classifiers import ClassifierNet
    >>> table = np.array([[0.0, 100.0], [2.0, 300.0]])
    >>> net = ClassifierNet((2,), 3).set_scale(table)
    >>> net.standardise(torch.tensor(table, dtype=torch.float32)).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, net_shape: tuple[int, ...], n_classes: int):
        super().__init__()
        self.net_shape = tuple(net_shape)
        image = len(net_shape) == 3
        shape = (net_shape[0], 1, 1) if image else tuple(net_shape)
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(shape, dtype=torch.float64))
        self.body = cnn(net_shape, n_classes) if image else mlp(net_shape[0], n_classes)

    def set_scale(self, X: np.ndarray) -> ClassifierNet:
        """Take mean and spread from `X` of shape (n, C, H, W) or (n, d); a constant column keeps its unit."""
        axes = (0,) if X.ndim == 2 else (0, 2, 3)
        mean, spread = X.mean(axes, dtype=np.float64), X.std(axes, dtype=np.float64)
        # rounding leaves a constant column of large values a spread just above zero
        spread[spread <= 1e-12 * (1 + np.abs(mean))] = 1.0
        self.mean.copy_(torch.from_numpy(mean).reshape(self.mean.shape))
        self.scale.copy_(torch.from_numpy(spread).reshape(self.scale.shape))
        return self

    def standardise(self, x: Tensor) -> Tensor:
        """`x` in units of the training data's standard deviation, in `x`'s dtype."""
        return (x - self.mean.to(x.dtype)) / self.scale.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, n_classes) for `x` of shape (B, C, H, W) or (B, d)."""
        return self.body(self.standardise(x))
