"""The search by itself, on objectives whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfexplain.foundation.deadline import Deadline
from cfexplain.foundation.numbers import log_odds, row_norm
from cfexplain.foundation.tiles import TileSizes
from cfexplain.search import Evaluation, SearchOptions, search


def hyperplane(z, rows):
    """Cross ``sum(z) >= rows["needed"]`` while staying near the reference."""
    side = z.sum(1)
    loss = 10 * torch.relu(rows["needed"] + 0.01 - side) + row_norm(z - rows["z0"])
    done = side >= rows["needed"]
    return Evaluation(loss=loss, done=done, valid=done, score=torch.sigmoid(side - rows["needed"]).detach())


def problem(n, d=5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    z0 = torch.randn(n, d, generator=generator, dtype=dtype) - 1
    return z0, {"z0": z0, "needed": 3 * torch.rand(n, generator=generator, dtype=dtype)}


def run(z0, rows, evaluate=hyperplane, **options):
    return search(evaluate, z0, z0, rows, SearchOptions(**{"max_steps": 200, "tile": 8, **options}))


@pytest.mark.parametrize("update", ["adam", "normalized"])
@pytest.mark.parametrize("stop", ["conditions", "converged"])
def test_every_row_meets_its_condition(update, stop):
    z0, rows = problem(40)
    found = run(z0, rows, update=update, stop=stop, patience=20)
    assert found.done.all() and found.valid.all()
    assert (found.z.sum(1) >= rows["needed"]).all()


def test_refinement_comes_closer_and_keeps_the_condition():
    z0, rows = problem(40)
    plain, refined = run(z0, rows, step_size=0.5), run(z0, rows, step_size=0.5, refine=10)
    assert (refined.z.sum(1) >= rows["needed"]).all()
    shorter = (refined.z - z0).norm(dim=1) / (plain.z - z0).norm(dim=1)
    assert (shorter <= 1 + 1e-6).all() and shorter.mean() < 0.98
    assert (refined.n_steps == plain.n_steps + 10).all()
    # ten bisections of the way back end within 2^-10 of the point where the condition begins to hold
    share = (rows["needed"] - z0.sum(1)) / (plain.z - z0).sum(1)
    nearest = share * (plain.z - z0).norm(dim=1)
    np.testing.assert_allclose((refined.z - z0).norm(dim=1), nearest, rtol=2**-9)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 40), seed=st.integers(0, 1000), update=st.sampled_from(["adam", "normalized"]))
def test_a_row_has_the_same_bits_alone_in_a_batch_and_in_any_order(n, seed, update):
    z0, rows = problem(n, seed=seed)
    together = run(z0, rows, update=update, max_steps=30, refine=2)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled = run(z0[order], {k: v[order] for k, v in rows.items()}, update=update, max_steps=30, refine=2)
    assert torch.equal(shuffled.z, together.z[order])
    assert torch.equal(shuffled.n_steps, together.n_steps[order])
    pick = n // 2
    alone = run(z0[pick : pick + 1], {k: v[pick : pick + 1] for k, v in rows.items()}, update=update, max_steps=30,
                refine=2)
    assert torch.equal(alone.z[0], together.z[pick])


@pytest.mark.parametrize("differs", [False, True])
def test_company_that_saves_a_tile_changes_no_bit(differs):
    """Rows that are bisected join those that descend, but where a row comes out otherwise when it is differentiated."""
    z0, rows = problem(30, seed=3)
    modes = []

    def evaluate(z, some):
        modes.append(torch.is_grad_enabled())
        there = z * 1.001 if differs and torch.is_grad_enabled() else z
        return hyperplane(there, some)

    apart = run(z0, rows, evaluate, refine=3, step_size=0.5)
    alone = len(modes)
    sizes = TileSizes(8, numbers=5)
    run(z0, rows, evaluate, refine=3, step_size=0.5, sizes=sizes)  # which finds out
    before = len(modes)
    together = run(z0, rows, evaluate, refine=3, step_size=0.5, sizes=sizes)
    assert torch.equal(together.z, apart.z) and torch.equal(together.n_steps, apart.n_steps)
    assert len(modes) - before < alone
    assert differs or all(modes[before:][:-4])  # only the last rows have none beside them that descend


def test_adam_follows_torch_optim():
    z0, rows = problem(6, dtype=torch.float64)

    def smooth(z, some):
        loss = ((z - some["z0"] - 1) ** 2).sum(1) + z.sin().sum(1)
        never = torch.zeros(len(z), dtype=torch.bool)
        return Evaluation(loss=loss, done=never, valid=never, score=torch.zeros(len(z), dtype=z.dtype))

    found = run(z0, rows, smooth, update="adam", step_size=0.05, max_steps=25, record_path=True)
    expected = z0.clone().requires_grad_()
    optimiser = torch.optim.Adam([expected], lr=0.05)
    for _ in range(25):
        optimiser.zero_grad()
        smooth(expected, rows).loss.sum().backward()
        optimiser.step()
    np.testing.assert_allclose(torch.stack([p[-1] for p in found.path]), expected.detach(), rtol=1e-10)


def test_the_path_has_every_point_and_starts_at_the_start():
    z0, rows = problem(10)
    found = run(z0, rows, record_path=True)
    assert [len(p) for p in found.path] == (found.n_steps + 1).tolist()
    assert torch.equal(torch.stack([p[0] for p in found.path]), z0)
    assert torch.equal(torch.stack([p[-1] for p in found.path]), found.z)


def test_rows_that_never_succeed_return_their_highest_score():
    z0, rows = problem(12)

    def unreachable(z, some):
        never = torch.zeros(len(z), dtype=torch.bool)
        peak = torch.exp(-(z - some["z0"] - 0.7).square().sum(1))  # passed by the steps, which go on
        return Evaluation(loss=-z.sum(1), done=never, valid=never, score=peak.detach())

    found = run(z0, rows, unreachable, update="normalized", step_size=0.05, max_steps=60, record_path=True)
    assert not found.valid.any() and not found.finished.any()
    for i, path in enumerate(found.path):
        scores = torch.exp(-(path - z0[i] - 0.7).square().sum(1))
        assert torch.equal(found.z[i], path[scores.argmax()])


def test_valid_comes_before_a_lower_objective():
    z0, rows = problem(8)

    def valid_on_the_way(z, some):
        moved = (z - some["z0"]).sum(1)
        never = torch.zeros(len(z), dtype=torch.bool)
        return Evaluation(loss=-moved, done=never, valid=(moved > 1) & (moved < 3), score=torch.sigmoid(moved).detach())

    found = run(z0, rows, valid_on_the_way, update="normalized", step_size=0.1, max_steps=80)
    moved = (found.z - z0).sum(1)
    assert found.valid.all() and ((moved > 1) & (moved < 3)).all()


def test_a_row_of_nan_touches_nobody():
    z0, rows = problem(16)
    clean = run(z0, rows)
    poisoned = {k: v.clone() for k, v in rows.items()}
    poisoned["needed"][5] = float("nan")
    found = run(z0, poisoned)
    others = torch.arange(16) != 5
    assert torch.equal(found.z[others], clean.z[others])
    assert not found.done[5] and torch.isfinite(found.z[5]).all()


def test_interruption_keeps_what_was_found():
    z0, rows = problem(30)
    calls = []

    def interrupted(z, some):
        calls.append(1)
        if len(calls) > 40:
            raise KeyboardInterrupt
        return hyperplane(z, some)

    with pytest.warns(RuntimeWarning, match="interrupted"):
        found = run(z0, rows, interrupted, step_size=0.02)
    assert found.interrupted and found.z.shape == z0.shape
    whole = run(z0, rows, step_size=0.02)
    assert torch.equal(found.z[found.finished], whole.z[found.finished])


def test_a_search_stops_where_another_thread_was_interrupted():
    (z0, rows), deadline = problem(30), Deadline()

    def told(z, some):
        deadline.interrupt()
        return hyperplane(z, some)

    found = run(z0, rows, told, step_size=0.02, deadline=deadline)
    assert found.interrupted and not found.late and not found.finished.any()
    assert (found.n_steps == 1).all()


def test_no_rows_and_no_steps():
    z0, rows = problem(3)
    empty = run(z0[:0], {k: v[:0] for k, v in rows.items()})
    assert empty.z.shape == (0, 5)
    assert torch.equal(run(z0, rows, max_steps=0).z, z0)


def test_norm_and_log_odds_against_float64():
    drawing = torch.Generator().manual_seed(0)
    v = torch.randn(7, 3, dtype=torch.float64, generator=drawing).requires_grad_()
    assert torch.autograd.gradcheck(row_norm, v)
    logits, target = torch.randn(70, 4, dtype=torch.float64, generator=drawing) * 20, torch.arange(70) % 4
    p = logits.softmax(1).numpy()[np.arange(70), target]
    rest = logits.softmax(1).numpy().sum(1) - p
    keep = rest > 1e-12
    assert keep.sum() > 7
    np.testing.assert_allclose(log_odds(logits, target).numpy()[keep], np.log(p[keep] / rest[keep]), rtol=1e-3)


def test_a_row_that_gets_no_nearer_starts_again_with_steps_of_another_length():
    """A wall that steps of one length always meet and steps of twice the length leap over."""
    def evaluate(z, rows):
        x = z[:, 0]
        wall = 50 * torch.relu(0.35 - (x - 1.5).abs())
        return Evaluation(loss=(3 - x).clamp(min=0) + wall, done=x >= 3, valid=x >= 3, score=x)

    start = torch.zeros(3, 1, dtype=torch.float64)
    start[1] = 2.2  # beyond the wall: never stalls
    options = SearchOptions(update="normalized", step_size=0.2, max_steps=200)
    stuck = search(evaluate, start, start, {}, options)
    found = search(evaluate, start, start, {}, replace(options, stall=10))
    assert stuck.done.tolist() == [False, True, False] and found.done.all()
    assert found.n_steps[1] == stuck.n_steps[1]  # nothing changes for a row on its way
    alone = search(evaluate, start[:1], start[:1], {}, replace(options, stall=10))
    assert torch.equal(alone.z, found.z[:1]) and alone.n_steps[0] == found.n_steps[0]
    recorded = search(evaluate, start, start, {}, replace(options, stall=10, record_path=True))
    jumps = [(path[1:] - path[:-1]).abs().max() for path in recorded.path]
    assert len(recorded.path[0]) == found.n_steps[0] + 1 and jumps[0] > 0.5 > jumps[1]  # back to the start, and not
