"""Parts of the kernel K4: products, activations, log-odds, x′, log density, each for the rows of one program."""

from __future__ import annotations

import triton
import triton.language as tl

from cfexplain.ops.table_search.program import FIELDS, PLAN

__all__ = [
    "CLASSIFY", "CLASSIFY_BACK", "CODE", "CODE_WIDTH", "DECODE", "DECODE_BACK", "FLOW_INVERSE_SCALE", "G_CODE", "G_FLOW",
    "G_LOGITS", "G_OPINIONS", "LOGITS", "LOGITS_WIDTH", "MEMBERS", "OPINIONS", "block", "class_odds", "hinge", "log_density",
    "network", "odds_back", "picture", "picture_back", "sigmoid", "vector"]

_SIZE = tl.constexpr(len(FIELDS))
DECODE, CLASSIFY, CLASSIFY_BACK, DECODE_BACK = (
    tl.constexpr(PLAN.index(name)) for name in ("decode", "classify", "classify_back", "decode_back"))
_FLOW, _FLOW_BACK, _FLOW_STEP = (tl.constexpr(PLAN.index(name)) for name in ("flow", "flow_back", "flow_step"))
CODE, CODE_WIDTH, _PICTURE, _INPUT, _INPUT_WIDTH, _MASK, _CHANGE = (tl.constexpr(PLAN.index(name)) for name in (
    "code", "code_width", "picture", "input", "input_width", "mask", "change"))
LOGITS, G_LOGITS, LOGITS_WIDTH, _G_INPUT, G_CODE, OPINIONS, G_OPINIONS, MEMBERS = (
    tl.constexpr(PLAN.index(name)) for name in (
        "logits", "g_logits", "logits_width", "g_input", "g_code", "opinions", "g_opinions", "members"))
_FLOW_X, _FLOW_TS, _FLOW_TS_STEP, _G_TS, G_FLOW, _LAYERS = (tl.constexpr(PLAN.index(name)) for name in (
    "flow_x", "flow_ts", "flow_ts_step", "g_ts", "g_flow", "layers"))
_LOC, _INVERSE_SCALE, _LOW, _HIGH, _HELD = (tl.constexpr(PLAN.index(name)) for name in (
    "loc", "inverse_scale", "low", "high", "held"))
_FLOW_LOC, FLOW_INVERSE_SCALE, _BASE_LOC, _BASE_STEP, _BASE_INVERSE_SCALE = (tl.constexpr(PLAN.index(name)) for name in (
    "flow_loc", "flow_inverse_scale", "base_loc", "base_step", "base_inverse_scale"))


@triton.jit
def block(work, region, M: tl.constexpr, BLOCK: tl.constexpr):
    """Addresses of the BLOCK columns from `region` on, (M, BLOCK)."""
    return work + region * M + tl.arange(0, M)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]


@triton.jit
def vector(numbers_ptr, plan_ptr, name, j, BLOCK: tl.constexpr):
    return tl.load(numbers_ptr + tl.load(plan_ptr + name) + j + tl.arange(0, BLOCK))[None, :]


@triton.jit
def sigmoid(a):
    return 1.0 / (1.0 + tl.exp(-a))


@triton.jit
def _activated(h, kind):
    """The activation, and its slope. Written so that NaN stays NaN; the slope of ReLU is read off its value."""
    value = h
    slope = h
    if kind == 1:
        value = tl.where(h < 0.0, 0.0, h)
    elif kind == 2:
        s = sigmoid(h)
        value = h * s
        slope = s * (1.0 + h * (1.0 - s))
    elif kind == 3:
        value = 2.0 * sigmoid(2.0 * h) - 1.0
        slope = 1.0 - value * value
    elif kind == 4:
        value = sigmoid(h)
        slope = value * (1.0 - value)
    elif kind == 5:
        below = 0.5 * (1.0 + tl.erf(h * 0.7071067811865476))
        value = h * below
        slope = below + h * 0.3989422804014327 * tl.exp(-0.5 * h * h)
    elif kind == 6:
        low = tl.exp(tl.where(h < 0.0, h, 0.0))
        value = tl.where(h < 0.0, low - 1.0, h)
        slope = low
    elif kind == 7:
        slope = tl.where(h < 0.0, 0.01, 1.0)
        value = h * slope
    return value, slope


