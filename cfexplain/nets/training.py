"""One way to train a network, used for every network of the package: skorch, with the best checkpoint kept."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping
from skorch.helper import predefined_split
from torch import Tensor, nn

from cfexplain.foundation.precision import faster_in_bfloat16
from cfexplain.foundation.progress import bar_delay, rehearsal, rows_in_all
from cfexplain.foundation.random import drawing_from, seeded_torch
from cfexplain.foundation.settings import own_defaults, own_modes
from cfexplain.foundation.threads import one_thread
from cfexplain.nets.losses import Loss, Rows
from cfexplain.nets.rehearsal import rehearse
from cfexplain.nets.training_callbacks import Average, Bar, ClipGradients, Resume, Schedule
from cfexplain.nets.training_parts import Parts

__all__ = ["batch_for", "held_out_rows", "train_network", "updates_for"]

_MANY = 60_000  # rows, as MNIST has, for which trainings say how many updates they make
_FEWEST = 150  # updates


def updates_for(rows: int, most: float, budget: float = 1.0) -> int:
    """Updates of a training that makes `most` on 60,000 rows: as the fourth root of the rows, times `budget`.

    With batches that grow as slowly (`batch_for`), the rows seen, and the time, grow as the square root of the rows. No
    number of rows is too small for 150 updates, if the budget allows so many.

    >>> [updates_for(rows, 900) for rows in (10, 1_500, 10_000, 60_000)]
    [150, 358, 575, 900]
    >>> updates_for(10, 900, budget=0.1)
    90
    """
    rows, full = rows_in_all(rows), most * budget
    return max(1, round(max(full * (rows / _MANY) ** 0.25, min(full, _FEWEST))))


def batch_for(rows: int, most: int) -> int:
    """Rows a batch, of a training that takes `most` of 60,000 rows and more; 32 at least.

    >>> [batch_for(rows, 200) for rows in (10, 1_500, 10_000, 60_000, 10**6)]
    [32, 80, 128, 200, 200]
    """
    return max(32, min(most, round(most * (rows_in_all(rows) / _MANY) ** 0.25)))


def train_network(
    module: nn.Module,
    loss: Loss,
    rows: Rows,
    *,
    updates: int,
    seed: int,
    lr: float = 3e-3,
    batch_size: int | None = None,
    min_epochs: int = 2,
    weight_decay: float = 0.0,
    validation_fraction: float = 0.1,
    patience: int | None = None,
    strata: np.ndarray | None = None,
    clip: float = 50.0,
    ema: float = 0.0,
    checkpoint: str | os.PathLike | None = None,
    best: bool = True,
    apart: bool = False,
    device: str | torch.device = "cpu",
    verbose: int | str = 0,
    name: str = "network",
) -> list[dict[str, Any]]:
    """Train `module` in place by Adam until its held-out loss stops falling; return skorch's history, one dict an epoch.

    Networks of images are trained with all of torch's threads, on whose number the last bits of their weights may depend
    unless they are trained `apart`.

    Parameters
    ----------
    module : nn.Module
        Left in evaluation mode, on `device`, with the weights of the epoch that had the least validation loss.
    loss : callable ``(module, rows, progress) -> (B,)``
        A loss a row. `progress` runs from 0 to 1 over training (for warm-ups) and is 1 in validation.
    rows : mapping of str to tensor
        What `loss` receives, cut to a batch; all of one length.
    updates : int
        Gradient steps to make at most, rounded up to whole epochs; see `updates_for`.
    batch_size : int, optional
        Default: 200 for 60,000 rows, see `batch_for`.
    lr : float
        The highest learning rate; see `Schedule`.
    patience : int, optional
        Updates without a better validation loss after which the learning rate falls, and training ends soon. Default: an
        eighth of all, and at least four epochs.
    strata : ndarray of shape (n,), optional
        Class codes: the validation split keeps their shares. Classes of one row stay in training.
    clip : float
        Longest gradient of an update; a gradient that is not finite is skipped.
    ema : float
        Decay of a moving average of the weights, which is what is validated and kept; 0 for none.
    best : bool
        False: those of the last epoch, after all `updates`; for a loss that need not fall, as one against a critic.
    apart : bool
        The module draws no random numbers, and `loss` draws from `cfexplain.foundation.random.stream` alone. Then other
        threads may train meanwhile, and on a CPU batches of images are computed in parts side by side (`Parts`), in bfloat16
        where that is faster; the bits of what is trained do not depend on the number of threads.
    checkpoint : path, optional
        Written after every epoch, read at the start if it is there, removed at the end: an interrupted training goes on
        and ends in the same bits.

    Raises
    ------
    FloatingPointError
        If training ends in a loss that is not finite.
    """
    n = len(next(iter(rows.values())))
    images, threads = any(values.ndim > 2 for values in rows.values()), torch.get_num_threads()
    with ExitStack() as stack:
        if apart or not images:  # rows of a table gain nothing from more threads, on which the last bits would depend
            stack.enter_context(one_thread())
        if apart:
            stack.enter_context(own_defaults())
            stack.enter_context(drawing_from(torch.Generator(device).manual_seed(seed)))
        else:
            stack.enter_context(seeded_torch(seed))
        # convolutions are about 1.4 times faster on a CPU with channels last
        module.to(device=device, memory_format=torch.channels_last).requires_grad_(True)  # type: ignore[call-overload]
        batch_size = batch_for(n, 200) if batch_size is None else batch_size
        in_parts = apart and images and torch.device(device).type == "cpu"
        parts = stack.enter_context(Parts(
            module, loss, min(batch_size, n), seed, faster_in_bfloat16("cpu"), threads)) if in_parts else None
        if (running := rehearsal()) is not None:
            return rehearse(module, loss, rows, updates=updates, batch_size=batch_size, seed=seed, device=device,
                            parts=parts, running=running)
        valid = held_out_rows(n, seed, validation_fraction, strata)
        train = np.setdiff1d(np.arange(n), valid)
        count = len(train)
        batch_size = max(1, min(batch_size, count))
        per_epoch = math.ceil(count / batch_size)
        epochs = max(min_epochs, math.ceil(updates / per_epoch))
        monitor = "valid_loss" if len(valid) else "train_loss"
        most = epochs * per_epoch
        schedule = Schedule(lr, most, monitor, (patience or max(4 * per_epoch, most // 8)) if best else most)
        callbacks: list[tuple[str, Callback]] = [("clip", ClipGradients(clip))]
        if ema:
            callbacks.append(("average", Average(ema)))
        if best:
            callbacks.append(("best", EarlyStopping(
                monitor=monitor, patience=epochs + 1, load_best=True, threshold=0.0, sink=_silent)))
        delay = bar_delay(verbose)
        if delay is not None:
            callbacks.append(("bar", Bar(name, most, delay)))
        callbacks.append(("schedule", schedule))
        if checkpoint is not None:
            callbacks.append(("resume", Resume(checkpoint, {
                "seed": seed, "rows": n, "batch_size": batch_size, "updates": most, "lr": lr, "ema": ema})))
        net = _RowLossNet(
            module=_RowLoss(module, loss), criterion=nn.Identity, optimizer=torch.optim.AdamW, lr=lr,
            optimizer__weight_decay=weight_decay, optimizer__fused=True, max_epochs=epochs, batch_size=batch_size,
            iterator_train__shuffle=True, iterator_train__collate_fn=_whole, iterator_valid__collate_fn=_whole,
            train_split=predefined_split(_RowData(rows, valid)) if len(valid) else None,
            callbacks=callbacks, verbose=0, device=str(device),
            **({f"iterator_{kind}__generator": torch.Generator().manual_seed(seed) for kind in ("train", "valid")}
               if apart else {}),
        )
        # Not net.fit: a schedule that ends raises KeyboardInterrupt, and net.fit takes a person's Ctrl-C for the same.
        data = _RowData(rows, train)
        net.initialize()
        net.parts_ = parts
        net.notify("on_train_begin", X=data, y=None)
        try:
            net.fit_loop(data, None, epochs=epochs - len(net.history))
        except KeyboardInterrupt:
            if not schedule.ended:
                raise
        net.notify("on_train_end", X=data, y=None)
    module.eval().requires_grad_(False)
    history = [{k: v for k, v in row.items() if k != "batches"} for row in net.history]
    if not any(math.isfinite(row[monitor]) for row in history):
        raise FloatingPointError(f"Training the {name} ended in a loss that is not finite. Check X for extreme values.")
    return history


def held_out_rows(n: int, seed: int, fraction: float = 0.1, strata: np.ndarray | None = None) -> np.ndarray:
    """Which of `n` rows `train_network` does not train on: the same share of every stratum, at least one row of it left."""
    rng = np.random.RandomState(seed)
    strata = np.zeros(n, dtype=int) if strata is None else np.asarray(strata)
    held = [np.zeros(0, dtype=int)]
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        held.append(members[: int(fraction * len(members))])
    return np.sort(np.concatenate(held))


class _RowData(torch.utils.data.Dataset):
    """The rows `chosen`, in memory or in a file, fetched a batch at a time: one index a tensor, no Python loop over rows."""

    def __init__(self, rows: Rows, chosen: np.ndarray):
        self.rows, self.chosen = rows, torch.from_numpy(chosen)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Any) -> tuple[dict[str, Tensor], Tensor]:
        chosen = self.chosen[index]
        return {k: v[chosen] for k, v in self.rows.items()}, torch.zeros(len(chosen) if isinstance(index, list) else 1)

    def __getitems__(self, index: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        return self[list(index)]


def _whole(batch: Any) -> Any:
    return batch


def _silent(*_: Any) -> None:
    """Early stopping says nothing: the epoch it chose is in the history."""


class _RowLoss(nn.Module):
    def __init__(self, module: nn.Module, loss: Loss):
        super().__init__()
        self.module, self.loss, self.progress = module, loss, 0.0

    def forward(self, **rows: Tensor) -> Tensor:
        with own_modes(next(iter(rows.values())).device):
            return self.loss(self.module, rows, self.progress if self.training else 1.0)


class _RowLossNet(NeuralNet):
    parts_: Parts | None = None

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        if self.parts_ is None:
            return super().train_step_single(batch, **fit_params)
        self._set_training(True)
        loss = self.parts_.backward(batch[0], self.module_.progress)
        return {"loss": loss, "y_pred": loss}

    def get_loss(self, y_pred: Tensor, y_true: Any, X: Any = None, training: bool = False) -> Tensor:
        return y_pred.mean()
