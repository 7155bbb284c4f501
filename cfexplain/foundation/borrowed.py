"""Borrow a user's network: evaluation mode and no parameter gradients inside a block, everything as before after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["frozen"]


@dataclass
class _Loan:
    """What a module looked like before the first of `users` blocks was entered."""

    modes: list[tuple[nn.Module, bool]]
    flags: list[tuple[nn.Parameter, bool]]
    users: int = field(default=0)


# Two threads may search with one classifier: the first to leave must not switch dropout on for the other, so the last
# one restores. Keyed by the module, because several explainers can hold the same one.
_loans: WeakKeyDictionary[nn.Module, _Loan] = WeakKeyDictionary()
_lock = Lock()


def made_for_inference(module: nn.Module) -> None:
    """Raise ValueError for weights that torch can never differentiate through."""
    name = next((name for name, tensor in module.named_parameters() if tensor.is_inference()), None)
    if name is not None:
        raise ValueError(
            f"The weight {name!r} of {type(module).__name__} was made under torch.inference_mode(), and torch cannot "
            "differentiate through it. Make or load the network outside of that block, or pass copy.deepcopy(network), "
            "copied outside of it.")


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode and ``requires_grad=False`` for the whole of `module` while the block runs.

    On exit, also by an exception, the training flag of every submodule and the ``requires_grad`` flag of every
    parameter are what they were. Blocks may nest, and threads may share a module: the outermost one restores. The
    flags are set directly, not through ``module.train()``, which some modules override with side effects (LoRA layers
    merge their weights there).

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    >>> with frozen(net):
    ...     net.training, net[1].training, net[0].weight.requires_grad
    (False, False, False)
    >>> net.training, net[1].training, net[0].weight.requires_grad
    (True, True, True)
    """
    with _lock:
        loan = _loans.get(module)
        if loan is None:
            made_for_inference(module)
            loan = _loans[module] = _Loan(
                [(part, part.training) for part in module.modules()],
                [(parameter, parameter.requires_grad) for parameter in module.parameters()],
            )
        loan.users += 1
        for part, _ in loan.modes:
            part.training = False
        for parameter, _ in loan.flags:
            parameter.requires_grad_(False)
    try:
        yield module
    finally:
        with _lock:
            loan.users -= 1
            if not loan.users:
                del _loans[module]
                for part, mode in loan.modes:
                    part.training = mode
                for parameter, flag in loan.flags:
                    parameter.requires_grad_(flag)
