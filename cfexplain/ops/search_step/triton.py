"""The step of the search in one launch: each program judges, moves and refills a block of slots.

Two passes over a row's dimensions, in chunks, so that rows of any length fit the registers: the first finds the length
of the gradient and whether it is finite, the second moves. In between, everything is one number a row. Offsets are
int64; divisions and roots are correctly rounded and products are not contracted, as in the reference; only the sum of a
row's squares is taken in another order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cfexplain.ops.search_step.reference import UPDATES
from cfexplain.ops.search_step.state import ATTEMPTS, Slots, StepOptions

__all__ = ["StepKernel", "block_shape", "runs_on", "step_kernel"]

# Beyond so many steps 1 − βᵏ is 1 in float64 for every β in use: the table of bias corrections ends here.
LONGEST = 40_000
_BLOCK = 512  # numbers of one vector that a program holds at once: four a thread


@triton.jit
def _divide(a, b):
    return a / b if a.dtype == tl.float64 else tl.math.div_rn(a, b)


@triton.jit
def _root(a):
    return tl.sqrt(a) if a.dtype == tl.float64 else tl.math.sqrt_rn(a)


@triton.jit(do_not_specialize=["n_slots", "n_rows", "n_bias", "max_steps", "patience", "stall", "refine"])
def step_kernel(
    # of each slot: vectors (S, D), numbers (S,), counts (S,)
    z_ptr, start_ptr, reference_ptr, first_ptr, second_ptr, best_z_ptr, anchor_ptr,
    best_value_ptr, best_loss_ptr, low_ptr, high_ptr, lowest_ptr,
    waited_ptr, best_rank_ptr, since_best_ptr, count_ptr, began_ptr, attempt_ptr, refined_ptr, finished_ptr, row_ptr,
    # of each slot's point
    gradient_ptr, loss_ptr, score_ptr, done_ptr, valid_ptr,
    # of each row (N, ...): the queue and the outputs
    head_ptr, queue_start_ptr, queue_reference_ptr, out_z_ptr, out_rank_ptr, out_steps_ptr, out_finished_ptr,
    lengths_ptr, bias_ptr,  # tables: step length by attempt, (2, n_bias) bias corrections by step
    n_slots, n_rows, n_bias, max_steps, patience, stall, refine,
    D: tl.constexpr, ADAM: tl.constexpr, CONVERGED: tl.constexpr, STALLS: tl.constexpr, REFINES: tl.constexpr,
    ATTEMPT_COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):
    """`step_slots` for slots ``ROWS * program_id`` and the ``ROWS - 1`` after it."""
    slot = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    finished = tl.load(finished_ptr + slot, mask=slot < n_slots, other=1) != 0
    live = ~finished
    row = tl.load(row_ptr + slot, mask=live, other=0)
    columns = tl.arange(0, COLUMNS)
    never = slot < 0
    infinity = float("inf")

    # ---- first pass: the gradient's length, and whether it is finite
    square = tl.zeros((ROWS,), z_ptr.dtype.element_ty)
    strange = tl.zeros((ROWS,), tl.int32)
    for begin in range(0, D, COLUMNS):
        column = begin + columns
        here = slot[:, None] * D + column[None, :]
        inside = live[:, None] & (column < D)[None, :]
        g = tl.load(gradient_ptr + here, mask=inside, other=0.0)
        square += tl.sum(g * g, 1)
        strange += tl.sum((~(tl.abs(g) < infinity)).to(tl.int32), 1)  # counts NaN too
    usable = strange == 0

    # ---- what the point is worth
    loss = tl.load(loss_ptr + slot, mask=live, other=0.0)
    score = tl.load(score_ptr + slot, mask=live, other=0.0)
    finite = tl.abs(loss) < infinity
    loss = tl.where(finite, loss, infinity)
    done = (tl.load(done_ptr + slot, mask=live, other=0) != 0) & finite
    valid = (tl.load(valid_ptr + slot, mask=live, other=0) != 0) & (tl.abs(score) < infinity)
    refined = tl.load(refined_ptr + slot, mask=live, other=-1)
    refining = refined >= 0

    rank = tl.where(done, 2, valid.to(tl.int64))
    value = tl.where(rank > 0, -loss, tl.where(score == score, score, -infinity))
    old_rank = tl.load(best_rank_ptr + slot, mask=live, other=0)
    old_value = tl.load(best_value_ptr + slot, mask=live, other=0.0)
    better = (rank > old_rank) | ((rank == old_rank) & ((value > old_value) | (refining & done)))
    best_rank = tl.where(better, rank, old_rank)
    best_value = tl.where(better, value, old_value)
    best_loss = tl.load(best_loss_ptr + slot, mask=live, other=0.0)
    since_best = tl.load(since_best_ptr + slot, mask=live, other=0)
    since_best = tl.where(loss < best_loss, 0, since_best + 1)
    best_loss = tl.minimum(loss, best_loss)

    # ---- bisection, stopping
    bisect = never
    begins = never
    low = tl.zeros((ROWS,), z_ptr.dtype.element_ty)
    high = low
    if REFINES:
        bisect = refining | done
        begins = bisect & ~refining
        low = tl.load(low_ptr + slot, mask=live, other=0.0)
        high = tl.load(high_ptr + slot, mask=live, other=0.0)
        half = (low + high) * 0.5
        low = tl.where(refining & ~done, half, low)
        high = tl.where(refining & done, half, high)
    refined += bisect.to(tl.int64)
    count = tl.load(count_ptr + slot, mask=live, other=0)
    if CONVERGED:
        stop = since_best > patience
        going = since_best <= patience
    else:
        stop = tl.where(bisect, refined >= refine, done)
        going = best_rank < 2
    began = tl.load(began_ptr + slot, mask=live, other=0)
    still = (count == began) & ((square == 0.0) | ~usable)
    stop = (stop | (((count >= max_steps) | still) & ~bisect)) & live
    new_count = count + (~(stop | bisect)).to(tl.int64)

    # ---- attempts
    attempt = tl.load(attempt_ptr + slot, mask=live, other=0)
    length = tl.load(lengths_ptr + attempt % ATTEMPT_COUNT)
    nth = tl.minimum(count - began + 1, n_bias - 1)
    bias_first = tl.load(bias_ptr + nth)[:, None]
    bias_second = tl.load(bias_ptr + (n_bias + nth))[:, None]
    again = never
    if STALLS:
        lowest = tl.load(lowest_ptr + slot, mask=live, other=0.0)
        waited = tl.load(waited_ptr + slot, mask=live, other=0)
        nearer = loss < lowest - 0.01 * tl.where(tl.abs(lowest) < infinity, tl.abs(lowest), 0.0)
        waited = tl.where(nearer, 0, waited + 1)
        again = waited >= stall
        lowest = tl.where(again, infinity, tl.where(nearer, loss, lowest))
        waited = tl.where(again, 0, waited)
        attempt += again.to(tl.int64)
        began = tl.where(again, new_count, began)

    # ---- the queue: finished slots take the next rows, in the order of slots within a program
    stopped = stop.to(tl.int64)
    total = tl.sum(stopped, 0)
    ticket = tl.atomic_add(head_ptr, total, mask=total > 0, sem="relaxed") + tl.cumsum(stopped, 0) - stopped
    refill = stop & (ticket < n_rows)
    take = tl.where(refill, ticket, 0)

    tl.store(out_rank_ptr + row, best_rank, mask=stop)
    tl.store(out_steps_ptr + row, new_count + tl.maximum(refined, 0), mask=stop)
    tl.store(out_finished_ptr + row, ~((new_count >= max_steps) & going), mask=stop)
    tl.store(best_rank_ptr + slot, tl.where(refill, -1, best_rank), mask=live)
    tl.store(best_value_ptr + slot, tl.where(refill, -infinity, best_value), mask=live)
    tl.store(best_loss_ptr + slot, tl.where(refill, infinity, best_loss), mask=live)
    tl.store(since_best_ptr + slot, tl.where(refill, 0, since_best), mask=live)
    tl.store(count_ptr + slot, tl.where(refill, 0, new_count), mask=live)
    tl.store(finished_ptr + slot, stop & ~refill, mask=live)
    tl.store(row_ptr + slot, take, mask=refill)
    if REFINES:
        tl.store(refined_ptr + slot, tl.where(refill, -1, refined), mask=live)
        tl.store(low_ptr + slot, tl.where(refill, 0.0, low), mask=live)
        tl.store(high_ptr + slot, tl.where(refill, 1.0, high), mask=live)
    if STALLS:
        tl.store(lowest_ptr + slot, tl.where(refill, infinity, lowest), mask=live)
        tl.store(waited_ptr + slot, tl.where(refill, 0, waited), mask=live)
        tl.store(attempt_ptr + slot, tl.where(refill, 0, attempt), mask=live)
        tl.store(began_ptr + slot, tl.where(refill, 0, began), mask=live)

    # ---- second pass: move, keep, write out, begin
    norm = _root(square)[:, None]
    scale = _root(tl.full((ROWS, 1), D, z_ptr.dtype.element_ty))
    fraction = ((low + high) * 0.5)[:, None]
    for begin in range(0, D, COLUMNS):
        column = begin + columns
        within = (column < D)[None, :]
        here = slot[:, None] * D + column[None, :]
        inside = live[:, None] & within
        z = tl.load(z_ptr + here, mask=inside, other=0.0)
        g = tl.load(gradient_ptr + here, mask=inside & usable[:, None], other=0.0)
        first = tl.load(first_ptr + here, mask=inside, other=0.0)
        second = tl.load(second_ptr + here, mask=inside, other=0.0)
        if ADAM:
            first = 0.9 * first + 0.1 * g
            second = 0.999 * second + 0.001 * g * g
            move = _divide(_divide(first, bias_first), _root(_divide(second, bias_second)) + 1e-8)
        else:
            first = 0.8 * first + _divide(0.2 * g, tl.where(usable[:, None], norm, 0.0) + 1e-8)
            move = _divide(first, bias_first) * scale
        moved = z - length[:, None] * move
        restart = (again | refill)[:, None]
        first = tl.where(restart, 0.0, first)
        second = tl.where(restart, 0.0, second)
        if STALLS:
            moved = tl.where(again[:, None], tl.load(start_ptr + here, mask=inside & again[:, None], other=0.0), moved)
        if REFINES:
            anchor = tl.load(anchor_ptr + here, mask=inside & bisect[:, None] & ~begins[:, None], other=0.0)
            anchor = tl.where(begins[:, None], z, anchor)
            tl.store(anchor_ptr + here, anchor, mask=inside & begins[:, None])
            origin = tl.load(reference_ptr + here, mask=inside & bisect[:, None], other=0.0)
            moved = tl.where(bisect[:, None], origin + fraction * (anchor - origin), moved)
        best = tl.load(best_z_ptr + here, mask=inside & stop[:, None] & ~better[:, None], other=0.0)
        best = tl.where(better[:, None], z, best)
        tl.store(out_z_ptr + row[:, None] * D + column[None, :], best, mask=stop[:, None] & within)

        begun = refill[:, None] & within
        there = take[:, None] * D + column[None, :]
        fresh = tl.load(queue_start_ptr + there, mask=begun, other=0.0)
        tl.store(start_ptr + here, fresh, mask=begun)
        tl.store(reference_ptr + here, tl.load(queue_reference_ptr + there, mask=begun, other=0.0), mask=begun)
        tl.store(best_z_ptr + here, tl.where(refill[:, None], fresh, best), mask=inside & (better | refill)[:, None])
        tl.store(z_ptr + here, tl.where(refill[:, None], fresh, moved), mask=inside)
        tl.store(first_ptr + here, first, mask=inside)
        tl.store(second_ptr + here, second, mask=inside)


def block_shape(d: int) -> tuple[int, int]:
    """Slots a program and columns a chunk, both powers of two, for rows of `d` numbers.

    >>> block_shape(5), block_shape(64), block_shape(784)
    ((16, 8), (8, 64), (1, 512))
    """
    columns = min(triton.next_power_of_2(d), _BLOCK)
    return min(16, _BLOCK // columns), columns


def runs_on(device: torch.device) -> bool:
    """Whether kernels can run where tensors of `device` are: on CUDA, or anywhere in Triton's interpreter."""
    return device.type == "cuda" or not isinstance(step_kernel, triton.runtime.JITFunction)


