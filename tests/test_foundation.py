"""What everything stands on: arrays, rules for columns, tiles, seeds, training, targets, memory, data and the command."""

import csv
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.datasets import make_blobs
from torch import nn

from cfexplain.classifiers.latent import LatentEnsemble, train_latent_ensemble
from cfexplain.cli import main, run_demo
from cfexplain.datasets import load_mnist, load_smiles
from cfexplain.explainers.running import SMALLEST_TILE, infer_device, one_thread, progress_bar, with_smaller_tiles
from cfexplain.foundation.arrays import Layout, read_samples, restore_samples, to_numpy
from cfexplain.foundation.exceptions import DataRangeError, TargetError
from cfexplain.foundation.labels import label_indices, resolve_target
from cfexplain.foundation.random import draw_seed, seeded_torch
from cfexplain.foundation.tiles import TILE, aligned, in_tiles
from cfexplain.nets.training import train_network
from cfexplain.tables.rules import ColumnRules


def global_state():
    name, keys, *rest = np.random.get_state()
    return name, keys.tobytes(), tuple(rest), torch.get_rng_state().numpy().tobytes()


# ---------------------------------------------------------------------- arrays
class Reader(BaseEstimator):
    """Something to read for."""


def images(shape, n=5, dtype=np.float32):
    return np.random.RandomState(0).rand(n, *shape).astype(dtype)


@pytest.mark.parametrize(("shape", "image_shape", "net_shape"), [
    ((7,), None, (7,)), ((4, 6), None, (1, 4, 6)), ((3, 4, 6), None, (3, 4, 6)), ((1, 1), None, (1, 1, 1)),
    ((24,), (1, 4, 6), (1, 4, 6)), ((24,), (4, 6), (1, 4, 6)), ((24,), (2, 3, 4), (2, 3, 4)),
    ((24,), np.array([2, 3, 4]), (2, 3, 4))])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy, np.asfortranarray])
def test_samples_come_in_and_go_out_in_every_layout(shape, image_shape, net_shape, dtype, make):
    reader, raw = Reader(), images(shape, dtype=dtype)
    X = make(raw)
    read = read_samples(reader, X, reset=True, image_shape=image_shape, data_range=(0, 1))
    assert reader.layout_ == Layout(shape, net_shape) and reader.layout_.is_image == (len(net_shape) == 3)
    assert reader.n_features_in_ == raw[0].size
    assert read.dtype == dtype and read.flags.c_contiguous
    np.testing.assert_array_equal(read, raw.reshape(-1, *net_shape))
    back = restore_samples(read, reader.layout_, like=X)
    assert type(back) is type(X) and back.dtype == X.dtype and back.shape == X.shape
    np.testing.assert_array_equal(np.asarray(back), raw)
    again = read_samples(reader, X[:2], reset=False, image_shape=image_shape, data_range=(0, 1))
    np.testing.assert_array_equal(again, read[:2])


@pytest.mark.parametrize("kind", [np.int64, np.uint8, bool, np.int32])
def test_numbers_of_a_table_become_float64(kind):
    raw = np.array([[0, 1, 1], [1, 0, 1]], dtype=kind)
    for X in (raw, torch.from_numpy(raw), pd.DataFrame(raw, columns=list("abc")), raw.tolist()):
        reader = Reader()
        read = read_samples(reader, X, reset=True)
        assert read.dtype == np.float64 and read.tolist() == raw.tolist()
        back = restore_samples(read + 0.5, reader.layout_, like=X)  # counterfactuals of integers are not integers
        assert np.asarray(back).tolist() == (raw + 0.5).tolist()
    assert list(read_names(pd.DataFrame(raw, columns=list("abc")))) == ["a", "b", "c"]


def read_names(X):
    reader = Reader()
    read_samples(reader, X, reset=True)
    return reader.feature_names_in_


def test_results_take_the_precision_of_what_came_in():
    layout = Layout((2,), (2,))
    for like, dtype in ((np.zeros(1, np.float32), np.float32), (torch.zeros(1, dtype=torch.float64), torch.float64),
                        (torch.zeros(1), torch.float32), (None, np.float64), ([[1.0]], np.float64)):
        assert restore_samples(np.ones((3, 2)), layout, like).dtype == dtype


