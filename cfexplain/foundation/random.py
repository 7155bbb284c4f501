"""Seeds that reproduce without touching the global random state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock, local

import numpy as np
import torch
from sklearn.utils import check_random_state

from cfexplain.foundation.settings import own_defaults

__all__ = ["draw_seed", "drawing_from", "global_generators", "seeded_torch", "stream"]

_lock = RLock()
_own = local()


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


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """A block in which `stream` gives this thread `generator`: what draws from it alone need not wait for other threads."""
    before = stream()
    _own.generator = generator
    try:
        yield
    finally:
        _own.generator = before


def stream() -> torch.Generator | None:
    """What the losses of the package draw from: this thread's own generator, or None, which is torch's global one.

    >>> with drawing_from(torch.Generator().manual_seed(0)):
    ...     first = torch.randn(2, generator=stream())
    >>> bool((first == torch.randn(2, generator=torch.Generator().manual_seed(0))).all())
    True
    """
    return getattr(_own, "generator", None)


def _forget_the_parents_threads() -> None:
    """A forked process has none of the threads that may have held the lock."""
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parents_threads)
