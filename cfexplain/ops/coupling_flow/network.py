"""What the flow's kernels are made of: a coupling's network on 64 rows, forth and back.

Weights come in tiles through tensor descriptors (TMA). A tile of the second hidden layer is a sum over tiles of the first,
which are computed anew for each, so that no accumulator is wider than `Tiles.out`. What waits lies in scratch memory of the
block's own, small enough to stay in the cache: the second hidden layer, and of the ReLUs a bit a unit.

Nothing spills (tests/ops/test_hopper_coupling_flow.py), and registers are what shaped the code. Addresses of a tensor cost
two registers an element, so scratch is a line of numbers wherever it can be; bits are grouped as threads hold them; and
what a loop does not need waits in scratch.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["network", "network_vjp", "or_nan", "rows_of", "scratch"]


@triton.jit
def product(a, weights, row, column, low, total, OPERAND: tl.constexpr, SPLIT: tl.constexpr):
    """``total + a @ weights[row:, column:].T``, of a descriptor's block; with SPLIT its low parts are `low` rows below."""
    if SPLIT:
        high = (a.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)  # 10 bits of mantissa, as TF32 has
        of_high = weights.load([row, column]).T
        total = tl.dot(a - high, of_high, total, input_precision="tf32")
        total = tl.dot(high, of_high, total, input_precision="tf32")
        return tl.dot(high, weights.load([low + row, column]).T, total, input_precision="tf32")
    return tl.dot(a.to(OPERAND), weights.load([row, column]).T, total, input_precision="tf32")


