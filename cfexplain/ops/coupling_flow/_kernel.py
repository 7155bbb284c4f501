"""The kernel K2: a whole coupling flow, forth and back, in one launch; see ``triton`` for what calls it.

Each program takes 64 rows through all couplings and back. Weights come in tiles through tensor descriptors (TMA). A tile
of the second hidden layer is a sum over tiles of the first, which are computed anew for each, so that no accumulator is
wider than `Tiles.out`. What waits lies in scratch memory of the block's own, small enough to stay in the cache: halves of
the rows, t, the second hidden layer, and of the ReLUs a bit a unit.

Nothing spills (tests/ops/test_hopper_coupling_flow.py), and registers are what shaped the code. Addresses of a tensor cost
two registers an element, so scratch is a line of numbers wherever it can be; bits are grouped as threads hold them; and
what a loop does not need waits in scratch.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["coupling_flow_kernel"]


@triton.jit
def _product(a, weights, row, column, low, total, OPERAND: tl.constexpr, SPLIT: tl.constexpr):
    """``total + a @ weights[row:, column:].T``, of a descriptor's block; with SPLIT its low parts are `low` rows below."""
    if SPLIT:
        high = (a.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)  # 10 bits of mantissa, as TF32 has
        of_high = weights.load([row, column]).T
        total = tl.dot(a - high, of_high, total, input_precision="tf32")
        total = tl.dot(high, of_high, total, input_precision="tf32")
        return tl.dot(high, weights.load([low + row, column]).T, total, input_precision="tf32")
    return tl.dot(a.to(OPERAND), weights.load([row, column]).T, total, input_precision="tf32")


