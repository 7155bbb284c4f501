"""Regressors of every kind become one differentiable column of values; what a target means for them."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.ensemble import BaggingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from cfexplain.classifiers import adapt_regressor
from cfexplain.explainers.task import Classification, Regression, make_task, read_values
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.exceptions import ClassifierOutputError, TargetError

D = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, D)).astype(np.float32)
Y = X @ np.array([3.0, -2.0, 0.0, 1.0]) + 10
TABLE = Layout((D,), (D,))
QUICK = {"training_budget": 0.05}


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def linear(outputs=1, *after, dtype=torch.float32):
    return seeded(lambda: nn.Sequential(nn.Linear(D, outputs), *after)).to(dtype)


def direct(module, x=X):
    """The linear layer's answer in float64, by NumPy."""
    weight, bias = (p.detach().double().numpy() for p in (module[0].weight, module[0].bias))
    return (x.astype(np.float64) @ weight.T + bias)[:, 0]


def adapt(regressor, x=X, y=Y, layout=TABLE, **options):
    return adapt_regressor(regressor, x, y, layout=layout, **options)


def check_gradient(adapter, x=X[:3]):
    """The gradient of `logits` against central differences of its own values."""
    x = torch.from_numpy(x).double().requires_grad_()
    with adapter.frozen():
        (gradient,) = torch.autograd.grad(adapter.logits(x).sum(), x)
        for k in range(D):
            step = 1e-2 * torch.eye(D, dtype=torch.float64)[k]
            difference = (adapter.logits(x + step) - adapter.logits(x - step)).detach()[:, 0] / 2e-2
            torch.testing.assert_close(gradient[:, k], difference, rtol=2e-2, atol=2e-2)


# --------------------------------------------------------------- torch modules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("after", [[], [nn.Flatten(0)], [nn.Dropout(0.9)]], ids=["(B, 1)", "(B,)", "dropout"])
@pytest.mark.parametrize("of_x", [np.float32, np.float64])
def test_a_module_is_used_as_it_is(dtype, after, of_x):
    module = linear(1, *after, dtype=dtype).train()
    state, x = copy.deepcopy(module.state_dict()), X.astype(of_x)
    adapter = adapt(module, x)
    assert adapter.module is module and not adapter.is_surrogate and adapter.surrogate_fidelity_ is None
    values = adapter.predict(x)
    assert values.shape == (80,) and values.dtype == of_x
    np.testing.assert_allclose(values, direct(module), rtol=1e-4, atol=1e-5)
    with adapter.frozen():
        column = adapter.logits(torch.from_numpy(x[:7]))
    assert column.shape == (7, 1) and column.dtype == torch.from_numpy(x).dtype
    np.testing.assert_allclose(column.detach()[:, 0], values[:7], rtol=1e-5, atol=1e-6)
    assert module.training and all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    assert adapter.predict(x[:0]).shape == (0,)
    check_gradient(adapter)


def test_values_between_0_and_1_are_values_not_probabilities():
    module = linear(1, nn.Sigmoid())
    np.testing.assert_allclose(adapt(module).predict(X), 1 / (1 + np.exp(-direct(module))), rtol=1e-5)


def test_images_are_fed_as_the_module_wants_them():
    images = RNG.random((20, 1, 6, 6)).astype(np.float32)
    flat = seeded(lambda: nn.Linear(36, 1))
    square = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 1)))
    square[1].load_state_dict(flat.state_dict())
    layout = Layout((6, 6), (1, 6, 6))
    values = adapt(square, images, Y[:20], layout).predict(images)
    assert values.shape == (20,)
    np.testing.assert_allclose(adapt(flat, images, Y[:20], layout).predict(images), values, rtol=1e-5)


def test_a_row_has_the_same_bits_in_any_company():
    net = seeded(lambda: nn.Sequential(nn.Linear(D, 9), nn.SiLU(), nn.Linear(9, 1)))
    forest = RandomForestRegressor(5, random_state=0).fit(X, Y)
    for adapter in (adapt(net), adapt(None, **QUICK), adapt(forest, **QUICK)):
        order, values = RNG.permutation(80), adapter.predict(X)
        np.testing.assert_array_equal(adapter.predict(X[order]), values[order])
        np.testing.assert_array_equal(adapter.predict(X[33:34]), values[33:34])


# ---------------------------------------------------------------- skorch nets
def skorch_net(module, kind=NeuralNetRegressor, **options):
    return kind(module, max_epochs=1, train_split=None, verbose=0, **options)


