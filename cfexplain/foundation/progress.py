"""Whether a progress bar is shown, and when."""

from __future__ import annotations

import sys

__all__ = ["bar_delay"]

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
