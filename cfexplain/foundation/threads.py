"""One torch thread for all that decides the bits of a row, and one Python thread at a time for what is trained.

Convolutions and matrix products choose their order of summation by the number of torch threads, too. torch keeps that
number for each Python thread by itself, and beside it the one that new Python threads begin with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Lock, Thread, local
from typing import Any

import torch

__all__ = ["EndedEarly", "end_if_told", "one_thread", "side_by_side", "until"]

_lock = Lock()
_own = local()


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


def side_by_side(function: Callable[[Any], Any], items: Iterable[Any], threads: int, stop: Callable[[], None]) -> list[Any]:
    """``[function(item) for item in items]`` by so many Python threads, of which this one is the first; torch's operations
    run without Python's lock.

    Parameters
    ----------
    function : callable
        Computes with one torch thread of its own accord, and knows no thread-local settings of the caller.
    stop : callable
        Called when this thread is interrupted, or a call of `function` fails: the others should come to their end.

    Examples
    --------
    >>> side_by_side(abs, [-1, 2, -3], 2, stop=lambda: None)
    [1, 2, 3]
    """
    waiting, lock = list(enumerate(items)), Lock()
    done: dict[int, Any] = {}

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                place, item = waiting.pop(0)
            try:
                done[place] = function(item)
            except BaseException:
                stop()
                with lock:
                    waiting.clear()
                raise

    count = len(waiting)
    with ThreadPoolExecutor(max(1, threads - 1)) as pool:
        others = [pool.submit(work) for _ in range(min(threads, count) - 1)]
        work()
        while True:
            try:
                for other in others:
                    other.result()
                break
            except KeyboardInterrupt:  # while this thread waits for the others, which are not told of it
                stop()
    return [done[place] for place in range(count)]


class EndedEarly(Exception):
    """What runs in a thread was told to end; see `until`."""


@contextmanager
def until(ended: Event) -> Iterator[None]:
    """A block in which `end_if_told` raises `EndedEarly` in this thread once `ended` is set: Ctrl-C tells one thread only.

    >>> ended = Event()
    >>> with until(ended):
    ...     end_if_told()
    ...     ended.set()
    ...     end_if_told()
    Traceback (most recent call last):
        ...
    cfexplain.foundation.threads.EndedEarly
    """
    before = getattr(_own, "ended", None)
    _own.ended = ended
    try:
        yield
    finally:
        _own.ended = before


def end_if_told() -> None:
    """For what takes long: called now and then."""
    ended = getattr(_own, "ended", None)
    if ended is not None and ended.is_set():
        raise EndedEarly