@pytest.mark.parametrize("freeze", [lambda net: net, FrozenEstimator, lambda net: FrozenEstimator(FrozenEstimator(net))])
def test_a_fitted_skorch_net(freeze):
    net = seeded(lambda: skorch_net(linear()).fit(X, Y[:, None].astype(np.float32)))
    adapter = adapt(freeze(net))
    assert adapter.module is net.module_ and not adapter.is_surrogate
    np.testing.assert_allclose(adapter.predict(X), net.predict(X)[:, 0], rtol=1e-5)
    check_gradient(adapter)


def test_a_skorch_nets_own_reading_of_its_module_counts():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = linear()

        def forward(self, x):
            return self.body(x), x

    pair = skorch_net(seeded(Pair)).initialize()
    np.testing.assert_allclose(adapt(pair).predict(X), pair.predict(X)[:, 0], rtol=1e-5)
    exponential = skorch_net(linear(), predict_nonlinearity=torch.exp).initialize()
    np.testing.assert_allclose(adapt(exponential).predict(X), exponential.predict(X)[:, 0], rtol=1e-5)
    plain = skorch_net(linear(), NeuralNet, criterion=nn.MSELoss).initialize()
    np.testing.assert_allclose(adapt(plain).predict(X), plain.predict(X)[:, 0], rtol=1e-5)


# ------------------------------------------------ estimators, and a default one
def estimators():
    return {
        "linear": LinearRegression().fit(X, Y),
        "forest": RandomForestRegressor(30, random_state=0).fit(X, Y),
        "pipeline": make_pipeline(StandardScaler(), LinearRegression()).fit(X, Y),
        "frozen": FrozenEstimator(LinearRegression().fit(X, Y)),
        "a column": LinearRegression().fit(X, Y[:, None]),
        "duck": SimpleNamespace(predict=lambda rows: rows[:, 0] * 2),
    }


@pytest.mark.parametrize("kind", list(estimators()))
def test_an_estimator_gets_a_surrogate_and_keeps_its_answers(kind):
    estimator = estimators()[kind]
    adapter = adapt(estimator, training_budget=0.1)
    assert adapter.is_surrogate
    np.testing.assert_array_equal(adapter.predict(X), np.asarray(estimator.predict(X)).reshape(-1).astype(np.float32))
    assert adapter.predict(X).dtype == X.dtype and adapter.predict(X[:0]).shape == (0,)
    held = np.random.default_rng(0).permutation(80)[:16]
    with adapter.frozen(), torch.no_grad():
        surrogate = adapter.logits(torch.from_numpy(X[held]))[:, 0]
    wanted = np.asarray(estimator.predict(X[held])).reshape(-1)
    assert adapter.surrogate_fidelity_ == pytest.approx(r2_score(wanted, surrogate), abs=1e-4)
    assert adapter.surrogate_fidelity_ > (0.8 if kind == "forest" else 0.95)
    check_gradient(adapter)
    if kind != "duck":
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(adapter)).predict(X), adapter.predict(X))


def test_a_column_of_1e9_plus_minus_1_does_not_lose_its_digits():
    x = X.astype(np.float64) + [1e9, 0, 0, 0]
    of_pipeline = adapt(make_pipeline(StandardScaler(), LinearRegression()).fit(x, Y), x, training_budget=0.1)
    assert of_pipeline.surrogate_fidelity_ > 0.95
    for adapter in (of_pipeline, adapt(None, x, training_budget=0.1)):
        with torch.no_grad():
            assert r2_score(Y, adapter.logits(torch.from_numpy(x))[:, 0]) > 0.9


def test_a_poor_surrogate_says_so():
    noise = SimpleNamespace(predict=lambda rows: np.sin(1e4 * rows).sum(1))
    with pytest.warns(UserWarning, match=r"of the variance of SimpleNamespace on 16 held-out rows"):
        assert adapt(noise, **QUICK).surrogate_fidelity_ < 0.8


