"""A critic that says of every patch of a picture how real it looks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["PatchCritic"]


class PatchCritic(nn.Module):
    """Pictures (B, C, H, W) -> an opinion of each patch, (B, 1, h, w), high where it looks real, and the features behind it.

    Every layer's largest singular value is 1 (Miyato et al.: Spectral Normalization, ICLR 2018).

    Parameters
    ----------
    channels : int
    width : int
        Channels of the first layer; the others have twice as many.
    strides : tuple of int
        Of each layer: 1, or 2, which halves the sides.

    Examples
    --------
    >>> import torch
    >>> opinion, features = PatchCritic(3, width=8, strides=(1, 2))(torch.rand(2, 3, 16, 16))
    >>> opinion.shape, [one.shape[1] for one in features]
    (torch.Size([2, 1, 8, 8]), [8, 16])
    """

    def __init__(self, channels: int, width: int, strides: tuple[int, ...]):
        super().__init__()
        widths = [channels, width, *(2 * width for _ in strides[1:])]
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 2 + stride, stride, 1))
            for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True))
        self.verdict = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, x: Tensor, learns: bool = True) -> tuple[Tensor, list[Tensor]]:
        """`learns`: whether gradients reach the critic's own weights; if not, they only go through to `x`."""
        features = []
        for layer in self.layers:
            x = F.leaky_relu(_convolved(x, layer, learns), 0.2)
            features.append(x)
        return _convolved(x, self.verdict, learns), features


def _convolved(x: Tensor, layer: nn.Module, learns: bool) -> Tensor:
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    weight, bias = (layer.weight, layer.bias) if learns else (layer.weight.detach(), layer.bias.detach())
    return F.conv2d(x, weight, bias, layer.stride, layer.padding)
