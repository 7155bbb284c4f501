"""Other numbers of rows than a tile: used where every bit agrees, and only there."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cfexplain.explainers.evaluator import Evaluator
from cfexplain.foundation.partial_tiles import PartialTiles
from cfexplain.foundation.remainders import in_vectors
from cfexplain.foundation.tiles import TileSizes, aligned, in_tiles
from cfexplain.search import Evaluation, SearchOptions, search

torch.manual_seed(0)
NET = torch.nn.Sequential(torch.nn.Linear(12, 50), torch.nn.SiLU(), torch.nn.Linear(50, 3)).requires_grad_(False)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 300), tile=st.sampled_from([8, 32]), numbers=st.sampled_from([1, 2048, 10**6]))
def test_every_row_is_evaluated_once_with_the_bits_of_a_full_tile(n, tile, numbers):
    x = torch.randn(n, 12, generator=torch.Generator().manual_seed(n))
    called = []

    def function(x):
        called.append(len(x))
        return NET(x)

    places = TileSizes(tile, numbers).choice("net", NET, x)
    out = in_tiles(function, x, tile=tile, places=places)
    assert torch.equal(out, in_tiles(NET, x, tile=tile))
    assert n <= sum(called) and max(called) <= 16 * tile and not any(size % tile for size in called[:-1])
    if numbers == 10**6:
        assert set(called[:-1]) <= {tile} and called[-1] <= tile


def test_few_rows_are_computed_in_a_part_of_a_tile_that_leaves_no_remainder():
    sizes, x = TileSizes(32, 4), torch.rand(40, 16)
    assert [sizes.choice("double", lambda x: 2 * x, x)(left) for left in (1, 2, 3, 5, 9, 17, 25)] == [2, 2, 4, 8, 16, 24, 32]
    assert [sizes.choice("exp", lambda x: x.exp(), x[:, :8])(left) for left in (1, 3, 4)] == [4, 4, 4]  # 32 numbers
    assert sizes.choice("in vectors", lambda x: in_vectors(torch.exp, x), x[:, :7])(1) == 2


@pytest.mark.parametrize("wrong", [
    lambda x: x * len(x),  # knows how many rows there are
    lambda x: x + x.mean(0),  # rows are not independent
    lambda x: torch.where(torch.arange(len(x)) < len(x) // 2, 1.0, 2.0)[:, None] * x,  # depends on the place
    lambda x: x * torch.nan])
def test_a_function_whose_bits_depend_on_company_keeps_its_tile(wrong):
    places = TileSizes(8, 4).choice("wrong", wrong, torch.rand(20, 4))
    assert {places(left) for left in (1, 3, 8, 9, 100)} == {8}
    x = torch.rand(32, 4)
    np.testing.assert_array_equal(PartialTiles()("wrong", wrong, x, live=3), wrong(x))


def test_zeros_do_not_hide_what_differs():
    """A sum of zeros is the same in any order: what is tried must not be the rows as they are."""
    assert TileSizes(8, 4).choice("net", lambda x: x * len(x), torch.zeros(30, 4))(30) == 8
    assert len(set(sizes_seen(lambda x: x * len(x), torch.zeros(32, 4), live=3))) == 1


def sizes_seen(function, x, live, few=None):
    """Sizes of x that `function` was called with where an answer was made."""
    seen, few = [], few or PartialTiles()
    few("name", function, x, live)  # finds out
    few("name", lambda x: (seen.append(len(x)), function(x))[1], x, live)
    return seen


@pytest.mark.parametrize(("live", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (20, 24), (24, 24), (25, 32), (32, 32)])
def test_few_rows_are_computed_in_the_smallest_part_that_holds_them(live, size):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10))
    net.requires_grad_(False)
    assert sizes_seen(net, torch.rand(32, 1, 8, 8), live) == [size]


@pytest.mark.parametrize("smooth", [torch.sigmoid, torch.tanh, torch.exp, F.softplus, F.gelu,
                                    lambda x: F.glu(torch.cat([x, x], 1)), lambda x: x.abs() ** 0.3,
                                    lambda x: torch.add(x, x, alpha=0.3), lambda x: x.softmax(1)])
def test_what_would_be_computed_behind_the_last_whole_vector_keeps_its_tile(smooth):
    """Of 4 rows of 10 numbers, eight are no whole vector of 32; of 16 such rows, or of 4 rows of 16 numbers, all are."""
    assert sizes_seen(smooth, torch.rand(32, 10), 3) == [16]
    assert sizes_seen(smooth, torch.rand(32, 11), 3) == [32]
    assert sizes_seen(lambda x: smooth(x) + 0, torch.rand(32, 16), 3) == [4]


def test_an_answer_that_saturates_on_random_points_is_still_computed():
    assert sizes_seen(lambda x: (1000 * x.abs() + 1000).sigmoid(), torch.rand(32, 10), 3) == [16]


@pytest.mark.parametrize("live", [1, 3, 7, 17])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients_of_few_rows_have_the_bits_of_the_tile(live, channels_last):
    torch.manual_seed(live)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.SiLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(16, 24, 3),
        torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(24 * 36, 10)).requires_grad_(False)
    x = torch.randn(32, 3, 16, 16)
    if channels_last:
        x, net = x.contiguous(memory_format=torch.channels_last), net.to(memory_format=torch.channels_last)
    few, answers = PartialTiles(), []
    for function in (net, lambda x: few("net", net, x, live)):
        leaf = x.clone().requires_grad_()
        with aligned():
            out = function(leaf)
            (gradient,) = torch.autograd.grad(out.square().sum(), leaf)
        answers.append((out[:live].detach(), gradient[:live]))
    for a, b in zip(*answers, strict=True):
        assert torch.equal(a, b)
    assert any(any(trial.equal.values()) for trial in few._tried.values())


def test_a_size_is_tried_once_and_the_global_random_state_is_left_alone():
    sizes, few, x, calls = TileSizes(16, 4), PartialTiles(), torch.rand(40, 4), []
    before = torch.get_rng_state()

    def function(x):
        calls.append(len(x))
        return 2 * x

    assert sizes.choice("double", function, x)(40) == 48
    tried = len(calls)
    assert tried and sizes.choice("double", function, x)(40) == 48 and len(calls) == tried
    few("double", function, x[:32], 3)
    tried = len(calls)
    few("double", function, x[:32], 3)
    assert len(calls) == tried + 1
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 90), refine=st.sampled_from([0, 3]))
def test_a_search_finds_the_same_bits_with_and_without_other_sizes(n, refine):
    z0 = torch.randn(n, 12, generator=torch.Generator().manual_seed(n))

    def evaluate(z, rows):
        odds = NET(z)[:, 0]
        loss = torch.relu(0.5 - odds) + 0.1 * (z - rows["z0"]).square().sum(1)
        return Evaluation(loss=loss, done=odds > 0.4, valid=odds > 0, score=odds.sigmoid())

    plain, sized = (search(evaluate, z0, z0, {"z0": z0}, SearchOptions(max_steps=60, tile=16, refine=refine, sizes=sizes))
                    for sizes in (None, TileSizes(16, 12)))
    for name in ("z", "n_steps", "done", "valid", "finished"):
        assert torch.equal(getattr(plain, name), getattr(sized, name)), name


@pytest.mark.parametrize("name", ["image_explainer", pytest.param("table_explainer", marks=pytest.mark.slow),
                                  "flow_table_explainer", "leap_image_explainer"])
@pytest.mark.parametrize("n", [1, 45])
def test_what_is_found_does_not_depend_on_the_sizes(name, n, request, digits, table, monkeypatch, quietly):
    explainer = request.getfixturevalue(name)
    X = (digits if "image" in name else table)[0][:n]
    sized = explainer.explain(X)
    monkeypatch.setattr(Evaluator, "_known", lambda self, tile: None)
    plain = explainer.explain(X)
    for field in ("x_cf", "z_cf", "n_steps", "log_density", "proba_after", "reconstruction"):
        np.testing.assert_array_equal(getattr(sized, field), getattr(plain, field), err_msg=field)


def test_what_was_tried_of_one_kind_of_rows_is_not_believed_of_another():
    sizes, x = TileSizes(8, 4), torch.rand(20, 4)

    def summed(*rows):  # of two and more, rows are not independent
        return sum(rows) if len(rows) == 1 else rows[0] - rows[1].mean(0)

    assert sizes.choice("sum", summed, x)(2) == 2
    assert sizes.choice("sum", summed, x, x)(2) == 8
    assert sizes.choice("sum", summed, x)(2) == 2
    assert sizes.choice("sum", summed, x.double())(2) == 2


def test_an_explainer_judges_few_rows_with_a_region_and_without(digits, image_explainer):
    X = digits[2][:6]
    twins = [pickle.loads(pickle.dumps(image_explainer)) for _ in range(2)]
    regions = [None, np.ones(X.shape[1:], dtype=bool)]
    found = [[twin.explain(X[:n], region=region).x_cf for region, n in zip(order, (3, 6), strict=True)]
             for twin, order in zip(twins, (regions, regions[::-1]), strict=True)]
    for one, other in zip(found[0], found[1][::-1], strict=True):
        np.testing.assert_array_equal(one[:3], other[:3])
