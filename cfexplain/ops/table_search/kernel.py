"""The kernel K4: a whole search of a table in one launch; see ``triton`` for what calls it.

A program holds M slots. At every step it evaluates their points, by the list of products that `_program` has made, and then
runs the step kernel's own code on them (`cfexplain.ops.search_step`), which moves the rows, writes out those that are
finished and takes the next ones of the queue; until no slot has a row. Nothing depends on the networks but numbers in
memory: the kernel is compiled once for a kind of objective.

Programs share nothing but the queue. Within one, threads read what others have written: behind a barrier.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cfexplain.ops.search_step.triton import step_kernel
from cfexplain.ops.table_search.pieces import (
    CLASSIFY,
    CLASSIFY_BACK,
    CODE,
    CODE_WIDTH,
    DECODE,
    DECODE_BACK,
    FLOW_INVERSE_SCALE,
    G_CODE,
    G_FLOW,
    G_LOGITS,
    G_OPINIONS,
    LOGITS,
    LOGITS_WIDTH,
    MEMBERS,
    OPINIONS,
    block,
    class_odds,
    hinge,
    log_density,
    network,
    odds_back,
    picture,
    picture_back,
    sigmoid,
    vector,
)

__all__ = ["table_search_kernel"]


@triton.jit(do_not_specialize=["n_slots", "n_rows", "n_bias", "max_steps", "patience", "stall", "refine", "features",
                               "classes", "columns"])
def table_search_kernel(
    # of the slots, the queue and the outputs: as `step_kernel`
    z_ptr, start_ptr, reference_ptr, first_ptr, second_ptr, best_z_ptr, anchor_ptr,
    best_value_ptr, best_loss_ptr, low_ptr, high_ptr, lowest_ptr,
    waited_ptr, best_rank_ptr, since_best_ptr, count_ptr, began_ptr, attempt_ptr, refined_ptr, finished_ptr, row_ptr,
    gradient_ptr, loss_ptr, score_ptr, done_ptr, valid_ptr,
    head_ptr, queue_start_ptr, queue_reference_ptr, out_z_ptr, out_rank_ptr, out_steps_ptr, out_finished_ptr,
    lengths_ptr, bias_ptr, n_slots, n_rows, n_bias, max_steps, patience, stall, refine,
    x_ptr, reconstruction_ptr, target_ptr, terms_ptr,  # of each row: (N, features) twice, (N,), (N, 8)
    plan_ptr, products_ptr, numbers_ptr, work_ptr,  # see `Program`; (slots / M, columns * M)
    features, classes, columns, log_constant, inverse_bound, log_odds_slack, density_slack,
    DECISION: tl.constexpr, DENSITY: tl.constexpr, DISTANCE: tl.constexpr, OPINION: tl.constexpr, INPUT: tl.constexpr,
    RESIDUAL: tl.constexpr, RULES: tl.constexpr, NEEDS_VALID: tl.constexpr,
    D: tl.constexpr, ADAM: tl.constexpr, CONVERGED: tl.constexpr, STALLS: tl.constexpr, REFINES: tl.constexpr,
    ATTEMPT_COUNT: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
    STEP_COLUMNS: tl.constexpr,
):
    """`reference.table_search` for the rows that pass through slots ``M * program_id`` and the ``M - 1`` after it."""
    program = tl.program_id(0).to(tl.int64)
    slot = program * M + tl.arange(0, M)
    work = work_ptr + program * M * columns
    live = tl.sum((tl.load(finished_ptr + slot) == 0).to(tl.int32), 0)
    while live > 0:
        row = tl.load(row_ptr + slot)
        c = tl.load(target_ptr + row).to(tl.int32)
        terms = terms_ptr + row * 8
        loss = tl.zeros((M,), tl.float32)
        for j in range(0, tl.load(plan_ptr + CODE_WIDTH), BLOCK):
            column = j + tl.arange(0, BLOCK)
            z = tl.load(z_ptr + slot[:, None] * D + column[None, :], mask=(column < D)[None, :], other=0.0)
            tl.store(block(work, tl.load(plan_ptr + CODE) + j, M, BLOCK), z)
        tl.debug_barrier()
        # ---- x′, and what the classifier says of it
        network(DECODE, plan_ptr, products_ptr, numbers_ptr, work, c, M, BLOCK, STAGES, PRECISION)
        far = picture(plan_ptr, numbers_ptr, x_ptr, reconstruction_ptr, work, row, features, RESIDUAL, RULES, INPUT, M,
                       BLOCK)
        if INPUT:
            loss += tl.load(terms + 7) * far
        network(CLASSIFY, plan_ptr, products_ptr, numbers_ptr, work, c, M, BLOCK, STAGES, PRECISION)
        width = tl.load(plan_ptr + LOGITS_WIDTH)
        logits = tl.load(plan_ptr + LOGITS)
        odds, rest, ahead = class_odds(work, logits, width, classes, c, M, BLOCK)
        score = sigmoid(odds)
        valid = ahead == 0
        done = valid | (not NEEDS_VALID)
        needed = tl.load(terms + 1)
        term = tl.zeros((M,), tl.float32)
        slope = tl.zeros((M,), tl.float32)
        if DECISION == 1:
            term, slope = hinge(needed + log_odds_slack - odds)
            slope = -slope
            done &= odds >= needed
        elif DECISION == 2:
            term, slope = hinge(needed - score)
            slope *= -score * (1.0 - score)
            done &= score >= needed
        elif DECISION == 4:
            term = -score
            slope = -score * (1.0 - score)
            done &= odds > needed
        elif DECISION != 0:
            term = tl.where(odds < 0.0, -odds, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(odds)))
            slope = -sigmoid(-odds)
            if DECISION == 3:
                done &= odds > needed
        weight = tl.load(terms)
        if DECISION != 0:
            loss += weight * term
        odds_back(work, logits, tl.load(plan_ptr + G_LOGITS), width, classes, c, rest, weight * slope, M, BLOCK)
        if OPINION:  # ---- of several classifiers of the code, the least convinced
            members = tl.load(plan_ptr + MEMBERS)
            least = tl.full((M,), float("inf"), tl.float32)
            ties = tl.zeros((M,), tl.float32)
            for m in range(members):
                own, rest, ahead = class_odds(work, tl.load(plan_ptr + OPINIONS) + m * width, width, classes, c, M, BLOCK)
                ties = tl.where(own < least, 1.0, tl.where(own == least, ties + 1.0, ties))
                least = tl.where((own < least) | (own != own), own, least)
            term, slope = hinge(tl.load(terms + 6) + log_odds_slack - least)
            loss += tl.load(terms + 5) * term
            done &= least >= tl.load(terms + 6)
            slope *= -tl.load(terms + 5) / ties
            for m in range(members):
                member = tl.load(plan_ptr + OPINIONS) + m * width
                own, rest, ahead = class_odds(work, member, width, classes, c, M, BLOCK)
                odds_back(work, member, tl.load(plan_ptr + G_OPINIONS) + m * width, width, classes, c, rest,
                           tl.where(own == least, slope, 0.0), M, BLOCK)
        tl.debug_barrier()
        network(CLASSIFY_BACK, plan_ptr, products_ptr, numbers_ptr, work, c, M, BLOCK, STAGES, PRECISION)
        picture_back(plan_ptr, numbers_ptr, work, tl.load(terms + 7), RULES, INPUT, M, BLOCK)
        network(DECODE_BACK, plan_ptr, products_ptr, numbers_ptr, work, c, M, BLOCK, STAGES, PRECISION)

        of_density = tl.zeros((M,), tl.float32)
        if DENSITY:  # ---- 1: a hinge, 2: as it is
            logp = log_density(plan_ptr, products_ptr, numbers_ptr, work, c, log_constant, inverse_bound, M, BLOCK, STAGES,
                                PRECISION)
            weight = tl.load(terms + 3)
            if DENSITY == 1:
                typical = tl.load(terms + 4)
                term, slope = hinge(typical + density_slack - logp)
                loss += weight * term
                of_density = -weight * slope
                done &= logp >= typical
            else:
                loss -= weight * logp
                of_density = -weight

        # ---- the gradient of all, and the step
        scale = tl.zeros((M,), tl.float32)
        if DISTANCE:
            square = tl.zeros((M,), tl.float32)
            for j in range(0, tl.load(plan_ptr + CODE_WIDTH), BLOCK):
                column = j + tl.arange(0, BLOCK)
                origin = tl.load(reference_ptr + slot[:, None] * D + column[None, :], mask=(column < D)[None, :], other=0.0)
                moved = tl.load(block(work, tl.load(plan_ptr + CODE) + j, M, BLOCK)) - origin
                square += tl.sum(moved * moved, 1)
            length = tl.sqrt(square)
            loss += tl.load(terms + 2) * length
            scale = tl.where(length > 0.0, tl.load(terms + 2) / tl.where(length > 0.0, length, 1.0), 0.0)
        for j in range(0, tl.load(plan_ptr + CODE_WIDTH), BLOCK):
            column = j + tl.arange(0, BLOCK)
            here = slot[:, None] * D + column[None, :]
            inside = (column < D)[None, :]
            g = tl.load(block(work, tl.load(plan_ptr + G_CODE) + j, M, BLOCK))
            if DISTANCE:
                origin = tl.load(reference_ptr + here, mask=inside, other=0.0)
                g += scale[:, None] * (tl.load(block(work, tl.load(plan_ptr + CODE) + j, M, BLOCK)) - origin)
            if DENSITY:
                g += of_density[:, None] * vector(numbers_ptr, plan_ptr, FLOW_INVERSE_SCALE, j, BLOCK) * tl.load(
                    block(work, tl.load(plan_ptr + G_FLOW) + j, M, BLOCK))
            tl.store(gradient_ptr + here, g, mask=inside)
        tl.store(loss_ptr + slot, loss)
        tl.store(score_ptr + slot, score)
        tl.store(done_ptr + slot, done)
        tl.store(valid_ptr + slot, valid)
        tl.debug_barrier()
        step_kernel(
            z_ptr, start_ptr, reference_ptr, first_ptr, second_ptr, best_z_ptr, anchor_ptr, best_value_ptr, best_loss_ptr,
            low_ptr, high_ptr, lowest_ptr, waited_ptr, best_rank_ptr, since_best_ptr, count_ptr, began_ptr, attempt_ptr,
            refined_ptr, finished_ptr, row_ptr, gradient_ptr, loss_ptr, score_ptr, done_ptr, valid_ptr, head_ptr,
            queue_start_ptr, queue_reference_ptr, out_z_ptr, out_rank_ptr, out_steps_ptr, out_finished_ptr, lengths_ptr,
            bias_ptr, n_slots, n_rows, n_bias, max_steps, patience, stall, refine, D, ADAM, CONVERGED, STALLS, REFINES,
            ATTEMPT_COUNT, M, STEP_COLUMNS)
        tl.debug_barrier()
        live = tl.sum((tl.load(finished_ptr + slot) == 0).to(tl.int32), 0)
