"""Where rounding to bfloat16 can be done, and where it pays."""

from __future__ import annotations

import functools
import time

import torch
import torch.nn.functional as F
from torch.backends import mkldnn

from cfexplain.foundation.settings import own_defaults, own_modes
from cfexplain.foundation.threads import one_thread

__all__ = ["computes_in_bfloat16", "faster_in_bfloat16", "has_matrix_units"]

# Times as fast as float32 from which bfloat16 pays, and from which it is done in matrix units (AMX): processors measured so
# far are .5 and 2 times as fast without them, and 4 to 5 times with them
_PAYS, _IN_MATRIX_UNITS = 1.2, 2.8
_RUNS = 9  # of each, by turns


def computes_in_bfloat16(device: str | torch.device) -> bool:
    """Whether `device` has instructions for bfloat16; emulated bfloat16 is slower in any case."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported() and check and check())


def faster_in_bfloat16(device: str | torch.device) -> bool:
    """Whether networks are faster in bfloat16 than in float32 on `device`.

    On a processor this is tried, once a process and in some 50 ms: of two with AVX512-BF16 and without matrix units (AMX),
    AMD's is twice as fast and Intel's half as fast.
    """
    if not computes_in_bfloat16(device):
        return False
    return torch.device(device).type == "cuda" or _tried() > _PAYS


def has_matrix_units(device: str | torch.device) -> bool:
    """Whether a processor multiplies bfloat16 so much faster than float32 that it must have units for it; tried, as in
    `faster_in_bfloat16`. Of a GPU that was not measured, and False.
    """
    return computes_in_bfloat16(device) and torch.device(device).type == "cpu" and _tried() > _IN_MATRIX_UNITS


@functools.cache
def _tried() -> float:
    """How many times as fast a convolution is in bfloat16 as in float32, by the best of some runs of each."""
    best = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    with one_thread(), own_defaults(), own_modes(torch.device("cpu")), torch.no_grad():
        x, weight = (torch.ones(shape).to(memory_format=torch.channels_last) for shape in ((8, 64, 28, 28), (64, 64, 3, 3)))
        inputs = {dtype: (x.to(dtype), weight.to(dtype)) for dtype in best}
        for _ in range(_RUNS):
            for dtype, (pixels, filters) in inputs.items():
                started = time.perf_counter()
                F.conv2d(pixels, filters, padding=1)
                best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.float32] / best[torch.bfloat16]
