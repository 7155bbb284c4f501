"""The search in slots against the plain search: the same bits, however many slots there are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfexplain.foundation.numbers import row_norm
from cfexplain.search import Evaluation, SearchOptions, search
from cfexplain.search.slots import search_in_slots

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def bowl(z, rows):
    """A quadratic with a condition: come within half of the goal, and be beyond a plane."""
    far = (z - rows["goal"]).square().sum(1)
    beyond = z.sum(1) >= rows["needed"]
    loss = far + 10 * torch.relu(rows["needed"] + 0.01 - z.sum(1)) + 0.1 * row_norm(z - rows["z0"])
    return Evaluation(loss=loss, done=beyond & (far < 0.25), valid=beyond, score=torch.exp(-far).detach())


def landscape(z, rows):
    """Two dimensions, full of local minima: rows stall, restart, and some never arrive."""
    x, y = z[:, 0] - rows["goal"][:, 0], z[:, 1] - rows["goal"][:, 1]
    loss = 0.2 * (x * x + y * y + torch.sin(4 * x).square() + torch.sin(4 * y).square())
    near = (x * x + y * y).sqrt()
    loss = torch.where(near > 6, torch.nan, loss)
    return Evaluation(loss=loss, done=near < 0.3, valid=near < 0.8, score=(1 / (1 + near)).detach())


def problem(n, d, seed, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    z0, goal = (1.5 * torch.randn(n, d, generator=generator) for _ in range(2))
    needed = goal.sum(1) - torch.rand(n, generator=generator)
    rows = {"z0": z0, "goal": goal, "needed": needed, "picture": torch.randn(n, 2, 3, generator=generator)}
    return z0.to(device), {name: values.to(device) for name, values in rows.items()}


def assert_equal(found, whole):
    for name in ("z", "n_steps", "done", "valid", "finished"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 30), slots=st.integers(1, 40), tile=st.sampled_from([1, 4, 8]), seed=st.integers(0, 999),
       evaluate=st.sampled_from([bowl, landscape]), update=st.sampled_from(["adam", "normalized"]),
       stop=st.sampled_from(["conditions", "converged"]), refine=st.integers(0, 3),
       stall=st.sampled_from([None, 1, 4]), max_steps=st.sampled_from([0, 1, 20]), look_every=st.integers(1, 9))
def test_slots_find_the_same_bits_as_the_search(n, slots, tile, seed, evaluate, update, stop, refine, stall, max_steps,
                                                look_every):
    z0, rows = problem(n, 2 if evaluate is landscape else 5, seed)
    options = SearchOptions(update=update, step_size=0.3, stall=stall, max_steps=max_steps, stop=stop, patience=4,
                            refine=refine, tile=tile)
    start = z0 + 0.5  # as after a swap: distance is measured from elsewhere
    whole = search(evaluate, start, z0, rows, options)
    found = search_in_slots(evaluate, start, rows, options, slots=slots, reference=z0, look_every=look_every)
    assert_equal(found, whole)


def test_statuses_of_all_kinds_occur_and_agree():
    z0, rows = problem(60, 2, 0)
    options = SearchOptions(step_size=0.3, stall=4, max_steps=25, refine=2, tile=8)
    whole = search(landscape, z0, z0, rows, options)
    assert_equal(search_in_slots(landscape, z0, rows, options, slots=16), whole)
    assert 5 < whole.done.sum() < 55 and (whole.valid & ~whole.done).any()
    assert (whole.finished == (whole.done | (whole.n_steps == 0))).all()
    assert len(whole.n_steps.unique()) > 8


def test_by_default_distance_is_from_the_start():
    z0, rows = problem(9, 5, 1)
    options = SearchOptions(refine=4, tile=4)
    assert_equal(search_in_slots(bowl, z0, rows, options, slots=4), search(bowl, z0, z0, rows, options))


def test_every_evaluation_has_the_same_shape_and_reads_its_own_rows():
    z0, rows = problem(21, 5, 2)
    seen = set()

    def watched(z, some):
        shapes = {name: tuple(values.shape) for name, values in some.items()}
        seen.add((tuple(z.shape), tuple(sorted(shapes.items()))))
        at = (rows["picture"][None] == some["picture"][:, None]).all((2, 3)).nonzero()[:, 1]
        assert torch.equal(some["goal"], rows["goal"][at]) and torch.equal(some["z0"], z0[at])
        return bowl(z, some)

    options = SearchOptions(max_steps=15, tile=4)
    search_in_slots(watched, z0, rows, options, slots=8, look_every=3)
    assert seen == {((4, 5), (("goal", (4, 5)), ("needed", (4,)), ("picture", (4, 2, 3)), ("z0", (4, 5))))}


def test_progress_counts_rows_up_to_all():
    z0, rows = problem(25, 5, 3)
    seen = []
    search_in_slots(bowl, z0, rows, SearchOptions(max_steps=30, tile=4), slots=8, look_every=5,
                    on_progress=lambda finished, steps: seen.append((finished, steps)))
    finished, steps = zip(*seen, strict=True)
    assert list(finished) == sorted(finished) and finished[-1] == 25 and finished[0] < 25
    assert list(steps) == [5 * (k + 1) for k in range(len(seen))]


@pytest.mark.parametrize("calls", [1, 5, 40])
def test_interruption_keeps_what_was_found(calls):
    z0, rows = problem(40, 2, 4)
    options = SearchOptions(step_size=0.05, max_steps=60, tile=8)
    whole, made = search(landscape, z0, z0, rows, options), []

    def interrupted(z, some):
        made.append(1)
        if len(made) > calls:
            raise KeyboardInterrupt
        return landscape(z, some)

    with pytest.warns(RuntimeWarning, match="of 40 rows unfinished"):
        found = search_in_slots(interrupted, z0, rows, options, slots=16)
    assert found.interrupted and not found.finished.all()
    assert torch.equal(found.z[found.finished], whole.z[found.finished])
    never = (found.n_steps == 0) & ~found.finished
    assert never[24:].all() and torch.equal(found.z[never], z0[never])
    assert torch.isfinite(found.z).all() and not found.done[~found.finished].any()
    begun = (found.n_steps > 0) & ~found.finished & ~found.valid
    assert begun.any() == (calls > 1)
    # of a row under way the point of the highest score so far
    before = landscape(z0, rows).score
    assert (landscape(found.z, rows).score[begun] >= before[begun]).all()


def test_float64_and_no_rows():
    z0, rows = problem(7, 5, 5)
    double = {name: values.double() for name, values in rows.items()}
    options = SearchOptions(max_steps=20, tile=4, update="adam")
    found = search_in_slots(bowl, z0.double(), double, options, slots=4)
    assert found.z.dtype == torch.float64
    assert_equal(found, search(bowl, z0.double(), z0.double(), double, options))
    none = search_in_slots(bowl, z0[:0], {name: values[:0] for name, values in rows.items()}, options, slots=4)
    assert none.z.shape == (0, 5) and none.n_steps.shape == (0,)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"step": "cuda"}, "step='cuda' is not known; choose 'reference' or 'triton'"),
    ({"slots": 0}, "slots=0 must be an integer of at least 1"),
    ({"look_every": 2.5}, "look_every=2.5 must be an integer of at least 1"),
    ({"graph": True}, "graph=True captures a CUDA graph, but the rows are on 'cpu'"),
    ({"reference": torch.zeros(4, 3)},
     r"`reference` must be like `start`, \(4, 2\) torch.float32 on cpu, got \(4, 3\)"),
    ({"options": SearchOptions(record_path=True)}, "Slots keep no path.*record_path=False"),
    ({"rows": {"goal": torch.zeros(3, 2)}}, r"rows\['goal'\] must have one entry for each of the 4 rows"),
])
def test_bad_input(wrong, message):
    given = {"rows": {"goal": torch.zeros(4, 2)}, "options": SearchOptions(), "slots": 4, **wrong}
    with pytest.raises(ValueError, match=message):
        search_in_slots(landscape, torch.zeros(4, 2), **given)


@needs_gpu
@pytest.mark.parametrize("step", ["reference", "triton"])
@pytest.mark.parametrize(("evaluate", "update", "refine", "stall"), [
    (bowl, "normalized", 3, None), (landscape, "adam", 0, 4)])
def test_a_captured_graph_finds_what_single_launches_find(step, evaluate, update, refine, stall):
    z0, rows = problem(300, 2, 6, "cuda")
    options = SearchOptions(update=update, step_size=0.2, stall=stall, refine=refine, max_steps=40, tile=32)
    whole = search(evaluate, z0, z0, rows, options)
    single = search_in_slots(evaluate, z0, rows, options, slots=64, step=step)
    assert_equal(search_in_slots(evaluate, z0, rows, options, slots=64, step=step, graph=True), single)
    assert torch.equal(single.n_steps, whole.n_steps) and torch.equal(single.valid, whole.valid)
    np.testing.assert_allclose(single.z.cpu(), whole.z.cpu(), atol=1e-3)


@needs_gpu
def test_what_waits_for_the_device_cannot_be_captured():
    z0, rows = problem(8, 2, 7, "cuda")

    def waits(z, some):
        assert z.sum().item() < torch.inf
        return landscape(z, some)

    with pytest.raises(RuntimeError, match="could not be captured in a CUDA graph.*Use graph=False"):
        search_in_slots(waits, z0, rows, SearchOptions(tile=8), slots=8, graph=True)
