"""The gradient of a batch, computed in parts side by side."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cfexplain.foundation.random import drawing_from
from cfexplain.foundation.settings import own_defaults, own_modes
from cfexplain.foundation.threads import one_thread
from cfexplain.nets.losses import Loss

__all__ = ["Parts"]

_PARTS = ((192, 4), (64, 2))  # of batches of so many rows: parts of fewer cost more, and BatchNorm needs some


class Parts:
    """Computes gradients of batches in parts whose number the batch decides, each with one torch thread.

    As many parts are computed at a time as torch has threads. What a part computes does not depend on that number, nor does
    the order in which gradients are added, so that the bits of what is trained are those of one thread. Each part normalises
    by its own rows (BatchNorm), and draws from a random stream of its own.

    Parameters
    ----------
    module : nn.Module
        On the CPU, with its final memory format.
    loss : callable ``(module, rows, progress) -> (B,)``
        Draws from `cfexplain.foundation.random.stream` alone.
    most : int
        The most rows of a batch.
    seed : int
    bfloat16 : bool
        Whether the networks round to bfloat16, under autocast; weights and gradients are float32.
    threads : int
    """

    def __init__(self, module: nn.Module, loss: Loss, most: int, seed: int, bfloat16: bool, threads: int):
        self.module, self.loss, self.bfloat16 = module, loss, bfloat16
        self.parameters = list(module.parameters())
        count = self.count(most)
        shared = {id(parameter): parameter for parameter in self.parameters}
        # BatchNorm writes into its buffers: each part has its own, of the same parameters
        self.copies = [copy.deepcopy(module, dict(shared)).train() for _ in range(count)]
        self.generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
        self.pool = ThreadPoolExecutor(min(count, threads)) if min(count, threads) > 1 else None

    @staticmethod
    def count(rows: int) -> int:
        """Parts of a batch.

        >>> [Parts.count(rows) for rows in (1, 63, 64, 128, 200)]
        [1, 1, 2, 2, 4]
        """
        return next((count for least, count in _PARTS if rows >= least), 1)

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def backward(self, rows: Mapping[str, Tensor], progress: float) -> Tensor:
        """The mean loss of `rows`; adds its gradient to that of the module's parameters."""
        n = len(next(iter(rows.values())))
        cuts = {name: values.tensor_split(self.count(n)) for name, values in rows.items()}
        jobs = [(i, {name: parts[i] for name, parts in cuts.items()}, n, progress) for i in range(self.count(n))]
        done = [self._part(*job) for job in jobs] if self.pool is None else [
            future.result() for future in [self.pool.submit(self._part, *job) for job in jobs]]
        (total, gradients), *others = done
        for loss, more in others:
            total = total + loss
            torch._foreach_add_(gradients, more)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self._share_statistics(len(jobs))
        return total

    def _part(self, i: int, rows: Mapping[str, Tensor], n: int, progress: float) -> tuple[Tensor, list[Tensor]]:
        with one_thread(), own_defaults(), own_modes(torch.device("cpu")), drawing_from(self.generators[i]):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16, cache_enabled=False):
                loss = self.loss(self.copies[i], rows, progress).sum() / n
            gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return loss.detach(), list(gradients)

    @torch.no_grad()
    def _share_statistics(self, used: int) -> None:
        """Running means and variances of BatchNorm: those of the parts in the mean."""
        for layers in zip(*(_norms(module) for module in (self.module, *self.copies)), strict=True):
            for name in ("running_mean", "running_var"):
                own, *parts = (getattr(layer, name) for layer in layers)
                if own is not None:
                    torch.mean(torch.stack(parts[:used]), 0, out=own)
                    for part in parts:
                        part.copy_(own)


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
