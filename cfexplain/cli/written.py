"""What the commands write: tables of results as .csv, which need no pandas, and nothing over a file of somebody else's."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cfexplain.foundation.files import atomic_write
from cfexplain.result import Counterfactuals

__all__ = ["CHANGES", "refuse_foreign", "results_head", "write_results", "write_table"]

CHANGES = ("name", "column", "before", "after")
_COLUMNS = ("source", "target", "prediction", "valid", "status", "proba_before", "proba_after", "density_percentile",
            "distance", "distance_x", "reconstruction_error", "n_steps")


def results_head(*first: str) -> list[str]:
    """The header of `write_results`."""
    return [*first, *_COLUMNS]


def write_results(path: Path, cf: Counterfactuals, **first: Iterable[Any]) -> None:
    """One line for each row; the column passed by its name comes first."""
    write_table(path, results_head(*first),
                zip(*first.values(), *(getattr(cf, column) for column in _COLUMNS), strict=True))


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write `rows` under `head`, atomically."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())


def refuse_foreign(files: Mapping[Path, str | bytes | None]) -> None:
    """Raise FileExistsError if one of `files` exists and is not one that an earlier call has written.

    Parameters
    ----------
    files : dict of Path to str, bytes or None
        What every file of ours begins with; None: no file may be there.
    """
    for path, begins in files.items():
        if not path.exists() or path.is_dir():  # to write onto a folder is refused anyway
            continue
        ours = begins.encode() if isinstance(begins, str) else begins
        if ours is not None and path.is_file():
            with path.open("rb") as file:
                if file.read(len(ours)) == ours:
                    continue
        raise FileExistsError(f"{path} exists, and was not written by this command. Nothing was changed: move it away, or "
                              "choose another --out.")
