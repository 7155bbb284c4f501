"""The step kernel against the reference in float64, torch's own Adam and a queue kept by hand.

Without a GPU the kernel runs in Triton's interpreter; where there is one, the compiled kernel passes the same tests.
"""

import itertools
import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch

from cfexplain.ops.search_step import SearchState, Slots, StepOptions, step, step_slots
from cfexplain.search import Evaluation, SearchOptions, search
from cfexplain.search.slots import search_in_slots

pytest.importorskip("triton", reason="needs Triton: pip install triton")
from cfexplain.ops.search_step.triton import StepKernel, block_shape  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = [*(field.name for field in fields(SearchState)),
         "row", "head", "out_z", "out_rank", "out_steps", "out_finished"]
OPTIONS = list(itertools.product(["adam", "normalized"], ["conditions", "converged"], [0, 3], [None, 2]))


def queue(n, n_slots, d, dtype=torch.float64, seed=0):
    """The same slots twice, the outputs poisoned."""
    start = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(DEVICE)
    both = []
    for _ in range(2):
        slots = Slots.fill(start, start - 1, n_slots)
        slots.out_z.fill_(torch.nan)
        slots.out_rank.fill_(-7)
        slots.out_steps.fill_(-7)
        both.append(slots)
    return both


def points(n_slots, d, generator, dtype=torch.float64):
    """Random gradients, losses, scores and answers, some of them not finite."""
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    gradient, loss, score = draw(n_slots, d), draw(n_slots), draw(n_slots)
    for values in (loss, score, gradient[:, 0], gradient[:, -1]):
        strange = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=torch.float64)
        pick = torch.randint(0, 3, (n_slots,), generator=generator)
        values.copy_(torch.where(draw(n_slots) > 1.4, strange[pick], values))
    done, valid = draw(n_slots) > 0.6, draw(n_slots) > 0.3
    return tuple(values.to(DEVICE) for values in (
        gradient.to(dtype), loss.to(dtype), score.to(dtype), done, valid))


def assert_same(slots, truth, **tolerance):
    for name, got, wanted in zip(NAMES, slots.tensors(), truth.tensors(), strict=True):
        if name.startswith("out_"):  # row N belongs to nobody
            got, wanted = got[:-1], wanted[:-1]
        if name == "anchor":  # means nothing before a bisection
            got, wanted = got[truth.state.refined >= 0], wanted[truth.state.refined >= 0]
        if got.is_floating_point():
            np.testing.assert_allclose(got.cpu(), wanted.cpu(), err_msg=name, **tolerance)
        else:
            assert torch.equal(got, wanted), name


@pytest.mark.parametrize(("update", "stop", "refine", "stall"), OPTIONS)
def test_every_combination_of_options_equals_the_reference(update, stop, refine, stall):
    options = StepOptions(update=update, stop=stop, refine=refine, stall=stall, max_steps=4, patience=1)
    slots, truth = queue(9, 5, 70)
    kernel, generator = StepKernel(slots, options), torch.Generator().manual_seed(1)
    for _ in range(7):
        point = points(5, 70, generator)
        kernel(*point)
        step_slots(truth, *point, options)
        if DEVICE == "cpu":  # on a GPU programs run in any order, and with them the queue
            assert_same(slots, truth, rtol=1e-12, atol=1e-14)
    assert int(slots.head) == int(truth.head) > 5


@pytest.mark.parametrize("d", [1, 3, 600])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
def test_odd_sizes(n, d):
    n_slots = 4
    options = StepOptions(refine=1, stall=2, max_steps=2)
    slots, truth = queue(n, n_slots, d)
    assert block_shape(600) == (1, 512) and block_shape(3) == (16, 4)  # two chunks a row; slots beyond the last
    kernel, generator = StepKernel(slots, options), torch.Generator().manual_seed(n)
    for _ in range(4):
        point = points(n_slots, d, generator)
        kernel(*point)
        step_slots(truth, *point, options)
        if DEVICE == "cpu":
            assert_same(slots, truth, rtol=1e-12, atol=1e-14)
    assert int(slots.head) == int(truth.head)


