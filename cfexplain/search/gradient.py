"""A batch of independent searches by gradients: fixed tiles, a stopping test a row, finished rows leave.

*The same row gives the same bits, alone or among 10,000 others, in any order.* Every floating-point operation on a row
happens inside a tile of one fixed size (the last tile is padded), because kernels choose their order of summation by
shape, and in linear layers whose widths are padded (`cfexplain.foundation.tiles.aligned`). Between tiles rows are only
compared, copied and counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cfexplain.foundation.deadline import Deadline
from cfexplain.foundation.partial_tiles import TileRows
from cfexplain.foundation.tiles import TileSizes, aligned, padded
from cfexplain.ops.search_step import ATTEMPTS, SearchState, StepOptions, step

__all__ = ["ATTEMPTS", "Evaluation", "SearchResult", "SearchOptions", "evaluate_tile", "search"]


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
class SearchOptions(StepOptions):
    """How to step and when to stop (see `StepOptions` for the other parameters), and how to go about it.

    Attributes
    ----------
    tile : int
        Rows evaluated together.
    record_path : bool
    sizes : TileSizes, optional
        Of tiles, where more than `tile` rows may be evaluated together; what is found has the same bits.
    deadline : Deadline
        When to stop with what has been found so far.
    aligned : bool
        Linear layers of what is evaluated treat every row alike of their own accord.
    """

    tile: int = 32
    record_path: bool = False
    sizes: TileSizes | None = None
    deadline: Deadline = field(default_factory=Deadline, compare=False)
    aligned: bool = False


@dataclass
class SearchResult:
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
    interrupted : bool
        By Ctrl-C.
    late : bool
        The time limit came before every row had stopped by itself.
    """

    z: Tensor
    n_steps: Tensor
    done: Tensor
    valid: Tensor
    finished: Tensor
    path: list[Tensor] | None = None
    interrupted: bool = False
    late: bool = False

    def repeated(self, times: int) -> SearchResult:
        """Each row `times` times, one after the other."""
        path = None if self.path is None else [path for path in self.path for _ in range(times)]
        return replace(self, path=path, **{name: getattr(self, name).repeat_interleave(times, 0) for name in _ROWS})

    def __getitem__(self, index: Tensor) -> SearchResult:
        """Some of the rows, in that order."""
        return replace(self, path=None if self.path is None else [self.path[i] for i in index.tolist()],
                       **{name: getattr(self, name)[index] for name in _ROWS})

    def every(self, step: int, first: int) -> SearchResult:
        """Of every `step` rows the one at `first`."""
        return replace(self, path=None if self.path is None else self.path[first::step],
                       **{name: getattr(self, name)[first::step] for name in _ROWS})

    def beside(self, other: SearchResult, times: int) -> SearchResult:
        """Each row, and behind it the `times` rows that `other` has for it."""
        def beside(own: Tensor, more: Tensor) -> Tensor:
            return torch.cat([own[:, None], more.view(len(own), times, *own.shape[1:])], 1).flatten(0, 1)

        path = None if self.path is None or other.path is None else [
            path for i, own in enumerate(self.path) for path in (own, *other.path[i * times : (i + 1) * times])]
        return SearchResult(**{name: beside(getattr(self, name), getattr(other, name)) for name in _ROWS}, path=path,
                            interrupted=self.interrupted or other.interrupted, late=self.late or other.late)


_ROWS = ("z", "n_steps", "done", "valid", "finished")