def test_labels_are_validated_with_the_rows():
    X, y = read_samples(Reader(), images((4, 4)), np.array(list("abcab")), reset=True)
    assert len(X) == 5 and y.tolist() == list("abcab")
    with pytest.raises(ValueError, match="inconsistent"):
        read_samples(Reader(), images((4, 4)), np.zeros(4), reset=True)


def test_tensors_with_a_gradient_are_read():
    tensor = torch.rand(3, 2, requires_grad=True)
    np.testing.assert_array_equal(to_numpy(tensor), tensor.detach().numpy())
    frame = pd.DataFrame({"a": [1.0]})
    assert to_numpy(frame) is frame


def test_the_edge_of_the_range_has_a_hair_of_slack():
    for low, high in ((0, 1), (-1, 1), (0, 255)):
        X = np.linspace(low, high, 3 * 16).reshape(3, 4, 4)
        hair, step = 0.9e-4 * (high - low), 1.1e-4 * (high - low)
        for off in (hair, -hair):
            read_samples(Reader(), X + off, reset=True, data_range=(low, high))
        for off in (step, -step):
            with pytest.raises(DataRangeError, match="data_range="):
                read_samples(Reader(), X + off, reset=True, data_range=(low, high))
    read_samples(Reader(), X[:, 0], reset=True, data_range=(0, 1))  # a table has no range


@pytest.mark.parametrize(("X", "options", "error", "message"), [
    (images((24,)), {"image_shape": (1, 5, 5)}, ValueError, r"\(1, 5, 5\).*24 values"),
    (images((24,)), {"image_shape": (24,)}, ValueError, r"\(C, H, W\)"),
    (images((2, 3, 4)), {"image_shape": (1, 2, 3, 4)}, ValueError, r"\(C, H, W\)"),
    (images((2, 0)), {}, ValueError, "empty side"), (images((1, 1, 1, 1)), {}, ValueError, "at most 3 dimensions"),
    (images((4,)).astype(np.float16), {}, TypeError, "float32"), (torch.zeros(2, 2).bfloat16(), {}, TypeError, "float()"),
    (torch.zeros(2, 2).half(), {}, TypeError, "float32"),
    (np.zeros((2, 4, 4), np.uint8), {"data_range": (0, 1)}, DataRangeError, "/ 255"),
    (np.zeros((2, 16), int), {"data_range": (0, 1), "image_shape": (4, 4)}, DataRangeError, "integers"),
    (np.zeros(4), {}, ValueError, "2D"), (np.zeros((0, 3)), {}, ValueError, "0 sample"),
    (np.array([[np.nan, 1]]), {}, ValueError, "NaN"), (np.full((1, 2, 2), np.inf), {}, ValueError, "infinity")])
def test_arrays_that_cannot_be_read_say_why(X, options, error, message):
    with pytest.raises(error, match=message):
        read_samples(Reader(), X, reset=True, **options)


def test_other_layouts_than_at_fit_are_refused():
    reader = Reader()
    read_samples(reader, images((4, 6)), reset=True)
    for other in (images((6, 4)), images((1, 4, 6)), images((24,)), images((4, 6))[0]):
        with pytest.raises(ValueError, match=r"fitted on samples of shape \(4, 6\)"):
            read_samples(reader, other, reset=False)


# --------------------------------------------------------------------- columns
def test_columns_are_named_counted_and_counted_from_the_end():
    names = np.array(["age", "income", "sex", "job"], dtype=object)
    for immutable in (["sex", "age"], [2, 0], [-2, -4], np.array([0, 2]), {"age", 2}, (c for c in (0, 2))):
        assert ColumnRules(immutable, None, 4, names).held.tolist() == [True, False, True, False]
    for one in ("income", 1):
        assert np.flatnonzero(ColumnRules(one, None, 4, names).held).tolist() == [1]
    rules = ColumnRules(None, {"age": (0, None), -1: (None, 5), 1: (-1.5, 2)}, 4, names)
    assert rules.low.tolist() == [0, -1.5, -np.inf, -np.inf] and rules.high.tolist() == [np.inf, 2, np.inf, 5]
    assert rules and ColumnRules([0], None, 4, None) and not ColumnRules(None, None, 4, None)
    assert not ColumnRules([], {0: (None, None)}, 4, None)


