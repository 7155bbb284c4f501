"""How much time is left: asked between steps by whatever may take long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from cfexplain.foundation.parameters import Number, check_options

__all__ = ["Deadline", "in_time", "read_limits"]

# Of the time that is given, kept for judging what was found
_RESERVED = 0.08


class Deadline:
    """`seconds` from now; None never passes.

    >>> Deadline(None).passed, Deadline(1e-9).passed
    (False, True)
    """

    def __init__(self, seconds: float | None = None):
        self.seconds, self.started = seconds, time.monotonic()
        self._reserved = 0.0 if seconds is None else _RESERVED * seconds
        self.interrupted = False  # by Ctrl-C, which only one of several threads is told of

    def interrupt(self) -> None:
        """Let every search that asks come to its end, as if each had been told of Ctrl-C."""
        self.interrupted = True

    def reserve(self, seconds: float) -> None:
        """Keep so much for what comes after the work that is cut short."""
        self._reserved += seconds

    @property
    def limited(self) -> bool:
        return self.seconds is not None

    @property
    def left(self) -> float:
        """Seconds until work has to stop."""
        if self.seconds is None:
            return float("inf")
        return self.started + self.seconds - self._reserved - time.monotonic()

    def as_option(self) -> dict[str, float]:
        """``time_limit=`` of a call that gets what is left."""
        return {} if self.seconds is None else {"time_limit": max(self.left, 1e-3)}

    @property
    def passed(self) -> bool:
        return self.left <= 0


def in_time(rows: np.ndarray, most: int, deadline: Deadline, least: int = 1) -> Iterator[np.ndarray]:
    """At most so many of `rows` at a time; where time is limited `least` first, of which it is not known how long they take,
    and then as many as there is time for, by the time the last took.

    >>> [len(some) for some in in_time(np.arange(5), 2, Deadline())]
    [2, 2, 1]
    >>> [len(some) for some in in_time(np.arange(9), 9, Deadline(60), least=4)]
    [4, 5]
    """
    size, first = min(most, least) if deadline.limited else most, 0
    while first < len(rows) and not deadline.passed:
        started = time.monotonic()
        some = rows[first : first + size]
        yield some
        first += len(some)
        if deadline.limited:
            each = (time.monotonic() - started) / len(some)
            if least * each > deadline.left:
                return
            size = max(least, min(most, int(0.5 * deadline.left / max(each, 1e-9))))


def read_limits(k: Any, time_limit: Any) -> tuple[Deadline, int]:
    """The deadline of a call that begins now, and the number of answers of each row.

    Raises
    ------
    TypeError, ValueError
        `k` is no whole number from 1 to 1000, or `time_limit` no positive number of seconds.
    """
    check_options({"k": k, "time_limit": time_limit},
                  {"k": Number(1, 1000, whole=True), "time_limit": Number(0, between=True, none=True)})
    return Deadline(None if time_limit is None else float(time_limit)), int(k)