@triton.jit
def _bits(active, M: tl.constexpr, WIDTH: tl.constexpr):
    """(M, WIDTH) of 0 and 1 as (M, WIDTH / 8) bytes. A byte holds what one thread holds, so that none is exchanged."""
    place = tl.arange(0, 4)[None, None, :, None, None] * 2 + tl.arange(0, 2)[None, None, None, None, :]
    bits = tl.reshape(active.to(tl.int32), (M, WIDTH // 32, 4, 4, 2)) << place
    return tl.reshape(tl.sum(tl.sum(bits, 4), 2), (M, WIDTH // 8)).to(tl.int8)


@triton.jit
def _masked(values, bits, M: tl.constexpr, WIDTH: tl.constexpr):
    """`values` (M, WIDTH) where `bits` say so, else 0."""
    place = tl.arange(0, 4)[None, None, :, None, None] * 2 + tl.arange(0, 2)[None, None, None, None, :]
    byte = tl.reshape(bits.to(tl.int32), (M, WIDTH // 32, 4))[:, :, None, :, None]
    return tl.where(tl.reshape((byte >> place) & 1, (M, WIDTH)) != 0, values, 0.0)


@triton.jit
def _first_units(x, c, w_1, table, row, low, CLASS_BLOCKS: tl.constexpr, M: tl.constexpr, CHUNK: tl.constexpr,
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
    return _product(x, w_1, row, 0, low, units, OPERAND, SPLIT)


@triton.jit
def _store_tiles(values, place, M: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """(M, WIDTH) as tiles of (M, TILE), one after the other."""
    tiles = tl.permute(tl.reshape(values, (M, WIDTH // TILE, TILE)), (1, 0, 2))
    tl.store(place + tl.arange(0, M * WIDTH), tl.reshape(tiles, (M * WIDTH,)))


@triton.jit
def _rows(c_ptr, program, rows, n_classes, ONE_CLASS: tl.constexpr, M: tl.constexpr):
    """Indices of a program's rows, which of them exist, their classes, and which of these exist."""
    row = program * M + tl.arange(0, M)
    c = tl.zeros((M,), tl.int64) if ONE_CLASS else tl.load(c_ptr + row, mask=row < rows, other=0)
    known = (c >= 0) & (c < n_classes)
    return row, row < rows, tl.where(known, c, 0), known


@triton.jit
def _standardised(z_ptr, columns_ptr, loc_ptr, inverse_scale_ptr, row, d, within, place):
    """One half of the rows: column ``columns[place]`` of z, standardised; 0 in places without a column."""
    column = tl.load(columns_ptr + place)
    values = tl.load(z_ptr + row[:, None] * d + column[None, :], mask=within[:, None], other=0.0)
    return (values - tl.load(loc_ptr + place)[None, :]) * tl.load(inverse_scale_ptr + place)[None, :]


@triton.jit
def _deviation(x, c, base_loc_ptr, base_inverse_scale_ptr, base_stride, place):
    loc = tl.load(base_loc_ptr + (c * base_stride)[:, None] + place[None, :])
    return (x - loc) * tl.load(base_inverse_scale_ptr + place)[None, :]


@triton.jit
def _or_nan(x, known):
    return tl.where(known[:, None], x, float("nan"))


@triton.jit
def _store_gradient(g, grad_ptr, columns_ptr, inverse_scale_ptr, row, d, within, place):
    column, scale = tl.load(columns_ptr + place), tl.load(inverse_scale_ptr + place)
    tl.store(grad_ptr + row[:, None] * d + column[None, :], g * scale[None, :],
             mask=within[:, None] & (scale != 0)[None, :])


@triton.jit(do_not_specialize=["rows", "d", "n_classes", "base_stride"])
def coupling_flow_kernel(
    z_ptr, c_ptr, logp_ptr, grad_ptr,  # (B, d), (B,), (B,), (B, d)
    columns_ptr, loc_ptr, inverse_scale_ptr, base_loc_ptr, base_inverse_scale_ptr,  # (2P + 1,), (2P,) ...
    table, w_1, w_2, w_3, w_1_back, w_2_back, w_3_back,  # descriptors, rows of units: see `TritonFlow`
    bias_2_ptr, bias_3_ptr,  # (L, H), (L, 2P)
    tape_ptr, bits_ptr, units_ptr,  # scratch: (blocks, 2 L + 1, M, P), (blocks, L, 2, M, H / 8), (blocks, M, H)
    rows, d, n_classes, base_stride, log_constant, inverse_bound,
    LAYERS: tl.constexpr, P: tl.constexpr, H: tl.constexpr, CLASS_BLOCKS: tl.constexpr, ONE_CLASS: tl.constexpr,
    M: tl.constexpr, CHUNK: tl.constexpr, OUT: tl.constexpr, STAGES: tl.constexpr,
    OPERAND: tl.constexpr, SPLIT: tl.constexpr, GRADIENT: tl.constexpr,
):
    """`reference.logp_and_grad` for rows ``M * program_id`` and the ``M - 1`` after it."""
    program = tl.program_id(0).to(tl.int64)
    row, within, c, known = _rows(c_ptr, program, rows, n_classes, ONE_CLASS, M)
    left, right = tl.arange(0, P).to(tl.int64), P + tl.arange(0, P).to(tl.int64)
    # scratch: halves and t are a line of M P numbers a layer; bits M rows of H / 8 bytes for each hidden layer
    halves = tape_ptr + program * ((2 * LAYERS + 1) * M * P)
    ts = halves + (LAYERS + 1) * M * P
    line = tl.arange(0, M * P)
    units_of = units_ptr + program * (M * H)
    tile = tl.arange(0, M * CHUNK)
    bits = bits_ptr + program * (LAYERS * 2 * M * (H // 8))
    byte_row = tl.arange(0, M).to(tl.int64)[:, None] * (H // 8)
    chunk_byte = byte_row + tl.arange(0, CHUNK // 8).to(tl.int64)[None, :]
    out_byte = byte_row + tl.arange(0, OUT // 8).to(tl.int64)[None, :]
    out_unit = tl.arange(0, OUT).to(tl.int64)

    x_a = _standardised(z_ptr, columns_ptr, loc_ptr, inverse_scale_ptr, row, d, within, left)
    x_b = _standardised(z_ptr, columns_ptr, loc_ptr, inverse_scale_ptr, row, d, within, right)
    tl.store(halves + line, tl.reshape(x_b, (M * P,)))
    log_det = tl.zeros((M,), tl.float32)
    for layer in range(LAYERS):
        of_x, of_t = halves + layer * M * P, ts + layer * M * P
        bits_1, bits_2 = bits + layer * 2 * M * (H // 8), bits + (layer * 2 + 1) * M * (H // 8)
        tl.store(of_x + M * P + line, tl.reshape(x_a, (M * P,)))  # what this layer reads, the next moves
        for j in tl.range(0, H, OUT, num_stages=1):
            units = tl.zeros((M, OUT), tl.float32)
            for k in tl.range(0, H, CHUNK, num_stages=STAGES):
                first = _first_units(x_a, c, w_1, table, layer * H + k, LAYERS * H, CLASS_BLOCKS, M, CHUNK, OPERAND, SPLIT)
                if GRADIENT:
                    tl.store(bits_1 + k // 8 + chunk_byte, _bits(first > 0, M, CHUNK))
                units = _product(tl.where(first > 0, first, 0.0), w_2, layer * H + j, k, LAYERS * H, units, OPERAND, SPLIT)
            units += tl.load(bias_2_ptr + layer * H + j + out_unit)[None, :]
            if GRADIENT:
                tl.store(bits_2 + j // 8 + out_byte, _bits(units > 0, M, OUT))
            _store_tiles(tl.where(units > 0, units, 0.0), units_of + j * M, M, OUT, CHUNK)
        tl.debug_barrier()  # threads may read what others wrote
        t = tl.zeros((M, P), tl.float32) + tl.load(bias_3_ptr + layer * 2 * P + left)[None, :]
        s = tl.zeros((M, P), tl.float32) + tl.load(bias_3_ptr + layer * 2 * P + right)[None, :]
        for k in tl.range(0, H, CHUNK, num_stages=STAGES):
            units = tl.reshape(tl.load(units_of + k * M + tile), (M, CHUNK))
            t = _product(units, w_3, layer * 2 * P, k, LAYERS * 2 * P, t, OPERAND, SPLIT)
            s = _product(units, w_3, layer * 2 * P + P, k, LAYERS * 2 * P, s, OPERAND, SPLIT)
        if GRADIENT:
            tl.store(of_t + line, tl.reshape(t, (M * P,)))
        r = t / (1.0 + tl.abs(t) * inverse_bound)
        log_det += tl.sum(r, 1)
        tl.debug_barrier()
        x_a = tl.reshape(tl.load(of_x + line), (M, P)) * tl.exp(r) + s
    # Rows and classes are found again, by a zero from memory: else the compiler, which could know that they are the
    # same, would keep their addresses in registers through the loops.
    again = program + tl.load(columns_ptr + 2 * P)
    row, within, c, known = _rows(c_ptr, again, rows, n_classes, ONE_CLASS, M)
    x_b = tl.reshape(tl.load(halves + LAYERS * M * P + line), (M, P))
    x_a = _deviation(x_a, c, base_loc_ptr, base_inverse_scale_ptr, base_stride, left)
    x_b = _deviation(x_b, c, base_loc_ptr, base_inverse_scale_ptr, base_stride, right)
    logp = log_det - 0.5 * tl.sum(x_a * x_a + x_b * x_b, 1) + log_constant
    tl.store(logp_ptr + row, tl.where(known, logp, float("nan")), mask=within)

    if GRADIENT:
        g_left = _or_nan(-x_a * tl.load(base_inverse_scale_ptr + left)[None, :], known)
        g_right = _or_nan(-x_b * tl.load(base_inverse_scale_ptr + right)[None, :], known)
        for back in range(LAYERS):
            layer = LAYERS - 1 - back
            of_x, of_t = halves + layer * M * P, ts + layer * M * P
            bits_1, bits_2 = bits + layer * 2 * M * (H // 8), bits + (layer * 2 + 1) * M * (H // 8)
            t = tl.reshape(tl.load(of_t + line), (M, P))
            x_b = tl.reshape(tl.load(of_x + line), (M, P))
            q = 1.0 / (1.0 + tl.abs(t) * inverse_bound)
            growth = tl.exp(t * q)
            g_t = (1.0 + g_left * x_b * growth) * q * q
            tl.debug_barrier()  # all have read x_b
            tl.store(of_x + line, tl.reshape(g_left * growth, (M * P,)))
            for j in tl.range(0, H, OUT, num_stages=1):
                g_out = tl.zeros((M, OUT), tl.float32)
                for k in tl.range(0, H, CHUNK, num_stages=STAGES):
                    g = tl.zeros((M, CHUNK), tl.float32)
                    g = _product(g_t, w_3_back, layer * H + k, 0, LAYERS * H, g, OPERAND, SPLIT)
                    g = _product(g_left, w_3_back, layer * H + k, P, LAYERS * H, g, OPERAND, SPLIT)
                    g = _masked(g, tl.load(bits_2 + k // 8 + chunk_byte), M, CHUNK)
                    g_out = _product(g, w_2_back, layer * H + j, k, LAYERS * H, g_out, OPERAND, SPLIT)
                g_out = _masked(g_out, tl.load(bits_1 + j // 8 + out_byte), M, OUT)
                _store_tiles(g_out, units_of + j * M, M, OUT, CHUNK)
            tl.debug_barrier()
            for k in tl.range(0, H, CHUNK, num_stages=STAGES):
                g = tl.reshape(tl.load(units_of + k * M + tile), (M, CHUNK))
                g_right = _product(g, w_1_back, layer * P, k, LAYERS * P, g_right, OPERAND, SPLIT)
            g_left = g_right
            tl.debug_barrier()
            g_right = tl.reshape(tl.load(of_x + line), (M, P))
        row = (program + tl.load(columns_ptr + 2 * P)) * M + tl.arange(0, M)
        _store_gradient(g_left, grad_ptr, columns_ptr, inverse_scale_ptr, row, d, row < rows, left)
        _store_gradient(g_right, grad_ptr, columns_ptr, inverse_scale_ptr, row, d, row < rows, right)
