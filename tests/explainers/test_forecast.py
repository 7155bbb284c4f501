"""What a fit says of its own length: in time, about right, only to who watches, and without a trace in what is learnt."""

import time

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification

from cfexplain import (
    CLARITYExplainer,
    ClassDirectionExplainer,
    DiffeomorphicExplainer,
    LeapExplainer,
    PLACEExplainer,
    REVISEExplainer,
    ScanExplainer,
)
from cfexplain.datasets import load_digits_images, load_mnist
from cfexplain.explainers.forecast import seconds_to_fit
from cfexplain.foundation.progress import rehearsal


def table(n, columns=6):
    X, y = make_classification(n, columns, random_state=0)
    return X.astype(np.float32), y


def forecast(explainer, X, y, clock=time.process_time):
    """What is foretold, by the rows as `fit` reads them."""
    said = []
    explainer = clone(explainer)
    explainer._fit = lambda X, y: said.append((X, y))
    explainer.fit(X, y)
    del explainer._fit
    return seconds_to_fit(explainer, *said[0], clock)


def test_it_is_said_to_who_watches_and_before_anything_is_trained(capfd):
    X, y = table(300)
    PLACEExplainer(training_budget=0.02, random_state=0).fit(X, y)  # verbose="auto", and this is no terminal
    assert capfd.readouterr().err == ""

    class Stopped(Exception):
        pass

    class Watched(PLACEExplainer):
        def _fit(self, X, y):
            if rehearsal() is None:
                raise Stopped
            return super()._fit(X, y)

    with pytest.raises(Stopped):
        Watched(training_budget=30, random_state=0, verbose=1).fit(X, y)
    said = capfd.readouterr().err
    assert said.startswith("fit: about ") and "300 rows" in said


def test_it_leaves_no_trace():
    X, y = table(200)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    random_state = np.random.RandomState(3)
    explainer = REVISEExplainer(training_budget=0.02, random_state=random_state, verbose=0)
    state = random_state.get_state()[1].copy()
    assert forecast(explainer, X, y) > 0
    assert (random_state.get_state()[1] == state).all() and torch.equal(torch.get_rng_state(), before)
    quiet, watched = (clone(explainer).set_params(verbose=verbose, random_state=0).fit(X, y) for verbose in (0, 1))
    np.testing.assert_array_equal(quiet.explain(X[:5]).x_cf, watched.explain(X[:5]).x_cf)
    assert set(vars(quiet)) == set(vars(watched))


@pytest.mark.parametrize("explainer", [
    PLACEExplainer(), CLARITYExplainer(), ClassDirectionExplainer(), LeapExplainer(), REVISEExplainer(), ScanExplainer(),
    DiffeomorphicExplainer(generator="flow", task="regression"), PLACEExplainer(density="kernel")],
    ids=lambda explainer: type(explainer).__name__)
def test_every_explainer_can_be_rehearsed(explainer):
    X, y = table(80)
    values = getattr(explainer, "task", None) == "regression"
    seconds = forecast(explainer.set_params(training_budget=0.05, random_state=0), X, X[:, 0] if values else y)
    assert 0 < seconds < 600


def test_what_cannot_be_foretold_is_not():
    X, y = load_digits_images()
    gan = DiffeomorphicExplainer(generator="gan", training_budget=0.02, random_state=0)
    assert forecast(gan, X[:200], y[:200]) is None  # its training would take as long in a rehearsal
    asked = []

    class Remote:
        classes_ = np.unique(y)

        def predict(self, X):
            asked.append(len(X))
            return np.zeros(len(X), dtype=int)

    assert seconds_to_fit(LeapExplainer(Remote()), X[:200], y[:200]) is None and not asked


@pytest.mark.slow
@pytest.mark.parametrize("what", ["digits", "table", pytest.param("mnist", marks=pytest.mark.data)])
def test_it_is_right_within_a_factor_of_two(what):
    if what == "table":
        X, y = table(1000, 12)
    else:
        X, y = (part[:n] for n, part in zip((1350, 1350) if what == "digits" else (2000, 2000), (
            load_digits_images() if what == "digits" else load_mnist()[:2]), strict=True))
    explainer = PLACEExplainer(random_state=0)
    clone(explainer).set_params(training_budget=0.02).fit(X, y)  # what is imported once is no part of either
    said, began = forecast(explainer, X, y), time.process_time()
    explainer.fit(X, y)
    took = time.process_time() - began
    assert said / 2 <= took <= 2 * said, (said, took)
