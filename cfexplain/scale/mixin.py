"""Methods of every explainer for more rows than fit in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sklearn.utils.validation import check_is_fitted

from cfexplain.foundation.deadline import Deadline, read_limits
from cfexplain.foundation.protocols import FittedExplainer
from cfexplain.result import Counterfactuals
from cfexplain.scale.blocks import BlockSource, Targets, read_blocks
from cfexplain.scale.explain_to import check_block_size, read_ranks, write_results
from cfexplain.scale.regions import Regions
from cfexplain.scale.store import CounterfactualStore

__all__ = ["ScaleMixin"]


class ScaleMixin:
    """`explain_iter` and `explain_to`, for whatever has `explain`."""

    def explain_iter(self: FittedExplainer, X: Any, target: Any = None, *, block_size: int = 1024, k: int = 1,
                     time_limit: float | None = None, region: Any = None, record_path: bool = False,
                     n_jobs: int | None = None, backend: str = "auto", precision: str = "auto") -> Iterator[Counterfactuals]:
        """Counterfactuals of `X`, block by block: memory does not grow with the number of rows.

        Rows have the bits that `explain` gives them, whatever `block_size` is.

        Parameters
        ----------
        X : array, memory map, tensor, DataFrame, Dataset, DataLoader, Dask array or DataFrame, or iterable
            An iterable yields rows, or blocks of any number of rows. From pairs (x, y) of a Dataset or a DataLoader x is
            taken.
        target : label, array-like of shape (n,), or None
            As in `explain`; an iterable can have one for each row, too.
        block_size : int, default=1024
            Rows in each block; the last one may be shorter.
        k, region, record_path, n_jobs, backend, precision
            As in `explain`; ``row`` counts from the first row of X. Regions of single rows are one for each row of X.
        time_limit : float, optional
            Seconds for all blocks together.

        Yields
        ------
        Counterfactuals
            In the order of X. Nothing for an X without rows.

        Raises
        ------
        TypeError, ValueError
            X is none of these, or its rows are not like those of `fit`.
        TargetError
            There are more or fewer targets than rows; for an iterable this is raised at its end.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from cfexplain import REVISEExplainer
        >>> X, y = load_iris(return_X_y=True)
        >>> explainer = REVISEExplainer(training_budget=0.1, random_state=0).fit(X, y)
        >>> [len(cf) for cf in explainer.explain_iter((row for row in X), target=1, block_size=64)]
        [64, 64, 22]
        """
        check_is_fitted(self)
        size, source = check_block_size(block_size), read_blocks(X, len(self.layout_.user_shape))
        deadline, k = read_limits(k, time_limit)
        options = {"record_path": record_path, "n_jobs": n_jobs, "backend": backend, "precision": precision,
                   **({"k": k} if k > 1 else {})}
        return _explained(self, source, Targets(self, target, source.length), Regions(self, region, source.length), size,
                          options, deadline)

    def explain_to(self: FittedExplainer, store: str | os.PathLike, X: Any, target: Any = None, *, block_size: int = 1024,
                   resume: bool = True, progress: bool | Callable[[int, int | None], None] = False, rank: int | None = None,
                   world_size: int | None = None, k: int = 1, time_limit: float | None = None, region: Any = None,
                   record_path: bool = False, n_jobs: int | None = None, backend: str = "auto",
                   precision: str = "auto") -> CounterfactualStore:
        """Counterfactuals of `X` in a folder, one file for each block; interrupted work is resumed.

        A process may be killed at any moment. Called again with the same explainer, `X` and arguments, `explain_to`
        continues after the finished blocks and writes the same bytes as an uninterrupted call, with any number of
        processes. ``seconds.jsonl``, a log of how long each block took, is no part of the results.

        Parameters
        ----------
        store : str or path
            A folder; made if it does not exist.
        X, target
            As in `explain_iter`. Rows must come in the same order each time; to resume, pass a new generator.
        block_size : int, default=1024
            Rows in each file, and the most that is lost when a process dies.
        resume : bool, default=True
            Continue with the results in the folder; False refuses a folder that holds results.
        progress : bool or callable, default=False
            A bar, or ``progress(rows done, rows of X or None)`` after each block.
        rank, world_size : int, optional
            This process is number `rank`, from 0, of `world_size` that share the work: it writes the blocks whose number
            modulo `world_size` is `rank`. Default: the environment variables ``RANK`` and ``WORLD_SIZE``, which torchrun and
            accelerate set, else 0 and 1.
        k, region, record_path, n_jobs, backend, precision
            As in `explain_iter`. A file has `k` rows for each row of X.
        time_limit : float, optional
            Seconds for this call. What it finishes is kept, and the next call goes on after it: a block that is not finished
            in time is not written, and what comes back are the rows before it.

        Returns
        -------
        CounterfactualStore
            The finished results: all of X, or, while other ranks are still working, the rows before the first missing
            block.

        Raises
        ------
        StoreError
            The folder holds something else (results of another explainer, of other data, for another target, …), or another
            process is writing there.
        TypeError
            The explainer holds an object whose content cannot be read.

        Warns
        -----
        ConvergenceWarning
            Once, if some rows did not reach their target.

        Examples
        --------
        >>> import os, tempfile
        >>> from sklearn.datasets import load_iris
        >>> from cfexplain import REVISEExplainer
        >>> X, y = load_iris(return_X_y=True)
        >>> explainer = REVISEExplainer(training_budget=0.1, random_state=0).fit(X, y)
        >>> folder = tempfile.mkdtemp()
        >>> len(explainer.explain_to(folder, X, target=1, block_size=100))
        150
        >>> [name for name in sorted(os.listdir(folder)) if name.startswith("block")]
        ['block-00000000.safetensors', 'block-00000001.safetensors']
        """
        check_is_fitted(self)
        ranks, size = read_ranks(rank, world_size), check_block_size(block_size)
        source = read_blocks(X, len(self.layout_.user_shape), in_order=True)
        deadline, k = read_limits(k, time_limit)
        options = {"record_path": record_path, "n_jobs": n_jobs, "backend": backend, "precision": precision,
                   **({"k": k} if k > 1 else {})}  # a folder of an earlier version has none
        return write_results(self, Path(store), source, target, block_size=size, resume=resume, progress=progress,
                             ranks=ranks, options=options, deadline=deadline,
                             regions=Regions(self, region, source.length))


def _explained(explainer: FittedExplainer, source: BlockSource, targets: Targets, regions: Regions, size: int,
               options: dict[str, Any], deadline: Deadline) -> Iterator[Counterfactuals]:
    length = 0
    for block in source.blocks(size):
        length = block.first + block.length
        cf = explainer.explain(block.read(), targets.of(block.first, block.length), **options,
                               **regions.of(block.first, block.length), **deadline.as_option())
        if cf.row is not None:
            cf.row = cf.row + block.first
        interrupted = cf.metadata.get("interrupted")
        yield cf
        del cf  # or two results would be in memory while the next is computed
        if interrupted:
            raise KeyboardInterrupt
    targets.check_length(length)