@triton.jit
def _products(first, last, products_ptr, numbers_ptr, work, c, M: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
              PRECISION: tl.constexpr):
    """Products `first` to `last` - 1, one after the other; what they wrote can be read afterwards."""
    column = tl.arange(0, BLOCK)
    tile = column[:, None] * BLOCK + column[None, :]
    for index in range(first, last):
        fields = products_ptr + index * _SIZE
        source = tl.load(fields)
        depth = tl.load(fields + 1)
        target = tl.load(fields + 2)
        width = tl.load(fields + 3)
        weight = tl.load(fields + 4)
        bias = tl.load(fields + 5) + c * tl.load(fields + 6)
        activation = tl.load(fields + 7)
        slope_at = tl.load(fields + 8)
        factor = tl.load(fields + 9)
        by = tl.load(fields + 10)
        accumulate = tl.load(fields + 11)
        for n in tl.range(0, width, BLOCK, num_stages=1):
            total = tl.load(numbers_ptr + (bias + n)[:, None] + column[None, :])
            for k in tl.range(0, depth, BLOCK, num_stages=STAGES):
                a = tl.load(block(work, source + k, M, BLOCK))
                w = tl.load(numbers_ptr + (weight + n * depth + k * BLOCK) + tile)
                total = tl.dot(a, w, total, input_precision=PRECISION)
            if by == 1:
                total = tl.where(tl.load(block(work, factor + n, M, BLOCK)) <= 0.0, 0.0, total)
            elif by == 2:
                total *= tl.load(block(work, factor + n, M, BLOCK))
            if accumulate != 0:
                total += tl.load(block(work, target + n, M, BLOCK))
            if activation != 0:
                total, slope = _activated(total, activation)
                if activation > 1:
                    tl.store(block(work, slope_at + n, M, BLOCK), slope)
            tl.store(block(work, target + n, M, BLOCK), total)
        tl.debug_barrier()


@triton.jit
def network(name, plan_ptr, products_ptr, numbers_ptr, work, c, M: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
             PRECISION: tl.constexpr):
    """The products that the plan keeps under `name`."""
    _products(tl.load(plan_ptr + name), tl.load(plan_ptr + name + 1), products_ptr, numbers_ptr, work, c, M, BLOCK, STAGES,
              PRECISION)


@triton.jit
def class_odds(work, logits, width, classes, c, M: tl.constexpr, BLOCK: tl.constexpr):
    """Log-odds of class c, the logsumexp of the others, and how many of these are more probable, (M,) each."""
    own = tl.zeros((M,), tl.float32)
    top = tl.full((M,), float("-inf"), tl.float32)
    for j in range(0, width, BLOCK):
        column = j + tl.arange(0, BLOCK)[None, :]
        logit = tl.load(block(work, logits + j, M, BLOCK))
        mine = column == c[:, None]
        own += tl.sum(tl.where(mine, logit, 0.0), 1)
        top = tl.maximum(top, tl.max(tl.where((column < classes) & ~mine, logit, float("-inf")), 1))
    total = tl.zeros((M,), tl.float32)
    ahead = tl.zeros((M,), tl.int32)
    for j in range(0, width, BLOCK):
        column = j + tl.arange(0, BLOCK)[None, :]
        logit = tl.load(block(work, logits + j, M, BLOCK))
        other = (column < classes) & (column != c[:, None])
        total += tl.sum(tl.where(other, tl.exp(logit - top[:, None]), 0.0), 1)
        first = (logit > own[:, None]) | ((logit == own[:, None]) & (column < c[:, None]))
        ahead += tl.sum((other & first).to(tl.int32), 1)
    rest = top + tl.log(total)
    return own - rest, rest, ahead


