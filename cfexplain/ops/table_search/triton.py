"""K4: rows searched from start to end in one launch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
from torch import Tensor

from cfexplain.ops.search_step import ATTEMPTS, Slots, StepOptions
from cfexplain.ops.search_step.triton import StepKernel
from cfexplain.ops.table_search.kernel import table_search_kernel
from cfexplain.ops.table_search.packing import DECISIONS, NotCovered, TableSearch
from cfexplain.ops.table_search.program import assemble
from cfexplain.ops.table_search.reference import Result

__all__ = ["BLOCK", "PRECISIONS", "ROWS", "TritonTableSearch", "constants", "runs_on"]

ROWS = 16  # of one program: the fewest that a matrix instruction takes, so that few rows still are many programs
BLOCK = 64  # columns of a tile
STAGES = 3  # tiles of weights under way
# of the operands of products: float32 as three products of TF32 numbers, or one
PRECISIONS = {"float32": "tf32x3", "tf32": "tf32"}
_A_PROCESSOR = 2  # programs
_CAPABILITY = (8, 0)  # TF32


def runs_on(device: torch.device) -> bool:
    """Whether the kernel can run where tensors of `device` are: on CUDA, or anywhere in Triton's interpreter."""
    return device.type == "cuda" or not isinstance(table_search_kernel, triton.runtime.JITFunction)


def constants(search: TableSearch, options: StepOptions, precision: str, block: int) -> dict[str, Any]:
    """What the kernel is compiled for."""
    return dict(
        DECISION=DECISIONS.index(search.decision), DENSITY=("none", "typical", "likelihood").index(search.density),
        DISTANCE=search.distance, OPINION=search.opinion, INPUT=search.input_norm, RESIDUAL=search.residual,
        RULES=search.rules, NEEDS_VALID=search.needs_valid, D=search.dim, ADAM=options.update == "adam",
        CONVERGED=options.stop == "converged", STALLS=options.stall is not None, REFINES=options.refines,
        ATTEMPT_COUNT=len(ATTEMPTS), M=ROWS, BLOCK=block, STAGES=STAGES, PRECISION=PRECISIONS[precision],
        STEP_COLUMNS=min(triton.next_power_of_2(search.dim), 64))


class TritonTableSearch:
    """A search, laid out for the kernel on one device.

    Parameters
    ----------
    search : TableSearch
    device : torch.device
        CUDA, or any under ``TRITON_INTERPRET=1``.
    precision : {"float32", "tf32"}
        Of the operands of matrix products; sums are float32.
    block : int
        Columns of a tile, a power of two from 16 on.

    Raises
    ------
    NotCovered
        A GPU before Ampere.
    RuntimeError
        No CUDA device.
    ValueError
        An unknown precision or a block of another size.
    """

    def __init__(self, search: TableSearch, device: torch.device, precision: str = "float32", block: int = BLOCK):
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is not known; choose one of {tuple(PRECISIONS)}.")
        if block < 16 or block != triton.next_power_of_2(block):
            raise ValueError(f"block={block!r} must be a power of two from 16 on.")
        if not runs_on(device):
            missing = "" if torch.cuda.is_available() else ", and torch sees no CUDA device"
            raise RuntimeError(f"the kernel runs on CUDA, but the rows are on {str(device)!r}{missing}.")
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < _CAPABILITY:
            raise NotCovered(f"a GPU of compute capability {torch.cuda.get_device_capability(device)}, before {_CAPABILITY}")
        self.search, self.precision, self.device = search, precision, device
        self.program = assemble(search, block).to(device)

    def __call__(self, start: Tensor, reference: Tensor, rows: Mapping[str, Tensor], options: StepOptions,
                 programs: int | None = None) -> Result:
        """As `reference.table_search`, in one launch.

        Parameters
        ----------
        start, reference : Tensor of shape (N, dim), float32
            Where rows begin, and what distance is measured from.
        rows : mapping
            ``target``, ``x``, and what the terms need of each row; see `TableSearch.numbers`.
        options : StepOptions
        programs : int, optional
            How many work side by side, on 16 rows each; the others wait in the queue. By default two a processor.

        Raises
        ------
        TypeError
            `start` in another precision.
        """
        if start.dtype != torch.float32:
            raise TypeError(f"the kernel computes in float32, but the rows are {str(start.dtype).removeprefix('torch.')}.")
        n = len(start)
        if n == 0:
            none = torch.zeros(0, dtype=torch.bool, device=start.device)
            return Result(start.clone(), torch.zeros(0, dtype=torch.long, device=start.device), none, none, none)
        if programs is None:
            on_device = torch.cuda.get_device_properties(start.device).multi_processor_count if start.is_cuda else 1
            programs = _A_PROCESSOR * on_device
        programs = min(programs, triton.cdiv(n, ROWS))
        slots = Slots.fill(start.detach().contiguous(), reference.detach().contiguous(), programs * ROWS)
        self._launch(slots, rows, options)
        rank = slots.out_rank[:n]
        return Result(slots.out_z[:n], slots.out_steps[:n], rank == 2, rank >= 1, slots.out_finished[:n])

    def evaluate(self, z: Tensor, reference: Tensor, rows: Mapping[str, Tensor]
                 ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gradient (B, dim), loss, score, done and valid (B,) of points: a search of no steps."""
        n = len(z)
        slots = Slots.fill(z.detach().contiguous(), reference.detach().contiguous(), triton.cdiv(n, ROWS) * ROWS)
        gradient, loss, score, done, valid = self._launch(slots, rows, StepOptions(max_steps=0))
        return gradient[:n], loss[:n], score[:n], done[:n], valid[:n]

    def _launch(self, slots: Slots, rows: Mapping[str, Tensor], options: StepOptions
                ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Advance `slots` until none has a row; what was said of the last point in each slot."""
        search, program, start = self.search, self.program, slots.start
        step = StepKernel(slots, options)  # its tables
        held, columns = len(slots.row), program.columns
        programs = held // ROWS
        number = start.new_empty(2, held)
        answer = torch.empty(2, held, dtype=torch.bool, device=start.device)
        gradient, work = torch.empty_like(slots.state.z), start.new_empty(programs, columns * ROWS)
        x = rows["x"].to(start).contiguous()
        reconstruction = rows["reconstruction"].to(start).contiguous() if search.residual else x
        terms = search.numbers(rows, start)
        flow = search.flow
        with torch.cuda.device_of(start):  # Triton launches on the current device; without effect on the CPU
            table_search_kernel[(programs,)](
                *slots.state.tensors(), slots.row, gradient, number[0], number[1], answer[0], answer[1], slots.head,
                slots.start, slots.reference, slots.out_z, slots.out_rank, slots.out_steps, slots.out_finished,
                step._lengths, step._bias, held, len(start), step._bias.shape[1], options.max_steps, options.patience,
                options.stall or 0, options.refine, x, reconstruction, rows["target"].contiguous(), terms,
                program.plan, program.products, program.numbers, work, search.features, search.classes, columns,
                0.0 if flow is None else flow.log_constant, 0.0 if flow is None else 1 / flow.bound,
                search.log_odds_slack, search.density_slack,
                **constants(search, options, self.precision, program.block), num_warps=4, enable_fp_fusion=False)
        return gradient, number[0], number[1], answer[0], answer[1]