@pytest.mark.parametrize(("immutable", "bounds", "names", "message"), [
    (["age"], None, None, "no column names"), (["age"], None, ["sex"], r"the columns are \['sex'\]"),
    ([3], None, None, "index below 3"), ([-4], None, None, "-4"), ([1.0], None, None, "1.0"),
    ([True, False, True], None, None, "flatnonzero"), (np.array([True, False, True]), None, None, "flatnonzero"),
    (None, {0: (2, 1)}, None, "empty"), (None, {0: (np.nan, 1)}, None, "empty"), (None, {0: 3}, None, "pair"),
    (None, {0: (1, 2, 3)}, None, "pair"), (None, {9: (0, 1)}, None, "bounds names the column 9")])
def test_rules_that_make_no_sense(immutable, bounds, names, message):
    with pytest.raises(ValueError, match=message):
        ColumnRules(immutable, bounds, 3, names)


values = st.floats(-4, 4, width=32)
sides = st.one_of(st.none(), values)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), sides, sides, values, values), min_size=1, max_size=6))
def test_rules_hold_for_every_row(columns):
    held, low, high, original, x = (list(column) for column in zip(*columns, strict=True))
    bounds = {}
    for i, (a, b) in enumerate(zip(low, high, strict=True)):
        a, b = sorted((a, b)) if a is not None and b is not None else (a, b)
        bounds[i] = (a, b)
    rules = ColumnRules([i for i, h in enumerate(held) if h], bounds, len(x), None)
    proposal = torch.tensor([x], requires_grad=True)
    kept = rules.apply(proposal, torch.tensor([original]))
    moves = torch.autograd.grad(kept.sum(), proposal)[0][0].tolist()
    for i, after in enumerate(kept[0].tolist()):
        a = -np.inf if bounds[i][0] is None else bounds[i][0]
        b = np.inf if bounds[i][1] is None else bounds[i][1]
        if held[i]:
            assert after == original[i] and moves[i] == 0
        elif a <= original[i] <= b:
            assert a <= after <= b and (after == x[i] or not a <= x[i] <= b)
        else:  # outside before: anywhere from there to inside, but not further out
            assert min(a, original[i]) <= after <= max(b, original[i])
        if not held[i] and min(a, original[i]) < x[i] < max(b, original[i]):
            assert after == x[i] and moves[i] == 1


# ----------------------------------------------------------------------- tiles
def in_both(compute, *inputs):
    """Value and gradients of the inputs, plainly and aligned."""
    results = []
    for alignment in (False, True):
        leaves = [i.detach().clone().requires_grad_(True) for i in inputs]
        if alignment:
            with aligned():
                out = compute(*leaves)
        else:
            out = compute(*leaves)
        torch.manual_seed(1)
        results.append((out, *torch.autograd.grad(out, leaves, torch.randn_like(out))))
    return zip(*results, strict=True)