class StepKernel:
    """`step_slots` in one launch: ``kernel(gradient, loss, score, done, valid)`` advances `slots` in place.

    Keep the object as long as a CUDA graph that holds its launch: it owns the tables that the launch reads.

    Parameters
    ----------
    slots : Slots
        On a CUDA device, or anywhere under ``TRITON_INTERPRET=1``; float32 or float64.
    options : StepOptions

    Raises
    ------
    TypeError
        For another dtype.
    ValueError
        For an unknown update or stopping rule.
    """

    def __init__(self, slots: Slots, options: StepOptions):
        z = slots.state.z
        if z.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"The step kernel moves points in float32 or float64, got {z.dtype}. Convert `start` with "
                            "start.float(); what the networks compute in is not affected.")
        if options.update not in UPDATES or options.stop not in ("conditions", "converged"):
            raise ValueError(f"update={options.update!r} with stop={options.stop!r} is not known; choose from "
                             f"{sorted(UPDATES)} and ['conditions', 'converged'].")
        self.slots, self.options = slots, options
        self._lengths = options.step_size * torch.tensor(ATTEMPTS, dtype=z.dtype, device=z.device)
        beta_first, beta_second = (0.9, 0.999) if options.update == "adam" else (0.8, 0.8)
        steps = torch.arange(min(options.max_steps + 2, LONGEST), device=z.device).to(z.dtype)
        self._bias = torch.stack([1 - beta_first**steps, 1 - beta_second**steps])

    def __call__(self, gradient: Tensor, loss: Tensor, score: Tensor, done: Tensor, valid: Tensor) -> None:
        slots, options, state = self.slots, self.options, self.slots.state
        n_slots, d = state.z.shape
        gradient, loss, score = (values.to(state.z.dtype).contiguous() for values in (gradient, loss, score))
        rows, columns = block_shape(d)
        with torch.cuda.device_of(state.z):  # Triton launches on the current device; without effect on the CPU
            step_kernel[(triton.cdiv(n_slots, rows),)](
                *state.tensors(), slots.row, gradient, loss, score, done.contiguous(), valid.contiguous(),
                slots.head, slots.start, slots.reference,
                slots.out_z, slots.out_rank, slots.out_steps, slots.out_finished,
                self._lengths, self._bias, n_slots, len(slots.start), self._bias.shape[1],
                options.max_steps, options.patience, options.stall or 0, options.refine,
                D=d, ADAM=options.update == "adam", CONVERGED=options.stop == "converged",
                STALLS=options.stall is not None, REFINES=options.refines, ATTEMPT_COUNT=len(ATTEMPTS),
                ROWS=rows, COLUMNS=columns, num_warps=4, enable_fp_fusion=False)
