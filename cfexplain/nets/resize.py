"""A differentiable resize, to put before a classifier that reads smaller images than a generator draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Resize", "levels_that_divide"]


class Resize(nn.Module):
    """Images (B, C, H, W) -> (B, C, size, size), bilinear with antialiasing, differentiable; channels are kept.

    Parameters
    ----------
    size : int or (height, width)

    Examples
    --------
    A classifier of 64x64 images that looks at a generator's 512x512:

    >>> import torch
    >>> classifier = nn.Sequential(Resize(64), nn.Flatten(), nn.Linear(3 * 64 * 64, 2))
    >>> classifier(torch.rand(1, 3, 512, 512)).shape
    torch.Size([1, 2])
    >>> Resize((10, 20))(torch.rand(1, 3, 7, 7)).shape
    torch.Size([1, 3, 10, 20])
    """

    def __init__(self, size: int | tuple[int, int]):
        super().__init__()
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or any(int(side) != side or side < 1 for side in sides):
            raise ValueError(f"size={size!r} must be a positive integer or a pair (height, width) of them.")
        self.size = (int(sides[0]), int(sides[1]))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"Resize expects images (B, C, H, W), got shape {tuple(x.shape)}.")
        if tuple(x.shape[2:]) == self.size:
            return x
        return F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)

    def extra_repr(self) -> str:
        return f"size={self.size}"


def levels_that_divide(sides: Sequence[int], limit: int = 6) -> int:
    """How often both `sides` can be halved, at most `limit` times.

    >>> levels_that_divide((28, 28)), levels_that_divide((64, 48)), levels_that_divide((27, 28))
    (2, 4, 0)
    """
    return next((k for k in range(limit, 0, -1) if not any(side % 2**k for side in sides)), 0)
