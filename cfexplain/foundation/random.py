"""Seeds that reproduce without touching the global random state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch
from sklearn.utils import check_random_state

from cfexplain.foundation.settings import own_defaults

__all__ = ["draw_seed", "global_generators", "seeded_torch"]

_lock = RLock()


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """A 31-bit seed from anything that scikit-learn takes as ``random_state``.

    An int gives the same seed every time; a ``RandomState`` advances; ``None`` draws fresh entropy, so that NumPy's
    global generator is left alone.
    """
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    return int(check_random_state(random_state).randint(2**31 - 1))


@contextmanager
def global_generators() -> Iterator[None]:
    """The process's random generators for this thread alone, among those that ask: the others wait.

    Layers and dropout draw from torch's one generator, so that two threads that trained at once would draw from each
    other's. A block may be entered again by the thread that is in it.
    """
    with _lock:
        yield


@contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """Run a block under ``torch.manual_seed(seed)`` and give the global generators back as they were.

    Threads take turns: what each of them computes is what it would alone, whatever the caller's default dtype and device.
    """
    with global_generators(), own_defaults(), torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _forget_the_parents_threads() -> None:
    """A forked process has none of the threads that may have held the lock."""
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parents_threads)
