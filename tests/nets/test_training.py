"""One way to train: it solves known problems, keeps the best epoch, reproduces, and can be interrupted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cfexplain.explainers.resources import progress_bar
from cfexplain.foundation.random import seeded_torch
from cfexplain.nets.training import batch_for, train_network, updates_for


def global_state():
    name, keys, *rest = np.random.get_state()
    return name, keys.tobytes(), tuple(rest), torch.get_rng_state().numpy().tobytes()


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
    with progress_bar(3, None) as report_from:
        assert report_from is None
    assert capfd.readouterr() == ("", "")
    train_network(nn.Linear(3, 2), squares, linear_problem(5), updates=2, seed=0, verbose=1, name="toy")
    with progress_bar(3, 0.0) as report_of:
        report_of(0)(2, 1)  # both rows of one block are done, and that of another
        report_of(1)(1, 1)
    shown = capfd.readouterr().err
    assert "training toy" in shown and "searching" in shown and "3/3" in shown


@given(rows=st.integers(1, 10**7), more=st.integers(0, 10**6), most=st.integers(1, 5000), budget=st.floats(0.01, 3))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_updates_and_batches_grow_with_rows_and_budget(rows, more, most, budget):
    few, many = updates_for(rows, most, budget), updates_for(rows + more, most, budget)
    assert 1 <= few <= many and few <= updates_for(rows, most, 2 * budget)
    assert updates_for(60_000, most) == most and few >= min(150, round(most * budget))
    assert 32 <= batch_for(rows, 200) <= batch_for(rows + more, 200) <= 200
