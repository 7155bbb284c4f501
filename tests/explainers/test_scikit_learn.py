"""At home in scikit-learn: its own checks, and the tools that people use with it."""

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_estimator_cloneable,
    check_estimator_repr,
    check_estimators_pickle,
    check_fit_idempotent,
    check_methods_sample_order_invariance,
    check_methods_subset_invariance,
    check_n_features_in_after_fitting,
    check_no_attributes_set_in_init,
    check_transformer_general,
    parametrize_with_checks,
)

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
from cfexplain.density import ConditionalFlow

pytestmark = pytest.mark.usefixtures("quietly")


TINY = {"training_budget": 0.002, "max_steps": 5, "random_state": 0}
SMALL = {**TINY, "density": ConditionalFlow(transforms=1, hidden_features=(8,), training_budget=0.002)}
FLOW = Flow(steps=1, hidden=(8,), training_budget=0.002)
SEARCHED = {**TINY, "sparse": False}  # by the search alone


@parametrize_with_checks([
    PLACEExplainer(**SEARCHED), GradientExplainer(**TINY), DiffeomorphicExplainer(generator=FLOW, **SEARCHED),
    DiffeomorphicExplainer(task="regression", target="maximize", generator="vae", **SEARCHED), PrototypeExplainer(**TINY)])
def test_common_checks(estimator, check):
    check(estimator)


SIBLINGS = [REVISEExplainer(**SMALL), CLARITYExplainer(members=2, **SMALL), LeapExplainer(sparse=False, **SMALL),
            ClassDirectionExplainer(generator="vae", **TINY)]


@pytest.mark.slow  # all that these checks call is of the base, and of that checked above; what is theirs is checked below
@parametrize_with_checks(SIBLINGS)
def test_common_checks_of_siblings(estimator, check):
    check(estimator)


@pytest.mark.parametrize("check", [check_estimator_cloneable, check_estimator_repr, check_no_attributes_set_in_init,
                                   check_fit_idempotent, check_estimators_pickle, check_n_features_in_after_fitting])
@pytest.mark.parametrize("estimator", SIBLINGS)
def test_what_siblings_have_of_their_own(estimator, check):
    check(type(estimator).__name__, clone(estimator))


@pytest.mark.parametrize("check", [check_methods_sample_order_invariance, check_methods_subset_invariance,
                                   check_transformer_general])
def test_checks_of_what_is_found_where_columns_are_scanned(check):
    check("PLACEExplainer", PLACEExplainer(max_changes=2, second_opinion=1, **SMALL))


@pytest.fixture(scope="module")
def wine():
    data = load_wine(as_frame=True)
    return data.data, data.target_names[data.target]


def test_pipeline_returns_original_units(wine):
    X, y = wine
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"),
                         PLACEExplainer(immutable=["hue"], random_state=0, training_budget=0.05))
    pipe.fit(X, y)
    moved = pipe.inverse_transform(pipe.transform(X[:10]))
    back = pipe[:-1].inverse_transform(pipe[:-1].transform(X[:10]))
    hue = list(X.columns).index("hue")
    assert (np.asarray(moved)[:, hue] == np.asarray(back)[:, hue]).all()
    changed = pipe.predict(_frame(moved, X)) != pipe.predict(X[:10])
    assert changed.mean() >= 0.9
    np.testing.assert_array_equal(pipe.predict(X), pipe[-1].predict(pipe[:-1].transform(X)))


def _frame(values, like):
    return like.iloc[: len(values)].copy().assign(**{c: np.asarray(values)[:, i] for i, c in enumerate(like.columns)})


def test_set_output_gives_frames_with_names(wine):
    X, y = wine
    explainer = PLACEExplainer(random_state=0, training_budget=0.05).fit(X, y).set_output(transform="pandas")
    frame = explainer.transform(X[:4])
    assert list(frame.columns) == list(X.columns) and list(frame.index) == list(X.index[:4])


def test_target_is_routed_through_a_pipeline(wine):
    X, y = wine
    explainer = PLACEExplainer(random_state=0, training_budget=0.05)
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), explainer.set_transform_request(target=True)).fit(X, y)
        moved = pipe.transform(X[:6], target=y[-1])
        np.testing.assert_array_equal(moved, pipe[-1].transform(pipe[:-1].transform(X[:6]), target=y[-1]))
        assert (pipe[-1].predict(moved) == y[-1]).all()


def test_grid_search_tunes_weights_on_frozen_parts(wine):
    X, y = StandardScaler().fit_transform(wine[0]), wine[1]
    fitted = PLACEExplainer(random_state=0, training_budget=0.05).fit(X, y)
    explainer = PLACEExplainer(coordinates=FrozenEstimator(fitted.coordinates_), density=FrozenEstimator(fitted.density_),
                               second_opinion=0, random_state=0, training_budget=0.1,
                               sparse=False)  # what a scan of the columns answers takes no steps
    grid = GridSearchCV(explainer, {"max_steps": [1, 60]}, cv=2).fit(X, y)
    scores = grid.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and grid.best_params_["max_steps"] == 60 and scores[1] > scores[0]
