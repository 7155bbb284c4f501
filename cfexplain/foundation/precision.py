"""Where rounding to bfloat16 pays."""

from __future__ import annotations

import torch
from torch.backends import mkldnn

__all__ = ["computes_in_bfloat16"]


def computes_in_bfloat16(device: str | torch.device) -> bool:
    """Whether `device` is faster in bfloat16 than in float32; emulated bfloat16 is slower.

    A processor with AVX512-BF16 is about twice as fast, one with matrix units (AMX) four to five times.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported() and check and check())
