"""A tile that is mostly padding: networks compute only its first rows, where that changes no bit.

What a row's bits depend on, beside its numbers: the kernels that convolve and multiply, chosen by shape; and whether
functions such as exp meet it inside a vectorised loop or in the remainder behind, which other code computes. The first is
tried on random points, the second is excluded by watching every operation: what is not exact must leave no remainder.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cfexplain.foundation.tiles import aligned, probes

__all__ = ["FewRows", "TileRows"]

# The longest step of a vectorised loop, in numbers
_VECTOR = 32
# Numbers come out the same by any code (IEEE 754), or by code that is tried: a sum in another order differs on random points
_TRIED = frozenset([
    # sums of products, tried
    "convolution", "convolution_backward", "mkldnn_convolution", "addmm", "mm", "bmm", "baddbmm", "addmv", "mv", "sum",
    "mean", "avg_pool2d", "avg_pool2d_backward", "_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward", "im2col", "col2im",
    # one rounding at most, by any code
    "add", "sub", "mul", "div", "sqrt", "neg", "abs", "sign", "relu", "threshold_backward", "leaky_relu",
    "leaky_relu_backward", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "amax", "amin", "where", "masked_fill",
    # numbers are moved, chosen or made
    "max_pool2d_with_indices", "max_pool2d_with_indices_backward", "upsample_nearest2d", "upsample_nearest2d_backward",
    "constant_pad_nd", "gather", "scatter", "index", "index_select", "index_put", "cat", "stack", "split", "slice_backward",
    "select_backward", "zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "empty", "empty_like",
    "empty_strided", "new_zeros", "new_empty", "new_empty_strided", "fill", "zero", "copy", "_to_copy", "clone", "detach",
    "alias", "view", "_unsafe_view", "_reshape_alias", "reshape", "expand", "permute", "transpose", "t", "squeeze",
    "unsqueeze", "slice", "select", "as_strided", "flip", "roll", "lift_fresh", "arange", "linspace", "unfold"])


class TileRows(dict):
    """What a search knows of the rows of a tile, by name; the rows from `live` on only fill it up."""

    def __init__(self, rows: Any, live: int):
        super().__init__(rows)
        self.live = live


class FewRows:
    """``function(x)`` on a tile of which only the first `live` rows are asked for.

    Examples
    --------
    >>> import torch
    >>> layer, x, few = torch.nn.Conv2d(1, 8, 3), torch.rand(32, 1, 8, 8), FewRows()
    >>> out = few("layer", layer, x, live=3)  # the other rows hold anything
    >>> out.shape, torch.equal(out[:3], layer(x)[:3])
    (torch.Size([32, 8, 6, 6]), True)
    """

    def __init__(self) -> None:
        self._sizes: dict[tuple, list[int]] = {}

    def __call__(self, name: Hashable, function: Callable[[Tensor], Any], x: Tensor, live: int) -> Any:
        """What `function` makes of `x` (B, ...), a tensor or a tuple; right in the first `live` rows.

        The same `name` must stand for the same computation.
        """
        key = (name, tuple(x.shape), x.dtype, x.requires_grad and torch.is_grad_enabled())
        if key not in self._sizes:
            self._sizes[key] = _sizes_with_equal_bits(function, x.detach(), key[-1])
        size = next((size for size in self._sizes[key] if size >= live), len(x))
        if size == len(x):
            return function(x)
        return tree_map(lambda out: None if out is None else _Refilled.apply(out, len(x)), function(x[:size]))


def _sizes_with_equal_bits(function: Callable, x: Tensor, gradient: bool) -> list[int]:
    answer, (some,) = _with_gradient(function, gradient), probes((x,), len(x))
    with aligned():
        whole, found = answer(some), []
        for size in (len(x) // 8, len(x) // 4, len(x) // 2, 3 * len(x) // 4):
            with _Remainders() as seen:
                part = answer(some[:size]) if size else None
            if part and not seen.names and all(torch.equal(a[:size], b) for a, b in zip(whole, part, strict=True)):
                found.append(size)
    return found


def _with_gradient(function: Callable, wanted: bool) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """All outputs of `function`, and the gradient that flows back to its argument from all of them."""

    def answer(x: Tensor) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(wanted):
            x = x.detach().requires_grad_(wanted)
            outputs = tuple(out for out in tree_leaves(function(x)) if isinstance(out, Tensor))
            if not wanted:
                return outputs
            smooth = [out for out in outputs if out.requires_grad]
            weights = [torch.linspace(0.5, 1.5, out[0].numel(), dtype=out.dtype).reshape(out.shape[1:]).expand_as(out)
                       for out in smooth]
            gradient = torch.autograd.grad(smooth, x, weights, allow_unused=True)[0] if smooth else None
        return (*(out.detach() for out in outputs), *([] if gradient is None else [gradient]))

    return answer


class _Remainders(TorchDispatchMode):
    """Names of operations, not known to be exact or tried, some of whose numbers lie behind the last whole vector."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = function(*args, **(kwargs or {})), function.overloadpacket.__name__.rstrip("_")
        scaled = name in ("add", "sub") and (kwargs or {}).get("alpha", 1) != 1  # a fused multiply and add rounds once
        if name not in _TRIED or scaled:
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel() % _VECTOR:
                    self.names.add(name)
        return out


class _Refilled(torch.autograd.Function):
    """Rows, and the last of them again up to `n`; no gradient comes from those."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, n: int) -> Tensor:
        ctx.live = len(rows)
        layout = torch.channels_last if rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last) \
            else torch.contiguous_format
        return torch.cat([rows, rows[-1:].expand(n - len(rows), *rows.shape[1:])]).contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[: ctx.live], None
