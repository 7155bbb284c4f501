"""K2: log p(z | c) and its gradient of a whole coupling flow in one launch; its inverse in another, and that one's VJP.

Operands are, by `precision`: "float32", each number as the sum of two TF32 numbers and three of the four products
(relative errors of 2⁻²²); "tf32"; or "bfloat16". Sums, and all that is not a product of matrices, are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from cfexplain.ops.coupling_flow.inverse_kernel import inverse_kernel, inverse_vjp_kernel
from cfexplain.ops.coupling_flow.kernel import coupling_flow_kernel
from cfexplain.ops.coupling_flow.packed_flow import NotPackable, PackedFlow

__all__ = ["TILES", "Tiles", "TritonFlow", "check", "constants", "descriptor_blocks", "prepare", "runs_on", "tiles"]

ROWS = 64  # of one program: what one warp group's matrix instruction takes
_UNIT = 64  # hidden layers are as wide as a multiple of this
_LARGEST_HALF = 32  # numbers of half a row; more do not fit the registers
_CAPABILITY = (9, 0)  # tensor descriptors in hardware, matrix instructions that read shared memory


class Tiles(NamedTuple):
    """How the kernel cuts its products."""

    chunk: int  # hidden units that enter a product at once
    out: int  # hidden units that leave it at once
    stages: int  # tiles of weights under way


TILES = {"float32": Tiles(32, 64, 3), "tf32": Tiles(32, 64, 3), "bfloat16": Tiles(64, 256, 3)}


def tiles(precision: str, hidden: int, inverse: bool = False) -> Tiles:
    """Sizes for which a kernel keeps everything in registers (tests/ops/test_hopper_coupling_flow.py)."""
    best = TILES[precision]
    if inverse:
        best = best._replace(out=min(best.out, 128))
    return best if hidden % best.out == 0 else best._replace(out=_UNIT)


@dataclass(frozen=True)
class TritonFlow:
    """A packed flow as `coupling_flow_kernel` reads it; made by `prepare`.

    Attributes
    ----------
    packed : PackedFlow
    precision : {"float32", "tf32", "bfloat16"}
    matrices : dict of Tensor
        Weights, layer below layer, numbers that are summed over side by side: w_1 (L H, P), w_2 (L H, H), w_3 (L 2P, H);
        for the way back w_1_back (L P, H), w_2_back (L H, H), w_3_back (L H, 2P); table (L H, 16 n), a column a class. P
        is a power of two, H a multiple of 64. Low parts stand below the high ones.
    vectors : dict of Tensor
        The kernel's other tensors, float32, but for the columns.
    """

    packed: PackedFlow
    precision: str
    matrices: dict[str, Tensor]
    vectors: dict[str, Tensor]

    @property
    def features(self) -> int:
        return self.packed.features

    @property
    def dtype(self) -> torch.dtype:
        return self.packed.dtype

    @cached_property
    def descriptors(self) -> tuple[dict[str, TensorDescriptor], ...]:
        """Of the matrices, for log p and for the inverse."""
        blocks = [descriptor_blocks(self.precision, self.matrices["w_1"].shape[1], self.matrices["w_2"].shape[1], inverse)
                  for inverse in (False, True)]
        return tuple({name: TensorDescriptor.from_tensor(self.matrices[name], block) for name, block in some.items()}
                     for some in blocks)

    def logp_and_grad(self, z: Tensor, c: Tensor, gradient: bool = True) -> tuple[Tensor, Tensor | None]:
        """log p(z | c), (B,), and its gradient, (B, d), or None; in one launch. NaN where `c` is no class."""
        z, c, (n, d) = z.contiguous(), c.contiguous(), z.shape
        logp, grad = z.new_empty(n), z.new_empty(n, d) if gradient else None
        if n:
            half = self.matrices["w_1"].shape[1]
            self._launch(coupling_flow_kernel, z, *self._tape(z), z_ptr=z, c_ptr=c, logp_ptr=logp,
                         grad_ptr=logp if grad is None else grad,
                         base_stride=2 * half if len(self.vectors["base_loc_ptr"]) > 1 else 0, GRADIENT=gradient)
        return logp, grad

    def inverse(self, u: Tensor, c: Tensor, keep: bool = False) -> tuple[Tensor, list[Tensor]]:
        """The code z = f⁻¹(u | c), (B, d), NaN where `c` is no class, and, to `keep`, what `inverse_vjp` needs."""
        u, c, z = u.contiguous(), c.contiguous(), torch.empty_like(u, memory_format=torch.contiguous_format)
        tape = self._tape(u)
        if len(u):
            self._launch(inverse_kernel, u, *tape, u_ptr=u, c_ptr=c, z_ptr=z, GRADIENT=keep)
        return z, tape if keep else []

    def inverse_vjp(self, tape: list[Tensor], v: Tensor) -> Tensor:
        """vᵀ ∂z/∂u, (B, d), from what `inverse` kept."""
        v, grad = v.contiguous(), torch.empty_like(v, memory_format=torch.contiguous_format)
        if len(v):
            self._launch(inverse_vjp_kernel, v, *tape, v_ptr=v, grad_ptr=grad)
        return grad

    def _tape(self, z: Tensor) -> list[Tensor]:
        """Room for halves of the rows and t of each coupling, and for a bit a ReLU."""
        layers, blocks = self.packed.layers, triton.cdiv(len(z), ROWS)
        half, hidden = self.matrices["w_1"].shape[1], self.matrices["w_2"].shape[1]
        return [z.new_empty(blocks, 2 * layers + 1, ROWS, half),
                z.new_empty(blocks, layers, 2, ROWS, hidden // 8, dtype=torch.int8)]

    def _launch(self, kernel: Any, z: Tensor, tape: Tensor, bits: Tensor, **given: Any) -> None:
        """`kernel` on the rows of `z`, with as much of the flow as it asks for."""
        flow, (n, d) = self.packed, z.shape
        half, hidden = self.matrices["w_1"].shape[1], self.matrices["w_2"].shape[1]
        inverse = kernel is not coupling_flow_kernel
        known = {
            **self.vectors, **self.descriptors[inverse], "tape_ptr": tape, "bits_ptr": bits, "rows": n, "d": d,
            "units_ptr": z.new_empty(len(tape), ROWS, hidden), "n_classes": flow.classes,
            "log_constant": flow.log_constant, "inverse_bound": 1 / flow.bound,
            **constants(self.precision, flow.layers, half, hidden, flow.classes, given.pop("GRADIENT", False), inverse)}
        with torch.cuda.device_of(z):  # Triton launches on the current device; without effect on the CPU
            kernel[(len(tape),)](**given, **{name: known[name] for name in kernel.arg_names if name in known},
                                 num_warps=4, enable_fp_fusion=True)


def descriptor_blocks(precision: str, half: int, hidden: int, inverse: bool = False) -> dict[str, list[int]]:
    """The tile of each matrix that the kernel reads at once."""
    chunk, out, _ = tiles(precision, hidden, inverse)
    return {"table": [chunk, 16], "w_1": [chunk, half], "w_2": [out, chunk], "w_3": [half, chunk],
            "w_1_back": [half, chunk], "w_2_back": [out, chunk], "w_3_back": [chunk, half]}


def constants(precision: str, layers: int, half: int, hidden: int, classes: int, gradient: bool,
              inverse: bool = False) -> dict[str, Any]:
    """What a kernel is compiled for."""
    chunk, out, stages = tiles(precision, hidden, inverse)
    return dict(LAYERS=layers, P=half, H=hidden, CLASS_BLOCKS=-(-classes // 16), ONE_CLASS=classes == 1, M=ROWS, CHUNK=chunk,
                OUT=out, STAGES=stages, OPERAND=tl.bfloat16 if precision == "bfloat16" else tl.float32,
                SPLIT=precision == "float32", GRADIENT=gradient)


def runs_on(device: torch.device) -> bool:
    """Whether the kernel can run where tensors of `device` are: on CUDA, or anywhere in Triton's interpreter."""
    return device.type == "cuda" or not isinstance(coupling_flow_kernel, triton.runtime.JITFunction)


