"""Regressors of every kind become one differentiable column of values."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from cfexplain.classifiers import adapt_regressor
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.exceptions import ClassifierOutputError

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
