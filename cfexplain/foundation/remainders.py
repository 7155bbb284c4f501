"""Vectorised loops leave the last few numbers to other code, which rounds functions such as exp otherwise.

So where fewer rows than a tile are computed, no operation that computes numbers one by one may leave such a remainder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["VECTOR", "Remainders", "in_vectors"]

# The longest step of a vectorised loop, in numbers
VECTOR = 32
# Operations that need no watching; one that is missing here costs speed, never a bit. Sums of products, whose order shows on
# random points; numbers that any code rounds alike, or that are moved; and memory that is not yet written to.
_SAFE = frozenset(["addmm", "baddbmm", "bmm", "convolution", "convolution_backward", "mean", "mm", "sum",
                   "add", "div", "mul", "sub", "rsub", "neg", "abs", "square", "sqrt", "reciprocal", "relu",
                   "threshold_backward", "where", "clamp", "clamp_min", "clamp_max", "maximum", "minimum",
                   "scatter", "masked_fill", "copy", "clone", "detach", "sign", "nan_to_num",
                   "empty_like", "new_empty", "new_empty_strided", "new_full", "ones_like", "zeros_like"])


def in_vectors(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)``, which computes numbers one by one, without a remainder.

    >>> in_vectors(torch.exp, torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """
    more = -x.numel() % VECTOR
    return function(F.pad(x.reshape(-1), (0, more)))[: x.numel()].view(x.shape) if more else function(x)


class Remainders(TorchDispatchMode):
    """Watches a computation of `rows` rows for operations that leave a remainder of their numbers; `found` names the last.

    Numbers that went in are moved and not computed, and so are zeros that are put beside them. A tensor whose length is no
    multiple of the rows does not depend on how many there are.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.found = rows, ""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, name = tree_leaves((args, kwargs or {})), function.overloadpacket.__name__.rstrip("_")
        fused = (kwargs or {}).get("alpha", 1) != 1  # a multiplication and an addition that round once
        if name == "pow" and isinstance(args[1], int | float) and args[1] in (1, 2):
            name = "mul"
        tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
        if not tensors or (name in _SAFE and not fused):
            return function(*args, **(kwargs or {}))
        computes = torch.Tag.pointwise in function.tags  # also where a number comes out that went in: softplus of 30 is 30
        known = torch.zeros(1, dtype=torch.float64, device=tensors[0].device)
        if not computes:  # before they are written to
            known = torch.cat([known, *(tensor.detach().flatten().double() for tensor in tensors)])
        out = function(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and made.is_floating_point() and made.numel() % VECTOR \
                    and made.numel() % self.rows == 0 and (computes or not _among(made, known)):
                self.found = name
        return out


def _among(made: Tensor, known: Tensor) -> bool:
    """Whether each number of `made` is one of `known`, perhaps in another precision."""
    return bool(torch.isin(made.double(), torch.cat([known, known.to(made.dtype).double()])).all())