def check(flow: PackedFlow, precision: str = "float32") -> None:
    """Whether the kernel covers `flow`.

    Raises
    ------
    NotPackable
        A flow that it does not cover.
    RuntimeError
        No CUDA device, or one before Hopper; or a flow that is on another device.
    ValueError
        An unknown precision.
    """
    if precision not in TILES:
        raise ValueError(f"precision={precision!r} is not known; choose one of {tuple(TILES)}.")
    if not runs_on(flow.device):
        missing = "torch sees no CUDA device" if not torch.cuda.is_available() else "move it with .to('cuda')"
        raise RuntimeError(f"the kernel runs on CUDA, but the flow is on {str(flow.device)!r}: {missing}.")
    if flow.device.type == "cuda" and torch.cuda.get_device_capability(flow.device) < _CAPABILITY:
        raise RuntimeError(f"the kernel is for GPUs of compute capability {_CAPABILITY} (Hopper) or later, but "
                           f"{torch.cuda.get_device_name(flow.device)} has "
                           f"{torch.cuda.get_device_capability(flow.device)}.")
    hidden = len(flow.weights) - 1
    if flow.dtype != torch.float32:
        raise NotPackable(f"the kernel computes in float32, but the flow is {str(flow.dtype).removeprefix('torch.')}; "
                          "move it with .to(dtype=torch.float32).")
    if flow.routes is not None:
        raise NotPackable("the kernel is for masks that alternate, but this flow's halves are mixed between couplings.")
    if hidden not in (1, 2):
        raise NotPackable(f"the kernel is for networks of one or two hidden layers, but these have {hidden}.")
    if flow.half > _LARGEST_HALF:
        raise NotPackable(f"the kernel is for at most {2 * _LARGEST_HALF} features, but the flow has {flow.features}.")