def test_none_trains_a_network_in_y_s_own_units():
    data = load_diabetes()
    x, y = data.data.astype(np.float32), 1e6 + 1e3 * data.target
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    layout = Layout((10,), (10,))
    adapter, again, other = (adapt(None, x[:350], y[:350], layout, seed=seed, training_budget=0.1) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()
    assert not adapter.is_surrogate and not adapter.module.training
    values = adapter.predict(x)
    assert values.dtype == np.float32 and r2_score(y[350:], values[350:]) > 0.3  # a linear model: 0.5
    np.testing.assert_array_equal(values, again.predict(x))
    assert not np.array_equal(values, other.predict(x))


def test_a_constant_y_is_predicted():
    np.testing.assert_allclose(adapt(None, y=np.full(80, 7.0), **QUICK).predict(X), 7, atol=1.0)


# -------------------------------------------------------------------- refusals
@pytest.mark.parametrize(("regressor", "error", "words"), [
    (linear(2), ClassifierOutputError, r"returns 2 columns; a regressor returns one value a row"),
    (skorch_net(linear(), NeuralNetRegressor), NotFittedError, r"NeuralNetRegressor is not fitted: call its fit"),
    (LinearRegression(), NotFittedError, r"LinearRegression is not fitted"),
    (RandomForestClassifier(3).fit(X, Y > 10), TypeError, r"RandomForestClassifier is a classifier; task='regression'"),
    (make_pipeline(LogisticRegression()).fit(X, Y > 10), TypeError, r"Pipeline is a classifier"),
    (FrozenEstimator(LogisticRegression().fit(X, Y > 10)), TypeError, r"LogisticRegression is a classifier"),
    (skorch_net(linear(2), NeuralNetClassifier).initialize(), TypeError, r"NeuralNetClassifier is a classifier"),
    (skorch_net(linear(), NeuralNetBinaryClassifier).initialize(), TypeError, r"BinaryClassifier is a classifier"),
    (LinearRegression, TypeError, r"is no regressor. Expected a torch nn.Module"),
    (nn.Linear, TypeError, r"is no regressor"), (lambda x: x, TypeError, r"is no regressor"),
    (linear(1, nn.Flatten(0), nn.Threshold(100.0, float("nan"))), ClassifierOutputError, r"NaN or infinity"),
    (LinearRegression().fit(X, np.stack([Y, Y], 1)), ClassifierOutputError, r"shape \(64, 2\) for 64 rows"),
    (SimpleNamespace(predict=lambda rows: rows[:, 0] * np.nan), ClassifierOutputError, r"NaN or infinity"),
    (LinearRegression().fit(X[:, :2], Y), ClassifierOutputError, r"takes none of the layouts"),
], ids=lambda value: value if isinstance(value, str) else type(value).__name__)
def test_what_is_no_fitted_regressor(regressor, error, words):
    with pytest.raises(error, match=words):
        adapt(regressor, **QUICK)


def test_y_must_hold_numbers():
    for y in (np.array(["low", "high"] * 40), np.array([{}] * 80)):
        with pytest.raises(ValueError, match="y of a regression must hold numbers"):
            adapt(linear(), y=y)


# --------------------------------------------------------------------- targets
BEFORE = np.array([3.0, 9.0, 7.0])
INF = np.inf


@pytest.mark.parametrize(("target", "low", "high", "asked"), [
    (7, [7, -INF, -INF], [INF, 7, 7], [7, 7, 7]),
    (np.float32(7), [7, -INF, -INF], [INF, 7, 7], [7, 7, 7]),
    (torch.tensor(7.0), [7, -INF, -INF], [INF, 7, 7], [7, 7, 7]),
    ([4, 5, 8.5], [4, -INF, 8.5], [INF, 5, INF], [4, 5, 8.5]),
    (np.array([4, 5, 8]), [4, -INF, 8], [INF, 5, INF], [4, 5, 8]),
    (torch.tensor([4, 5, 8]), [4, -INF, 8], [INF, 5, INF], [4, 5, 8]),
    ((4, 5), [4] * 3, [5] * 3, ["[4, 5]"] * 3),
    ((4, 4), [4] * 3, [4] * 3, ["[4, 4]"] * 3),
    ((4, INF), [4] * 3, [INF] * 3, ["[4, inf]"] * 3),
    ((-INF, 5), [-INF] * 3, [5] * 3, ["[-inf, 5]"] * 3),
    ("maximize", [INF] * 3, [INF] * 3, ["maximize"] * 3),
    ("minimize", [-INF] * 3, [-INF] * 3, ["minimize"] * 3),
], ids=str)
def test_what_a_target_means(target, low, high, asked):
    got = read_values(target, BEFORE)
    for values, wanted in zip(got, (low, high, asked), strict=True):
        assert values.tolist() == wanted
    assert [len(values) for values in read_values(target if np.ndim(target) == 0 else (4, 5), BEFORE[:0])] == [0, 0, 0]


@pytest.mark.parametrize(("target", "words"), [
    (None, "needs a target"), ("max", "'max' is not known for a regression"), ("7", "'7' is not known"),
    ([4, 5], r"shape \(2,\); expected one value, one a row: \(3,\)"), (np.zeros((3, 2)), r"shape \(3, 2\)"),
    ([], r"shape \(0,\)"), (np.nan, "NaN or infinite"), (INF, "'maximize' or 'minimize'"), ([4, np.nan, 5], "NaN"),
    ([4, "a", 5], "is not a number"), ({"low": 4}, "is not a number"), ([[1], [1, 2]], "is not a number"),
    ((5, 4), "low <= high"), ((4, np.nan), "low <= high"), ((-INF, INF), "one of them finite"), ((INF, INF), "finite"),
    ((4,), "an interval"), ((4, 5, 6), "an interval"), (("a", "b"), "an interval"), ((None, 5), "an interval"),
], ids=str)
def test_what_is_no_target(target, words):
    with pytest.raises(TargetError, match=words):
        read_values(target, BEFORE)


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8), st.booleans())
def test_a_value_is_reached_from_where_a_row_starts(pairs, one_a_row):
    before = np.array([pair[0] for pair in pairs])
    target = [pair[1] for pair in pairs] if one_a_row else pairs[0][1]
    low, high, asked = read_values(target, before)
    assert (asked == np.broadcast_to(target, len(pairs))).all()
    assert (low < high).all() and (np.isinf(low) ^ np.isinf(high)).all()
    # the value itself is in the interval, and is the end that the row meets first
    assert ((low <= asked) & (asked <= high)).all()
    assert (np.where(before < asked, low, high) == asked).all()
    inside = (before >= low) & (before <= high)
    assert (inside == (before == asked)).all()


