"""Small trained explainers, shared by all tests of a session. Budgets are cut, weights are always trained."""

import os
import warnings
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # processes side by side do the sharing; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib
import numpy as np
import pytest
import torch
from filelock import FileLock
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler

from cfexplain import (
    CLARITYExplainer,
    ClassDirectionExplainer,
    DiffeomorphicExplainer,
    GradientExplainer,
    LeapExplainer,
    PLACEExplainer,
    PrototypeExplainer,
    REVISEExplainer,
)
from cfexplain.coordinates import Flow
from cfexplain.datasets import load_digits_images

DATA = os.environ.get("CFEXPLAIN_DATA")

# Triton reads this when it decorates a kernel, so before any is imported: without a GPU its interpreter runs them.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


LONGEST = ("test_doctests.py", "test_scikit_learn.py", "test_every_explainer.py", "test_round_trips.py",
           "test_architecture.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)  # so that no long file is left for the end
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
    """The ten means of breast cancer, standardised, with string labels: time grows with the number of columns."""
    data = load_breast_cancer()
    X = StandardScaler().fit_transform(data.data[:, :10]).astype(np.float32)
    y = np.array(["malignant", "benign"])[data.target]
    return X[:450], y[:450], X[450:], y[450:]


@pytest.fixture(scope="session")
def fitted_once(tmp_path_factory):
    """``fitted_once(estimator, X, y)`` is ``estimator.fit(X, y)``, which one process does and the others read."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def fit(estimator, X, y, train=lambda estimator, X, y: estimator.fit(X, y)):
        file = shared / f"{joblib.hash((estimator, X, y))}.joblib"
        with FileLock(f"{file}.lock"):
            if not file.exists():
                joblib.dump(train(estimator, X, y), file)
        return joblib.load(file)

    return fit


@pytest.fixture(scope="session")
def image_explainer(digits, fitted_once):
    X, y, _, _ = digits
    return fitted_once(PLACEExplainer(random_state=0, training_budget=0.25), X, y)


@pytest.fixture(scope="session")
def table_explainer(table, fitted_once):
    X, y, _, _ = table
    return fitted_once(PLACEExplainer(random_state=0, training_budget=0.5), X, y)


@pytest.fixture(scope="session")
def flow_image_explainer(digits, fitted_once):
    X, y, _, _ = digits
    flow = Flow(steps=2, hidden=24, training_budget=0.05)
    return fitted_once(DiffeomorphicExplainer(generator=flow, random_state=0, training_budget=0.2), X, y)


@pytest.fixture(scope="session")
def flow_table_explainer(table, fitted_once):
    X, y, _, _ = table
    flow = Flow(steps=4, hidden=(64, 64), noise=0.1, training_budget=0.2)
    return fitted_once(DiffeomorphicExplainer(generator=flow, sparse=False, random_state=0, training_budget=0.5), X, y)


@pytest.fixture(scope="session")
def vae_image_explainer(digits, fitted_once):
    X, y, _, _ = digits
    return fitted_once(DiffeomorphicExplainer(generator="vae", random_state=0, training_budget=0.2), X, y)


@pytest.fixture(scope="session")
def gradient_table_explainer(table, fitted_once):
    X, y, _, _ = table
    return fitted_once(GradientExplainer(step_size=0.05, random_state=0, training_budget=0.5), X, y)


def _shared(explainer):
    """The fitted parts of another explainer, to be used again as they are."""
    return {"classifier": explainer.classifier_.module, "coordinates": FrozenEstimator(explainer.coordinates_),
            "density": FrozenEstimator(explainer.density_), "random_state": 0}


@pytest.fixture(scope="session")
def revise_image_explainer(digits, image_explainer):
    return REVISEExplainer(**_shared(image_explainer)).fit(*digits[:2])


@pytest.fixture(scope="session")
def clarity_table_explainer(table, table_explainer):
    return CLARITYExplainer(**_shared(table_explainer), members=3, training_budget=0.5).fit(*table[:2])


@pytest.fixture(scope="session")
def leap_image_explainer(digits, image_explainer):
    return LeapExplainer(**_shared(image_explainer)).fit(*digits[:2])


@pytest.fixture(scope="session")
def forest_table_explainer(table, table_explainer):
    """A forest, which torch cannot differentiate and no surrogate stands in for."""
    forest = RandomForestClassifier(30, random_state=0).fit(*table[:2])
    return LeapExplainer(**_shared(table_explainer) | {"classifier": forest}).fit(*table[:2])


@pytest.fixture(scope="session")
def direction_table_explainer(table, table_explainer):
    shared = _shared(table_explainer)
    return ClassDirectionExplainer(shared["classifier"], generator=shared["coordinates"], direction="linear",
                                   random_state=0).fit(*table[:2])


@pytest.fixture(scope="session")
def prototype_table_explainer(table, table_explainer):
    shared = _shared(table_explainer)
    return PrototypeExplainer(shared["classifier"], autoencoder=shared["coordinates"], k=5, max_steps=150,
                              step_size=0.05, random_state=0).fit(*table[:2])


@pytest.fixture
def quietly():
    """No convergence warnings: the test looks at the statuses itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
