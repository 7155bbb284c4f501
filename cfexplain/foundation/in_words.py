"""Numbers as a person reads them: probabilities, and how many rows there are."""

from __future__ import annotations

import numpy as np

__all__ = ["count_rows", "probability"]


def count_rows(n: int) -> str:
    """``1 row``, ``2 rows``."""
    return f"{n} row" if n == 1 else f"{n} rows"


def probability(p: float) -> str:
    """Two digits; what would round to 0 or 1 is written as < 0.01 or > 0.99.

    So are 0 and 1 themselves: whether a network's probability is 1, or 1 less what its floats hold, says nothing.

    >>> probability(0.876), probability(0.9999), probability(1.0), probability(0.0), probability(float("nan"))
    ('0.88', '> 0.99', '> 0.99', '< 0.01', '–')
    """
    if not np.isfinite(p):
        return "–"
    return "> 0.99" if p >= 0.995 else "< 0.01" if p < 0.005 else f"{p:.2f}"
