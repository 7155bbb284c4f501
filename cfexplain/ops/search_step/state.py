"""What a step of the search reads and writes: options, the state of each row, and the slots that rows pass through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["ATTEMPTS", "SearchState", "Slots", "StepOptions"]

# Lengths of the steps of successive attempts, in step sizes: another length crosses another part of a rugged landscape.
ATTEMPTS = (1.0, 2.0, 0.5, 1.4, 0.7)


@dataclass(frozen=True)
class StepOptions:
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
    """

    update: str = "normalized"
    step_size: float = 0.1
    stall: int | None = None
    max_steps: int = 100
    stop: str = "conditions"
    patience: int = 50
    refine: int = 0

    @property
    def refines(self) -> bool:
        return self.refine > 0 and self.stop == "conditions"


@dataclass
class SearchState:
    """One row of each tensor is one search. Vectors are (B, d), numbers (B,) in the dtype of `z`, counts (B,) int64.

    ``state[index]`` is the state of some rows: views for a slice, copies for a tensor of indices.
    """

    z: Tensor  # where the row is
    start: Tensor  # where each of its attempts begins
    reference: Tensor  # where distance is measured from
    first: Tensor  # moments of the gradient
    second: Tensor
    best_z: Tensor
    anchor: Tensor  # the point from which the way back to `reference` is bisected; anything while refined < 0
    best_value: Tensor  # larger is better among equal ranks
    best_loss: Tensor
    low: Tensor  # fractions of the way from `reference` to `anchor`: conditions fail at low, hold at high
    high: Tensor
    lowest: Tensor  # loss of this attempt, and steps since it fell by a hundredth
    waited: Tensor
    best_rank: Tensor  # 2: every condition, 1: valid, 0: neither, -1: nothing yet
    since_best: Tensor
    count: Tensor  # gradient steps taken
    began: Tensor  # `count` at the beginning of this attempt
    attempt: Tensor  # attempts given up
    refined: Tensor  # bisections made; -1 while the row still descends
    finished: Tensor  # bool

    @classmethod
    def begin(cls, start: Tensor, reference: Tensor) -> SearchState:
        """The state of rows of which nothing is known yet; `start` and `reference` are (B, d) and are not copied."""
        def number(value: float) -> Tensor:
            return start.new_full((len(start),), value)

        def count(value: int) -> Tensor:
            return start.new_full((len(start),), value, dtype=torch.long)

        return cls(
            z=start.clone(), start=start, reference=reference, first=torch.zeros_like(start),
            second=torch.zeros_like(start), best_z=start.clone(), anchor=start.clone(),
            best_value=number(-torch.inf), best_loss=number(torch.inf), low=number(0), high=number(1),
            lowest=number(torch.inf), waited=count(0), best_rank=count(-1), since_best=count(0), count=count(0),
            began=count(0), attempt=count(0), refined=count(-1),
            finished=torch.zeros(len(start), dtype=torch.bool, device=start.device))

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    def __getitem__(self, index: slice | Tensor) -> SearchState:
        return SearchState(*(values[index] for values in self.tensors()))

    def put(self, index: Tensor, after: SearchState, names: Iterable[str] = ()) -> None:
        """Write what a step changed, or only `names`, into rows `index` (n,), from the first n rows of `after`."""
        for name in names or (field.name for field in fields(self) if field.name not in ("start", "reference")):
            getattr(self, name)[index] = getattr(after, name)[: len(index)]

    @property
    def n_steps(self) -> Tensor:
        """Evaluations after the first: gradient steps and bisections, (B,)."""
        return self.count + self.refined.clamp(min=0)

    def out_of_steps(self, options: StepOptions) -> Tensor:
        """Whether a finished row stopped only because it had no steps left, bool (B,)."""
        going = self.since_best <= options.patience if options.stop == "converged" else self.best_rank < 2
        return (self.count >= options.max_steps) & going


@dataclass
class Slots:
    """S slots through which N rows pass: fixed shapes, whatever the number of rows.

    A slot works on one row until the row is finished, writes what it found to the outputs and takes the next row of the
    queue. Where the queue is empty it stays finished, and is evaluated at its last row without effect. Every tensor is
    written in place, so that a captured graph finds it again.

    Attributes
    ----------
    state : SearchState
        S rows.
    row : Tensor of int64, shape (S,)
        The row that each slot works on; the last row for a slot that never had one.
    head : Tensor of int64, shape (1,)
        The next row of the queue. It grows by one for every row that finishes, past N as well.
    start, reference : Tensor of shape (N, d)
        Where rows begin, and what distance is measured from.
    out_z : Tensor of shape (N + 1, d)
        The best point of each row. Row N of each output belongs to nobody, and holds anything.
    out_rank, out_steps : Tensor of int64, shape (N + 1,)
        Its rank (see `SearchState.best_rank`), and `SearchState.n_steps`.
    out_finished : Tensor of bool, shape (N + 1,)
        Whether the row stopped by itself, before its steps ran out.

    Examples
    --------
    >>> import torch
    >>> slots = Slots.fill(torch.zeros(3, 2), torch.zeros(3, 2), 4)
    >>> slots.row.tolist(), slots.state.finished.tolist(), int(slots.head)
    ([0, 1, 2, 2], [False, False, False, True], 3)
    """

    state: SearchState
    row: Tensor
    head: Tensor
    start: Tensor
    reference: Tensor
    out_z: Tensor
    out_rank: Tensor
    out_steps: Tensor
    out_finished: Tensor

    @classmethod
    def fill(cls, start: Tensor, reference: Tensor, n_slots: int) -> Slots:
        """`n_slots` slots that hold the first rows of `start` and `reference` (N, d), with N at least 1."""
        n = len(start)
        slot = torch.arange(n_slots, device=start.device)
        row = slot.clamp(max=n - 1)
        state = SearchState.begin(start[row], reference[row])
        state.finished |= slot >= n
        return cls(
            state=state, row=row, head=torch.full((1,), min(n, n_slots), device=start.device),
            start=start.contiguous(), reference=reference.contiguous(), out_z=torch.cat([start, start[-1:]]),
            out_rank=row.new_full((n + 1,), -1), out_steps=row.new_zeros(n + 1),
            out_finished=torch.zeros(n + 1, dtype=torch.bool, device=start.device))

    def __getitem__(self, index: slice) -> Slots:
        """Some of the slots, as views, with the queue and the outputs of all."""
        return replace(self, state=self.state[index], row=self.row[index])

    def tensors(self) -> list[Tensor]:
        """Everything that a step changes."""
        outputs = [self.out_z, self.out_rank, self.out_steps, self.out_finished]
        return [*self.state.tensors(), self.row, self.head, *outputs]

    def write(self, state: SearchState, which: Tensor, options: StepOptions) -> None:
        """Write what `state` has found to the outputs, for the slots of `which`, bool (S,)."""
        at = torch.where(which, self.row, len(self.start))
        self.out_z[at] = state.best_z
        self.out_rank[at] = state.best_rank
        self.out_steps[at] = state.n_steps
        self.out_finished[at] = state.finished & ~state.out_of_steps(options)