def prepare(flow: PackedFlow, precision: str = "float32") -> TritonFlow:
    """Lay a packed flow out for the kernel.

    Parameters
    ----------
    flow : PackedFlow
        float32; on a CUDA device, or anywhere under ``TRITON_INTERPRET=1``.
    precision : {"float32", "tf32", "bfloat16"}
        Of the operands of matrix products.

    Raises
    ------
    NotPackable, RuntimeError, ValueError
        As `check`.
    """
    check(flow, precision)
    half = max(16, triton.next_power_of_2(flow.half))
    hidden = max(-(-w.shape[2] // _UNIT) * _UNIT for w in flow.weights[:-1])
    w_1, *middle, w_3 = flow.weights
    table, *b_2, b_3 = flow.biases
    if not middle:  # one hidden layer is two, the second of which repeats the first: ReLU of what is not negative
        middle = [torch.eye(w_1.shape[2], dtype=w_1.dtype, device=flow.device).expand(flow.layers, -1, -1)]
        b_2 = [torch.zeros_like(table[:, 0])]
    w_1, w_2 = _grown(w_1, half, hidden), _grown(middle[0], hidden, hidden)
    w_3 = _halves(_grown(w_3, hidden, w_3.shape[2]), half)
    classes = flow.classes
    table = _grown(table.expand(-1, classes, -1), -(-classes // 16) * 16, hidden)
    operands = {"w_1": w_1.mT, "w_2": w_2.mT, "w_3": w_3.mT, "w_1_back": w_1, "w_2_back": w_2, "w_3_back": w_3}
    matrices = {name: _split(w.flatten(0, 1), precision, both=precision == "float32") for name, w in operands.items()}
    matrices["table"] = _split(table.mT.flatten(0, 1), precision, both=True)
    vectors = {"own_columns_ptr": _columns(flow, flow.places, half),
               "base_columns_ptr": _columns(flow, flow.final_places, half),
               "scale_ptr": _halves(flow.scale, half), "zero_ptr": torch.zeros_like(flow.columns[:1]),
               "columns_ptr": F.pad(_halves(flow.columns, half), (0, 1)), "loc_ptr": _halves(flow.loc, half),
               "inverse_scale_ptr": _halves(flow.inverse_scale, half), "base_loc_ptr": _halves(flow.base_loc, half),
               "base_inverse_scale_ptr": _halves(flow.base_inverse_scale, half),
               "bias_2_ptr": _grown(b_2[0], hidden), "bias_3_ptr": _halves(b_3, half)}
    return TritonFlow(flow, precision, matrices, {name: v.contiguous() for name, v in vectors.items()})


def _grown(values: Tensor, *sides: int) -> Tensor:
    """`values` with its last dimensions, as many as `sides`, filled up with zeros to these sizes."""
    pairs = zip(reversed(values.shape[-len(sides) :]), reversed(sides), strict=True)
    return F.pad(values, [n for have, want in pairs for n in (0, want - have)])


def _halves(values: Tensor, half: int) -> Tensor:
    """Both halves of the last dimension filled up with zeros to `half` places."""
    return torch.cat([F.pad(part, (0, half - part.shape[-1])) for part in values.chunk(2, -1)], -1)


def _columns(flow: PackedFlow, places: Tensor, half: int) -> Tensor:
    """The column that stands in each place of both halves; -1 in places without one."""
    found = torch.zeros_like(flow.columns)
    found[places] = torch.arange(1, flow.features + 1, device=flow.device)
    return _halves(found, half) - 1


def _split(matrix: Tensor, precision: str, both: bool) -> Tensor:
    """`matrix` in the operands' type; `both`: and below it what this leaves of it."""
    if precision == "bfloat16":
        high = matrix.bfloat16()
    else:  # what TF32 keeps, 10 bits of mantissa
        high = (matrix.contiguous().view(torch.int32) & -8192).view(torch.float32) if both else matrix
    low = (matrix - high).to(high.dtype)
    return torch.cat([high, low]).contiguous() if both else high.contiguous()
