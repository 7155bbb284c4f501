"""The torch side of a class-conditional flow: a zuko flow on standardised codes, a class index a row."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from cfexplain.density.attributes import AttributeBase
from cfexplain.foundation.settings import own_defaults

__all__ = ["ClassFlow", "check_sizes", "start_at_identity"]


class ClassFlow(nn.Module):
    """The torch side of :class:`ConditionalFlow`: a zuko flow on standardised codes, a class index a row.

    Everything is differentiable in the codes, row by row, in the module's dtype and device. Class indices are long
    tensors of shape (B,), codes are (B, d), log densities (B,) in nats and in the units of the codes.

    Parameters
    ----------
    flow : zuko.flows.Flow
        Takes the one-hot class as context; no context if `attributes` is given or there is only one class.
    features, n_classes : int
    attributes : AttributeBase, optional
        Replaces the flow's own base.

    Attributes
    ----------
    loc, scale : tensor of shape (d,), buffers
        The flow sees (z - loc) / scale.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, flow: Any, features: int, n_classes: int, attributes: AttributeBase | None = None):
        super().__init__()
        self.flow, self.attributes, self.n_classes = flow, attributes, n_classes
        self.register_buffer("loc", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    @property
    def has_context(self) -> bool:
        return self.attributes is None and self.n_classes > 1

    def transform(self, shares: Tensor) -> Transform:
        """The map from standardised codes to base codes; `shares` (B, K) are one-hot, or a mixture of classes."""
        return self.flow.transform(shares if self.has_context else None)

    def base(self, c: Tensor) -> Distribution:
        if self.attributes is not None:
            return self.attributes(c)
        return self.flow.base(self.shares(c) if self.has_context else None).expand(c.shape)

    def shares(self, c: Tensor) -> Tensor:
        return F.one_hot(c, self.n_classes).to(self.loc.dtype)

    def log_prob(self, z: Tensor, c: Tensor) -> Tensor:
        """log p(z | c) in nats, (B,). NaN or infinite for codes so wild that the flow overflows."""
        from zuko.distributions import NormalizingFlow  # loaded where a flow is

        density = NormalizingFlow(self.transform(self.shares(c)), self.base(c))
        return density.log_prob((z - self.loc) / self.scale) - self.scale.log().sum()

    def to_base(self, z: Tensor, c: Tensor) -> Tensor:
        """The base code u = f(z | c)."""
        return self.transform(self.shares(c))((z - self.loc) / self.scale)

    def from_base(self, u: Tensor, c: Tensor) -> Tensor:
        """The code z = f⁻¹(u | c)."""
        return self.transform(self.shares(c)).inv(u) * self.scale + self.loc

    def swap(self, z: Tensor, c: Tensor, t: Tensor, fraction: float | Tensor = 1.0) -> Tensor:
        """z with its class changed from `c` to `t`, base code kept; rows with ``c == t`` come back as they are.

        `fraction`, a number or (B,), moves only part of the way (or, above 1, beyond): the context is
        ``(1 - fraction) c + fraction t``; with an attribute base, that fraction of the way between the class means.
        """
        part = torch.as_tensor(fraction, dtype=z.dtype, device=z.device).reshape(-1, 1)
        u, shares = self.to_base(z, c), torch.lerp(self.shares(c), self.shares(t), part)
        if self.attributes is not None:
            u = u + part * (self.attributes.mean[t] - self.attributes.mean[c])
        moved = self.transform(shares).inv(u) * self.scale + self.loc
        return torch.where((c == t)[:, None], z, moved)


@own_defaults()
def check_sizes(module: ClassFlow, features: int, context: int) -> None:
    """A trial run on two rows: sizes of a user's flow are nowhere written down."""
    from zuko.distributions import NormalizingFlow

    c = torch.zeros(2, dtype=torch.long)
    try:
        density = NormalizingFlow(module.transform(module.shares(c)), module.base(c))
        fits = tuple(density.event_shape) == (features,) and density.log_prob(torch.zeros(2, features)).shape == (2,)
        problem = f"its event shape is {tuple(density.event_shape)}"
    except (RuntimeError, AttributeError, IndexError, AssertionError, TypeError, ValueError) as error:
        fits, problem = False, str(error)
    if not fits:
        raise ValueError(
            f"The flow does not fit the codes: expected {features} features and a context of {context} (one-hot "
            f"classes; 0 for one class or base='attributes'), but {problem}. Build it as "
            f"Flow({features}, {context}, ...), or pass a callable (features, context) -> Flow."
        )


def start_at_identity(flow: Any) -> None:
    """Zero what the networks put out: on few rows a random first map costs nats that training never wins back."""
    for layer in flow.transform.transforms:
        last = [layer.hyper[-1].weight, layer.hyper[-1].bias] if hasattr(layer, "hyper") else list(layer.phi)
        for parameter in last:
            nn.init.zeros_(parameter)