@settings(deadline=None, max_examples=50)
@given(numbers, numbers)
def test_an_interval_is_what_was_asked_or_an_error(a, b):
    if a > b:
        with pytest.raises(TargetError):
            read_values((a, b), BEFORE)
        return
    low, high, asked = read_values((a, b), BEFORE)
    assert (low == a).all() and (high == b).all() and asked[0] == f"[{a:g}, {b:g}]"


class Identical:
    """A regressor whose value is the first column."""

    def predict(self, rows):
        return rows[:, 0]


def test_goal_and_judgement():
    task = Regression(Identical(), Y)
    start = np.array([[3.0], [9.0], [7.0]], dtype=np.float32)
    goal = task.goal(Identical(), start, 7)
    assert goal.already_valid.tolist() == [False, False, True] and goal.target.tolist() == [7, 7, 7]
    assert goal.rows["low"].dtype == np.float32 and goal.rows["before"].tolist() == [3, 9, 7]
    just_short = np.float32(7 - 0.5 * task.slack)
    judged = task.judge(np.array([just_short, 7.1, 7.0], dtype=np.float32), goal)
    assert judged["valid"].tolist() == [True, False, True] and judged["source"].tolist() == [3, 9, 7]
    assert np.isnan(judged["proba_before"]).all() and np.isnan(judged["proba_after"]).all()
    for target, valid in (("maximize", [True, False, False]), ("minimize", [False, True, False])):
        goal = task.goal(Identical(), start, target)
        assert not goal.already_valid.any() and goal.unbounded.all()
        moved = task.answers(Identical(), np.array([[4.0], [8.0], [7.0]], dtype=np.float32))  # up, down, not at all
        assert task.judge(moved, goal)["valid"].tolist() == valid
    assert task.groups.tolist() == [0] * 80 and task.counts.tolist() == [80] and task.metadata() == {"task": "regression"}


# ----------------------------------------------------------------- which task?
LABELS, WORDS, COUNTS = np.arange(80) % 3, np.array(["a", "b"] * 40), np.arange(80)


@pytest.mark.parametrize(("model", "y", "kind"), [
    (None, Y, Regression), (None, LABELS, Classification), (None, WORDS, Classification),
    (None, LABELS.astype(float), Classification), (None, COUNTS, Classification), (None, Y > 10, Classification),
    (None, COUNTS + 0.5, Regression), (linear(), LABELS, Classification), (linear(), Y, Regression),
    (LinearRegression(), COUNTS, Regression), (LogisticRegression(), LABELS, Classification),
    (make_pipeline(StandardScaler(), LinearRegression()), COUNTS, Regression),
    (FrozenEstimator(LinearRegression()), COUNTS, Regression),
    (FrozenEstimator(FrozenEstimator(LinearRegression())), COUNTS, Regression),
    (FrozenEstimator(LogisticRegression()), LABELS, Classification),
    # their `estimator` is a part of them, not themselves
    (BaggingRegressor(), COUNTS, Regression), (BaggingRegressor(LinearRegression()), COUNTS, Regression),
    (skorch_net(linear()), COUNTS, Regression), (FrozenEstimator(skorch_net(linear())), COUNTS, Regression),
    (skorch_net(linear(2), NeuralNetClassifier), LABELS, Classification),
    (SimpleNamespace(predict=len), COUNTS, Classification),
], ids=lambda value: type(value).__name__)
def test_auto_asks_the_model_and_then_y(model, y, kind):
    assert make_task("auto", model, y) is kind


def test_a_named_task_is_taken_at_its_word():
    assert make_task("regression", LogisticRegression(), LABELS) is Regression
    assert make_task("classification", None, COUNTS) is Classification
    with pytest.raises(ValueError, match="task='rank' is not known; choose 'auto', 'classification' or 'regression'"):
        make_task("rank", None, Y)
