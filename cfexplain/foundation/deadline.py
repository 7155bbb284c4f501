"""How much time is left: asked between steps by whatever may take long."""

from __future__ import annotations

import time
from typing import Any

from cfexplain.foundation.parameters import Number, check_options

__all__ = ["Deadline", "read_limits"]

# Of the time that is given, kept for judging what was found
_RESERVED = 0.05


class Deadline:
    """`seconds` from now; None never passes.

    >>> Deadline(None).passed, Deadline(1e-9).passed
    (False, True)
    """

    def __init__(self, seconds: float | None = None):
        self.seconds, self.started = seconds, time.monotonic()
        self._reserved = 0.0 if seconds is None else _RESERVED * seconds

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
