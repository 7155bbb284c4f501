"""What a search needs of the machine: a device, memory, and a bar that shows how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any

import torch
from torch import nn

from cfexplain.foundation.exceptions import warn_caller
from cfexplain.foundation.optional import check_device
from cfexplain.foundation.progress import new_bar

__all__ = ["halving_tiles", "infer_device", "progress_bar"]

SMALLEST_TILE = 8


def infer_device(device: str | torch.device | None, classifier: Any) -> torch.device:
    """`device`, or where the user's network already lives, or the CPU.

    Raises
    ------
    ValueError
        This machine has no such device.
    """
    if device is None:
        parameters = next(classifier.parameters(), None) if isinstance(classifier, nn.Module) else None
        return torch.device("cpu") if parameters is None else parameters.device
    return check_device(device)


@contextmanager
def progress_bar(total: int, delay: float | None) -> Iterator[Callable[[int], Callable[[int, int], None]] | None]:
    """A tqdm bar with the time left, shown after `delay` seconds, or None.

    ``bar(block)`` is ``report(rows done, step)`` of one of the blocks of rows, which may be searched side by side.
    """
    if delay is None:
        yield None
        return
    done, lock = Counter[int](), Lock()
    with new_bar(total=total, desc="searching", unit="row", delay=delay, leave=delay == 0) as bar:

        def report_of(block: int) -> Callable[[int, int], None]:
            def report(rows: int, step: int) -> None:
                with lock:
                    done[block] = rows
                    bar.set_postfix(step=step, refresh=False)
                    bar.update(done.total() - bar.n)

            return report

        yield report_of


class _Attempt(AbstractContextManager):
    """One try with `tile` rows at a time; running out of memory ends it, and is remembered."""

    def __init__(self, tile: int):
        self.tile, self.out_of_memory = tile, False

    def __enter__(self) -> int:
        return self.tile

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self.out_of_memory = isinstance(error, torch.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
        if self.out_of_memory and self.tile <= SMALLEST_TILE:
            raise MemoryError(f"Out of memory with {self.tile} rows at a time, the fewest that are tried.") from error
        return self.out_of_memory


def halving_tiles(tile: int) -> Iterator[_Attempt]:
    """``for attempt in halving_tiles(tile): with attempt as tile: …``: again with half the tile whenever memory runs out.

    Raises
    ------
    MemoryError
        If not even the smallest tile fits.
    """
    while True:
        attempt = _Attempt(tile)
        yield attempt
        if not attempt.out_of_memory:
            return
        tile = max(SMALLEST_TILE, tile // 2)
        warn_caller(f"Out of memory: searching {tile} rows at a time instead. Set batch_size={tile} to start there.",
                      ResourceWarning)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