@triton.jit
def bits_of(active, M: tl.constexpr, WIDTH: tl.constexpr):
    """(M, WIDTH) of 0 and 1 as (M, WIDTH / 8) bytes. A byte holds what one thread holds, so that none is exchanged."""
    place = tl.arange(0, 4)[None, None, :, None, None] * 2 + tl.arange(0, 2)[None, None, None, None, :]
    bits = tl.reshape(active.to(tl.int32), (M, WIDTH // 32, 4, 4, 2)) << place
    return tl.reshape(tl.sum(tl.sum(bits, 4), 2), (M, WIDTH // 8)).to(tl.int8)


@triton.jit
def masked(values, bits, M: tl.constexpr, WIDTH: tl.constexpr):
    """`values` (M, WIDTH) where `bits` say so, else 0."""
    place = tl.arange(0, 4)[None, None, :, None, None] * 2 + tl.arange(0, 2)[None, None, None, None, :]
    byte = tl.reshape(bits.to(tl.int32), (M, WIDTH // 32, 4))[:, :, None, :, None]
    return tl.where(tl.reshape((byte >> place) & 1, (M, WIDTH)) != 0, values, 0.0)


@triton.jit
def first_units(x, c, w_1, table, row, low, CLASS_BLOCKS: tl.constexpr, M: tl.constexpr, CHUNK: tl.constexpr,
                OPERAND: tl.constexpr, SPLIT: tl.constexpr):
    """CHUNK units of the first hidden layer before ReLU; classes choose biases as one-hot rows of a product."""
    units = tl.zeros((M, CHUNK), tl.float32)
    one = tl.arange(0, 16)[None, :]
    if CLASS_BLOCKS == 1:  # no loop within the loop over chunks: Triton pipelines innermost loops only
        chosen = (c[:, None] == one).to(OPERAND)
        units = tl.dot(chosen, table.load([row, 0]).T, units, input_precision="tf32")
        units = tl.dot(chosen, table.load([low + row, 0]).T, units, input_precision="tf32")
    else:
        for block in range(CLASS_BLOCKS):
            chosen = (c[:, None] == block * 16 + one).to(OPERAND)
            units = tl.dot(chosen, table.load([row, block * 16]).T, units, input_precision="tf32")
            units = tl.dot(chosen, table.load([low + row, block * 16]).T, units, input_precision="tf32")
    return product(x, w_1, row, 0, low, units, OPERAND, SPLIT)


@triton.jit
def store_tiles(values, place, M: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """(M, WIDTH) as tiles of (M, TILE), one after the other."""
    tiles = tl.permute(tl.reshape(values, (M, WIDTH // TILE, TILE)), (1, 0, 2))
    tl.store(place + tl.arange(0, M * WIDTH), tl.reshape(tiles, (M * WIDTH,)))


@triton.jit
def network(x, c, layer, w_1, table, w_2, w_3, bias_2_ptr, bias_3_ptr, bits_1, bits_2, units_of,
            LAYERS: tl.constexpr, P: tl.constexpr, H: tl.constexpr, CLASS_BLOCKS: tl.constexpr, M: tl.constexpr,
            CHUNK: tl.constexpr, OUT: tl.constexpr, STAGES: tl.constexpr, OPERAND: tl.constexpr, SPLIT: tl.constexpr,
            KEEP: tl.constexpr):
    """t and s, (M, P) each, of coupling `layer` on the half `x`; with KEEP, which ReLUs are active goes to `bits_1` and
    `bits_2`."""
    byte_row = tl.arange(0, M).to(tl.int64)[:, None] * (H // 8)
    place, out_unit = tl.arange(0, P).to(tl.int64), tl.arange(0, OUT).to(tl.int64)
    for j in tl.range(0, H, OUT, num_stages=1):
        units = tl.zeros((M, OUT), tl.float32)
        for k in tl.range(0, H, CHUNK, num_stages=STAGES):
            first = first_units(x, c, w_1, table, layer * H + k, LAYERS * H, CLASS_BLOCKS, M, CHUNK, OPERAND, SPLIT)
            if KEEP:
                tl.store(bits_1 + k // 8 + byte_row + tl.arange(0, CHUNK // 8).to(tl.int64)[None, :],
                         bits_of(first > 0, M, CHUNK))
            units = product(tl.where(first > 0, first, 0.0), w_2, layer * H + j, k, LAYERS * H, units, OPERAND, SPLIT)
        units += tl.load(bias_2_ptr + layer * H + j + out_unit)[None, :]
        if KEEP:
            tl.store(bits_2 + j // 8 + byte_row + tl.arange(0, OUT // 8).to(tl.int64)[None, :], bits_of(units > 0, M, OUT))
        store_tiles(tl.where(units > 0, units, 0.0), units_of + j * M, M, OUT, CHUNK)
    tl.debug_barrier()  # threads may read what others wrote
    tile = tl.arange(0, M * CHUNK)
    t = tl.zeros((M, P), tl.float32) + tl.load(bias_3_ptr + layer * 2 * P + place)[None, :]
    s = tl.zeros((M, P), tl.float32) + tl.load(bias_3_ptr + layer * 2 * P + P + place)[None, :]
    for k in tl.range(0, H, CHUNK, num_stages=STAGES):
        units = tl.reshape(tl.load(units_of + k * M + tile), (M, CHUNK))
        t = product(units, w_3, layer * 2 * P, k, LAYERS * 2 * P, t, OPERAND, SPLIT)
        s = product(units, w_3, layer * 2 * P + P, k, LAYERS * 2 * P, s, OPERAND, SPLIT)
    return t, s


@triton.jit
def network_vjp(of_t, of_s, total, layer, w_1_back, w_2_back, w_3_back, bits_1, bits_2, units_of,
                LAYERS: tl.constexpr, P: tl.constexpr, H: tl.constexpr, M: tl.constexpr, CHUNK: tl.constexpr,
                OUT: tl.constexpr, STAGES: tl.constexpr, OPERAND: tl.constexpr, SPLIT: tl.constexpr):
    """``total`` and the gradient of the half that coupling `layer` reads, from those of t and s, (M, P) each."""
    byte_row = tl.arange(0, M).to(tl.int64)[:, None] * (H // 8)
    for j in tl.range(0, H, OUT, num_stages=1):
        g_out = tl.zeros((M, OUT), tl.float32)
        for k in tl.range(0, H, CHUNK, num_stages=STAGES):
            g = tl.zeros((M, CHUNK), tl.float32)
            g = product(of_t, w_3_back, layer * H + k, 0, LAYERS * H, g, OPERAND, SPLIT)
            g = product(of_s, w_3_back, layer * H + k, P, LAYERS * H, g, OPERAND, SPLIT)
            g = masked(g, tl.load(bits_2 + k // 8 + byte_row + tl.arange(0, CHUNK // 8).to(tl.int64)[None, :]), M, CHUNK)
            g_out = product(g, w_2_back, layer * H + j, k, LAYERS * H, g_out, OPERAND, SPLIT)
        g_out = masked(g_out, tl.load(bits_1 + j // 8 + byte_row + tl.arange(0, OUT // 8).to(tl.int64)[None, :]), M, OUT)
        store_tiles(g_out, units_of + j * M, M, OUT, CHUNK)
    tl.debug_barrier()
    tile = tl.arange(0, M * CHUNK)
    for k in tl.range(0, H, CHUNK, num_stages=STAGES):
        g = tl.reshape(tl.load(units_of + k * M + tile), (M, CHUNK))
        total = product(g, w_1_back, layer * P, k, LAYERS * P, total, OPERAND, SPLIT)
    return total


@triton.jit
def rows_of(c_ptr, program, rows, n_classes, ONE_CLASS: tl.constexpr, M: tl.constexpr):
    """Indices of a program's rows, which of them exist, their classes, and which of these exist."""
    row = program * M + tl.arange(0, M)
    c = tl.zeros((M,), tl.int64) if ONE_CLASS else tl.load(c_ptr + row, mask=row < rows, other=0)
    known = (c >= 0) & (c < n_classes)
    return row, row < rows, tl.where(known, c, 0), known


@triton.jit
def scratch(tape_ptr, bits_ptr, units_ptr, program, LAYERS: tl.constexpr, P: tl.constexpr, H: tl.constexpr,
            M: tl.constexpr):
    """A program's own: halves and t, a line of M P numbers a layer; bits, M rows of H / 8 bytes for each hidden layer; and
    the second hidden layer."""
    halves = tape_ptr + program * ((2 * LAYERS + 1) * M * P)
    return (halves, halves + (LAYERS + 1) * M * P, bits_ptr + program * (LAYERS * 2 * M * (H // 8)),
            units_ptr + program * (M * H))


@triton.jit
def or_nan(x, known):
    """`x` (M, P), NaN in rows whose class does not exist."""
    return tl.where(known[:, None], x, float("nan"))
