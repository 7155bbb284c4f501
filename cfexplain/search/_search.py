"""A batch of independent searches by gradients: fixed tiles, a stopping test a row, finished rows leave.

*The same row gives the same bits, alone or among 10,000 others, in any order.* Every floating-point operation on a row
happens inside a tile of one fixed size (the last tile is padded), because kernels choose their order of summation by
shape, and in linear layers whose widths are padded (`cfexplain._tiles.aligned`). Between tiles rows are only compared,
copied and counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cfexplain._tiles import aligned
from cfexplain.search._updates import UPDATES

__all__ = ["ATTEMPTS", "Evaluation", "Found", "SearchOptions", "search"]

# Lengths of the steps of successive attempts, in step sizes: another length crosses another part of a rugged landscape.
ATTEMPTS = (1.0, 2.0, 0.5, 1.4, 0.7)


@dataclass
class Evaluation:
    """What a point is worth, row by row.

    Attributes
    ----------
    loss : Tensor of shape (B,)
        The objective, differentiable in the point.
    done : Tensor of bool, shape (B,)
        Every condition holds.
    valid : Tensor of bool, shape (B,)
        The classifier says the target.
    score : Tensor of shape (B,)
        The target's probability: ranks the rows that are not valid.
    """

    loss: Tensor
    done: Tensor
    valid: Tensor
    score: Tensor


@dataclass(frozen=True)
class SearchOptions:
    """How to step and when to stop.

    Attributes
    ----------
    update : {"normalized", "adam"}
    step_size : float
        Adam's learning rate, or the length of a normalized step in standard deviations a dimension.
    stall : int, optional
        A row whose loss has not fallen by a hundredth for so many steps starts again, with steps of another length
        (`ATTEMPTS`). Its best point so far is kept.
    max_steps : int
        Gradient steps a row may take, in all its attempts together.
    stop : {"conditions", "converged"}
        A row is finished at its first point that meets every condition, or when its objective has not become less for
        `patience` steps.
    patience : int
    refine : int
        After a row meets every condition: so many bisections of the straight way back to its reference point, keeping
        the nearest point that still meets them.
    tile : int
        Rows evaluated together.
    record_path : bool
    """

    update: str = "normalized"
    step_size: float = 0.1
    stall: int | None = None
    max_steps: int = 100
    stop: str = "conditions"
    patience: int = 50
    refine: int = 0
    tile: int = 32
    record_path: bool = False


@dataclass
class Found:
    """The best point of every row, in the order that the rows came in.

    Attributes
    ----------
    z : Tensor of shape (N, d)
    n_steps : Tensor of int, shape (N,)
        Evaluations after the first: gradient steps and bisections.
    done, valid : Tensor of bool, shape (N,)
        Of the point that is returned.
    finished : Tensor of bool, shape (N,)
        False where the search was interrupted, or its steps ran out, before the row stopped by itself.
    path : list of Tensor of shape (n_steps + 1, d), or None
    """

    z: Tensor
    n_steps: Tensor
    done: Tensor
    valid: Tensor
    finished: Tensor
    path: list[Tensor] | None = None
    interrupted: bool = False


@dataclass
class _State:
    """One row of each tensor is one search."""

    z: Tensor  # where the row is
    start: Tensor  # where each of its attempts begins
    reference: Tensor  # where distance is measured from
    first: Tensor
    second: Tensor
    count: Tensor  # gradient steps taken
    best_z: Tensor
    best_rank: Tensor  # 2: every condition, 1: valid, 0: neither, -1: nothing yet
    best_value: Tensor  # larger is better among equal ranks
    best_loss: Tensor
    since_best: Tensor
    refined: Tensor  # bisections made; -1 while the row still descends
    low: Tensor  # fractions of the way from `reference` to `anchor`: conditions fail at low, hold at high
    high: Tensor
    anchor: Tensor
    finished: Tensor
    attempt: Tensor  # attempts given up
    began: Tensor  # `count` at the beginning of this attempt
    lowest: Tensor  # loss of this attempt, and steps since it fell by a hundredth
    waited: Tensor
    path: list[list[Tensor]] = field(default_factory=list)


def search(
    evaluate: Callable[[Tensor, Mapping[str, Tensor]], Evaluation],
    start: Tensor,
    reference: Tensor,
    rows: Mapping[str, Tensor],
    options: SearchOptions,
    on_progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Search from `start`, every row for itself, and return the best point of each.

    Best means: meets every condition first, then valid, then the lowest objective; for a row that was never valid, the
    highest score. Loss, stopping test and returned point belong to the same z.

    Parameters
    ----------
    evaluate : callable ``(z, rows) -> Evaluation``
        Called on tiles of ``options.tile`` rows; must treat rows as independent.
    start, reference : Tensor of shape (N, d)
    rows : mapping of str to Tensor of shape (N, ...)
        What `evaluate` needs to know of each row.
    on_progress : callable ``(finished rows, step) -> None``, optional

    Notes
    -----
    Ctrl-C returns what has been found so far, with ``interrupted`` set.
    """
    state = _initial(start, reference, options)
    active = torch.arange(len(start), device=start.device)
    interrupted = False
    try:
        while len(active):
            refining = state.refined[active] >= 0
            for moving, gradient in ((active[~refining], True), (active[refining], False)):
                for tile in moving.split(options.tile) if len(moving) else ():
                    _advance(evaluate, state, rows, tile, options, gradient)
            active = active[~state.finished[active]]
            if on_progress is not None:
                on_progress(len(start) - len(active), int(state.count.max()))
    except KeyboardInterrupt:
        interrupted = True
        warnings.warn(f"Search interrupted with {len(active)} of {len(start)} rows unfinished: they keep the best "
                      "point found so far.", RuntimeWarning, stacklevel=2)
    started = state.best_rank >= 0
    return Found(
        z=torch.where(started[:, None], state.best_z, start),
        n_steps=(state.count + state.refined.clamp(min=0)).long(),
        done=state.best_rank == 2,
        valid=state.best_rank >= 1,
        finished=state.finished & ~_out_of_steps(state, options),
        path=[torch.stack(p) if p else start[i : i + 1] for i, p in enumerate(state.path)] if state.path else None,
        interrupted=interrupted,
    )


