"""``start="learned"``: judged before it is searched from, the same alone and in company, stored like the rest."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scale_jobs import assert_same_results
from sklearn.base import clone

import cfexplain
from cfexplain import DiffeomorphicExplainer, LeapExplainer, PLACEExplainer
from cfexplain.explainers.run import Run

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.fixture(scope="module", params=["image", "table", pytest.param("vae_image", marks=pytest.mark.slow)])
def case(request, digits, table):
    """An explainer of other tests with a start of its own, held-out rows, their target, and its training rows."""
    given = request.getfixturevalue(f"{request.param}_explainer")
    X, _, x, y = table if request.param == "table" else digits
    source, target = ("malignant", "benign") if request.param == "table" else (4, 9)
    explainer = copy.copy(given).set_params(training_budget=0.3, max_steps=60)
    if request.param == "table":
        explainer.set_params(sparse=False)
    return explainer.distil(X).set_params(start="learned"), x[y == source][:24], target, X


def test_a_start_that_meets_every_condition_is_the_answer_after_no_step(case):
    explainer, x, target, _ = case
    cf, run = explainer.explain(x, target, backend="eager", record_path=True), Run(explainer)
    rows, start = run.prepare(explainer.read_samples(x), explainer.goal(explainer.read_samples(x), target))
    with torch.no_grad():
        met = run.judge.evaluate(start, rows).done.numpy() & (cf.status != "already_target")
    assert met.mean() > 0.3, "or this test says nothing"
    np.testing.assert_array_equal(cf.n_steps[met], 0)
    np.testing.assert_array_equal(cf.z_cf[met], start.numpy()[met])
    assert (cf.status[met] == "converged").all() and cf.valid[met].all()
    searched = ~met & (cf.status != "already_target")
    assert (cf.n_steps[searched] > 0).all()
    for path, steps in zip(cf.path, cf.n_steps, strict=True):
        assert len(path) == steps + 1
    assert cf.valid.mean() >= 0.95


def test_answers_are_as_near_and_as_different_as_those_of_the_search_itself(case):
    """One prototype for all rows would be valid, too."""
    explainer, x, target, _ = case
    usual = copy.copy(explainer).set_params(start=type(explainer).start).explain(x, target)
    cf = explainer.explain(x, target)
    assert np.median(cf.distance) <= 1.3 * np.median(usual.distance)
    assert cf.z_cf.std(0).mean() >= 0.8 * usual.z_cf.std(0).mean()


def test_a_row_has_the_same_bits_alone_and_in_company(case):
    explainer, x, target, _ = case
    cf = explainer.explain(x, target)
    for i in (0, 5):
        assert_same_results(explainer.explain(x[i : i + 1], target), cf[[i]])
    assert_same_results(explainer.explain(x[::-1], target), cf[np.arange(len(x))[::-1]])


def test_it_is_saved_pickled_and_cloned_like_the_rest(case, tmp_path):
    explainer, x, target, _ = case
    cf = explainer.explain(x[:4], target)
    explainer.save(tmp_path / "e.safetensors")
    again = cfexplain.load(tmp_path / "e.safetensors")
    for twin in (again, pickle.loads(pickle.dumps(explainer))):
        np.testing.assert_array_equal(twin.explain(x[:4], target).z_cf, cf.z_cf)
    twin = clone(explainer)
    assert twin.start == "learned" and not hasattr(twin, "start_")


@pytest.mark.slow
def test_it_is_learned_by_fit_and_reproduces(digits):
    X, y = digits[0][:300], digits[1][:300]
    fits = [PLACEExplainer(start="learned", random_state=3, training_budget=0.01).fit(X, y) for _ in range(2)]
    weights = [torch.nn.utils.parameters_to_vector(e.start_.parameters()) for e in fits]
    assert torch.equal(*weights) and weights[0].abs().sum() > 0
    other = PLACEExplainer(random_state=3, training_budget=0.01).fit(X, y)
    assert other.start_ is None
    again = torch.nn.utils.parameters_to_vector(other.distil(X).start_.parameters())
    assert again.shape == weights[0].shape


def test_values_have_one_and_other_searches_none(image_explainer, table, digits):
    explainer = copy.copy(image_explainer)
    explainer.start_ = None
    with pytest.raises(ValueError, match=r"distil\(X\)"):
        explainer.set_params(start="learned").explain(digits[2][:2], 3)
    X = table[0][:60]
    values = DiffeomorphicExplainer(task="regression", start="learned", random_state=0, training_budget=0.05)
    assert values.fit(X[:, 1:], X[:, 0].astype(float)).explain(X[:4, 1:], target=(0.5, 1.0)).valid.any()
    with pytest.raises(ValueError, match="searches in another way"):
        LeapExplainer(training_budget=0.01, random_state=0).fit(X, table[1][:60]).distil(X)