@pytest.mark.parametrize(("wide", "narrow"), [(1, 1), (5, 3), (8, 16), (8, 3), (13, 8), (40, 10), (7, 1)])
@pytest.mark.parametrize("lead", [(6,), (), (2, 3)])
def test_alignment_changes_values_and_gradients_by_rounding_only(wide, narrow, lead):
    with seeded_torch(0):
        x, weight, bias = torch.randn(*lead, wide).double(), torch.randn(narrow, wide).double(), torch.randn(narrow).double()
    for compute, inputs in ((F.linear, (x, weight, bias)), (F.linear, (x, weight)), (F.linear, (x, weight[0]))):
        for plain, padded in in_both(compute, *inputs):
            assert plain.shape == padded.shape
            torch.testing.assert_close(padded, plain, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("bias_shape", [(3, 1, 5), (3, 4, 5), (1, 5), (5,), (3, 1, 1), ()])
def test_alignment_of_batched_products(bias_shape):
    with seeded_torch(0):
        x, weight, bias = torch.randn(3, 4, 7).double(), torch.randn(3, 7, 5).double(), torch.randn(bias_shape).double()
    for plain, padded in in_both(torch.baddbmm, bias, x, weight):
        assert plain.shape == padded.shape
        torch.testing.assert_close(padded, plain, rtol=1e-13, atol=1e-13)
    for plain, padded in in_both(lambda *a: torch.baddbmm(*a, beta=0.5, alpha=2.0), bias, x, weight):
        torch.testing.assert_close(padded, plain, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["linear", "baddbmm"])
def test_a_row_has_the_same_bits_wherever_it_lies_in_its_tile(kind, dtype):
    for width in range(1, 41):
        with seeded_torch(width):
            out = width * 7 % 40 + 1
            module = nn.Sequential(nn.Linear(width, out), nn.Tanh(), nn.Linear(out, width)).to(dtype)
            if kind == "baddbmm":
                module = LatentEnsemble(width, out, members=2, hidden=(width + 3,)).to(dtype)
            rows = torch.randn(TILE, width, dtype=dtype)
            order = torch.randperm(TILE)

        def both(x, module=module):
            x = x.clone().requires_grad_(True)
            with aligned():
                y = module(x)
                y = y.transpose(0, 1) if y.ndim == 3 else y
                (gradient,) = torch.autograd.grad((y * y).sum(), x)
            return y.detach(), gradient

        for one, other in zip(both(rows), both(rows[order]), strict=True):
            assert torch.equal(one[order], other), f"width {width}"


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 70), tile=st.sampled_from([1, 4, 32]))
def test_tiles_are_always_full_and_come_back_joined(n, tile):
    seen, rows = [], torch.arange(2.0 * n).reshape(n, 2)

    def function(a, b):
        seen.append((a, b))
        return a + b[:, None], b

    total, other = in_tiles(function, rows, torch.arange(float(n)), tile=tile)
    assert torch.equal(total, rows + torch.arange(float(n))[:, None]) and torch.equal(other, torch.arange(float(n)))
    assert [len(a) for a, _ in seen] == ([tile] * -(-n // tile) if n else [0])
    if n:  # the last tile is filled up with the last row: numbers that the function can stand
        assert all(torch.equal(row, rows[-1]) for row in seen[-1][0][(n - 1) % tile:])
    assert in_tiles(lambda a: a * 2, rows, tile=tile).shape == (n, 2)


# ---------------------------------------------------------------------- random
def test_seeds_leave_the_global_generators_alone():
    before = global_state()
    assert draw_seed(3) == draw_seed(3) != draw_seed(4)
    generator = np.random.RandomState(3)
    assert draw_seed(generator) == draw_seed(3) and draw_seed(generator) != draw_seed(3)  # it advances
    seeds = {draw_seed(None) for _ in range(20)}
    assert len(seeds) > 15 and all(isinstance(s, int) and 0 <= s < 2**31 for s in seeds)
    with seeded_torch(5):
        one = torch.randn(4)
    with pytest.raises(KeyError), seeded_torch(5):
        assert torch.equal(torch.randn(4), one)
        raise KeyError
    assert global_state() == before
    assert torch.equal(torch.randn(4, generator=torch.Generator().manual_seed(5)), one)


# -------------------------------------------------------------------- training
def squares(module, rows, progress):
    return (module(rows["x"]) - rows["y"]).square().sum(1)


def linear_problem(n=400, noise=0.0, seed=0):
    rng = np.random.RandomState(seed)
    x = rng.randn(n, 3)
    y = x @ rng.randn(3, 2) + rng.randn(2) + noise * rng.randn(n, 2)
    return {"x": torch.from_numpy(x).float(), "y": torch.from_numpy(y).float()}


def test_training_solves_least_squares():
    rows = linear_problem(noise=0.1)
    solved = np.linalg.lstsq(np.c_[rows["x"], np.ones(400)].astype(float), rows["y"].numpy().astype(float), rcond=None)[0]
    module = nn.Linear(3, 2)
    history = train_network(module, squares, rows, updates=300, seed=0, lr=0.1)
    np.testing.assert_allclose(np.c_[module.weight, module.bias].T, solved, atol=0.03)
    assert len(history) <= 150 and history[0]["epoch"] == 1 and "batches" not in history[0]
    assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_the_best_epoch_is_kept_and_progress_runs_to_one():
    rows, held, progress = linear_problem(60, noise=3.0), [], []
    rows["i"] = torch.arange(60)

    def loss(module, batch, share):
        (progress if module.training else held).append(share if module.training else (share, batch["i"].tolist()))
        return squares(module, batch, share)

    with seeded_torch(0):
        module = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 2))
    history = train_network(module, loss, rows, updates=150, seed=0, lr=0.05, batch_size=20, patience=1000)
    losses = [row["valid_loss"] for row in history]
    best = int(np.argmin(losses))
    assert best < len(losses) - 1, "this problem is there to be overfitted"
    index = torch.tensor(held[0][1])
    assert {share for share, _ in held} == {1.0} and all(i == held[0][1] for _, i in held)
    again = squares(module, {"x": rows["x"][index], "y": rows["y"][index]}, 1.0).mean()
    np.testing.assert_allclose(float(again), losses[best], rtol=1e-5)
    np.testing.assert_allclose(progress, np.arange(150) / 150, atol=1e-12)  # 54 rows in batches of 20: 50 epochs of 3


