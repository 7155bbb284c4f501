"""Images of ink on paper: how much of the ink is grey, and whether a set of images is of that kind."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["greyness", "is_near_binary"]

# Of the largest variance that pixels of an image's mean can have, the share that near-binary images lack at most:
# MNIST lacks 0.17, digits of 8×8 pixels 0.33, photographs and X-rays 0.7 to 0.9.
NEAR_BINARY = 0.4


def greyness(x: Tensor, data_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Σ u(1 − u) / Σ u of each image with u in [0, 1]: how much of the ink is neither there nor not there. Shape (B,).

    >>> import torch
    >>> greyness(torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.5]]]]))
    tensor([0.0000, 0.5000])
    """
    low, high = data_range
    u = ((x - low) / (high - low)).flatten(1)
    return (u * (1 - u)).sum(1) / (u.sum(1) + 1e-6)


def is_near_binary(X: np.ndarray, data_range: tuple[float, float] = (0.0, 1.0)) -> bool:
    """Whether most pixels of most images (n, C, H, W) are black or white: ink on paper, white on black or black on white.

    >>> strokes, photograph = np.eye(8)[None, None], np.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    >>> is_near_binary(strokes), is_near_binary(1 - strokes), is_near_binary(photograph)
    (True, True, False)
    """
    low, high = data_range
    u = torch.from_numpy(X).sub(low).div(high - low).flatten(1)
    mean = u.mean(1)
    possible = mean * (1 - mean)
    drawn = possible > 1e-6  # an image of one colour says nothing
    lacking = ((u * (1 - u)).mean(1) / possible)[drawn]
    return bool(len(lacking)) and float(lacking.median()) < NEAR_BINARY
