"""What was made of a module's weights, kept as long as the weights stay: outside the module, so that no copy holds it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

__all__ = ["kept"]

# By module and key: the stamp and the tensors of the module when it was made, and what was made. The tensors are held, so
# that their addresses are not given to others; the module is not.
_made: WeakKeyDictionary[nn.Module, dict[Hashable, tuple[tuple, list[Tensor], Any]]] = WeakKeyDictionary()


def kept(module: nn.Module, key: Hashable, make: Callable[[], Any], still_good: Callable[[Any], bool] | None = None) -> Any:
    """What ``make()`` gave the last time, if the module's tensors are unchanged and it is still good; else ``make()``.

    What is made must not hold `module`, or neither would ever go.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 1)
    >>> first = kept(layer, "copy", lambda: layer.weight.detach().clone())
    >>> kept(layer, "copy", lambda: None) is first
    True
    >>> _ = torch.nn.init.zeros_(layer.weight)
    >>> kept(layer, "copy", lambda: layer.weight.detach().clone())
    tensor([[0., 0.]])
    """
    known, tensors = _made.setdefault(module, {}), [*module.parameters(), *module.buffers()]
    stamp = tuple((t.data_ptr(), t.dtype, t.device, 0 if t.is_inference() else t._version) for t in tensors)
    before, _, made = known.get(key, (None, None, None))
    if before != stamp or (still_good is not None and not still_good(made)):
        made = make()
        known[key] = stamp, [t.detach() for t in tensors], made
    return made