@pytest.mark.parametrize("update", ["adam", "normalized"])
def test_float32_is_float64_to_rounding_and_its_moments_are_the_references(update):
    options = StepOptions(update=update, refine=2, stall=3, max_steps=5)
    (single, single_truth), (_, double) = queue(6, 6, 64, torch.float32), queue(6, 6, 64)
    for slots in (single, single_truth):
        for values, exact in zip(slots.state.tensors(), double.state.tensors(), strict=True):
            values.copy_(exact)
    kernel, generator = StepKernel(single, options), torch.Generator().manual_seed(2)
    for _ in range(5):
        point = points(6, 64, generator, torch.float32)
        kernel(*point)
        step_slots(single_truth, *point, options)
        step_slots(double, *(values.double() if values.is_floating_point() else values for values in point), options)
        assert_same(single, double, rtol=1e-5, atol=3e-6)
        if update == "adam":  # no sum is involved, and products are not contracted
            assert torch.equal(single.state.first, single_truth.state.first)
            assert torch.equal(single.state.second, single_truth.state.second)


def test_adam_is_torchs():
    n, d = 3, 11
    slots, _ = queue(n, n, d)
    start = slots.state.z.clone()
    kernel = StepKernel(slots, StepOptions(update="adam", step_size=0.05, max_steps=100))
    expected = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([expected], lr=0.05)
    no, number = torch.zeros(n, dtype=torch.bool, device=DEVICE), torch.ones(n, dtype=torch.float64, device=DEVICE)
    for _ in range(12):
        expected.grad = (expected.detach() - 1).sin() * 3
        kernel((slots.state.z - 1).sin() * 3, number, number, no, no)
        optimiser.step()
    np.testing.assert_allclose(slots.state.z.cpu(), expected.detach().cpu(), rtol=1e-11)


def test_normalized_steps_average_unit_gradients():
    d, step_size, rng = 6, 0.1, np.random.RandomState(0)
    slots, _ = queue(1, 1, d)
    z = slots.state.z[0].cpu().numpy().copy()
    kernel = StepKernel(slots, StepOptions(update="normalized", step_size=step_size))
    no, number = torch.zeros(1, dtype=torch.bool, device=DEVICE), torch.ones(1, dtype=torch.float64, device=DEVICE)
    seen = []
    for k in range(1, 6):
        gradient = rng.normal(size=d) * 10.0**k
        kernel(torch.from_numpy(gradient)[None].to(DEVICE), number, number, no, no)
        seen.append(gradient / np.linalg.norm(gradient))
        weights = 0.2 * 0.8 ** np.arange(k)[::-1]
        z = z - step_size * np.sqrt(d) * (weights @ np.array(seen)) / weights.sum()
    np.testing.assert_allclose(slots.state.z[0].cpu(), z, rtol=1e-7)  # 1e-8 is added to each length


@pytest.mark.parametrize("update", ["adam", "normalized"])
def test_a_row_of_nan_touches_nobody_and_stays(update):
    """Slots share programs: a NaN in one must not reach the sums or the queue of another."""
    options = StepOptions(update=update, refine=2, stall=3, max_steps=20)
    clean, poisoned = queue(8, 8, 40)
    kernels = StepKernel(clean, options), StepKernel(poisoned, options)
    generator, others, before = torch.Generator().manual_seed(3), torch.arange(8) != 5, poisoned.state.z[5].clone()
    for _ in range(2):
        gradient, loss, score, done, valid = (
            torch.nan_to_num(v, 0.5, 0.5, 0.5) if v.is_floating_point() else v & False
            for v in points(8, 40, generator))
        kernels[0](gradient, loss, score, done, valid)
        for values in (gradient, loss, score):
            values[5] = torch.nan
        done[5], valid[5] = True, True  # what a classifier says of NaN means nothing
        kernels[1](gradient, loss, score, done, valid)
        for name, got, wanted in zip(NAMES[:20], poisoned.state.tensors(), clean.state.tensors(), strict=True):
            assert torch.equal(got[others], wanted[others]), name
    assert torch.equal(poisoned.state.z[5], before) and poisoned.state.best_rank[5] == 0


