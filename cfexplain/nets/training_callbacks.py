"""What training does beside descending: clip, average, show its progress, save itself and go on."""

from __future__ import annotations

import io
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from cfexplain.foundation.files import atomic_write
from cfexplain.foundation.progress import new_bar
from cfexplain.foundation.threads import end_if_told

__all__ = ["Average", "Bar", "ClipGradients", "Resume", "Schedule"]


class ClipGradients(Callback):
    """Limit the norm of an update's gradient; leave out an update whose gradient is not finite."""

    def __init__(self, limit: float):
        self.limit = limit

    def on_grad_computed(self, net: NeuralNet, named_parameters: Any, **_: Any) -> None:
        parameters = [parameter for _, parameter in named_parameters if parameter.grad is not None]
        if not torch.isfinite(clip_grad_norm_(parameters, self.limit)):
            for parameter in parameters:
                parameter.grad = None


class Schedule(Callback):
    """The learning rate of each update, how far training is, and when it ends.

    Up in a few updates, held while the held-out loss falls, and then down in a line, for two thirds of the updates made so
    far, where training ends. Three fifths of `most` are held at most. Unlike a cycle of fixed length it can be cut short: a
    loss that only falls because the rate does falls until the end of a cycle, however long that is.

    Parameters
    ----------
    lr : float
    most : int
        Updates in all, if the loss does not stop falling before.
    monitor : str
        The loss, in skorch's history.
    patience : int
        Updates without a better loss after which it has stopped falling.
    """

    def __init__(self, lr: float, most: int, monitor: str, patience: int):
        self.lr, self.most, self.monitor, self.patience = lr, most, monitor, patience

    def on_train_begin(self, net: NeuralNet, **_: Any) -> None:
        self.state: dict[str, float] = {"done": 0, "total": self.most, "falls_from": -1, "best": math.inf, "best_at": 0}

    @property
    def ended(self) -> bool:
        return self.state["done"] >= self.state["total"]

    def share(self) -> float:
        """Of `lr`, for the next update."""
        done, total, falls_from = (self.state[name] for name in ("done", "total", "falls_from"))
        up = min(1.0, (done + 1) / max(1.0, min(200.0, self.most / 10)))
        return up if falls_from < 0 else min(up, max(0.02, (total - done) / max(1.0, total - falls_from)))

    def on_batch_begin(self, net: NeuralNet, training: bool = False, **_: Any) -> None:
        if training:
            end_if_told()
            if self.state["falls_from"] < 0 and self.state["done"] >= 0.6 * self.most:
                self._fall()
            for group in net.optimizer_.param_groups:
                group["lr"] = self.lr * self.share()

    def on_batch_end(self, net: NeuralNet, training: bool = False, **_: Any) -> None:
        if training:
            self.state["done"] += 1
            net.module_.progress = self.state["done"] / self.most

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        loss = float(net.history[-1, self.monitor])
        if loss < self.state["best"]:
            self.state |= {"best": loss, "best_at": self.state["done"]}
        if self.state["falls_from"] < 0 and self.state["done"] - self.state["best_at"] >= self.patience:
            self._fall()
        if self.ended:
            raise KeyboardInterrupt  # as skorch's own EarlyStopping does

    def _fall(self) -> None:
        done = self.state["done"]
        self.state |= {"falls_from": done, "total": min(self.most, math.ceil(done / 0.6))}


class Average(Callback):
    """A moving average of the weights: updated while training, in the module's place from validation to epoch's end."""

    def __init__(self, decay: float):
        self.decay = decay

    def on_train_begin(self, net: NeuralNet, **_: Any) -> None:
        self.slow = [p.detach().clone() for p in net.module_.parameters()]
        self.fast: list[Tensor] | None = None
        self.updates = 0

    def on_epoch_begin(self, net: NeuralNet, **_: Any) -> None:
        if self.fast is not None:
            self._place(net, self.fast)
            self.fast = None

    @torch.no_grad()
    def on_batch_end(self, net: NeuralNet, training: bool = False, **_: Any) -> None:
        if training:
            self.updates += 1
            # young averages forget faster, or they would remember the start
            decay = min(self.decay, self.updates / (self.updates + 50))
            torch._foreach_lerp_(self.slow, list(net.module_.parameters()), 1 - decay)

    def on_batch_begin(self, net: NeuralNet, training: bool = False, **_: Any) -> None:
        if not training:
            self._swap_in(net)

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        self._swap_in(net)

    def _swap_in(self, net: NeuralNet) -> None:
        if self.fast is None:
            self.fast = [p.detach().clone() for p in net.module_.parameters()]
            self._place(net, self.slow)

    @staticmethod
    @torch.no_grad()
    def _place(net: NeuralNet, values: list[Tensor]) -> None:
        for parameter, value in zip(net.module_.parameters(), values, strict=True):
            parameter.copy_(value)