def test_training_stops_after_patience_and_keeps_the_best_epoch():
    def loss(module, rows, progress):  # in validation: farther from 0 with every update, by far the best at the start
        out = module(rows["x"]).sum(1)
        return -out if module.training else out

    module = nn.Linear(1, 1)
    history = train_network(module, loss, {"x": torch.ones(40, 1)}, updates=100, seed=0, patience=4)
    assert len(history) == 5 and [row["valid_loss"] for row in history] == sorted(row["valid_loss"] for row in history)
    np.testing.assert_allclose(float(module(torch.ones(1, 1))), history[0]["valid_loss"], rtol=1e-6)


def test_validation_keeps_the_shares_of_the_classes_and_lonely_ones_in_training():
    strata = np.repeat([0, 1, 2, 3], [50, 20, 1, 9])
    trained, held = set(), set()

    def loss(module, rows, progress):
        (trained if module.training else held).update(rows["i"].tolist())
        return squares(module, rows, progress)

    rows = {**linear_problem(80), "i": torch.arange(80)}
    train_network(nn.Linear(3, 2), loss, rows, updates=1, seed=0, strata=strata)
    assert trained | held == set(range(80)) and not trained & held
    assert np.bincount(strata[list(held)], minlength=4).tolist() == [5, 2, 0, 0]


def test_few_rows_are_all_trained_on():
    rows = linear_problem(5)
    history = train_network(nn.Linear(3, 2), squares, rows, updates=3, seed=0)
    assert len(history) == 3 and "valid_loss" not in history[0]
    assert len(train_network(nn.Linear(3, 2), squares, rows, updates=1, seed=0, min_epochs=2)) == 2


