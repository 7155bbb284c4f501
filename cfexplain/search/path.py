"""A search without gradients: each row goes along a path of its own, and stops at the first point that will do.

The contract is that of `search`: a row has the same bits alone and among others, and its best point comes back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cfexplain.foundation.tiles import in_tiles
from cfexplain.search.gradient import Evaluation, SearchOptions, SearchResult

__all__ = ["search_path"]


def search_path(
    path: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
    evaluate: Callable[[Tensor, Mapping[str, Tensor]], Evaluation],
    rows: Mapping[str, Tensor],
    furthest: float,
    options: SearchOptions,
    on_progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """The first point on each row's path that meets every condition, or else the best one that was tried.

    Parameters
    ----------
    path : callable ``(fraction (B,), rows) -> z (B, d)``
        At fraction 0 the row's own code.
    evaluate : callable ``(z, rows) -> Evaluation``
        Called without gradients, on tiles of ``options.tile`` rows.
    rows : mapping of str to Tensor of shape (N, ...)
        ``z0``, and what `path` and `evaluate` need to know of each row.
    furthest : float
        The path is tried at ``options.max_steps`` equal steps from 0 to here, and then bisected ``options.refine`` times
        between the last point that failed and the first that did not.
    """
    start, names = rows["z0"], list(rows)
    n = len(start)
    best_z, best_rank = start.clone(), torch.full((n,), -1, device=start.device)
    best_value, low, high = (start.new_full((n,), value) for value in (-torch.inf, 0.0, torch.inf))
    count = torch.zeros(n, dtype=torch.long, device=start.device)
    points: list[list[Tensor]] = [[] for _ in range(n)]

    def tile(fraction: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        tile_rows = dict(zip(names, values, strict=True))
        z = path(fraction, tile_rows)
        found = evaluate(z, tile_rows)
        # beyond the data a flow can overflow: such a point is worth nothing
        finite = torch.isfinite(z).all(1) & torch.isfinite(found.loss)
        return (z, torch.where(finite, found.loss, torch.inf), found.done & finite, found.valid & finite,
                torch.where(finite, found.score, -torch.inf))

    def look(fraction: Tensor, index: Tensor) -> Tensor:
        """Evaluate rows `index` at their fractions, keep what is best; which of them are done."""
        with torch.no_grad():
            z, loss, done, valid, score = in_tiles(
                tile, fraction, *(rows[name][index] for name in names), tile=options.tile)
        rank = torch.where(done, 2, valid.long())
        value = torch.where(rank > 0, -loss, score)
        # of two points that will do the nearer one is better, and it is looked at later
        better = (rank > best_rank[index]) | ((rank == best_rank[index]) & (done | (value > best_value[index])))
        chosen = index[better]
        best_z[chosen], best_rank[chosen], best_value[chosen] = z[better], rank[better], value[better]
        for i, point in zip(index.tolist(), z, strict=True) if options.record_path else ():
            points[i].append(point.clone())
        return done

    active, interrupted, late = torch.arange(n, device=start.device), False, False
    try:
        for step in range(options.max_steps + 1):
            if not len(active) or options.deadline.passed or options.deadline.interrupted:
                break
            fraction = start.new_full((len(active),), furthest * step / max(options.max_steps, 1))
            count[active] = step
            done = look(fraction, active)
            high[active[done]] = fraction[done]
            active = active[~done]
            low[active] = fraction[~done]
            if on_progress is not None:
                on_progress(n - len(active), step)
        interrupted = options.deadline.interrupted
        late = bool(len(active)) and options.deadline.passed and not interrupted
        between = torch.where(torch.isfinite(high) & (high > 0))[0]
        for _ in range(options.refine if len(between) else 0):
            if options.deadline.passed or interrupted:
                break
            middle = (low[between] + high[between]) / 2
            done = look(middle, between)
            high[between], low[between] = torch.where(done, middle, high[between]), torch.where(done, low[between], middle)
            count[between] += 1
    except KeyboardInterrupt:
        interrupted = True
        options.deadline.interrupt()
        warnings.warn(f"Search interrupted with {len(active)} of {n} rows unfinished: they keep the best point found so "
                      "far.", RuntimeWarning, stacklevel=2)
    return SearchResult(
        z=best_z, n_steps=count, done=best_rank == 2, valid=best_rank >= 1, finished=best_rank == 2,
        path=[torch.stack(p) if p else start[i : i + 1] for i, p in enumerate(points)] if options.record_path else None,
        interrupted=interrupted, late=late)