class Bar(Callback):
    """A progress bar over updates, with the time left and the last epoch's losses; shown after `delay` seconds."""

    def __init__(self, name: str, total: int, delay: float = 0.0):
        self.name, self.total, self.delay = name, total, delay

    def on_train_begin(self, net: NeuralNet, **_: Any) -> None:
        self.bar = new_bar(total=self.total, desc=f"training {self.name}", unit="step", delay=self.delay)

    def on_batch_end(self, net: NeuralNet, training: bool = False, **_: Any) -> None:
        self.bar.update(int(training))

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        last = net.history[-1]
        self.bar.set_postfix({k: f"{last[k]:.4g}" for k in ("train_loss", "valid_loss") if k in last})

    def on_train_end(self, net: NeuralNet, **_: Any) -> None:
        self.bar.total = self.bar.n  # it may have ended early, since nothing got better any more
        self.bar.close()


class Resume(Callback):
    """Saves the whole state of training after each epoch, and takes it up again.

    The file is read with ``weights_only=True``: it can hold tensors and numbers, and cannot run code. `training` says which
    training it is (seed, sizes): a file of another one is refused.
    """

    def __init__(self, path: str | os.PathLike, training: dict[str, float]):
        self.path, self.training = Path(path), training

    def on_train_begin(self, net: NeuralNet, **_: Any) -> None:
        if not self.path.exists():
            return
        data = io.BytesIO(self.path.read_bytes())
        try:
            state = torch.load(data, weights_only=True)
            theirs = state["training"]
            if theirs != self.training:
                raise ValueError(f"it has {theirs}, this training {self.training} (random_state must be an int).")
            net.module_.load_state_dict(state["module"])
        except (RuntimeError, LookupError, EOFError, ValueError, TypeError, AttributeError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"The checkpoint {self.path} is not of this training: {reason} Remove it, or pass another "
                             "checkpoint=.") from error
        for row in state["history"]:
            net.history.new_epoch()
            for name, value in row.items():
                net.history.record(name, value)
        parts = dict(net.callbacks_)
        parts["schedule"].state = dict(state["schedule"])
        net.module_.progress = state["schedule"]["done"] / parts["schedule"].most
        net.optimizer_.load_state_dict(state["optimizer"])
        if "average" in parts:
            parts["average"].slow, parts["average"].fast = state["slow"], state["fast"]
            parts["average"].updates = state["schedule"]["done"]
        best: EarlyStopping = parts["best"]
        best.misses_, best.best_epoch_, best.dynamic_threshold_ = state["misses"], state["best_epoch"], state["threshold"]
        best.best_model_weights_ = state["best"]
        torch.set_rng_state(state["rng"])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"], net.device)

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        parts = dict(net.callbacks_)
        average, best = parts.get("average"), parts["best"]
        state = {
            "training": self.training, "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "schedule": dict(parts["schedule"].state),
            "history": [{k: v for k, v in row.items() if isinstance(v, (int, float, np.generic))}
                        for row in net.history],
            "rng": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(net.device) if str(net.device).startswith("cuda") else None,
            "slow": average and average.slow, "fast": average and average.fast,
            "misses": best.misses_, "best_epoch": best.best_epoch_, "threshold": best.dynamic_threshold_,
            "best": best.best_model_weights_,
        }
        data = io.BytesIO()
        torch.save(_plain(state), data)
        atomic_write(self.path, data.getvalue())

    def on_train_end(self, net: NeuralNet, **_: Any) -> None:
        self.path.unlink(missing_ok=True)


def _plain(state: Any) -> Any:
    """NumPy's numbers as Python's own, so that the file holds nothing but tensors, numbers and strings."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_plain(value) for value in state]
    return state.item() if isinstance(state, np.generic) else state
