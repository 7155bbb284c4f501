"""Validity and confidence of any labels, and oracles of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import LinearSVC
from skorch import NeuralNetClassifier
from torch import nn

from cfexplain import GradientExplainer
from cfexplain.foundation.random import seeded_torch
from cfexplain.metrics import (
    confidence_gain,
    oracle_agreement,
    validity,
)


@pytest.fixture(scope="module")
def network():
    with seeded_torch(0):
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(216, 12))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_validity_of_any_labels(rows):
    said, wanted = zip(*rows, strict=True)
    expected = [float(a == b) for a, b in rows]
    names = np.array(["no", "yes", "maybe", "none"])
    assert validity(said, wanted).tolist() == validity(names[list(said)], names[list(wanted)]).tolist() == expected
    assert validity(torch.tensor(said), 2).tolist() == [float(a == 2) for a in said]
    assert validity(names[list(said)].astype(object), "maybe").tolist() == [float(a == 2) for a in said]
    assert validity(said, 2).dtype == np.float64


def test_confidence_gain_by_hand():
    before, after = np.array([0.1, 0.5, 1.0], dtype=np.float32), np.array([0.9, 0.5, 0.0])
    gain = confidence_gain(torch.from_numpy(before), after)
    np.testing.assert_allclose(gain, [0.8, 0, -1], atol=1e-7)
    assert gain.dtype == np.float64


def test_oracles_of_every_kind(digits, network):
    X, y, x, _ = digits
    svm = LinearSVC(C=0.01, random_state=0).fit(X.reshape(len(X), -1), y)
    flat = x.reshape(len(x), -1)
    expected = (svm.predict(flat) == 4).astype(float)
    for rows in (x, x[:, None], flat, torch.from_numpy(x)):
        np.testing.assert_array_equal(oracle_agreement(svm, rows, 4), expected)
    targets = np.arange(len(x)) % 10
    np.testing.assert_array_equal(oracle_agreement(svm, x, targets), svm.predict(flat) == targets)

    module = nn.Sequential(network, nn.Linear(12, 10)).train()
    with torch.no_grad():
        logits = module.eval()(torch.from_numpy(x)[:, None]).numpy()
    module.train()
    np.testing.assert_array_equal(oracle_agreement(module, x, targets), logits.argmax(1) == targets)
    names = np.array([f"digit {k}" for k in range(10)])
    np.testing.assert_array_equal(
        oracle_agreement(module, x.astype(np.float64), names[targets], classes=names), logits.argmax(1) == targets)
    assert module.training and all(p.requires_grad for p in module.parameters())
    one = nn.Linear(64, 1)
    with torch.no_grad():
        expected = one(torch.from_numpy(flat))[:, 0].numpy() > 0
    np.testing.assert_array_equal(oracle_agreement(one, flat, 1), expected)
    column = nn.Sequential(one, nn.Flatten(0))
    np.testing.assert_array_equal(oracle_agreement(column, flat, "b", classes=["a", "b"]), expected)

    net = NeuralNetClassifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), criterion=nn.CrossEntropyLoss, max_epochs=1,
                              verbose=0).fit(X, y.astype(np.int64))
    np.testing.assert_array_equal(oracle_agreement(net, x, targets), net.predict(x) == targets)


def test_an_explainer_can_be_the_oracle(image_oracle, digits):
    x = digits[2][:40]
    np.testing.assert_array_equal(oracle_agreement(image_oracle, x, 4), image_oracle.predict(x) == 4)


@pytest.fixture(scope="module")
def image_oracle(digits):
    X, y, _, _ = digits
    return GradientExplainer(LinearDigits(), random_state=0, training_budget=0.01).fit(X[:200], y[:200])


class LinearDigits(nn.Module):
    """Ten templates: something to explain that needs no training."""

    def __init__(self):
        super().__init__()
        with seeded_torch(1):
            self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


def test_decisions_of_bad_input():
    x, module = np.zeros((3, 4)), nn.Linear(4, 3)
    for message, call in {
        r"predictions must be one label a row.*\(3, 1\)": lambda: validity(np.zeros((3, 1)), 0),
        r"target must be one label or one label a row, of shape \(3,\)": lambda: validity([0, 1, 2], [0, 1]),
        r"predictions has NaN in the rows \[1\]": lambda: validity([0.0, np.nan], 0),
        "pass labels, not indices": lambda: validity(["a", "b"], 0),
        "proba_before has 2 rows, proba_after 1": lambda: confidence_gain([0.5, 0.5], [1.0]),
        r"proba_after.*\[1\].*softmax": lambda: confidence_gain([0.5, 0.5], [1.0, 7.3]),
        "proba_before has NaN": lambda: confidence_gain([np.nan], [1.0]),
        "one probability a row": lambda: confidence_gain([[0.5, 0.5]], [1.0]),
        "x_cf has NaN": lambda: oracle_agreement(module, x * np.nan, 0),
        "not among the oracle's classes": lambda: oracle_agreement(module, x, 7),
        "must name the oracle's 3 classes": lambda: oracle_agreement(module, x, 0, classes=[0, 1]),
        "expected logits": lambda: oracle_agreement(nn.Unflatten(1, (2, 2)), x, 0),
        "returned 1 labels for 3": lambda: oracle_agreement(LinearRegressionOfOne(), x, 0),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="oracle must have a method predict"):
        oracle_agreement("svm", x, 0)


class LinearRegressionOfOne:
    def predict(self, X):
        return np.zeros(1)
