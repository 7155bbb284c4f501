"""Estimators by a surrogate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from skorch import NeuralNetClassifier
from torch import nn

from cfexplain.classifiers import adapt_classifier
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.exceptions import ClassifierOutputError

D = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, D)).astype(np.float32)
Y3 = np.array(["ant", "bee", "cat"])[np.arange(90) % 3]
Y2 = np.array(["no", "yes"])[np.arange(90) % 2]
TABLE = Layout((D,), (D,))
GREY = Layout((8, 8), (1, 8, 8))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def linear(outputs, *after, dtype=torch.float32):
    return seeded(lambda: nn.Sequential(nn.Linear(D, outputs), *after)).to(dtype)


def adapt(module, y=Y3, x=X, layout=TABLE, **options):
    return adapt_classifier(module, x, y, layout=layout, **options)


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_surrogate_of_a_forest_is_faithful(load):
    x, y = load(return_X_y=True)
    y = np.char.add("class ", y.astype(str))
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    forest = RandomForestClassifier(30, random_state=0).fit(x, y)
    adapter = adapt(forest, y, x, Layout(x.shape[1:], x.shape[1:]), training_budget=0.15)
    assert adapter.is_surrogate and adapter.surrogate_fidelity_ >= 0.9
    assert (adapter.predict(x_test) == forest.predict(x_test)).all()
    np.testing.assert_allclose(adapter.predict_proba(x_test), forest.predict_proba(x_test))
    assert (adapter.predict_surrogate(x_test) == forest.predict(x_test)).mean() >= 0.95
    between = (x_test[:100:2] + x_test[1:100:2][: len(x_test[:100:2])]) / 2
    assert (adapter.predict_surrogate(between) == forest.predict(between)).mean() >= 0.8
    z = torch.from_numpy(x_test[:2]).requires_grad_()
    (gradient,) = torch.autograd.grad(adapter.logits(z)[:, 0].sum(), z)
    assert gradient.dtype == torch.float64 and (gradient != 0).any()


@pytest.mark.parametrize(
    ("estimator", "asks"),
    [(LogisticRegression(), "predict_proba"), (LinearSVC(), "decision_function"),
     (SVC(decision_function_shape="ovr"), "decision_function"), ("plain", "predict")],
)
@pytest.mark.parametrize("y", [Y2, Y3])
def test_what_an_estimator_is_asked(estimator, asks, y):
    class Plain(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.inner_ = LogisticRegression().fit(X, y)
            return self

        def predict(self, X):
            return self.inner_.predict(X)

    means = RNG.normal(size=(3, D)) * 3
    x = X.astype(np.float64) + means[np.unique(y, return_inverse=True)[1]]
    estimator = (Plain() if estimator == "plain" else estimator).fit(x, y)
    adapter = adapt(FrozenEstimator(estimator), y, x, training_budget=0.03)
    assert adapter._black_box.asks == asks
    proba = adapter.predict_proba(x)
    np.testing.assert_allclose(proba.sum(1), 1)
    assert (adapter.classes_[proba.argmax(1)] == estimator.predict(x)).mean() >= 0.99
    assert (adapter.predict(x) == estimator.predict(x)).all()


def test_pipeline_that_ends_in_a_skorch_net_and_images():
    images, y = load_digits(n_class=3, return_X_y=True)
    net = NeuralNetClassifier(seeded(lambda: nn.Sequential(nn.Linear(64, 3))), criterion=nn.CrossEntropyLoss,
                              max_epochs=3, train_split=None, verbose=0)
    images = (images / 16).astype(np.float32)
    pipe = seeded(lambda: make_pipeline(StandardScaler(), net).fit(images, y))
    adapter = adapt(pipe, y, images.reshape(-1, 1, 8, 8), GREY, training_budget=0.02)
    assert adapter.is_surrogate
    assert (adapter.predict(images.reshape(-1, 1, 8, 8)) == pipe.predict(images)).all()


@pytest.mark.filterwarnings("ignore:The surrogate agrees")
def test_estimator_on_a_data_frame():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"))
    forest = RandomForestClassifier(5, random_state=0).fit(frame, Y2)
    adapter = adapt(forest, Y2, training_budget=0.02)
    assert (adapter.predict(X) == forest.predict(frame)).all()


@pytest.mark.filterwarnings("ignore:The surrogate agrees")
def test_same_seed_same_surrogate_and_global_generators_untouched():
    forest = RandomForestClassifier(5, random_state=0).fit(X, Y2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    bits = [
        adapt(forest, Y2, training_budget=0.02, seed=seed).logits(torch.from_numpy(X)).numpy().tobytes()
        for seed in (3, 3, 4)
    ]
    assert bits[0] == bits[1] != bits[2]
    assert (torch.get_rng_state() == torch_state).all() and (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_an_unfaithful_surrogate_warns_with_the_figure():
    class Parity:
        def predict(self, X):
            return (np.floor(X * 50).sum(1) % 2).astype(int)

    with pytest.warns(UserWarning, match=r"agrees with Parity on \d+\.\d% of the 18 held-out rows"):
        adapter = adapt(Parity(), Parity().predict(X), training_budget=0.02)
    assert adapter.surrogate_fidelity_ < 0.9


@pytest.mark.parametrize(
    ("classifier", "error", "match"),
    [
        (RandomForestClassifier(), NotFittedError, r"RandomForestClassifier is not fitted.*fit\(X, y\)"),
        (make_pipeline(StandardScaler(), LogisticRegression()), NotFittedError, "Pipeline is not fitted"),
        (make_pipeline(StandardScaler(), NeuralNetClassifier(linear(3))), NotFittedError, "Pipeline is not fitted"),
        (LinearRegression().fit(X, X[:, 0]), TypeError, "regressor"),
        (RandomForestClassifier, TypeError, "the class RandomForestClassifier.*instantiated"),
        (lambda x: x, TypeError, "a function. Expected a torch nn.Module, a fitted skorch net"),
        ("net", TypeError, "a str"),
        (LogisticRegression().fit(X, Y2), ClassifierOutputError, r"does not know: \['ant', 'bee', 'cat'\]"),
        (LogisticRegression().fit(X[:, :2], Y3), ClassifierOutputError, "(?s)none of the layouts.*2 features"),
    ],
)
def test_estimators_that_cannot_be_explained(classifier, error, match):
    with pytest.raises(error, match=match):
        adapt(classifier)
