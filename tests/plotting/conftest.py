"""Recorded searches to draw; figures are closed and Matplotlib's settings stay as they were."""

import matplotlib
import pytest
from sklearn.datasets import make_moons

from cfexplain import DiffeomorphicExplainer, GradientExplainer
from cfexplain.coordinates import Flow
from cfexplain.datasets import make_helix

plt = pytest.importorskip("matplotlib.pyplot")
FLOW = {"steps": 2, "hidden": (32, 32), "noise": 0.05, "training_budget": 0.1}


@pytest.fixture(autouse=True)
def closed_and_unchanged():
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == backend


@pytest.fixture(scope="session")
def digit_paths(image_explainer, digits):
    X = digits[2][digits[3] != 9][:6]
    return image_explainer, image_explainer.explain(X, 9, record_path=True)


@pytest.fixture(scope="session")
def table_paths(table_explainer, table):
    return table_explainer, table_explainer.explain(table[2][:4], record_path=True)


@pytest.fixture(scope="session")
def moons():
    X, y = make_moons(300, noise=0.08, random_state=0)
    explainer = DiffeomorphicExplainer(generator=Flow(**FLOW), training_budget=0.3, random_state=0).fit(X, y)
    return explainer, X, y


@pytest.fixture(scope="session")
def helix():
    X, y = make_helix(300, random_state=0)
    return GradientExplainer(training_budget=0.3, random_state=0).fit(X, y), X, y


@pytest.fixture(scope="session")
def values():
    X, _ = make_helix(300, random_state=1)
    explainer = DiffeomorphicExplainer(generator=Flow(**FLOW), task="regression", training_budget=0.2, random_state=0)
    return explainer.fit(X, X[:, 2]), X
