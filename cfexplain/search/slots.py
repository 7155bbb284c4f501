"""The same search in a fixed number of slots that rows pass through, so that no shape ever changes.

`search` drops finished rows from its tiles, and so asks the device after every step which rows these are. Here a
finished row's slot takes the next row by itself: every step is the same sequence of operations on the same memory, can
be captured once in a CUDA graph, and the host only looks now and then at how many rows are left.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from numbers import Integral

import torch
from torch import Tensor

from cfexplain.foundation.optional import import_triton, no_cuda
from cfexplain.ops.search_step import Slots, step_slots
from cfexplain.search.gradient import Evaluation, SearchOptions, SearchResult, evaluate_tile, search

__all__ = ["search_in_slots"]

_WARM_UP = 3  # steps before a capture: libraries allocate their workspaces and kernels are compiled


def search_in_slots(
    evaluate: Callable[[Tensor, Mapping[str, Tensor]], Evaluation],
    start: Tensor,
    rows: Mapping[str, Tensor],
    options: SearchOptions,
    *,
    slots: int,
    reference: Tensor | None = None,
    step: str = "reference",
    graph: bool = False,
    look_every: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """As `search`, with the same result, `slots` rows at a time.

    Parameters
    ----------
    evaluate : callable ``(z, rows) -> Evaluation``
        Called on tiles of ``options.tile`` rows; must treat rows as independent. To be captured it must not wait for
        the device (no ``.item()``, no tensor copied from the host).
    start : Tensor of shape (N, d)
    rows : mapping of str to Tensor of shape (N, ...)
        What `evaluate` needs to know of each row; gathered for the rows in a tile's slots at every step.
    options : SearchOptions
    slots : int
        Rows in work at once, rounded up to whole tiles; no more than N rows need.
    reference : Tensor of shape (N, d), optional
        Where distance is measured from; by default `start`.
    step : {"reference", "triton"}
        The step in plain torch, with the bits of `search`, or in one launch of a Triton kernel, equal to rounding.
    graph : bool
        Capture the step in a CUDA graph and replay it.
    look_every : int
        Steps between two looks at how many rows are finished. On a CUDA device the answer of one look is read while
        the steps before the next one run, so that the device never waits.
    on_progress : callable ``(finished rows, steps of the slots) -> None``, optional

    Raises
    ------
    ValueError
        ``record_path``, which slots do not keep; shapes, dtypes or devices that do not fit; a graph or a kernel asked
        for without a CUDA device; `slots` or `look_every` below 1.
    ImportError
        If ``step="triton"`` and Triton is not installed.
    RuntimeError
        If `evaluate` cannot be captured.

    Notes
    -----
    Ctrl-C returns what has been found so far, with ``interrupted`` set.

    Examples
    --------
    >>> import torch
    >>> def evaluate(z, rows):
    ...     far = (z - rows["goal"]).square().sum(1)
    ...     done = far < 0.01
    ...     return Evaluation(loss=far, done=done, valid=done, score=-far.detach())
    >>> goal = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    >>> options = SearchOptions(step_size=0.05, tile=2)
    >>> found = search_in_slots(evaluate, torch.zeros(3, 2), {"goal": goal}, options, slots=2)
    >>> found.done.all(), bool((found.z - goal).norm(dim=1).max() < 0.1)
    (tensor(True), True)
    """
    reference = start if reference is None else reference
    _check(start, reference, rows, options, slots, step, graph, look_every)
    n = len(start)
    if n == 0:
        return search(evaluate, start, reference, rows, options)
    interrupted, finished, steps = False, 0, 0
    with torch.cuda.device_of(start):
        held = -(-min(slots, n) // options.tile) * options.tile
        work = Slots.fill(start.detach(), reference.detach(), held)
        advance = _step(evaluate, rows, work, options, step)
        # slots that take a row as soon as they are free need no more steps than this for all rows
        longest = (n / min(held, n) + 1) * (options.max_steps + options.refine + 1)
        looks: deque[Callable[[], int]] = deque()
        try:
            if graph:
                advance = _captured(advance, work)
            while finished < n and not options.deadline.passed:
                if steps > longest + 2 * look_every:
                    raise RuntimeError(f"{n - finished} of {n} rows never came back from their slots after {steps} "
                                       "steps: a bug of the step, please report it. Use cfexplain.search.search.")
                for _ in range(look_every):
                    advance()
                steps += look_every
                looks.append(_look(work.head))
                if len(looks) > start.is_cuda:  # on a device that runs by itself: the answer of the look before
                    finished = looks.popleft()() - min(held, n)
                    if on_progress is not None:
                        on_progress(finished, steps)
            if finished < n:
                finished = _written_early(work, n, held, options)
        except KeyboardInterrupt:
            interrupted = True
            finished = _written_early(work, n, held, options)
            warnings.warn(f"Search interrupted with {n - finished} of {n} rows unfinished: they keep the best point "
                          "found so far.", RuntimeWarning, stacklevel=2)
    return SearchResult(z=work.out_z[:n], n_steps=work.out_steps[:n], done=work.out_rank[:n] == 2,
                 valid=work.out_rank[:n] >= 1, finished=work.out_finished[:n], interrupted=interrupted,
                 late=finished < n and not interrupted)


def _written_early(work: Slots, n: int, held: int, options: SearchOptions) -> int:
    """Write out the best points of rows that have not finished; how many have."""
    work.write(work.state, ~work.state.finished & (work.state.best_rank >= 0), options)
    return int(work.head) - min(held, n)


def _step(evaluate: Callable, rows: Mapping[str, Tensor], work: Slots, options: SearchOptions,
          step: str) -> Callable[[], None]:
    """One step of all slots, as a function without arguments that reads and writes the same memory at every call."""
    parts = [work[first : first + options.tile] for first in range(0, len(work.row), options.tile)]
    kernel = None if step == "reference" else _kernel(work, options)

    def advance() -> None:
        points = [evaluate_tile(evaluate, part.state.z.clone(), {name: all_[part.row] for name, all_ in rows.items()})
                  for part in parts]
        if kernel is not None:
            kernel(*(torch.cat(column) for column in zip(*points, strict=True)))
            return
        for part, point in zip(parts, points, strict=True):  # by tile, because a row's bits may depend on the shape
            step_slots(part, *point, options)

    return advance


def _kernel(work: Slots, options: SearchOptions) -> Callable[..., None]:
    import_triton("step='triton'")
    from cfexplain.ops.search_step.triton import StepKernel, runs_on

    if not runs_on(work.row.device):
        raise ValueError(f"step='triton' was asked for, but the rows are on {str(work.row.device)!r}{no_cuda()}. Move "
                         "them to a CUDA device, or use step='reference'.")
    return StepKernel(work, options)


def _captured(advance: Callable[[], None], work: Slots) -> Callable[[], None]:
    """`advance` as one CUDA graph. The slots are as before: steps to warm up are undone, and capturing runs nothing."""
    before = [values.clone() for values in work.tensors()]
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            advance()
    here.wait_stream(side)
    for values, old in zip(work.tensors(), before, strict=True):
        values.copy_(old)
    captured = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(captured):
            advance()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RuntimeError(
            f"The search could not be captured in a CUDA graph: {error} What it evaluates must not wait for the device "
            "(.item(), .cpu(), a branch on a tensor, a tensor made from Python numbers). Use graph=False.") from error
    return captured.replay


def _look(head: Tensor) -> Callable[[], int]:
    """Ask for the head of the queue without waiting; call what comes back to wait for the answer."""
    if not head.is_cuda:
        value = int(head)
        return lambda: value
    there = torch.empty(head.shape, dtype=head.dtype, pin_memory=True)
    there.copy_(head, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def answer() -> int:
        arrived.synchronize()
        return int(there)

    return answer


def _check(start: Tensor, reference: Tensor, rows: Mapping[str, Tensor], options: SearchOptions, slots: int, step: str,
           graph: bool, look_every: int) -> None:
    if step not in ("reference", "triton"):
        raise ValueError(f"step={step!r} is not known; choose 'reference' or 'triton'.")
    for name, value in (("slots", slots), ("look_every", look_every)):
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1.")
    if options.record_path:
        raise ValueError("Slots keep no path: a row leaves its slot without a trace. Use record_path=False, or "
                         "cfexplain.search.search.")
    if graph and not start.is_cuda:
        raise ValueError(f"graph=True captures a CUDA graph, but the rows are on {str(start.device)!r}{no_cuda()}. "
                         "Use graph=False.")
    if (reference.shape, reference.dtype, reference.device) != (start.shape, start.dtype, start.device):
        raise ValueError(f"`reference` must be like `start`, {tuple(start.shape)} {start.dtype} on {start.device}, got "
                         f"{tuple(reference.shape)} {reference.dtype} on {reference.device}.")
    for name, values in rows.items():
        if len(values) != len(start) or values.device != start.device:
            raise ValueError(f"rows[{name!r}] must have one entry for each of the {len(start)} rows of `start`, on "
                             f"{start.device}, got {len(values)} on {values.device}.")