@triton.jit
def odds_back(work, logits, g_logits, width, classes, c, rest, of_odds, M: tl.constexpr, BLOCK: tl.constexpr):
    """Gradient of the logits, of that of the log-odds (M,)."""
    for j in range(0, width, BLOCK):
        column = j + tl.arange(0, BLOCK)[None, :]
        logit = tl.load(block(work, logits + j, M, BLOCK))
        mine = column == c[:, None]
        share = tl.where((column < classes) & ~mine, tl.exp(logit - rest[:, None]), 0.0)
        tl.store(block(work, g_logits + j, M, BLOCK), of_odds[:, None] * (tl.where(mine, 1.0, 0.0) - share))


@triton.jit
def hinge(gap):
    """max(gap, 0) and its slope; NaN stays NaN."""
    return tl.where(gap < 0.0, 0.0, gap), tl.where(gap > 0.0, 1.0, 0.0)


@triton.jit
def picture(plan_ptr, numbers_ptr, x_ptr, reconstruction_ptr, work, row, features,
             RESIDUAL: tl.constexpr, RULES: tl.constexpr, INPUT: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr):
    """x′ of the decoded points, as the classifier reads it; how far it is from x, (M,)."""
    far = tl.zeros((M,), tl.float32)
    for j in range(0, tl.load(plan_ptr + _INPUT_WIDTH), BLOCK):
        column = j + tl.arange(0, BLOCK)
        here = row[:, None] * features + column[None, :]
        inside = (column < features)[None, :]
        x = tl.load(block(work, tl.load(plan_ptr + _PICTURE) + j, M, BLOCK))
        if RESIDUAL or RULES or INPUT:
            original = tl.load(x_ptr + here, mask=inside, other=0.0)
        if RESIDUAL:
            x = original + (x - tl.load(reconstruction_ptr + here, mask=inside, other=0.0))
        if RULES:
            most = tl.maximum(vector(numbers_ptr, plan_ptr, _HIGH, j, BLOCK), original)
            least = tl.minimum(vector(numbers_ptr, plan_ptr, _LOW, j, BLOCK), original)
            held = vector(numbers_ptr, plan_ptr, _HELD, j, BLOCK) != 0.0
            # as torch's maximum and minimum: on the edge half of the gradient goes through
            through = tl.where(x < most, 1.0, tl.where(x == most, 0.5, 0.0))
            x = tl.where(x > most, most, x)
            through *= tl.where(x > least, 1.0, tl.where(x == least, 0.5, 0.0))
            x = tl.where(held, original, tl.where(x < least, least, x))
            tl.store(block(work, tl.load(plan_ptr + _MASK) + j, M, BLOCK), tl.where(held, 0.0, through))
        if INPUT:
            change = x - original
            if INPUT == 1:
                far += tl.sum(tl.abs(change), 1)
                change = tl.where(change > 0.0, 1.0, tl.where(change < 0.0, -1.0, 0.0))
            else:
                far += tl.sum(change * change, 1)
                change = 2.0 * change
            tl.store(block(work, tl.load(plan_ptr + _CHANGE) + j, M, BLOCK), change)
        u = (x - vector(numbers_ptr, plan_ptr, _LOC, j, BLOCK)) * vector(numbers_ptr, plan_ptr, _INVERSE_SCALE, j, BLOCK)
        tl.store(block(work, tl.load(plan_ptr + _INPUT) + j, M, BLOCK), u)
    tl.debug_barrier()
    return far


@triton.jit
def picture_back(plan_ptr, numbers_ptr, work, weight, RULES: tl.constexpr, INPUT: tl.constexpr, M: tl.constexpr,
                  BLOCK: tl.constexpr):
    """From the gradient of what the classifier reads to that of the decoded points, in place."""
    for j in range(0, tl.load(plan_ptr + _INPUT_WIDTH), BLOCK):
        place = block(work, tl.load(plan_ptr + _G_INPUT) + j, M, BLOCK)
        g = tl.load(place) * vector(numbers_ptr, plan_ptr, _INVERSE_SCALE, j, BLOCK)
        if INPUT:
            g += weight[:, None] * tl.load(block(work, tl.load(plan_ptr + _CHANGE) + j, M, BLOCK))
        if RULES:
            g *= tl.load(block(work, tl.load(plan_ptr + _MASK) + j, M, BLOCK))
        tl.store(place, g)
    tl.debug_barrier()


