"""A coupling flow as a few contiguous tensors: masks resolved, classes folded into biases, halves side by side."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

__all__ = ["WIDTH", "NotPackable", "PackedFlow"]

# Rows of matrices whose widths are multiples of this start at aligned addresses: see cfexplain.foundation.tiles.
WIDTH = 8


class NotPackable(ValueError):
    """The flow is not a chain of affine couplings by ReLU networks; the message names the part that is not."""


@dataclass(frozen=True)
class PackedFlow:
    """L affine couplings of d numbers and K classes, ready for matrix products.

    A row of d numbers is held in 2P places, P a multiple of eight: first the half that a coupling reads, then the half
    that it moves. Places beyond the d numbers hold zero and meet zero weights. Between couplings the halves change
    sides; where the masks do not simply alternate, `routes` says which place goes where.

    Coupling l of x = (x_a, x_b) with class c, widths (P, H₁, …, 2P) and ReLU between::

        s, t = network_l(x_a, c);  r = t / (1 + |t| / bound);  y_b = x_b exp(r) + s;  log|det| = Σ r

    Attributes
    ----------
    weights : tuple of Tensor of shape (L, in, out)
        Of the networks' layers; the last gives t, then s.
    biases : tuple of Tensor
        The first has shape (L, K, out), a row a class (K = 1 if all share it); the others (L, out).
    columns : Tensor of int, shape (2P,)
        The column of z in each place before the first coupling; 0 in places that hold zero.
    places : Tensor of int, shape (d,)
        The place of each column of z before the first coupling.
    loc, scale, inverse_scale : Tensor of shape (2P,)
        A place holds (z - loc) * inverse_scale; both scales are 0 in places that hold zero.
    final_places : Tensor of int, shape (d,)
        The place of each base coordinate after the last coupling and change of sides.
    base_loc : Tensor of shape (K or 1, 2P)
    base_inverse_scale : Tensor of shape (2P,)
        The base is N(base_loc[c], base_inverse_scale⁻²) in each place after the last coupling.
    routes : Tensor of int, shape (L, 2P), or None
        After coupling l and the change of sides, place j takes what is in place ``routes[l, j]``; None: nothing moves.
    log_constant : float
        What log p does not owe to the row: −d/2 log 2π − Σ log scale − Σ log base scale.
    bound : float
        Largest |log scale| of a coupling: −log(slope) in zuko.
    standard_base : bool
        The base is N(0, 1) in every place.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    columns: Tensor
    places: Tensor
    loc: Tensor
    scale: Tensor
    inverse_scale: Tensor
    final_places: Tensor
    base_loc: Tensor
    base_inverse_scale: Tensor
    routes: Tensor | None
    log_constant: float
    bound: float
    standard_base: bool

    @property
    def layers(self) -> int:
        return len(self.weights[0])

    @property
    def classes(self) -> int:
        """K, or 1 if the flow is the same for every class."""
        return max(self.biases[0].shape[1], len(self.base_loc))

    @property
    def features(self) -> int:
        return len(self.places)

    @cached_property
    def by_layer(self) -> tuple[list[tuple[Tensor, ...]], ...]:
        """Weights, biases and transposed weights, each a list of L tuples: views, made once."""
        transposed = tuple(w.mT for w in self.weights)
        return tuple(list(zip(*(part.unbind(0) for part in parts), strict=True))
                     for parts in (self.weights, self.biases, transposed))

    @property
    def half(self) -> int:
        """P."""
        return len(self.columns) // 2

    @property
    def dtype(self) -> torch.dtype:
        return self.loc.dtype

    @property
    def device(self) -> torch.device:
        return self.loc.device

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> PackedFlow:
        """The same flow on another device or in another floating-point type.

        >>> import torch, zuko
        >>> from cfexplain.ops.coupling_flow.packing import pack_couplings
        >>> flow = pack_couplings(zuko.flows.NICE(3), torch.zeros(3), torch.ones(3))
        >>> flow.to(dtype=torch.float64).weights[0].dtype
        torch.float64
        """
        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(moved(v) for v in value)
            if not isinstance(value, Tensor):
                return value
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        return replace(self, **{f.name: moved(getattr(self, f.name)) for f in fields(self)})