@pytest.mark.parametrize("update", ["adam", "normalized"])
def test_a_search_that_starts_without_a_gradient_stays_there_and_stops(update):
    slots, _ = queue(3, 3, 7, torch.float32)
    start = slots.state.z.clone()
    kernel = StepKernel(slots, StepOptions(update=update, max_steps=9))
    no, number = torch.zeros(3, dtype=torch.bool, device=DEVICE), torch.ones(3, device=DEVICE)
    gradient = torch.zeros_like(start)
    gradient[1, 3] = 1e-12
    for _ in range(2):
        kernel(gradient, number, number, no, no)
    assert torch.equal(slots.state.z[::2], start[::2])
    assert slots.state.finished.tolist() == [True, False, True] and slots.state.count.tolist() == [0, 2, 0]


def test_the_queue_gives_every_row_once_and_writes_every_output():
    n, n_slots, d = 23, 20, 3  # two programs
    slots, _ = queue(n, n_slots, d)
    kernel, generator = StepKernel(slots, StepOptions(max_steps=3)), torch.Generator().manual_seed(4)
    held, ahead, given = slots.row.tolist(), n_slots, list(range(n_slots))
    finished = [False] * n_slots
    for _ in range(12):
        gradient, loss, score, done, valid = points(n_slots, d, generator)
        counts, rows = slots.state.count.tolist(), slots.row.tolist()
        lost = (~torch.isfinite(gradient).all(1)).tolist()
        stops = [not over and (bool(hit) and bool(np.isfinite(value)) or count >= 3 or (count == 0 and stays))
                 for over, hit, value, count, stays in zip(
                     finished, done.tolist(), loss.tolist(), counts, lost, strict=True)]
        kernel(gradient, loss, score, done, valid)
        for slot in np.flatnonzero(stops):
            assert slots.out_steps[rows[slot]] == counts[slot]
            if DEVICE == "cpu":  # the order of slots is the order of the queue
                held[slot] = ahead if ahead < n else held[slot]
            finished[slot] = bool(slots.state.finished[slot])
            given += [] if finished[slot] else [int(slots.row[slot])]
            ahead += 1
        assert int(slots.head) == ahead
        assert DEVICE != "cpu" or slots.row.tolist() == held
        if all(finished):
            break
    assert all(finished) and sorted(given) == list(range(n)) and ahead == n + n_slots
    assert torch.isfinite(slots.out_z[:n]).all()
    assert (slots.out_rank[:n] >= 0).all() and (slots.out_steps[:n] >= 0).all()
    assert slots.out_z[n].isnan().all() and slots.out_rank[n] == -7 and slots.out_steps[n] == -7


def test_finished_slots_change_nothing():
    slots, _ = queue(2, 6, 4)
    kernel, generator = StepKernel(slots, StepOptions(max_steps=0)), torch.Generator().manual_seed(5)
    kernel(*points(6, 4, generator))  # no steps: both rows are finished at once, and the queue is empty
    assert slots.state.finished.all() and int(slots.head) == 4
    before = [values.clone() for values in slots.tensors()]
    kernel(*points(6, 4, generator))
    for name, now, then in zip(NAMES, slots.tensors(), before, strict=True):
        assert torch.equal(now.nan_to_num(9), then.nan_to_num(9)), name


def test_step_leaves_its_input_as_it_is():
    slots, _ = queue(5, 5, 3)
    before = [values.clone() for values in slots.state.tensors()]
    point = points(5, 3, torch.Generator().manual_seed(6))
    copies = [values.clone() for values in point]
    after = step(slots.state, *point, StepOptions(refine=2, stall=1))
    assert not torch.equal(after.z, slots.state.z)
    for now, then in zip((*slots.state.tensors(), *point), before + copies, strict=True):
        assert torch.equal(now.nan_to_num(9), then.nan_to_num(9))


# ---------------------------------------------------------------- whole searches

def rugged(z, rows):
    """Waves on a slope, a condition that holds in patches, and a loss that is not a number here and there."""
    far = rows["needed"] - z.sum(1)
    loss = torch.relu(far) + 0.1 * torch.sin(5 * z).sum(1) + 0.01 * (z - rows["z0"]).square().sum(1)
    loss = torch.where(torch.sin(40 * z).sum(1) > 2.2, torch.nan, loss)
    done = (far <= 0) & (torch.sin(9 * z).sum(1) > 0)
    return Evaluation(loss=loss, done=done, valid=far <= 0.3, score=torch.sigmoid(-far).detach())