@triton.jit
def log_density(plan_ptr, products_ptr, numbers_ptr, work, c, log_constant, inverse_bound, M: tl.constexpr,
                 BLOCK: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr):
    """log p(z | c), (M,); its gradient in the standardised code is left in the region `g_flow`."""
    width = tl.load(plan_ptr + CODE_WIDTH)
    flow_x = tl.load(plan_ptr + _FLOW_X)
    layers = tl.load(plan_ptr + _LAYERS)
    for j in range(0, width, BLOCK):
        z = tl.load(block(work, tl.load(plan_ptr + CODE) + j, M, BLOCK))
        x = (z - vector(numbers_ptr, plan_ptr, _FLOW_LOC, j, BLOCK)) * vector(
            numbers_ptr, plan_ptr, FLOW_INVERSE_SCALE, j, BLOCK)
        tl.store(block(work, flow_x + j, M, BLOCK), x)
    tl.debug_barrier()
    logp = tl.zeros((M,), tl.float32) + log_constant
    for layer in range(layers):
        first = tl.load(plan_ptr + _FLOW) + layer * tl.load(plan_ptr + _FLOW_STEP)
        _products(first, first + tl.load(plan_ptr + _FLOW_STEP), products_ptr, numbers_ptr, work, c, M, BLOCK, STAGES,
                  PRECISION)
        ts = tl.load(plan_ptr + _FLOW_TS) + layer * tl.load(plan_ptr + _FLOW_TS_STEP)
        for j in range(0, width, BLOCK):
            t = tl.load(block(work, ts + j, M, BLOCK))
            s = tl.load(block(work, ts + width + j, M, BLOCK))
            x = tl.load(block(work, flow_x + layer * width + j, M, BLOCK))
            r = t / (1.0 + tl.abs(t) * inverse_bound)
            logp += tl.sum(r, 1)
            tl.store(block(work, flow_x + (layer + 1) * width + j, M, BLOCK), x * tl.exp(r) + s)
        tl.debug_barrier()
    for j in range(0, width, BLOCK):
        place = tl.load(plan_ptr + _BASE_LOC) + c * tl.load(plan_ptr + _BASE_STEP) + j
        loc = tl.load(numbers_ptr + place[:, None] + tl.arange(0, BLOCK)[None, :])
        narrow = vector(numbers_ptr, plan_ptr, _BASE_INVERSE_SCALE, j, BLOCK)
        deviation = (tl.load(block(work, flow_x + layers * width + j, M, BLOCK)) - loc) * narrow
        logp -= 0.5 * tl.sum(deviation * deviation, 1)
        tl.store(block(work, tl.load(plan_ptr + G_FLOW) + j, M, BLOCK), -deviation * narrow)
    tl.debug_barrier()
    for back in range(layers):
        layer = layers - 1 - back
        ts = tl.load(plan_ptr + _FLOW_TS) + layer * tl.load(plan_ptr + _FLOW_TS_STEP)
        g_ts = tl.load(plan_ptr + _G_TS)
        for j in range(0, width, BLOCK):
            place = block(work, tl.load(plan_ptr + G_FLOW) + j, M, BLOCK)
            g = tl.load(place)
            t = tl.load(block(work, ts + j, M, BLOCK))
            x = tl.load(block(work, flow_x + layer * width + j, M, BLOCK))
            q = 1.0 / (1.0 + tl.abs(t) * inverse_bound)
            growth = tl.exp(t * q)
            tl.store(block(work, g_ts + j, M, BLOCK), (1.0 + g * x * growth) * q * q)
            tl.store(block(work, g_ts + width + j, M, BLOCK), g)
            tl.store(place, g * growth)
        tl.debug_barrier()
        first = tl.load(plan_ptr + _FLOW_BACK) + layer * tl.load(plan_ptr + _FLOW_STEP)
        _products(first, first + tl.load(plan_ptr + _FLOW_STEP), products_ptr, numbers_ptr, work, c, M, BLOCK, STAGES,
                  PRECISION)
    return logp