def _initial(start: Tensor, reference: Tensor, options: SearchOptions) -> _State:
    n, like = len(start), {"dtype": start.dtype, "device": start.device}
    return _State(
        z=start.clone(), start=start, reference=reference, first=torch.zeros_like(start), second=torch.zeros_like(start),
        count=torch.zeros(n, **like), best_z=start.clone(), best_rank=torch.full((n,), -1, device=start.device),
        best_value=torch.full((n,), -torch.inf, **like), best_loss=torch.full((n,), torch.inf, **like),
        since_best=torch.zeros(n, device=start.device), refined=torch.full((n,), -1, device=start.device),
        low=torch.zeros(n, **like), high=torch.ones(n, **like), anchor=start.clone(),
        finished=torch.zeros(n, dtype=torch.bool, device=start.device),
        attempt=torch.zeros(n, dtype=torch.long, device=start.device), began=torch.zeros(n, **like),
        lowest=torch.full((n,), torch.inf, **like), waited=torch.zeros(n, dtype=torch.long, device=start.device),
        path=[[] for _ in range(n)] if options.record_path else [],
    )


def _advance(evaluate: Callable, state: _State, rows: Mapping[str, Tensor], tile: Tensor, options: SearchOptions,
             needs_gradient: bool) -> None:
    """Evaluate one tile, keep what is best, and move the rows that go on. A tile that only bisects needs no gradient."""
    padded = torch.cat([tile, tile[-1:].expand(options.tile - len(tile))])
    z = state.z[padded].requires_grad_(needs_gradient)
    with torch.set_grad_enabled(needs_gradient), aligned():
        point = evaluate(z, {name: values[padded] for name, values in rows.items()})
        gradient = torch.autograd.grad(point.loss.sum(), z)[0] if needs_gradient else torch.zeros_like(z)
    z = z.detach()
    finite = torch.isfinite(point.loss)
    gradient = torch.where(torch.isfinite(gradient).all(1, keepdim=True), gradient, 0.0)
    loss = torch.where(finite, point.loss.detach(), torch.inf)
    done, valid = point.done & finite, point.valid & torch.isfinite(point.score)

    move, first, second = UPDATES[options.update](
        gradient, state.first[padded], state.second[padded], state.count[padded] - state.began[padded] + 1)
    if options.stall is None:
        descended = z - options.step_size * move
    else:
        again = _stalled(state, tile, padded, loss, options)[:, None]
        lengths = torch.tensor(ATTEMPTS).to(z)[state.attempt[padded] % len(ATTEMPTS)][:, None]
        descended = torch.where(again, state.start[padded], z - options.step_size * lengths * move)
        first, second = (torch.where(again, 0.0, moment) for moment in (first, second))
    # bisection: the interval's half that still holds the nearest point known to meet every condition
    refining = state.refined[padded] >= 0
    low = torch.where(refining & ~done, (state.low[padded] + state.high[padded]) / 2, state.low[padded])
    high = torch.where(refining & done, (state.low[padded] + state.high[padded]) / 2, state.high[padded])
    anchor = torch.where(refining[:, None], state.anchor[padded], z)
    middle = state.reference[padded] + ((low + high) / 2)[:, None] * (anchor - state.reference[padded])

    n = len(tile)
    _keep_best(state, tile, z[:n], loss[:n], point.score.detach()[:n], done[:n], valid[:n], refining[:n])
    for i in tile.tolist() if options.record_path else ():
        state.path[i].append(state.z[i].clone())

    bisect = (refining | (done & (options.refine > 0) & (options.stop == "conditions")))[:n]
    state.refined[tile] += bisect.long()
    state.low[tile], state.high[tile], state.anchor[tile] = low[:n], high[:n], anchor[:n]
    if options.stop == "conditions":
        stop = torch.where(bisect, state.refined[tile] >= options.refine, done[:n])
    else:
        stop = state.since_best[tile] > options.patience
    stop |= (state.count[tile] >= options.max_steps) & ~bisect
    state.finished[tile] = stop
    state.z[tile] = torch.where(bisect[:, None], middle[:n], descended[:n])
    state.first[tile], state.second[tile] = first[:n], second[:n]
    state.count[tile] += (~stop & ~bisect).to(state.count.dtype)
    if options.stall is not None:
        state.attempt[tile] += again[:n, 0].long()
        state.began[tile] = torch.where(again[:n, 0], state.count[tile], state.began[tile])


