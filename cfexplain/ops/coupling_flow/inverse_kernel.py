"""The inverse of a whole coupling flow in one launch, and its vector-Jacobian product in another.

Between them a search asks a classifier, so that they are two: the first leaves x_b, t and a bit a ReLU of each coupling.
Each program takes 64 rows through all couplings; see ``_network``, and ``triton`` for what calls them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cfexplain.ops.coupling_flow.network import network, network_vjp, or_nan, rows_of, scratch

__all__ = ["inverse_kernel", "inverse_vjp_kernel"]


@triton.jit
def _taken(values_ptr, columns_ptr, row, d, within, place):
    """One half of the rows: column ``columns[place]`` of the values; 0 in places without one."""
    column = tl.load(columns_ptr + place)
    mask = within[:, None] & (column >= 0)[None, :]
    return tl.load(values_ptr + row[:, None] * d + column[None, :], mask=mask, other=0.0)


@triton.jit
def _put(values, values_ptr, columns_ptr, row, d, within, place):
    """What `_taken` takes, put back."""
    column = tl.load(columns_ptr + place)
    tl.store(values_ptr + row[:, None] * d + column[None, :], values, mask=within[:, None] & (column >= 0)[None, :])


@triton.jit(do_not_specialize=["rows", "d", "n_classes"])
def inverse_kernel(
    u_ptr, c_ptr, z_ptr,  # (B, d), (B,), (B, d)
    own_columns_ptr, base_columns_ptr, loc_ptr, scale_ptr,  # (2P,), the columns -1 in places without one
    table, w_1, w_2, w_3,  # descriptors
    bias_2_ptr, bias_3_ptr, zero_ptr,  # (L, H), (L, 2P), (1,)
    tape_ptr, bits_ptr, units_ptr,  # (blocks, 2 L + 1, M, P), (blocks, L, 2, M, H / 8); scratch (blocks, M, H)
    rows, d, n_classes, inverse_bound,
    LAYERS: tl.constexpr, P: tl.constexpr, H: tl.constexpr, CLASS_BLOCKS: tl.constexpr, ONE_CLASS: tl.constexpr,
    M: tl.constexpr, CHUNK: tl.constexpr, OUT: tl.constexpr, STAGES: tl.constexpr,
    OPERAND: tl.constexpr, SPLIT: tl.constexpr, GRADIENT: tl.constexpr,
):
    """`packed.inverse` for rows ``M * program_id`` and the ``M - 1`` after it; with GRADIENT the tape is complete."""
    program = tl.program_id(0).to(tl.int64)
    row, within, c, known = rows_of(c_ptr, program, rows, n_classes, ONE_CLASS, M)
    left, right = tl.arange(0, P).to(tl.int64), P + tl.arange(0, P).to(tl.int64)
    halves, ts, bits, units_of = scratch(tape_ptr, bits_ptr, units_ptr, program, LAYERS, P, H, M)
    line = tl.arange(0, M * P)

    x_b = or_nan(_taken(u_ptr, base_columns_ptr, row, d, within, left), known)
    x_a = or_nan(_taken(u_ptr, base_columns_ptr, row, d, within, right), known)
    tl.store(halves + LAYERS * M * P + line, tl.reshape(x_b, (M * P,)))
    for back in range(LAYERS):
        layer = LAYERS - 1 - back
        of_x, of_t = halves + (layer + 1) * M * P, ts + layer * M * P
        bits_1, bits_2 = bits + layer * 2 * M * (H // 8), bits + (layer * 2 + 1) * M * (H // 8)
        tl.store(of_x - M * P + line, tl.reshape(x_a, (M * P,)))  # what this layer reads, the one below it has moved
        t, s = network(x_a, c, layer, w_1, table, w_2, w_3, bias_2_ptr, bias_3_ptr, bits_1, bits_2, units_of,
                       LAYERS, P, H, CLASS_BLOCKS, M, CHUNK, OUT, STAGES, OPERAND, SPLIT, GRADIENT)
        if GRADIENT:
            tl.store(of_t + line, tl.reshape(t, (M * P,)))
        r = t / (1.0 + tl.abs(t) * inverse_bound)
        tl.debug_barrier()  # threads may read what others wrote
        x_a = (tl.reshape(tl.load(of_x + line), (M, P)) - s) * tl.exp(-r)
        if GRADIENT:
            tl.debug_barrier()  # all have read
            tl.store(of_x + line, tl.reshape(x_a, (M * P,)))
    # found again, by a zero from memory: else their addresses would stay in registers through the loops
    row = (program + tl.load(zero_ptr)) * M + tl.arange(0, M)
    x_b = tl.reshape(tl.load(halves + line), (M, P))
    x_b = x_b * tl.load(scale_ptr + left)[None, :] + tl.load(loc_ptr + left)[None, :]
    x_a = x_a * tl.load(scale_ptr + right)[None, :] + tl.load(loc_ptr + right)[None, :]
    _put(x_b, z_ptr, own_columns_ptr, row, d, row < rows, left)
    _put(x_a, z_ptr, own_columns_ptr, row, d, row < rows, right)


@triton.jit(do_not_specialize=["rows", "d"])
def inverse_vjp_kernel(
    v_ptr, grad_ptr,  # (B, d)
    own_columns_ptr, base_columns_ptr, scale_ptr,
    w_1_back, w_2_back, w_3_back,
    zero_ptr,
    tape_ptr, bits_ptr, units_ptr,  # what `inverse_kernel` left; scratch
    rows, d, inverse_bound,
    LAYERS: tl.constexpr, P: tl.constexpr, H: tl.constexpr, M: tl.constexpr, CHUNK: tl.constexpr, OUT: tl.constexpr,
    STAGES: tl.constexpr, OPERAND: tl.constexpr, SPLIT: tl.constexpr,
):
    """`packed.inverse_vjp` for rows ``M * program_id`` and the ``M - 1`` after it."""
    program = tl.program_id(0).to(tl.int64)
    row = program * M + tl.arange(0, M)
    left, right = tl.arange(0, P).to(tl.int64), P + tl.arange(0, P).to(tl.int64)
    halves, ts, bits, units_of = scratch(tape_ptr, bits_ptr, units_ptr, program, LAYERS, P, H, M)
    line = tl.arange(0, M * P)

    g_a = _taken(v_ptr, own_columns_ptr, row, d, row < rows, left) * tl.load(scale_ptr + left)[None, :]
    g_b = _taken(v_ptr, own_columns_ptr, row, d, row < rows, right) * tl.load(scale_ptr + right)[None, :]
    for layer in range(LAYERS):
        bits_1, bits_2 = bits + layer * 2 * M * (H // 8), bits + (layer * 2 + 1) * M * (H // 8)
        t = tl.reshape(tl.load(ts + layer * M * P + line), (M, P))
        x_b = tl.reshape(tl.load(halves + (layer + 1) * M * P + line), (M, P))
        q = 1.0 / (1.0 + tl.abs(t) * inverse_bound)
        of_t = -(g_b * x_b) * q * q
        of_s = -g_b * tl.exp(-t * q)
        g_b = network_vjp(of_t, of_s, g_a, layer, w_1_back, w_2_back, w_3_back, bits_1, bits_2, units_of,
                          LAYERS, P, H, M, CHUNK, OUT, STAGES, OPERAND, SPLIT)
        g_a = -of_s
        tl.debug_barrier()  # all have read the units
    row = (program + tl.load(zero_ptr)) * M + tl.arange(0, M)
    _put(g_a, grad_ptr, base_columns_ptr, row, d, row < rows, left)
    _put(g_b, grad_ptr, base_columns_ptr, row, d, row < rows, right)
