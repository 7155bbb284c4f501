"""A U-Net that counts heads and says where they are: the regressor of *Diffeomorphic Counterfactuals* (section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from cfexplain.foundation.arrays import to_numpy
from cfexplain.foundation.random import draw_seed
from cfexplain.nets.training import Rows, train_network

__all__ = ["CountingUNet", "counting_loss", "head_locations", "head_map", "train_counter"]

_LEVELS = 3  # times that the sides are halved
_FLOOR = 0.1  # pixels below this share of the highest probability are background, not heads
_POINTS = 400  # points drawn per head that is looked for


class CountingUNet(nn.Module):
    """Images to the number of heads in them, through a map of the probability that a pixel shows a head.

    Two convolutions, three times an average pooling and two more, then the way back with the maps of the way down
    beside. The count is made from the probability map, the last and the central layer, much as in Ribera et al. (2019).
    Theirs ends in a ReLU, whose gradient is zero at a count of 0, so that a search could not leave an empty image: here
    SiLU, average pooling and a final softplus make the count differentiable everywhere.

    Parameters
    ----------
    width : int, default=12
        Channels at full resolution; 2, 4 and 4 times as many below.
    in_channels : int, default=3
        Channels of the images, with values in [0, 1]; sides are multiples of 8.

    References
    ----------
    Ronneberger et al.: U-Net, MICCAI 2015. Ribera et al.: Locating Objects Without Bounding Boxes, CVPR 2019. Dombrowski
    et al.: Diffeomorphic Counterfactuals with Generative Models, appendix B.

    Examples
    --------
    >>> import torch
    >>> net = CountingUNet(width=4).eval()
    >>> x = torch.rand(2, 3, 64, 64)
    >>> net(x).shape, net.density_map(x).shape
    (torch.Size([2, 1]), torch.Size([2, 1, 64, 64]))
    """

    def __init__(self, width: int = 12, in_channels: int = 3):
        super().__init__()
        self.width, self.in_channels = width, in_channels
        channels = [width, 2 * width, 4 * width, 4 * width]
        self.down = nn.ModuleList(_twice(a, b) for a, b in zip([in_channels, *channels], channels, strict=False))
        self.up = nn.ModuleList(
            _twice(below + beside, beside) for below, beside in zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.probability = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.probability.bias, -4.0)  # heads are rare
        self.count = nn.Sequential(nn.Linear(channels[-1] + width + 1, 4 * width), nn.SiLU(), nn.Linear(4 * width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Number of heads, (B, 1), positive, for `x` of shape (B, in_channels, H, W)."""
        return self.count_and_logits(x)[0]

    def density_map(self, x: Tensor) -> Tensor:
        """Probability that a pixel shows a head, (B, 1, H, W), in [0, 1]."""
        return self.count_and_logits(x)[1].sigmoid()

    def count_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The count (B, 1), and the map's logits (B, 1, H, W), of one pass."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.shape[2] % 2**_LEVELS or x.shape[3] % 2**_LEVELS:
            raise ValueError(
                f"Expected images of shape (B, {self.in_channels}, H, W) with sides that are multiples of {2**_LEVELS}, "
                f"got {tuple(x.shape)}. Pad or resize them.")
        h, beside = 4 * (x - 0.5), []
        for level, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if level else h)
            beside.append(h)
        centre = beside.pop()
        for block in self.up:
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0, mode="nearest"), beside.pop()], 1))
        logits = self.probability(h)
        # a sum over pixels, as the number of heads is one, brought to about 1
        mass = logits.sigmoid().mean((2, 3)) * 64
        return F.softplus(self.count(torch.cat([centre.mean((2, 3)), h.mean((2, 3)), mass], 1))), logits