def _stalled(state: _State, tile: Tensor, padded: Tensor, loss: Tensor, options: SearchOptions) -> Tensor:
    """Which rows of a tile start again, and how long each has gone without getting nearer."""
    lowest = state.lowest[padded]
    nearer = loss < lowest - 0.01 * lowest.abs().nan_to_num(posinf=0.0)
    waited = torch.where(nearer, 0, state.waited[padded] + 1)
    again = waited >= options.stall
    n = len(tile)
    state.lowest[tile] = torch.where(again, torch.inf, torch.where(nearer, loss, lowest))[:n]
    state.waited[tile] = torch.where(again, 0, waited)[:n]
    return again


def _keep_best(state: _State, tile: Tensor, z: Tensor, loss: Tensor, score: Tensor, done: Tensor, valid: Tensor,
               refining: Tensor) -> None:
    rank = torch.where(done, 2, valid.long())
    value = torch.where(rank > 0, -loss, score.nan_to_num(-torch.inf))
    old_rank, old_value = state.best_rank[tile], state.best_value[tile]
    # a bisection that holds is nearer by construction, whatever the slack of the hinges adds to its loss
    better = (rank > old_rank) | ((rank == old_rank) & ((value > old_value) | (refining & done)))
    chosen = tile[better]
    state.best_z[chosen], state.best_rank[chosen], state.best_value[chosen] = z[better], rank[better], value[better]
    lower = loss < state.best_loss[tile]
    state.since_best[tile] = torch.where(lower, 0.0, state.since_best[tile] + 1)
    state.best_loss[tile] = torch.minimum(loss, state.best_loss[tile])


def _out_of_steps(state: _State, options: SearchOptions) -> Tensor:
    patient = state.since_best <= options.patience if options.stop == "converged" else state.best_rank < 2
    return (state.count >= options.max_steps) & patient
