"""A cache of what is computed from a module's weights, outside the module, so that no copy of it holds the results."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

__all__ = ["cached_by_weights"]

# By module and key: the stamp and the tensors of the module when it was made, and what was made. The tensors are held, so
# that their addresses are not given to others; the module is not.
_made: WeakKeyDictionary[nn.Module, dict[Hashable, tuple[tuple, list[Tensor], Any]]] = WeakKeyDictionary()


def cached_by_weights(module: nn.Module, key: Hashable, make: Callable[[], Any],
                      is_valid: Callable[[Any], bool] | None = None) -> Any:
    """The last result of ``make()`` under `key`, if no tensor of `module` has changed since and it is valid; else a new one.

    The result must not hold `module`, or neither would ever be freed.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 1)
    >>> first = cached_by_weights(layer, "copy", lambda: layer.weight.detach().clone())
    >>> cached_by_weights(layer, "copy", lambda: None) is first
    True
    >>> _ = torch.nn.init.zeros_(layer.weight)
    >>> cached_by_weights(layer, "copy", lambda: layer.weight.detach().clone())
    tensor([[0., 0.]])
    """
    # what parameters() and buffers() list, in a third of the time
    known, tensors = _made.setdefault(module, {}), [
        tensor for part in module.modules() for own in (part._parameters, part._buffers) for tensor in own.values()
        if tensor is not None]
    stamp = tuple((t.data_ptr(), t.dtype, t.device, 0 if t.is_inference() else t._version) for t in tensors)
    before, _, made = known.get(key, (None, None, None))
    if before != stamp or (is_valid is not None and not is_valid(made)):
        made = make()
        known[key] = stamp, [t.detach() for t in tensors], made
    return made
