"""The attribute-factorised base distribution of PluGeN: a class is a place on a few axes, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["AttributeBase"]


class AttributeBase(nn.Module):
    """Normal base whose first dimensions carry the class; the others are N(0, 1) whatever the class.

    Two classes share one attribute dimension, at N(-1, scale) for class 0 and N(+1, scale) for class 1. `n_classes` > 2
    have one attribute dimension each: +1 for the class itself, -1 for every other. One class has none.

    Parameters
    ----------
    features : int
        Dimensions of the base; at least one more than the attributes, so that something is left to keep.
    n_classes : int
    scale : float
        Standard deviation of every attribute dimension. The class means are 2 apart on each axis where they differ.

    Raises
    ------
    ValueError
        If `features` is too small.

    References
    ----------
    Wołczyk et al., "PluGeN: Multi-Label Conditional Generation From Pre-Trained Models", AAAI 2022. There the scale
    also depends on the attribute's frequency and decays during training; here it is one constant.

    Examples
    --------
    >>> import torch
    >>> base = AttributeBase(features=3, n_classes=2, scale=0.5)
    >>> base.mean
    tensor([[-1.,  0.,  0.],
            [ 1.,  0.,  0.]])
    >>> base.scale
    tensor([0.5000, 1.0000, 1.0000])
    >>> base(torch.tensor([1])).log_prob(torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([-2.0637])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, n_classes: int, scale: float):
        super().__init__()
        attributes = {1: 0, 2: 1}.get(n_classes, n_classes)
        if features < attributes + 1:
            raise ValueError(
                f"base='attributes' takes {attributes} dimension(s) for {n_classes} classes and needs at least one "
                f"more to keep: expected Z with {attributes + 1} features or more, got {features}. Use "
                "base='gaussian', or coordinates of more dimensions."
            )
        mean, deviation = torch.zeros(n_classes, features), torch.ones(features)
        if n_classes == 2:
            mean[:, 0] = torch.tensor([-1.0, 1.0])
        else:
            mean[:, :attributes] = 2 * torch.eye(n_classes)[:, :attributes] - 1
        deviation[:attributes] = scale
        self.register_buffer("mean", mean)
        self.register_buffer("scale", deviation)

    def forward(self, c: Tensor) -> Distribution:
        """The base of classes `c`, long (B,): a batch of B distributions over `features` dimensions."""
        from zuko.distributions import DiagNormal  # loaded where a flow is

        return DiagNormal(self.mean[c], self.scale.expand(len(c), -1))