def test_training_reproduces_bit_for_bit_and_leaves_the_global_generators_alone():
    before, rows, trained = global_state(), linear_problem(noise=1.0), []
    for seed in (7, 7, 8):
        with seeded_torch(0):
            module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        train_network(module, squares, rows, updates=10, seed=seed)
        trained.append(nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(trained[0], trained[1]) and not torch.equal(trained[0], trained[2])
    assert global_state() == before


@pytest.mark.parametrize("n", [5, 50])
def test_training_on_nan_says_so(n):
    rows = linear_problem(n)
    rows["x"][:] = np.nan
    with pytest.raises(FloatingPointError, match="the toy ended"):
        train_network(nn.Linear(3, 2), squares, rows, updates=4, seed=0, name="toy")


def test_training_can_be_interrupted():
    calls = []

    def loss(module, rows, progress):
        calls.append(progress)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return squares(module, rows, progress)

    with pytest.raises(KeyboardInterrupt):
        train_network(nn.Linear(3, 2), loss, linear_problem(), updates=50, seed=0)
    assert len(calls) == 3


def test_progress_is_shown_only_when_asked_for(capfd):
    train_network(nn.Linear(3, 2), squares, linear_problem(5), updates=2, seed=0)
    with progress_bar(3, False) as update:
        assert update is None
    assert capfd.readouterr() == ("", "")
    train_network(nn.Linear(3, 2), squares, linear_problem(5), updates=2, seed=0, verbose=1, name="toy")
    with progress_bar(3, True) as update:
        update(3, 1)
    shown = capfd.readouterr().err
    assert "training toy" in shown and "searching" in shown and "3/3" in shown


# --------------------------------------------------------------------- targets
KINDS = {"int": st.integers(-9, 99), "str": st.text("abü <", max_size=4), "bool": st.booleans(),
         "float": st.floats(-9, 9, width=16)}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
def test_labels_of_any_kind_are_found(data, kind):
    classes = np.unique(data.draw(st.lists(KINDS[kind], min_size=1, max_size=6)))
    index = np.array(data.draw(st.lists(st.integers(0, len(classes) - 1), max_size=5)), dtype=int)
    proba = np.full((len(index), len(classes)), 1 / len(classes))
    for these in (classes, classes.astype(object)):
        for labels in (these[index], these[index].tolist(), pd.Series(these[index])):
            if len(index):
                assert label_indices(labels, these).tolist() == index.tolist()
                assert resolve_target(labels, these, proba).tolist() == index.tolist()
        for i, label in enumerate(these):
            assert label_indices(label, these) == i
            assert resolve_target(label, these, proba).tolist() == [i] * len(index)


def test_no_target_is_the_runner_up():
    proba = np.random.RandomState(0).dirichlet(np.ones(5), size=50).astype(np.float32)
    before = proba.copy()
    assert resolve_target(None, np.arange(5), proba).tolist() == proba.argsort(1)[:, -2].tolist()
    assert resolve_target(None, np.array(["n", "y"]), np.array([[0.9, 0.1], [0, 1], [0.5, 0.5]])).tolist() == [1, 0, 1]
    np.testing.assert_array_equal(proba, before)
    assert resolve_target(torch.tensor([3, 1]), np.array([1, 3]), np.ones((2, 2))).tolist() == [1, 0]
    one = resolve_target(1, np.arange(2), np.ones((3, 2)))
    one[0] = 0  # a copy of its own, not a view of one number
    assert one.tolist() == [0, 1, 1]


@pytest.mark.parametrize(("target", "message"), [
    ("frown", r"'frown' is not a class.*\['no smile', 'smile'\]"), (1, "1 is not a class.*labels, not indices"),
    (["smile", "frown"], "'frown'"), (["smile"], "1 labels for 2 rows"), ([["smile"], ["smile"]], r"shape \(2, 1\)"),
    (np.nan, "nan is not")])
def test_targets_that_are_no_classes(target, message):
    with pytest.raises(TargetError, match=message):
        resolve_target(target, np.array(["no smile", "smile"]), np.full((2, 2), 0.5))
    with pytest.raises(TargetError):
        resolve_target("0", np.arange(2), np.full((2, 2), 0.5))


# -------------------------------------------------------------- second opinion
def test_the_ensemble_is_its_members_side_by_side():
    with seeded_torch(0):
        ensemble = LatentEnsemble(4, 3, members=3, hidden=(8, 5)).double()
        z = torch.randn(3, 6, 4).double()
    for rows in (z, z[0]):
        logits = ensemble(rows).detach()
        for m in range(3):
            h = (rows[m] if rows.ndim == 3 else rows).numpy()
            for i in range(3):
                h = np.maximum(h, 0) if i else h
                h = h @ ensemble.weights[i][m].detach().numpy() + ensemble.biases[i][m].detach().numpy()
            np.testing.assert_allclose(logits[m].numpy(), h, rtol=1e-12, atol=1e-13)
    assert not torch.equal(logits[0], logits[1])


def test_every_member_learns_blobs_even_rare_ones():
    X, y = make_blobs([500, 400, 30], centers=np.array([[0, 0, 0], [3, 0, 0], [0, 3, 0]]), cluster_std=0.7, random_state=0)
    X, X_test, y, y_test = X[::2], X[1::2], y[::2], y[1::2]
    before = global_state()
    ensemble = train_latent_ensemble(X, np.full_like(X, 0.1), y, 3, members=3, seed=0, training_budget=0.15)
    assert global_state() == before and not ensemble.training
    said = ensemble(torch.from_numpy(X_test).float()).argmax(2).numpy()
    for member in said:
        assert all((member[y_test == k] == k).mean() > 0.85 for k in range(3))
    again = train_latent_ensemble(X, np.full_like(X, 0.1), y, 3, members=3, seed=0, training_budget=0.15)
    assert all(torch.equal(a, b) for a, b in zip(ensemble.parameters(), again.parameters(), strict=True))


# ------------------------------------------------------------------------ data
@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """An empty home and no CFEXPLAIN_DATA."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("CFEXPLAIN_DATA", raising=False)
    return tmp_path / "home" / ".cache" / "cfexplain"


@pytest.mark.parametrize(("load", "file"), [(load_mnist, "mnist.npz"), (load_smiles, "smiles_64.npz")])
def test_a_missing_file_gets_a_place_to_put_it(load, file, no_data, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"{file}.*CFEXPLAIN_DATA") as error:
        load()
    assert str(no_data) in str(error.value)
    monkeypatch.setenv("CFEXPLAIN_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=file) as error:
        load()
    assert str(tmp_path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_files_in_the_published_layout_are_read(no_data, tmp_path, monkeypatch):
    rng = np.random.RandomState(0)
    raw = {"x_train": rng.randint(0, 256, (6, 28, 28), dtype=np.uint8), "y_train": np.arange(6, dtype=np.uint8),
           "x_test": rng.randint(0, 256, (2, 28, 28), dtype=np.uint8), "y_test": np.array([9, 0], dtype=np.uint8)}
    np.savez(tmp_path / "mnist.npz", **raw)
    for size, inside in ((28, slice(None)), (32, slice(2, 30))):
        X, y, X_test, y_test = load_mnist(tmp_path, size=size)
        for read, stored in ((X, raw["x_train"]), (X_test, raw["x_test"])):
            assert read.dtype == np.float32 and read.shape == (len(stored), size, size)
            np.testing.assert_allclose(read[:, inside, inside], stored / 255, atol=1e-7)
            outside = np.ones((size, size), bool)
            outside[inside, inside] = False
            assert not read[:, outside].any() and read.min() >= 0 and read.max() <= 1
        assert y.dtype.kind == y_test.dtype.kind == "i" and y.tolist() == list(range(6)) and y_test.tolist() == [9, 0]
    with pytest.raises(ValueError, match="28 or 32"):
        load_mnist(tmp_path, size=30)

    faces = rng.randint(0, 256, (3, 64, 64), dtype=np.uint8)
    no_data.mkdir(parents=True)
    np.savez(no_data / "smiles_64.npz", x=faces, y=np.array([1, 0, 1]))
    monkeypatch.setenv("CFEXPLAIN_DATA", str(tmp_path))
    for path in (None, no_data, str(no_data / "smiles_64.npz")):  # not in CFEXPLAIN_DATA: the cache is next
        X, y = load_smiles(path)
        assert X.dtype == np.float32 and y.tolist() == ["smile", "no smile", "smile"]
        np.testing.assert_allclose(X, faces / 255, atol=1e-7)
    assert len(load_mnist()[0]) == 6


# --------------------------------------------------------- memory and threads
@pytest.mark.parametrize(("first", "tried"), [(64, [64, 32, 16]), (40, [40, 20, 10]), (16, [16]), (4, [4])])
def test_tiles_are_halved_until_they_fit(first, tried):
    tiles = []

    def run(tile):
        tiles.append(tile)
        if tile > 16:
            raise torch.OutOfMemoryError("too much")
        return tile

    if len(tried) > 1:
        with pytest.warns(ResourceWarning, match=f"batch_size={tried[-1]}"):
            assert with_smaller_tiles(run, first) == tried[-1]
    else:
        assert with_smaller_tiles(run, first) == first
    assert tiles == tried


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_memory_that_never_suffices_is_an_error():
    tiles = []

    def run(tile):
        tiles.append(tile)
        return torch.empty(2**60, dtype=torch.uint8)  # what a CPU says when it really runs out

    with pytest.raises(MemoryError, match="8 rows"):
        with_smaller_tiles(run, 20)
    assert tiles == [20, 10, SMALLEST_TILE]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    tiles = []

    def run(tile):
        tiles.append(tile)
        return torch.ones(2) @ torch.ones(3)

    with pytest.raises(RuntimeError, match="size"):
        with_smaller_tiles(run, 64)
    assert tiles == [64]


def test_one_thread_gives_the_threads_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_device_is_that_of_the_network():
    assert infer_device(None, None) == infer_device(None, nn.Identity()) == torch.device("cpu")
    assert infer_device(None, nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert infer_device("cpu", nn.Linear(2, 2, device="meta")) == torch.device("cpu")


# --------------------------------------------------------- package and command
def test_importing_the_package_leaves_heavy_packages_alone():
    heavy = ("matplotlib", "lpips", "torchvision", "captum", "torchmetrics")
    code = f"import sys, cfexplain; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_explains_itself(capsys):
    for arguments, words in ((["--help"], "demo"), (["demo", "--help"], "--out")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0 and words in capsys.readouterr().out
    for arguments in ([], ["nonsense"], ["demo", "--seed", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and "usage: cfexplain" in capsys.readouterr().err


def test_the_demo_says_where_it_cannot_write(tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for out in (taken, taken / "below"):
        assert main(["demo", "--out", str(out)]) == 1
        said = capsys.readouterr()
        assert str(out) in said.err and "--out" in said.err and said.out == ""
    assert taken.read_text() == "mine"


@pytest.mark.slow
def test_the_demo_from_end_to_end(tmp_path, capsys):
    from PIL import Image

    before = global_state()
    assert run_demo(tmp_path / "new" / "folder", quiet=True) == 0
    said, out = capsys.readouterr().out, tmp_path / "new" / "folder"
    assert "Valid:" in said and str(out) in said and global_state() == before
    assert Image.open(out / "counterfactuals.png").size > (100, 100)
    with (out / "counterfactuals.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = {("4", "9"), ("0", "6"), ("3", "8"), ("7", "9"), ("1", "4"), ("5", "6")}
    assert {(row["source"], row["target"]) for row in rows} == pairs
    assert all((row["prediction"] == row["target"]) == (row["valid"] == "True") for row in rows)
    assert np.mean([row["valid"] == "True" for row in rows]) > 0.9


def test_feature_distances_are_mahalanobis_and_quantiles_are_of_held_out_rows():
    from scipy.spatial.distance import mahalanobis
    from sklearn.covariance import LedoitWolf

    from cfexplain.classifiers.features import ClassFeatures

    rng = np.random.default_rng(0)
    h, y = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 3, np.arange(300) % 2
    made = ClassFeatures(h, y, 2)
    some, target = rng.normal(size=(9, 6)), np.arange(9) % 2
    got = made(torch.from_numpy(some), torch.from_numpy(target)).numpy()
    for row, k, value in zip(some, target, got, strict=True):
        covariance = LedoitWolf().fit(h[y == k]).covariance_
        covariance += np.eye(6) * 1e-3 * np.trace(covariance) / 6
        expected = mahalanobis(row, h[y == k].mean(0), np.linalg.inv(covariance))
        np.testing.assert_allclose(value, expected, rtol=1e-8)
    fresh = rng.normal(size=(20000, 6))
    wide = ClassFeatures(rng.normal(size=(60, 6)), np.zeros(60, dtype=int), 1)
    outside = wide(torch.from_numpy(fresh), torch.zeros(20000, dtype=torch.long)).numpy()
    assert abs((outside <= wide.quantiles(0.5)[0]).mean() - 0.5) < 0.15  # in-sample distances would be too small
