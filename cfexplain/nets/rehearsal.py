"""How long a training will take: a few of its updates, timed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from cfexplain.foundation.progress import Rehearsal
from cfexplain.foundation.settings import own_modes
from cfexplain.nets.losses import Loss, Rows
from cfexplain.nets.training_parts import Parts

__all__ = ["rehearse"]

_UPDATES = 5  # of which the first two are left out: libraries choose and compile in them
# Share of the updates it may make that a training makes, over data of several kinds: it ends when its loss stops falling
_MADE = 0.85
_BESIDE = 1.15  # of validation, averages and what is kept


def rehearse(module: nn.Module, loss: Loss, rows: Rows, *, updates: int, batch_size: int, seed: int,
             device: str | torch.device, parts: Parts | None, running: Rehearsal) -> list[dict[str, Any]]:
    """Make a few updates of `module`, as `train_network` would, and add what all of them will take to `running`."""
    started = running.clock()
    n = len(next(iter(rows.values())))
    taken, size = [], min(batch_size, n)
    last = torch.zeros(())
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    for step in range(_UPDATES):
        chosen = torch.from_numpy(np.random.RandomState(seed + step).permutation(n)[:size])
        begun = running.clock()
        batch = {name: values[chosen].to(device) for name, values in rows.items()}
        optimizer.zero_grad()
        with own_modes(torch.device(device)):
            if parts is None:
                last = loss(module, batch, 0.0).mean()
                last.backward()
            else:
                last = parts.backward(batch, 0.0)
        optimizer.step()
        taken.append(running.clock() - begun)
    module.eval().requires_grad_(False)
    running.training += _BESIDE * _MADE * updates * float(np.median(taken[2:])) * batch_size / size
    running.spent += running.clock() - started
    return [{"epoch": 1, "train_loss": float(last.detach()), "valid_loss": float(last.detach())}]
