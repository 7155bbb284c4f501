"""Tables end on the explained model itself, and change few columns."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cfexplain
from cfexplain import DiffeomorphicExplainer, LeapExplainer, PLACEExplainer, REVISEExplainer

pytestmark = pytest.mark.usefixtures("quietly")
SMALL = dict(training_budget=0.05, random_state=0)


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return X[:, :8], y


@pytest.mark.parametrize("kind", [PLACEExplainer, LeapExplainer, REVISEExplainer])
@pytest.mark.parametrize("threshold", [0.1, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_search_through_a_surrogate_ends_on_the_model(cancer, kind, threshold):
    X, y = cancer
    model = FixedThresholdClassifier(make_pipeline(StandardScaler(), LogisticRegression()), threshold=threshold,
                                     response_method="predict_proba").fit(X, y)
    explainer = kind(model, max_steps=20, **SMALL).fit(X, y)
    cf = explainer.explain(X[:10])
    assert (model.predict(cf.x_cf) == cf.target).all() and cf.valid.all()


def test_few_columns_change_and_what_stays_is_the_very_number(cancer):
    X, y = cancer
    sparse = PLACEExplainer(immutable=[0], **SMALL).fit(X, y)
    few = sparse.explain(X[:10])
    many = sparse.set_params(sparse=False).explain(X[:10])
    changed = (few.x_cf != few.x).sum(1)
    assert few.valid.all() and few.complete.all() and np.median(changed) <= 4 and not (few.x_cf != few.x)[:, 0].any()
    assert np.median((many.x_cf != many.x).sum(1)) >= 7


def test_columns_go_back_where_the_others_can_go_further():
    X, y = load_breast_cancer(return_X_y=True)  # what hangs together is in several columns, so that few cannot do it alone
    explainer = PLACEExplainer(**SMALL).fit(X, y)
    rows = X[explainer.predict(X) == 0][:8]
    cf = explainer.explain(rows, target=1)
    assert cf.complete.all() and (cf.x_cf != cf.x).sum(1).max() <= 12
    assert (cf.x_cf >= X.min(0) - 1e-6 * X.max(0)).all() and (cf.x_cf <= X.max(0) * (1 + 1e-6)).all()


def test_a_row_has_the_same_bits_alone(cancer, tmp_path):
    X, y = cancer
    explainer = LeapExplainer(LogisticRegression(max_iter=5000).fit(X, y), **SMALL).fit(X, y)
    together = explainer.explain(X[:9])
    for i in (0, 4, 8):
        np.testing.assert_array_equal(explainer.explain(X[i : i + 1]).x_cf[0], together.x_cf[i])
    explainer.save(tmp_path / "leap")
    again = cfexplain.load(tmp_path / "leap", classifier=explainer.classifier)
    np.testing.assert_array_equal(again.explain(X[:9]).x_cf, together.x_cf)
    del again.real_rows_  # as in a file of an earlier version
    assert len(again.explain(X[:9])) == 9


@pytest.mark.parametrize("model", [Ridge(), pytest.param(RandomForestRegressor(20, random_state=0), marks=pytest.mark.slow)])
def test_values_are_reached_inside_the_data_or_said_to_be_outside(model):
    X, y = load_diabetes(return_X_y=True)
    X = X / X.std(0)
    explainer = DiffeomorphicExplainer(model.fit(X, y), max_steps=60, **SMALL).fit(X, y)
    for target in (100.0, (90.0, 110.0)):
        cf = explainer.explain(X[:10], target)
        assert cf.valid.all() and np.median((cf.x_cf != cf.x).sum(1)) <= 4
    for target in ("minimize", "maximize", 1000.0):
        cf = explainer.explain(X[:5], target)
        assert (cf.x_cf >= X.min(0) - 1e-9).all() and (cf.x_cf <= X.max(0) + 1e-9).all()
        assert np.abs(cf.prediction).max() < 600 and (target != 1000.0 or not cf.valid.any())
    freed = DiffeomorphicExplainer(model, bounds={i: (None, None) for i in range(10)}, max_steps=60, plausibility_weight=0.0,
                                   **SMALL).fit(X, y).explain(X[:10], "minimize")
    beyond = ((freed.x_cf < X.min(0)) | (freed.x_cf > X.max(0))).any(1) & freed.valid
    assert beyond.any() and (freed.status[beyond] == "implausible").all() and not freed.complete[beyond].any()
    assert "outside the data" in freed.summary()


def test_every_class_is_reached_where_it_exists():
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression().fit(X, y)
    explainer = LeapExplainer(model, training_budget=0.01, random_state=0).fit(X, y)
    for target in range(3):
        assert explainer.explain(X[::25], target).valid.all()
