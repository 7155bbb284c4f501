"""Small trained explainers, shared by all tests of a session. Budgets are cut, weights are always trained."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from cfexplain import DiffeomorphicExplainer, GradientExplainer, PLACEExplainer
from cfexplain.coordinates import Flow
from cfexplain.datasets import load_digits_images

DATA = os.environ.get("CFEXPLAIN_DATA")


def pytest_collection_modifyitems(items):
    missing = pytest.mark.skip(reason="needs real images: set CFEXPLAIN_DATA to the folder that holds them")
    for item in items:
        if "data" in item.keywords and not (DATA and Path(DATA).is_dir()):
            item.add_marker(missing)


@pytest.fixture(scope="session")
def digits():
    """Training and held-out digits, (n, 8, 8) float32 in [0, 1]."""
    X, y = load_digits_images()
    order = np.random.RandomState(0).permutation(len(X))
    X, y = X[order], y[order]
    return X[:1400], y[:1400], X[1400:], y[1400:]


@pytest.fixture(scope="session")
def table():
    """Breast cancer, standardised, with string labels."""
    data = load_breast_cancer()
    X = StandardScaler().fit_transform(data.data).astype(np.float32)
    y = np.array(["malignant", "benign"])[data.target]
    return X[:450], y[:450], X[450:], y[450:]


@pytest.fixture(scope="session")
def image_explainer(digits):
    X, y, _, _ = digits
    return PLACEExplainer(random_state=0, training_budget=0.5).fit(X, y)


@pytest.fixture(scope="session")
def table_explainer(table):
    X, y, _, _ = table
    return PLACEExplainer(random_state=0, training_budget=0.5).fit(X, y)


@pytest.fixture(scope="session")
def flow_image_explainer(digits):
    X, y, _, _ = digits
    flow = Flow(steps=2, hidden=24, training_budget=0.05)
    return DiffeomorphicExplainer(generator=flow, random_state=0, training_budget=0.5).fit(X, y)


@pytest.fixture(scope="session")
def flow_table_explainer(table):
    X, y, _, _ = table
    flow = Flow(steps=4, hidden=(64, 64), noise=0.1, training_budget=0.2)
    return DiffeomorphicExplainer(generator=flow, random_state=0, training_budget=0.5).fit(X, y)


@pytest.fixture(scope="session")
def vae_image_explainer(digits):
    X, y, _, _ = digits
    return DiffeomorphicExplainer(generator="vae", random_state=0, training_budget=0.5).fit(X, y)


@pytest.fixture(scope="session")
def gradient_table_explainer(table):
    X, y, _, _ = table
    return GradientExplainer(random_state=0, training_budget=0.5).fit(X, y)


@pytest.fixture
def quietly():
    """No convergence warnings: the test looks at the statuses itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