def hills(n, d=5, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z0 = torch.randn(n, d, generator=generator, dtype=torch.float64) - 1
    needed = 3 * torch.rand(n, generator=generator, dtype=torch.float64)
    z0 = z0.to(DEVICE, dtype)
    return z0, {"z0": z0, "needed": needed.to(DEVICE, dtype)}


@pytest.mark.parametrize(("n", "update", "stop", "refine", "stall"), [
    (13, "normalized", "conditions", 3, None), (13, "adam", "conditions", 3, 4), (5, "normalized", "converged", 0, 4),
    (8, "adam", "converged", 0, None)])
def test_slots_with_the_kernel_find_what_the_search_finds(n, update, stop, refine, stall):
    z0, rows = hills(n)
    options = SearchOptions(update=update, stop=stop, refine=refine, stall=stall, max_steps=12, patience=5, tile=4,
                            step_size=0.2)
    whole = search(rugged, z0, z0, rows, options)
    found = search_in_slots(rugged, z0, rows, options, slots=8, step="triton", look_every=3)
    for name in ("n_steps", "done", "valid", "finished"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    np.testing.assert_allclose(found.z.cpu(), whole.z.cpu(), atol=1e-3)
    exact_z0, exact_rows = hills(n, dtype=torch.float64)
    exact = search(rugged, exact_z0, exact_z0, exact_rows, options)
    assert torch.equal(found.n_steps, exact.n_steps) and torch.equal(found.valid, exact.valid)
    assert found.n_steps.unique().numel() > 2 or stop == "converged"  # the rows differ, so the slots were refilled


def test_which_slot_a_row_lands_in_changes_nothing():
    z0, rows = hills(11)
    options = SearchOptions(stall=3, max_steps=8, tile=4)
    first = search_in_slots(rugged, z0, rows, options, slots=4, step="triton", look_every=4)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    second = search_in_slots(rugged, z0[order], {name: values[order] for name, values in rows.items()}, options,
                             slots=8, step="triton")
    assert torch.equal(second.z, first.z[order]) and torch.equal(second.n_steps, first.n_steps[order])


# ---------------------------------------------------------------- refusals

def test_refusals():
    slots, _ = queue(2, 2, 3)
    with pytest.raises(ValueError, match=r"update='newton' with stop='conditions' is not known; choose from \['adam'"):
        StepKernel(slots, StepOptions(update="newton"))
    with pytest.raises(ValueError, match="stop='soon'"):
        StepKernel(slots, StepOptions(stop="soon"))
    with pytest.raises(TypeError, match=r"float32 or float64, got torch.bfloat16. Convert `start` with start.float"):
        StepKernel(queue(2, 2, 3, torch.bfloat16)[0], StepOptions())


def test_without_triton_the_message_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "cfexplain.ops.search_step.triton")
    z0, rows = hills(3)
    with pytest.raises(ImportError, match="step='triton' needs the package 'triton'.*pip install triton"):
        search_in_slots(rugged, z0, rows, SearchOptions(), slots=4, step="triton")


def test_an_older_triton_is_named_with_what_is_needed(monkeypatch):
    monkeypatch.setattr("triton.__version__", "3.3.1")
    z0, rows = hills(3)
    with pytest.raises(ImportError, match=r"triton 3\.4 or later, but 3\.3\.1 is installed"):
        search_in_slots(rugged, z0, rows, SearchOptions(), slots=4, step="triton")


def test_the_package_imports_no_triton_and_the_kernel_refuses_the_cpu():
    code = """
import sys, torch
from cfexplain.search import Evaluation, SearchOptions
from cfexplain.search.slots import search_in_slots
def evaluate(z, rows):
    no = torch.zeros(len(z), dtype=torch.bool)
    return Evaluation(z.sum(1), no, no, torch.zeros(len(z)))
search_in_slots(evaluate, torch.zeros(2, 2), {}, SearchOptions(max_steps=1), slots=2)
assert "triton" not in sys.modules
try:
    search_in_slots(evaluate, torch.zeros(2, 2), {}, SearchOptions(max_steps=1), slots=2, step="triton")
except ValueError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=compiled())
    assert run.returncode == 0, run.stderr
    assert "step='triton' was asked for, but the rows are on 'cpu'" in run.stdout
    assert ("torch sees no CUDA device" in run.stdout) != torch.cuda.is_available()


def compiled():
    """This process's environment, but kernels are compiled rather than interpreted."""
    return {**os.environ, "TRITON_INTERPRET": "0"}
