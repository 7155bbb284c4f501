"""Tables as .csv, written whole or not at all, and without pandas, which a plain install lacks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cfexplain.foundation.files import atomic_write
from cfexplain.result import Counterfactuals

__all__ = ["write_results", "write_table"]

_COLUMNS = ("source", "target", "prediction", "valid", "status", "proba_before", "proba_after", "density_percentile",
            "distance", "distance_x", "reconstruction_error", "n_steps")


def write_results(path: Path, cf: Counterfactuals, **first: Sequence[Any]) -> None:
    """A line a row, begun by the one column that is passed by its name."""
    write_table(path, [*first, *_COLUMNS],
                zip(*first.values(), *(getattr(cf, column) for column in _COLUMNS), strict=True))


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write `rows` under `head`, atomically."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())