def search(
    evaluate: Callable[[Tensor, Mapping[str, Tensor]], Evaluation],
    start: Tensor,
    reference: Tensor,
    rows: Mapping[str, Tensor],
    options: SearchOptions,
    on_progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Search from `start`, every row for itself, and return the best point of each.

    Best means: meets every condition first, then valid, then the lowest objective; for a row that was never valid, the
    highest score. Loss, stopping test and returned point belong to the same z.

    Parameters
    ----------
    evaluate : callable ``(z, rows) -> Evaluation``
        Called on tiles of ``options.tile`` rows (or of a multiple, see ``options.sizes``); must treat rows as independent.
        Its `rows` are `TileRows`, which know how many rows of a tile are not padding.
    start, reference : Tensor of shape (N, d)
    rows : mapping of str to Tensor of shape (N, ...)
        What `evaluate` needs to know of each row.
    on_progress : callable ``(finished rows, step) -> None``, optional

    Notes
    -----
    Ctrl-C returns what has been found so far, with ``interrupted`` set.
    """
    state = SearchState.begin(start, reference)
    path: list[list[Tensor]] = [[] for _ in start] if options.record_path else []
    active = torch.arange(len(start), device=start.device)
    tile_places = {gradient: _places(evaluate, start, reference, rows, options, gradient) for gradient in (True, False)}
    together = _together(evaluate, start, reference, rows, options)
    work: dict[bool, _Work] = {}
    interrupted = False
    try:
        while len(active) and not options.deadline.passed and not options.deadline.interrupted:
            refining = state.refined[active] >= 0
            passes: list[tuple[Tensor, bool]] = [(active[~refining], True), (active[refining], False)]
            if together(*(len(index) for index, _ in passes)):
                passes = [(torch.cat([index for index, _ in passes]), True)]
            for moving, gradient in passes:
                while len(moving):
                    places = tile_places[gradient](len(moving))
                    tile, moving = moving[:places], moving[places:]
                    index = padded(tile, places)
                    if gradient not in work or not torch.equal(work[gradient].index, index):
                        _put_back(work, state, [gradient, *(
                            kind for kind, one in work.items() if torch.isin(tile, one.tile).any())])
                        work[gradient] = _Work(index, tile, TileRows(
                            {name: values[index] for name, values in rows.items()}, live=len(tile)), state[index])
                    one = work[gradient]  # the last rows stay together, and their state with them
                    point = evaluate_tile(evaluate, one.state.z, one.rows, gradient, options.aligned)
                    for place, i in enumerate(tile.tolist() if options.record_path else ()):
                        path[i].append(one.state.z[place].clone())
                    one.state = step(one.state, *point, options)
                    state.put(tile, one.state, _SEEN)
            active = active[~state.finished[active]]
            if on_progress is not None:
                on_progress(len(start) - len(active), int(state.count.max()))
        interrupted = options.deadline.interrupted
    except KeyboardInterrupt:
        interrupted = True
        options.deadline.interrupt()
        warnings.warn(f"Search interrupted with {len(active)} of {len(start)} rows unfinished: they keep the best "
                      "point found so far.", RuntimeWarning, stacklevel=2)
    _put_back(work, state, list(work))
    return SearchResult(
        z=state.best_z,
        n_steps=state.n_steps,
        done=state.best_rank == 2,
        valid=state.best_rank >= 1,
        finished=state.finished & ~state.out_of_steps(options),
        path=[torch.stack(p) if p else start[i : i + 1] for i, p in enumerate(path)] if path else None,
        interrupted=interrupted,
        late=bool(len(active)) and not interrupted,
    )


# What is asked of rows between two steps
_SEEN = ("refined", "finished", "count")


@dataclass
class _Work:
    """A tile of rows in work: which these are, what is known of them, and their state, newer than that of all rows."""

    index: Tensor
    tile: Tensor
    rows: TileRows
    state: SearchState


def _put_back(work: dict[bool, _Work], state: SearchState, kinds: list[bool]) -> None:
    """Write what tiles in work have become into the state of all rows."""
    for one in (work.pop(kind) for kind in set(kinds) & work.keys()):
        state.put(one.tile, one.state)


def evaluate_tile(evaluate: Callable[[Tensor, Mapping[str, Tensor]], Evaluation], z: Tensor, rows: Mapping[str, Tensor],
                  needs_gradient: bool = True, is_aligned: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradient, loss, score, done and valid of one tile of points, as a step of the search takes them.

    Without `needs_gradient` the gradient is 0, for points that are bisected. What `is_aligned` of its own accord is not
    watched for linear layers, which costs ten microseconds an operation.
    """
    z = z.detach().requires_grad_(needs_gradient)
    with torch.set_grad_enabled(needs_gradient), nullcontext() if is_aligned else aligned():
        point = evaluate(z, rows)
        gradient = (torch.autograd.grad(point.loss, z, torch.ones_like(point.loss))[0] if needs_gradient
                    else torch.zeros_like(z))
    return gradient, point.loss.detach(), point.score.detach(), point.done, point.valid


def _together(evaluate: Callable, start: Tensor, reference: Tensor, rows: Mapping[str, Tensor], options: SearchOptions,
              ) -> Callable[[int, int], bool]:
    """Whether so many rows that descend and so many that are bisected are better evaluated in the same tiles, with a
    gradient that the latter do not need: one tile less, where a row's bits do not depend on whether it is differentiated.
    """
    sizes = options.sizes
    if sizes is None or not options.refines or not len(start):
        return lambda descending, refining: False

    def judged(needs_gradient: bool) -> Callable[..., tuple[Tensor, ...]]:
        return lambda z, *values: evaluate_tile(
            evaluate, z, TileRows(zip(rows, values, strict=True), live=len(z)), needs_gradient, options.aligned)[1:]

    def better(descending: int, refining: int) -> bool:
        if not descending or not refining or (refining > options.tile // 2 and descending + refining > sizes.largest):
            return False
        return sizes.alike(("differentiated", *rows), judged(True), judged(False), start, *rows.values())

    return better


def _places(evaluate: Callable, start: Tensor, reference: Tensor, rows: Mapping[str, Tensor], options: SearchOptions,
            needs_gradient: bool) -> Callable[[int], int]:
    """How many places the next tile has, by the rows that are left."""
    if options.sizes is None or not len(start):
        return lambda left: options.tile

    def advanced(z: Tensor, reference: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        point = evaluate_tile(evaluate, z, dict(zip(rows, values, strict=True)), needs_gradient, options.aligned)
        return tuple(step(SearchState.begin(z, reference), *point, options).tensors())

    return options.sizes.choice(("search", needs_gradient, *rows), advanced, start, reference, *rows.values())
