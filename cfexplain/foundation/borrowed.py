"""Borrow a user's network: evaluation mode and no parameter gradients inside a block, everything as before after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from torch import nn

__all__ = ["frozen"]


@dataclass
class _Loan:
    """What the flag of a submodule or a parameter was before the first of `users` blocks was entered."""

    part: nn.Module | nn.Parameter
    flag: str
    before: bool
    users: int = 0


# By the id of each submodule and parameter. Two threads may search with networks that share some of their layers: the first
# to leave must not switch dropout on for the other, so that of each part the last one restores.
_loans: dict[int, _Loan] = {}
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
    parameter are what they were. Blocks may nest, and threads may share modules or parts of them: of each part the
    outermost block restores. The flags are set directly, not through ``module.train()``, which some modules override
    with side effects (LoRA layers merge their weights there).

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
    borrowed: list[_Loan] = []
    made_for_inference(module)
    try:
        with _lock:
            for flag, parts in (("training", module.modules()), ("requires_grad", module.parameters())):
                for part in parts:
                    loan = _loans.setdefault(id(part), _Loan(part, flag, getattr(part, flag)))
                    loan.users += 1
                    borrowed.append(loan)
                    setattr(part, flag, False)
        yield module
    finally:
        with _lock:
            for loan in borrowed:
                loan.users -= 1
                if not loan.users:
                    del _loans[id(loan.part)]
                    setattr(loan.part, loan.flag, loan.before)
