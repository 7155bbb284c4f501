"""One step of the search in plain torch: the truth that the eager search runs and that the kernel is tested against.

Rows are independent, and nothing waits for the device: a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cfexplain.foundation.remainders import in_vectors
from cfexplain.ops.search_step.state import ATTEMPTS, SearchState, Slots, StepOptions

__all__ = ["UPDATES", "Update", "adam", "normalized", "step", "step_slots"]

# (gradient, first moment, second moment, step count from 1) -> (move per unit of step size, moments)
Update = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def adam(gradient: Tensor, first: Tensor, second: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Adam (Kingma & Ba, 2014), element by element, with a step count a row."""
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient * gradient
    unbiased_first = first / (1 - _power(0.9, count))[:, None]
    unbiased_second = second / (1 - _power(0.999, count))[:, None]
    return unbiased_first / (unbiased_second.sqrt() + 1e-8), first, second


def normalized(gradient: Tensor, first: Tensor, second: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Momentum over each row's *unit* gradient; a step of 1 is as long as one standard deviation in every dimension.

    Normalising before averaging matters: the first density gradients are orders of magnitude larger than the last, and
    a running mean of raw gradients would follow them for dozens of steps.
    """
    length = gradient.square().sum(1, keepdim=True).sqrt()
    first = 0.8 * first + 0.2 * gradient / (length + 1e-8)
    move = first / (1 - _power(0.8, count))[:, None]
    return move * math.sqrt(gradient.shape[1]), first, second


def _power(base: float, count: Tensor) -> Tensor:
    return in_vectors(lambda exponent: base**exponent, count)


UPDATES: dict[str, Update] = {"adam": adam, "normalized": normalized}


def step(state: SearchState, gradient: Tensor, loss: Tensor, score: Tensor, done: Tensor, valid: Tensor,
         options: StepOptions) -> SearchState:
    """Judge where each row is, keep what is best, and move the rows that go on.

    Parameters
    ----------
    state : SearchState
        Of B rows; left as it is.
    gradient : Tensor of shape (B, d)
        Of the loss, in ``state.z``. A row with a number that is not finite does not move; rows that bisect need none. A
        row without a gradient where an attempt begins can never move, and stops.
    loss, score : Tensor of shape (B,)
        The objective, and what ranks rows that are not valid. A point whose loss is not finite is worth nothing.
    done, valid : Tensor of bool, shape (B,)
        Every condition holds; the classifier says the target.
    options : StepOptions

    Returns
    -------
    SearchState
        After the step, ``finished`` where a row has stopped.

    Examples
    --------
    >>> import torch
    >>> start = torch.zeros(1, 2)
    >>> no, one = torch.zeros(1, dtype=torch.bool), torch.ones(1)
    >>> after = step(SearchState.begin(start, start), torch.ones(1, 2), one, one, no, no, StepOptions(update="adam"))
    >>> after.z, after.count
    (tensor([[-0.1000, -0.1000]]), tensor([1]))
    """
    z = state.z
    gradient = torch.where(torch.isfinite(gradient).all(1, keepdim=True), gradient, 0.0)
    loss, score = loss.to(z.dtype), score.to(z.dtype)
    finite = torch.isfinite(loss)
    loss = torch.where(finite, loss, torch.inf)
    done, valid = done & finite, valid & torch.isfinite(score)
    refining = state.refined >= 0
    new = _best_so_far(state, loss, score, done, valid, refining) | _descended(state, gradient, loss, options)

    bisect = torch.zeros_like(done)
    if options.refines:
        bisect = refining | done
        new |= _bisected(state, done, refining, bisect)
        new["z"] = torch.where(bisect[:, None], new.pop("middle"), new["z"])
    refined = state.refined + bisect
    if options.stop == "conditions":
        stop = torch.where(bisect, refined >= options.refine, done)
    else:
        stop = new["since_best"] > options.patience
    still = (state.count == state.began) & (gradient.square().sum(1) == 0)
    stop = stop | (((state.count >= options.max_steps) | still) & ~bisect)
    count = state.count + ~(stop | bisect)
    if options.stall is not None:
        again = new.pop("again")
        new |= {"attempt": state.attempt + again, "began": torch.where(again, count, state.began)}
    return replace(state, refined=refined, finished=stop, count=count, **new)


def _best_so_far(state: SearchState, loss: Tensor, score: Tensor, done: Tensor, valid: Tensor,
                 refining: Tensor) -> dict[str, Tensor]:
    rank = torch.where(done, 2, valid.long())
    value = torch.where(rank > 0, -loss, torch.where(score.isnan(), -torch.inf, score))
    # a bisection that holds is nearer by construction, whatever the slack of the hinges adds to its loss
    better = (rank > state.best_rank) | (
        (rank == state.best_rank) & ((value > state.best_value) | (refining & done)))
    return {
        "best_z": torch.where(better[:, None], state.z, state.best_z),
        "best_rank": torch.where(better, rank, state.best_rank),
        "best_value": torch.where(better, value, state.best_value),
        "since_best": torch.where(loss < state.best_loss, 0, state.since_best + 1),
        "best_loss": torch.minimum(loss, state.best_loss)}


def _descended(state: SearchState, gradient: Tensor, loss: Tensor, options: StepOptions) -> dict[str, Tensor]:
    """A gradient step, or back to the start with steps of another length for a row that gets no nearer."""
    move, first, second = UPDATES[options.update](
        gradient, state.first, state.second, (state.count - state.began + 1).to(state.z.dtype))
    if options.stall is None:
        return {"z": state.z - options.step_size * move, "first": first, "second": second}
    nearer = loss < state.lowest - 0.01 * torch.where(torch.isinf(state.lowest), 0.0, state.lowest.abs())
    waited = torch.where(nearer, 0, state.waited + 1)
    again = waited >= options.stall
    turn, length = state.attempt % len(ATTEMPTS), torch.ones_like(loss)
    for k, times in enumerate(ATTEMPTS):  # not by an index into a new tensor: copying one in would wait for the device
        length = torch.where(turn == k, times, length)
    back = again[:, None]
    return {
        "z": torch.where(back, state.start, state.z - options.step_size * length[:, None] * move),
        "first": torch.where(back, 0.0, first), "second": torch.where(back, 0.0, second),
        "lowest": torch.where(again, torch.inf, torch.where(nearer, loss, state.lowest)),
        "waited": torch.where(again, 0, waited), "again": again}


def _bisected(state: SearchState, done: Tensor, refining: Tensor, bisect: Tensor) -> dict[str, Tensor]:
    """The half of each interval that still holds the nearest point known to meet every condition, and its middle."""
    half = (state.low + state.high) / 2
    low = torch.where(refining & ~done, half, state.low)
    high = torch.where(refining & done, half, state.high)
    anchor = torch.where((bisect & ~refining)[:, None], state.z, state.anchor)
    middle = state.reference + ((low + high) / 2)[:, None] * (anchor - state.reference)
    return {"low": low, "high": high, "anchor": anchor, "middle": middle}


def step_slots(slots: Slots, gradient: Tensor, loss: Tensor, score: Tensor, done: Tensor, valid: Tensor,
               options: StepOptions) -> None:
    """`step` for every slot, in place; a slot whose row is finished writes it out and takes the next of the queue.

    Parameters
    ----------
    slots : Slots
    gradient, loss, score, done, valid : Tensor
        Of every slot, as for `step`; those of slots without a row have no effect.
    options : StepOptions
    """
    state = slots.state
    new = step(state, gradient, loss, score, done, valid, options)
    live = ~state.finished
    stopped = live & new.finished
    slots.write(new, stopped, options)

    ticket = slots.head + stopped.cumsum(0) - 1
    refill = stopped & (ticket < len(slots.start))
    row = torch.where(refill, ticket, slots.row)
    fresh = SearchState.begin(slots.start[row], slots.reference[row])
    for old, moved, begun in zip(state.tensors(), new.tensors(), fresh.tensors(), strict=True):
        # a row that has not stopped moves, one that begins is fresh, and a slot without a row stays
        wide = (slice(None), None) if old.ndim == 2 else ()
        old.copy_(torch.where(refill[wide], begun, torch.where(live[wide], moved, old)))
    slots.row.copy_(row)
    slots.head += stopped.sum()
