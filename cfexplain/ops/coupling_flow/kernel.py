"""The kernel K2: a whole coupling flow, forth and back, in one launch; see ``triton`` for what calls it.

Each program takes 64 rows through all couplings and back. Halves of the rows and t wait in scratch, see ``_network``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cfexplain.ops.coupling_flow.network import network, network_vjp, or_nan, rows_of, scratch

__all__ = ["coupling_flow_kernel"]


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
    row, within, c, known = rows_of(c_ptr, program, rows, n_classes, ONE_CLASS, M)
    left, right = tl.arange(0, P).to(tl.int64), P + tl.arange(0, P).to(tl.int64)
    halves, ts, bits, units_of = scratch(tape_ptr, bits_ptr, units_ptr, program, LAYERS, P, H, M)
    line = tl.arange(0, M * P)

    x_a = _standardised(z_ptr, columns_ptr, loc_ptr, inverse_scale_ptr, row, d, within, left)
    x_b = _standardised(z_ptr, columns_ptr, loc_ptr, inverse_scale_ptr, row, d, within, right)
    tl.store(halves + line, tl.reshape(x_b, (M * P,)))
    log_det = tl.zeros((M,), tl.float32)
    for layer in range(LAYERS):
        of_x, of_t = halves + layer * M * P, ts + layer * M * P
        bits_1, bits_2 = bits + layer * 2 * M * (H // 8), bits + (layer * 2 + 1) * M * (H // 8)
        tl.store(of_x + M * P + line, tl.reshape(x_a, (M * P,)))  # what this layer reads, the next moves
        t, s = network(x_a, c, layer, w_1, table, w_2, w_3, bias_2_ptr, bias_3_ptr, bits_1, bits_2, units_of,
                       LAYERS, P, H, CLASS_BLOCKS, M, CHUNK, OUT, STAGES, OPERAND, SPLIT, GRADIENT)
        if GRADIENT:
            tl.store(of_t + line, tl.reshape(t, (M * P,)))
        r = t / (1.0 + tl.abs(t) * inverse_bound)
        log_det += tl.sum(r, 1)
        tl.debug_barrier()
        x_a = tl.reshape(tl.load(of_x + line), (M, P)) * tl.exp(r) + s
    # Rows and classes are found again, by a zero from memory: else the compiler, which could know that they are the
    # same, would keep their addresses in registers through the loops.
    again = program + tl.load(columns_ptr + 2 * P)
    row, within, c, known = rows_of(c_ptr, again, rows, n_classes, ONE_CLASS, M)
    x_b = tl.reshape(tl.load(halves + LAYERS * M * P + line), (M, P))
    x_a = _deviation(x_a, c, base_loc_ptr, base_inverse_scale_ptr, base_stride, left)
    x_b = _deviation(x_b, c, base_loc_ptr, base_inverse_scale_ptr, base_stride, right)
    logp = log_det - 0.5 * tl.sum(x_a * x_a + x_b * x_b, 1) + log_constant
    tl.store(logp_ptr + row, tl.where(known, logp, float("nan")), mask=within)

    if GRADIENT:
        g_left = or_nan(-x_a * tl.load(base_inverse_scale_ptr + left)[None, :], known)
        g_right = or_nan(-x_b * tl.load(base_inverse_scale_ptr + right)[None, :], known)
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
            g_right = network_vjp(g_t, g_left, g_right, layer, w_1_back, w_2_back, w_3_back, bits_1, bits_2, units_of,
                                  LAYERS, P, H, M, CHUNK, OUT, STAGES, OPERAND, SPLIT)
            g_left = g_right
            tl.debug_barrier()
            g_right = tl.reshape(tl.load(of_x + line), (M, P))
        row = (program + tl.load(columns_ptr + 2 * P)) * M + tl.arange(0, M)
        _store_gradient(g_left, grad_ptr, columns_ptr, inverse_scale_ptr, row, d, row < rows, left)
        _store_gradient(g_right, grad_ptr, columns_ptr, inverse_scale_ptr, row, d, row < rows, right)
