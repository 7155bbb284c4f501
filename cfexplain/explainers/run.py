"""One call of `explain`, on one page: what is known of the rows is prepared, they are searched, what was found is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from cfexplain.explainers.answers import all_answers, found_together, more_answers, table_answers
from cfexplain.explainers.attributes import SPARSE, ExplainerParameters
from cfexplain.explainers.backends import Engine, check_backend, eager_engine, make_engine
from cfexplain.explainers.difference import limits_along, search_along
from cfexplain.explainers.evaluator import Evaluator
from cfexplain.explainers.found import Found
from cfexplain.explainers.learned_start import learned_start, search_where_it_fails
from cfexplain.explainers.resources import halving_tiles, progress_bar
from cfexplain.explainers.table import Table
from cfexplain.explainers.task import Goal
from cfexplain.foundation.deadline import Deadline
from cfexplain.foundation.numbers import quantile_of_sorted
from cfexplain.foundation.progress import bar_delay
from cfexplain.foundation.settings import own_modes
from cfexplain.foundation.threads import one_thread, side_by_side
from cfexplain.objective import Objective, PerceptualDistance
from cfexplain.search import SearchOptions, SearchResult

__all__ = ["Run"]

# Rows searched together: bounds memory, and is large enough that few tiles run half empty.
BLOCK = 2048
# … where time is limited: what was searched has to be judged in the time that is kept for it
BLOCK_WITHIN_TIME = 256
# A decoder may be so grey, even if real ink is all black or white; a class of blank images sets no limit.
LEAST_GREY = 0.1
# The least quantile of typicality that is asked of a row of a table of which much is to stay
LEAST_TYPICAL = 0.01
# Log-odds that a search in bfloat16 asks for beyond what is needed: what is found is judged without rounding
ROUNDED = 0.03
# … and the share of the distance in features that is allowed
NEARER = 0.98
# Of the way to the flow's swap of classes, with ``start="auto"``
SWAPPED = 0.6


class Run:
    """A fitted explainer put to work on rows.

    Parameters
    ----------
    explainer : CounterfactualExplainer
        Fitted.
    record_path : bool
    backend, precision : str
        See `check_backend`.
    in_worker : bool
        Whether this process has only a few of the rows, so that finding out about faster tiles does not pay.
    table : Table, optional
        How rows of a table are scanned, and end on the explained model itself; None: as the search leaves them.
    k : int
        Answers for each row.
    deadline : Deadline, optional
        When to stop with what has been found so far.
    """

    def __init__(self, explainer: ExplainerParameters, record_path: bool = False, backend: str = "auto",
                 precision: str = "auto", in_worker: bool = False, table: Table | None = None, k: int = 1,
                 deadline: Deadline | None = None):
        self.explainer, self.precision, self.in_worker, self.table = explainer, precision, in_worker, table
        self.k, self.deadline = k, deadline or Deadline()
        # of several processes each has a few of the rows, and their bars would write over each other
        self.delay = None if in_worker and explainer.verbose == "auto" else bar_delay(explainer.verbose)
        self.backend = check_backend(backend, precision, explainer.device_)
        self.options = self._next = replace(explainer.search_options(record_path), deadline=self.deadline)
        self.objective = Objective(explainer.terms(), explainer.needs_valid)
        # what is found is judged by the explainer's own networks, whatever it is found with
        self.judge = self.evaluator(eager_engine(explainer))

    def search(self, X: np.ndarray, goal: Goal) -> Found:
        """The best points of each row of `X` (n, ...), in blocks: k for the first row, then k for the second, …"""
        explainer, threads = self.explainer, 1 if self.in_worker else torch.get_num_threads()
        with progress_bar(len(X), self.delay) as bar, explainer.classifier_.frozen(), one_thread():
            searching = self.evaluator(self.engine(X[~goal.failed]))
            if not self._may_be_shared(searching):
                threads = 1
            blocks = self._blocks(len(X), threads)
            found: dict[int, Found] = {}

            def search(number: int) -> None:
                if not number or not self.deadline.passed:
                    with own_modes(explainer.device_), one_thread():
                        found[number] = self._searched(X, goal, blocks[number], searching, bar and bar(number))

            side_by_side(search, range(len(blocks)), min(threads, len(blocks)), self.deadline.interrupt)
            parts = [found[i] if i in found else self._not_begun(X[rows], found[0]) for i, rows in enumerate(blocks)]
        every = Found.concatenate(parts)
        order = np.argsort(np.concatenate(blocks), kind="stable")
        if (order[1:] > order[:-1]).all():
            return every
        return every[(order[:, None] * self.k + np.arange(self.k)).reshape(-1)]

    def _blocks(self, n: int, threads: int) -> list[np.ndarray]:
        """The rows of each block. Neighbours, or where threads share the work, every so many-th row: of like rows, which may
        take as long as each other, each gets its share.
        """
        most = max(1, (BLOCK_WITHIN_TIME if self.deadline.limited else BLOCK) // self.k)
        sizes = self.judge.sizes(self.options.tile)
        if sizes is None:
            least = self.options.tile
        else:  # they gain from each other's company; of a table half of the time is Python's, one thread's at a time
            least = max(self.options.tile, sizes.largest // 2 if self.explainer.layout_.is_image else 2 * sizes.largest)
        count = max(-(-n // most), min(threads, n // least), 1)
        if threads > 1 and count > 1:
            count = -(-count // threads) * threads
            return [np.arange(n)[i::count] for i in range(count)]
        return [np.arange(first, min(first + most, n)) for first in range(0, max(n, 1), most)]

    def _may_be_shared(self, searching: Evaluator) -> bool:
        """Whether what runs in a search is our own code, of which several threads can make use at a time; a scan of a table
        asks the user's own model.
        """
        parts: list[Any] = [self.explainer, *self.objective.terms]
        parts += [term.distance for term in self.objective.terms if isinstance(term, PerceptualDistance)]
        return searching.engine.shared and self.table is None and all(
            type(part).__module__.split(".")[0] == "cfexplain" for part in parts)

    def _searched(self, X: np.ndarray, goal: Goal, rows: np.ndarray, searching: Evaluator, report: Callable | None) -> Found:
        """What is found for some rows, with fewer of them at a time where memory runs out."""
        table, options = None if self.table is None else self.table[rows], self._next
        for attempt in halving_tiles(options.tile):
            with attempt as tile:
                if self.deadline.interrupted:  # what is left still gets an honest row: its starting point
                    options = replace(options, max_steps=0, refine=0, deadline=Deadline())
                options = self._next = replace(
                    options, tile=tile, sizes=self.judge.sizes(tile), aligned=searching.aligned)
                part = self._block(X[rows], goal[rows], table, searching, options, report)
        return part

    def _block(self, x: np.ndarray, wanted: Goal, table: Table | None, searching: Evaluator, options: SearchOptions,
               report: Callable | None) -> Found:
        """What was found for some rows, judged."""
        rows, start = self.prepare(x, wanted)
        begun = None if table is None else table.run(self, x, wanted, rows)
        moving = np.flatnonzero(wanted.moving if begun is None else wanted.moving & ~begun.answered)
        searched, backend = self.searched(rows, moving, searching), searching.engine.backend
        together = begun is None and self.k > 1 and "along" not in rows and found_together(self.explainer)
        result = all_answers(self, searching, searched, self.k, options) if together else self._found(
            start[moving], searched, searching, options, report)
        if begun is None and self.k > 1:
            if not together:
                more = result.repeated(self.k - 1) if result.interrupted or result.late else more_answers(
                    self, searching, searched, result, self.k, options)
                result = result.beside(more, self.k - 1)
            rows = {name: values.repeat_interleave(self.k, 0) for name, values in rows.items()}
            moving = (moving[:, None] * self.k + np.arange(self.k)).reshape(-1)
        part = self.judged(rows, moving, result, options, backend)
        if begun is not None:
            begun.end(part, not result.interrupted)
            if self.k > 1:
                part = table_answers(self, begun, rows, part, searching, options)
        return part

    def _found(self, start: Tensor, rows: dict[str, Tensor], searching: Evaluator, options: SearchOptions,
               report: Callable | None) -> SearchResult:
        """What the search finds for `rows`; a start that was learned is judged first."""

        def find(start: Tensor, rows: dict[str, Tensor], options: SearchOptions) -> SearchResult:
            return self.explainer.find(searching.evaluate, start, rows, options, report, searching.engine.search)

        if options.stop != "conditions" or not len(start):
            return find(start, rows, options)
        if "along" in rows and self.explainer.start == "auto":
            return search_along(searching, rows, options, find)
        if self.explainer.start != "learned":
            return find(start, rows, options)
        return search_where_it_fails(searching, start, rows, options, find)

    def _not_begun(self, x: np.ndarray, like: Found) -> Found:
        """Rows for which there was no time: as they came, and nothing is known of them."""
        x, codes = np.repeat(x, self.k, axis=0), np.full((len(x) * self.k, like.z.shape[1]), np.nan, like.z.dtype)
        no = np.zeros(len(x), dtype=bool)
        return Found(
            x_cf=x, reconstruction=np.full_like(x, np.nan), z0=codes, z=codes, log_density=np.full(
                len(x), np.nan, like.log_density.dtype), valid=no, second_opinion=no, n_steps=np.zeros(len(x), int), done=no,
            finished=no, interrupted=no, late=~no, conditions={name: no.copy() for name in like.conditions},
            path=None if like.path is None else [code[None] for code in codes], backend=like.backend)

    def search_in_workers(self, X: np.ndarray, goal: Goal, n_jobs: int | None, workers: int) -> Found:
        """As `search`, by `workers` processes of joblib."""
        cuts = np.array_split(np.arange(len(X)), max(1, min(len(X) // self.options.tile, 4 * workers)))
        return Found.concatenate(Parallel(n_jobs=n_jobs)(
            delayed(_search_in_worker)(self.explainer, self.options.record_path, self.backend, self.precision,
                                       None if self.table is None else self.table[cut], self.k, self.deadline, X[cut],
                                       goal[cut]) for cut in cuts))

    def engine(self, X: np.ndarray) -> Engine:
        """What the search of rows like `X` computes with. The classifier has to be frozen."""
        if not self.explainer.differentiable or not len(X):
            return self.judge.engine  # nothing is differentiated, so that there is nothing to gain
        example = torch.from_numpy(np.ascontiguousarray(X[:2])).to(self.explainer.device_)
        return make_engine(self.explainer, self.backend, self.precision, example)

    def evaluator(self, engine: Engine, objective: Objective | None = None) -> Evaluator:
        """Points of this search, computed by `engine`; weighed by another `objective`, if one is given."""
        objective = self.objective if objective is None else objective
        kernels = (self.backend, self.precision, repr(objective.terms), self.explainer.detail, self.options)
        return Evaluator(self.explainer, objective, engine, kernels, None if self.in_worker else self.options.tile)

    # --------------------------------------------------------------- prepare
    def prepare(self, X: np.ndarray, goal: Goal) -> tuple[dict[str, Tensor], Tensor]:
        """What the search knows of each row, by name, on the device; and where it starts, (n, latent_dim)."""
        explainer, judge = self.explainer, self.judge
        x = torch.from_numpy(X).to(explainer.device_)
        rows = {"x": x, **{name: torch.from_numpy(values).to(explainer.device_)
                           for name, values in {**goal.rows, "moving": goal.moving}.items()}}
        with torch.no_grad():
            rows |= judge.known(x)
            rows |= judge.directed(rows, rows["source"], rows["target"])
            quantile = 0.5 if explainer.typical_quantile is None else explainer.typical_quantile
            limits: dict[str, Any] = {"typical": explainer.density_.quantiles_by_index(quantile)}
            if explainer.class_features_ is not None:
                limits["feature_limit"] = explainer.class_features_.quantiles(explainer.feature_quantile)
            if explainer.greyness_ is not None and explainer.ink_quantile is not None:
                limits["ink_limit"] = np.array([
                    max(quantile_of_sorted(own, explainer.ink_quantile), LEAST_GREY) if own.any() else np.inf
                    for own in explainer.greyness_])
            limits |= explainer.class_limits()
            rows |= {name: torch.from_numpy(limit).to(rows["z0"])[rows["target"]] for name, limit in limits.items()
                     if name not in rows}
            if "along" in rows:
                rows |= limits_along(self.judge, rows)
            if explainer.changes_few():
                rows["typical"] = self._as_typical_as_before(rows)
            rows |= self.objective.reference(x, self.options.tile)
            return rows, self._start(rows)

    def _as_typical_as_before(self, rows: dict[str, Tensor]) -> Tensor:
        """What is asked of a row of a table of which much is to stay: a fifth of `typical_quantile`, and no more than the
        row itself has in its own class, but as much as nearly all training rows have.

        Real rows that were not trained on are seldom as typical as the median of those that were, and of what stays as it is
        nothing can be made more typical: with the median as its condition a counterfactual changes every column.
        """
        density, quantile = self.explainer.density_, self.explainer.typical_quantile
        most = max(LEAST_TYPICAL, SPARSE * (0.5 if quantile is None else quantile))
        own = self.judge.in_tiles("density", density.log_prob, rows["z0"], rows["source"]).cpu().numpy()
        source, target = (rows[name].cpu().numpy() for name in ("source", "target"))
        limits = rows["typical"].cpu().numpy().copy()
        for k in np.unique(source):
            for t in np.unique(target[source == k]):
                some = (source == k) & (target == t)
                known, other = density.log_densities_[k], density.log_densities_[t]
                rank = np.searchsorted(known, own[some], "right") / len(known)
                place = np.clip(np.clip(rank, LEAST_TYPICAL, most) * (len(other) - 1), 0, len(other) - 1)
                limits[some] = np.minimum(limits[some], other[np.floor(place).astype(int)])
        return torch.from_numpy(limits).to(rows["typical"])

    def _start(self, rows: dict[str, Tensor]) -> Tensor:
        """z₀, or the row's base code under the other class, z = f⁻¹(f(z₀|y)|ỹ), or a share of the way there, or what was
        learned."""
        start: Any = self.explainer.start
        if start == "learned":
            return learned_start(self, rows, self._on_the_way(rows, type(self.explainer).start))
        return self._on_the_way(rows, start)

    def _on_the_way(self, rows: dict[str, Tensor], start: Any) -> Tensor:
        share = {"latent": 0.0, "swap": 1.0, "auto": SWAPPED}[start] if isinstance(start, str) else start
        if share == 0:
            return rows["z0"]
        swapped = self.judge.in_tiles(
            "swap", self.explainer.density_.swap_codes, rows["z0"], rows["source"], rows["target"])
        # a code far from all data can leave the flow's numeric range: such a row starts where it is
        swapped = torch.where(torch.isfinite(swapped).all(1, keepdim=True), swapped, rows["z0"])
        return swapped if share == 1 else rows["z0"] + share * (swapped - rows["z0"])

    def searched(self, rows: dict[str, Tensor], moving: np.ndarray, searching: Evaluator) -> dict[str, Tensor]:
        """What is known of the rows that are searched."""
        searched = {name: values[moving] for name, values in rows.items()}
        if searching.engine.rounds and self.judge.details[-1] != "decoder" and len(moving):
            with torch.no_grad():  # rounded like the points of the search: what is put back must not undo rounding
                codes = {name: values for name, values in searched.items() if name == "z0" or name.startswith("latents ")}
                searched |= searching.known(searched["x"], codes)
            if "needed" in searched:
                searched["needed"] = searched["needed"] + ROUNDED
            if "feature_limit" in searched:
                searched["feature_limit"] = NEARER * searched["feature_limit"]
        return searched

    # ----------------------------------------------------------------- judge
    def judged(self, rows: dict[str, Tensor], moving: np.ndarray, result: SearchResult, options: SearchOptions,
                backend: str) -> Found:
        """What the search returned for the rows `moving`, and the others as they came, judged by the explainer itself."""
        x, n = rows["x"], len(rows["x"])
        z = rows["z0"].clone()
        z[moving] = result.z
        with torch.no_grad():
            x_cf, log_density, valid, opinion, *met = self.judge.in_tiles(
                ("judge", *rows), lambda z, *values: self.judge.judged(z, dict(zip(rows, values, strict=True))), z,
                *rows.values(), tile=options.tile)
            x_cf = torch.where(rows["moving"].view(-1, *[1] * (x.ndim - 1)), x_cf, x)
        z0 = rows["z0"].cpu().numpy()
        return Found(
            x_cf=x_cf.cpu().numpy(), reconstruction=rows["reconstruction"].cpu().numpy(), z0=z0, z=z.cpu().numpy(),
            log_density=log_density.cpu().numpy(), valid=valid.cpu().numpy(), second_opinion=opinion.cpu().numpy(),
            n_steps=_scattered(result.n_steps, moving, n), done=_scattered(result.done, moving, n),
            finished=_scattered(result.finished, moving, n), interrupted=np.full(n, result.interrupted),
            late=_scattered(result.late & ~result.finished & (result.n_steps < options.max_steps), moving, n),
            conditions={name: values.cpu().numpy() for name, values in zip(self.judge.conditions, met, strict=True)},
            path=_paths(result, moving, z0) if options.record_path else None, backend=backend)


def _paths(result: SearchResult, moving: np.ndarray, z0: np.ndarray) -> list[np.ndarray]:
    paths = [z0[i : i + 1] for i in range(len(z0))]
    for i, path in zip(moving, result.path or [], strict=True):
        paths[i] = path.cpu().numpy()
    return paths


def _scattered(values: Tensor, rows: np.ndarray, n: int) -> np.ndarray:
    """`values` at `rows` of an array of length `n`; rows that were not searched get 0 (False)."""
    out = torch.zeros(n, dtype=values.dtype, device=values.device)
    out[rows] = values
    return out.cpu().numpy()


def _search_in_worker(explainer: ExplainerParameters, record_path: bool, backend: str, precision: str,
                      table: Table | None, k: int, deadline: Deadline, X: np.ndarray, goal: Goal) -> Found:
    run = Run(explainer, record_path, backend, precision, in_worker=True, table=table, k=k, deadline=deadline)
    return run.search(X, goal)
