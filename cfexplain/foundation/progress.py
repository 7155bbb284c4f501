"""Whether a progress bar is shown, and when; and how long something will take, before it begins."""

from __future__ import annotations

import importlib
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

__all__ = ["NoRehearsalError", "Rehearsal", "bar_delay", "minutes", "new_bar", "no_rehearsal", "rehearsal", "rehearsing",
           "rows_in_all"]

_LONG = 2.0  # seconds


def bar_delay(verbose: int | str) -> float | None:
    """Seconds after which the bar of something that is still going on is shown; None: never.

    ``verbose="auto"`` shows what takes longer than 2 seconds to a person, in a terminal or a notebook, and is silent where
    the output goes into a file or a pipe; 0 is silent, and 1 shows everything.

    >>> bar_delay(0), bar_delay(1)
    (None, 0.0)
    """
    if verbose != "auto":
        return 0.0 if verbose else None
    notebook = "ipykernel" in sys.modules
    return _LONG if notebook or (sys.stderr is not None and sys.stderr.isatty()) else None


def new_bar(*rows: Any, **options: Any) -> Any:
    """A bar of tqdm; in a notebook one line beneath the cell, also where it is exported."""
    if "ipykernel" not in sys.modules:
        return tqdm(*rows, **options)
    return tqdm(*rows, **{**options, "file": _CellLine(), "position": 0, "ncols": 120})


class _CellLine:
    """A file whose last line stands beneath the cell: widgets need a package more, and text would come line by line."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.shown = ""

    def write(self, text: str) -> None:
        display = importlib.import_module("IPython.display").display
        line = text.strip("\r\n")
        if line or text.startswith("\r"):
            shown, self.shown = self.shown, self.shown or uuid.uuid4().hex
            display({"text/plain": line.rstrip()}, raw=True, display_id=self.shown, update=bool(shown))

    def flush(self) -> None:
        pass


def minutes(seconds: float) -> str:
    """A duration as a person says it, to two digits at most.

    >>> [minutes(seconds) for seconds in (3.2, 47, 110, 1300, 9000)]
    ['3 seconds', '45 seconds', '2 minutes', '22 minutes', '2.5 hours']
    """
    if seconds < 10:
        return f"{max(1, round(seconds))} second{'' if round(seconds) <= 1 else 's'}"
    if seconds < 90:
        return f"{5 * round(seconds / 5)} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.2g} hours"


@dataclass
class Rehearsal:
    """A fit of few rows in which each network makes a few updates only, so that a whole one can be foretold.

    Attributes
    ----------
    scale : float
        Rows of the whole over rows of the rehearsal.
    training : float
        Seconds that the trainings would take for all rows.
    spent : float
        Seconds of the rehearsal that were spent on updates, which are in `training` already.
    clock : callable
        Seconds since whenever.
    """

    scale: float
    clock: Callable[[], float] = time.perf_counter
    training: float = 0.0
    spent: float = 0.0


_RUNNING: ContextVar[Rehearsal | None] = ContextVar("rehearsal", default=None)


def rehearsal() -> Rehearsal | None:
    """The rehearsal that is going on in this thread, if any."""
    return _RUNNING.get()


class NoRehearsalError(RuntimeError):
    """Something of this fit takes as long in a rehearsal."""


def no_rehearsal(what: str) -> None:
    """End a rehearsal, if one is going on: `what` takes as long in it."""
    if rehearsal() is not None:
        raise NoRehearsalError(what)


def rows_in_all(rows: int) -> int:
    """`rows`, or, in a rehearsal, those of the whole fit: they decide on updates and batches."""
    running = rehearsal()
    return rows if running is None else round(rows * running.scale)


@contextmanager
def rehearsing(running: Rehearsal) -> Iterator[Rehearsal]:
    """Trainings inside are rehearsed."""
    token = _RUNNING.set(running)
    try:
        yield running
    finally:
        _RUNNING.reset(token)
