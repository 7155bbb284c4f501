"""One torch thread for all that decides the bits of a row, and one Python thread at a time for what is trained.

Convolutions and matrix products choose their order of summation by the number of torch threads, too. torch keeps that
number for each Python thread by itself, and beside it the one that new Python threads begin with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Thread

import torch

__all__ = ["one_thread"]

_lock = Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """In this Python thread, torch computes with one thread while the block runs; also a decorator.

    Other Python threads keep their number, also those that begin meanwhile. Blocks may nest.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    with _lock:
        torch.set_num_threads(1)
        # which also told threads that begin from now on to have one; what another thread sets does not reach this one
        other = Thread(target=torch.set_num_threads, args=(before,))
        other.start()
        other.join()
    try:
        yield
    finally:
        torch.set_num_threads(before)