def _twice(given: int, made: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (given, made):
        layers += [nn.Conv2d(channels, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.SiLU()]
    return nn.Sequential(*layers)


def head_map(
    heads: np.ndarray | Sequence[np.ndarray],
    offsets: np.ndarray | None,
    size: tuple[int, int],
    sigma: float = 1.5,
) -> np.ndarray:
    """Maps to train on: the probability that at least one head is at a pixel, 1 − Π (1 − exp(−r² / 2σ²)).

    Parameters
    ----------
    heads : ndarray of shape (k, 2), or sequence of n arrays of shape (k_i, 2)
        x and y in pixels, from the left and upper edge of the image: the centre of the first pixel is (0.5, 0.5).
    offsets : ndarray of shape (n + 1,), optional
        Heads of image i are ``heads[offsets[i]:offsets[i + 1]]``. None where `heads` is a sequence.
    size : (H, W)
    sigma : float, default=1.5
        Size of a head in pixels; one head by itself has a mass of 2πσ².

    Returns
    -------
    maps : ndarray of float32, shape (n, H, W), in [0, 1]

    Examples
    --------
    >>> import numpy as np
    >>> maps = head_map(np.array([[10.5, 20.5], [3.0, 4.0]]), np.array([0, 1, 1, 2]), (32, 32))
    >>> maps.shape, float(maps[0, 20, 10]), float(maps[1].sum())
    ((3, 32, 32), 1.0, 0.0)
    """
    if sigma <= 0:
        raise ValueError(f"sigma={sigma!r} must be positive.")
    if offsets is not None:
        if offsets[0] != 0 or offsets[-1] != len(heads):
            raise ValueError(f"offsets must run from 0 to the number of heads, {len(heads)}; they run from {offsets[0]} "
                             f"to {offsets[-1]}.")
        heads = np.split(np.asarray(heads), np.asarray(offsets)[1:-1])
    height, width = size
    maps = np.zeros((len(heads), height, width), dtype=np.float32)
    for out, points in zip(maps, heads, strict=True):
        x, y = (np.asarray(points, dtype=float).reshape(-1, 2).T)[:, :, None]
        columns, rows = (np.exp(-((np.arange(side) + 0.5 - at) ** 2) / (2 * sigma**2))
                         for side, at in ((width, x), (height, y)))
        out[:] = 1 - (1 - rows[:, :, None] * columns[:, None, :]).prod(0)
    return maps


def counting_loss(net: CountingUNet, x: Tensor, counts: Tensor, heads_map: Tensor, *, map_weight: float = 0.02) -> Tensor:
    """Squared error of the count, plus `map_weight` times the cross-entropy of the map summed over pixels: (B,).

    Ribera et al. train the map with a weighted Hausdorff distance; the cross-entropy with blurred heads needs no
    distances between all pixels and all heads, and the search drives the count alone.

    Parameters
    ----------
    net : CountingUNet
    x : tensor of shape (B, C, H, W)
    counts : tensor of shape (B,)
    heads_map : tensor of shape (B, H, W)
        See `head_map`.
    """
    count, logits = net.count_and_logits(x)
    where = F.binary_cross_entropy_with_logits(logits[:, 0], heads_map, reduction="none").flatten(1).sum(1)
    return (count[:, 0] - counts).square() + map_weight * where


def train_counter(
    net: CountingUNet,
    X: np.ndarray,
    maps: np.ndarray,
    counts: np.ndarray,
    updates: int,
    seed: int,
    *,
    lr: float = 3e-3,
    batch_size: int = 32,
    weight_decay: float = 1e-2,
    map_weight: float = 0.02,
    validation_fraction: float = 0.1,
    verbose: int = 0,
) -> list[dict[str, Any]]:
    """Train `net` in place on images and their mirror images; return a dict of losses an epoch.

    Parameters
    ----------
    X : ndarray of shape (n, C, H, W), in [0, 1]
    maps : ndarray of shape (n, H, W)
        See `head_map`.
    counts : ndarray of shape (n,)
    updates : int
        Gradient steps.
    seed : int
        Of the order of batches, of the validation rows, and of what is mirrored; the weights are the caller's.
    validation_fraction : float, default=0.1
        Rows that choose the epoch whose weights are kept.

    Raises
    ------
    ValueError
        If the three arrays do not belong together.
    FloatingPointError
        If training ends in a loss that is not finite.
    """
    if not len(X) == len(maps) == len(counts) or maps.shape[1:] != X.shape[2:]:
        raise ValueError(f"Expected X (n, C, H, W), maps (n, H, W) and counts (n,), got shapes {X.shape}, {maps.shape} and "
                         f"{np.shape(counts)}.")

    def loss(module: nn.Module, rows: Rows, progress: float) -> Tensor:
        x, heads = rows["x"], rows["maps"]
        if module.training:
            mirrored = torch.rand(len(x), 1, 1) < 0.5
            x, heads = torch.where(mirrored[..., None], x.flip(3), x), torch.where(mirrored, heads.flip(2), heads)
        return counting_loss(module, x, rows["counts"], heads, map_weight=map_weight)

    rows = {name: torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
            for name, values in (("x", X), ("maps", maps), ("counts", counts))}
    return train_network(net, loss, rows, updates=updates, seed=seed, lr=lr, batch_size=batch_size,
                         weight_decay=weight_decay, validation_fraction=validation_fraction, verbose=verbose,
                         name="counter")


def head_locations(density_map: np.ndarray | Tensor, count: float, random_state: Any = None) -> np.ndarray:
    """Where the heads are: the means of a Gaussian mixture fitted to the probability map (figure 10).

    Points are drawn from the map, from pixels that have at least a tenth of its highest probability; without the limit
    thousands of pixels of background outweigh a handful of heads.

    Parameters
    ----------
    density_map : ndarray or tensor of shape (H, W)
        Probabilities.
    count : float
        Number of heads, rounded to an integer; that many components are fitted.
    random_state : int, RandomState or None

    Returns
    -------
    locations : ndarray of shape (round(count), 2)
        x and y in pixels from the left and upper edge, as in `head_map`.

    Raises
    ------
    ValueError
        A map that is not two-dimensional, negative, not finite, or zero though there are heads to find.

    Examples
    --------
    >>> import numpy as np
    >>> heads = np.array([[8.0, 20.0], [25.0, 10.0]])
    >>> found = head_locations(head_map([heads], None, (32, 32))[0], 1.9, random_state=0)
    >>> bool(np.abs(found[found[:, 0].argsort()] - heads).max() < 0.5)
    True
    """
    weights = np.asarray(to_numpy(density_map), dtype=np.float64)
    if weights.ndim != 2 or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"density_map must be a finite map (H, W) of probabilities, got shape {weights.shape} with values "
                         f"from {weights.min():g} to {weights.max():g}. Pass one image's map: net.density_map(x)[0, 0].")
    number = max(0, round(float(count)))
    if number == 0:
        return np.zeros((0, 2))
    if not weights.max() > 0:
        raise ValueError(f"density_map is zero everywhere, but count={count!r} asks for {number} heads.")
    rng = np.random.RandomState(draw_seed(random_state))
    shares = np.where(weights >= _FLOOR * weights.max(), weights, 0.0).ravel()
    at = rng.choice(shares.size, size=_POINTS * number, p=shares / shares.sum())
    points = np.column_stack([at % weights.shape[1], at // weights.shape[1]]) + rng.uniform(size=(len(at), 2))
    # heads are round; the floor of the variance keeps a component from shrinking onto a pixel
    mixture = GaussianMixture(number, covariance_type="spherical", n_init=4, init_params="k-means++", reg_covar=0.25,
                              random_state=rng)
    return mixture.fit(points).means_
