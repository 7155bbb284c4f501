"""What Diffeomorphic Counterfactuals has beyond the invariants of every explainer: values, sweeps, ascents, clip modes."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, make_moons
from sklearn.ensemble import RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from cfexplain import Counterfactuals, DiffeomorphicExplainer, GradientExplainer
from cfexplain.coordinates import Flow, Identity
from cfexplain.foundation.exceptions import TargetError

pytestmark = pytest.mark.usefixtures("quietly")


# ------------------------------------------------------------------ regression
@pytest.fixture(scope="module")
def diabetes():
    data = load_diabetes()
    X = StandardScaler().fit_transform(data.data).astype(np.float32)
    return X[:350], data.target[:350], X[350:], data.target[350:]


@pytest.fixture(scope="module", params=[DiffeomorphicExplainer, GradientExplainer])
def regression(request, diabetes):
    X, y, X_test, _ = diabetes
    options = {"generator": Flow(steps=3, hidden=(32, 32), noise=0.1, training_budget=0.1)}
    explainer = request.param(
        task="regression", random_state=0, training_budget=0.15, max_steps=300, step_size=0.05,
        **(options if request.param is DiffeomorphicExplainer else {"update": "normalized"}))
    return explainer.fit(X, y), X_test[:20]


def test_a_value_is_reached_from_both_sides(regression):
    explainer, x = regression
    before = explainer.predict(x)
    cf = explainer.explain(x, target=150.0)
    assert cf.valid.all() and (cf.status == "converged").all()
    np.testing.assert_array_equal(cf.source, before)
    np.testing.assert_array_equal(cf.prediction, explainer.predict(np.asarray(cf)))
    up = before < 150
    assert 0 < up.sum() < len(x)
    slack = 1e-3 * np.std(before)
    assert (cf.prediction[up] >= 150 - slack).all() and (cf.prediction[~up] <= 150 + slack).all()
    # bisection brings it to the value itself, not to wherever the step that crossed it went; but where a column has two
    # values alone, there is nothing between them
    beyond = np.abs(cf.prediction - 150)
    assert np.median(beyond) < 1 and (beyond < 0.05 * np.abs(before - 150).max() + 1).mean() >= 0.9


def test_an_interval_is_entered_and_not_crossed(regression):
    explainer, x = regression
    cf = explainer.explain(x, target=(120.0, 130.0))
    assert cf.valid.all() and ((cf.prediction > 119.9) & (cf.prediction < 130.1)).all()
    there = explainer.explain(x[:1], target=(float(cf.source[0]) - 1, float(cf.source[0]) + 1))
    assert there.status[0] == "already_target"
    np.testing.assert_array_equal(np.asarray(there), x[:1])


def test_maximize_and_minimize_go_as_far_as_the_steps_do(regression):
    explainer, x = regression
    short = pickle.loads(pickle.dumps(explainer)).set_params(max_steps=20)
    for target, sign in (("maximize", 1), ("minimize", -1)):
        cf = short.explain(x, target=target)
        assert (sign * (cf.prediction - cf.source) > 0).all()
        # nothing holds the ascent in X where there are data
        free = {"implausible"} if isinstance(explainer, GradientExplainer) else set()
        assert set(cf.status) <= {"converged", "step_budget"} | free
        assert not cf.complete[cf.status == "step_budget"].any()
        assert (cf.target == target).all() and (cf.n_steps == 20).all()


def test_an_unreachable_value_keeps_the_closest_one(regression):
    explainer, x = regression
    short = pickle.loads(pickle.dumps(explainer)).set_params(max_steps=10)
    cf = short.explain(x, target=1e6, record_path=True)
    assert (cf.status == "not_found").all() and not cf.valid.any()
    for i in range(3):
        values = short.decode_path(cf[i])[0].value
        if not explainer.sparse:  # a density has no part in it
            np.testing.assert_allclose(cf.prediction[i], values.max(), rtol=1e-4)
        assert cf.prediction[i] > cf.source[i] and np.isclose(values, cf.prediction[i], rtol=1e-4).any()
    assert "nearest" in cf[0].summary()


def test_regressions_keep_the_invariants(regression, tmp_path):
    explainer, x = regression
    together = explainer.explain(x, target=150.0)
    alone = explainer.explain(x[3:4], target=150.0)
    np.testing.assert_array_equal(np.asarray(alone), np.asarray(together)[3:4])
    again = pickle.loads(pickle.dumps(explainer)).explain(torch.from_numpy(x), target=150.0)
    assert isinstance(again.array, torch.Tensor)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(together))
    np.testing.assert_array_equal(
        np.asarray(explainer.explain(x, target=[150.0] * 20)), np.asarray(together))
    assert not hasattr(explainer, "predict_proba") and not hasattr(clone(explainer), "task_")
    assert np.isnan(together.proba_after).all() and 0 <= explainer.set_params(target=150.0).score(x) <= 1
    together.save(tmp_path / "result")
    np.testing.assert_array_equal(Counterfactuals.load(tmp_path / "result").prediction, together.prediction)
    together.to_html(tmp_path / "page.html")
    together.plot()
    explainer.set_params(target=None)


@pytest.mark.parametrize("target, message", [
    (None, "needs a target"), ("up", "'maximize'"), ((3, 1), "low <= high"), ((1, 2, 3), "two numbers"),
    ([1.0, 2.0], "one a row"), (np.nan, "NaN"), ("setosa", "'maximize'"), ([["a"]], "not a number")])
def test_bad_values_are_explained(regression, target, message):
    explainer, x = regression
    with pytest.raises(TargetError, match=message):
        explainer.explain(x, target=target)


def test_a_forest_is_searched_through_a_surrogate_and_judged_itself(diabetes):
    X, y, X_test, _ = diabetes
    forest = RandomForestRegressor(20, random_state=0).fit(X, y)
    explainer = GradientExplainer(forest, update="normalized", step_size=0.1, training_budget=0.1, random_state=0,
                                  max_steps=200).fit(X, y)
    cf = explainer.explain(X_test[:10], target=150.0)
    np.testing.assert_allclose(cf.prediction, forest.predict(np.asarray(cf)), rtol=1e-6)
    assert cf.surrogate_valid is not None and explainer.classifier_.surrogate_fidelity_ > 0.5
    assert np.abs(cf.prediction - 150).mean() < np.abs(cf.source - 150).mean()


def test_what_y_and_the_model_say_about_the_task(diabetes, table):
    X, y, _, _ = diabetes
    quick = GradientExplainer(training_budget=0.02, random_state=0)
    assert not hasattr(quick.fit(X, y + 0.5), "classes_")  # continuous numbers
    counts = np.round(y / 100)
    assert hasattr(quick.fit(X, counts), "classes_")  # whole numbers are labels, unless it is said
    assert not hasattr(quick.set_params(task="regression").fit(X, counts), "classes_")
    with pytest.raises(ValueError, match="'auto', 'classification' or 'regression'"):
        quick.set_params(task="ranking").fit(X, y)


# --------------------------------------------------------------------- ascent
def test_a_sweep_is_what_single_confidences_give(flow_image_explainer, digits):
    x = digits[2][digits[3] == 4][:3]
    sweep = flow_image_explainer.confidence_sweep(x, 9, (0.25, 0.6, 0.99))
    assert [len(found) for found in sweep] == [3, 3, 3]
    for confidence, found in zip((0.25, 0.6, 0.99), sweep, strict=True):
        single = pickle.loads(pickle.dumps(flow_image_explainer)).set_params(confidence=confidence).explain(x, 9)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(single))
        np.testing.assert_array_equal(found.status, single.status)
        assert (found.proba_after[found.conditions["decision"]] > confidence - 1e-4).all()
        assert found.conditions["decision"].all()
    distances = np.stack([found.n_steps for found in sweep])
    assert (np.diff(distances, axis=0) >= 0).all()  # the same path, followed further
    for bad in ((0.5, 1.0), (), ("high",), ("auto",)):
        with pytest.raises(TypeError if bad in (("high",), ("auto",)) else ValueError, match="confidence"):
            flow_image_explainer.confidence_sweep(x, 9, bad)


def test_under_normalised_steps_both_ascents_are_one(flow_table_explainer, table):
    x = table[2][table[3] == "malignant"][:10]
    other = pickle.loads(pickle.dumps(flow_table_explainer)).set_params(ascent="probability")
    near = (flow_table_explainer.predict_proba(x).min(1) > 1e-4)  # elsewhere the probability is flat in float32
    assert near.any()
    a, b = (np.asarray(explainer.explain(x[near], "benign")) for explainer in (flow_table_explainer, other))
    np.testing.assert_allclose(a, b, atol=1e-2)
    with pytest.raises(ValueError, match="log_probability"):
        other.set_params(ascent="logits").explain(x, "benign")


def test_adam_in_pixels_is_the_published_loop():
    """Algorithm 1 with an identity generator, against torch's own Adam, one image at a time."""
    rng = np.random.default_rng(0)
    X = rng.uniform(0.2, 0.8, (60, 6, 6)).astype(np.float32)
    y = (X[:, :3].mean((1, 2)) > X[:, 3:].mean((1, 2))).astype(int)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.from_numpy(X)), torch.from_numpy(y)).backward()
        optimiser.step()
    explainer = GradientExplainer(net, confidence=0.9, step_size=0.01, max_steps=300, random_state=0).fit(X, y)
    assert isinstance(explainer.coordinates_, Identity)
    source = explainer.predict(X)
    cf = explainer.explain(X[:5], 1 - source[:5])
    for i in range(5):
        x, target = torch.from_numpy(X[i : i + 1]).clone().requires_grad_(), int(1 - source[i])
        optimiser = torch.optim.Adam([x], lr=0.01)
        for steps in range(300):  # noqa: B007
            shown = x + (x.clamp(0, 1) - x).detach()
            log_p = net(shown).log_softmax(1)[0, target]
            if log_p.exp() > 0.9:
                break
            optimiser.zero_grad()
            (-log_p).backward()
            optimiser.step()
        assert 0 < steps < 299 and steps == cf.n_steps[i]
        np.testing.assert_allclose(np.asarray(cf)[i], shown.detach()[0], atol=1e-5)


@pytest.mark.parametrize("clip", ["straight_through", "autograd", "none"])
def test_clip_modes_keep_their_word(flow_image_explainer, digits, clip):
    x = digits[2][digits[3] == 4][:8]
    explainer = pickle.loads(pickle.dumps(flow_image_explainer)).set_params(clip=clip)
    moved = np.asarray(explainer.explain(x, 9))
    outside = (moved < 0).any() or (moved > 1).any()
    assert outside == (clip == "none")
    with pytest.raises(ValueError, match="clip='hard'"):
        explainer.set_params(clip="hard").explain(x, 9)


def test_exact_coordinates_lose_nothing(flow_image_explainer, flow_table_explainer, digits, table):
    for explainer, x in ((flow_image_explainer, digits[2][:20]), (flow_table_explainer, table[2][:20])):
        cf = explainer.explain(x)
        assert explainer.coordinates_.exact and cf.reconstruction_error.max() < 1e-3


def test_plausibility_raises_the_density(flow_image_explainer, digits):
    x = digits[2][digits[3] == 4][:10]
    plain = pickle.loads(pickle.dumps(flow_image_explainer)).set_params(plausibility_weight=0.0).explain(x, 9)
    other = pickle.loads(pickle.dumps(flow_image_explainer)).set_params(plausibility_weight=1.0).explain(x, 9)
    untypical = ~(plain.density_percentile >= 50)
    assert untypical.any() and (other.log_density > plain.log_density)[untypical].mean() >= 0.8
    converged = other.status == "converged"
    assert converged.any() and other.conditions["density"][converged].all()


def test_classes_of_images_are_searched_under_a_density_unless_told_otherwise(flow_image_explainer, flow_table_explainer,
                                                                              vae_image_explainer, digits):
    x = digits[2][digits[3] == 4][:2]
    said = pickle.loads(pickle.dumps(flow_image_explainer)).set_params(plausibility_weight=0.3, update="normalized",
                                                                      step_size=1.5 / 28)
    np.testing.assert_array_equal(np.asarray(said.explain(x, 9)), np.asarray(flow_image_explainer.explain(x, 9)))
    assert "density" in flow_image_explainer.explain(x, 9).conditions
    for other in (flow_table_explainer, vae_image_explainer):
        assert "density" not in other.explain(x if other is vae_image_explainer else np.zeros((2, 10), "f4")).conditions


def test_values_of_images_in_a_flow_are_searched_by_adam_and_a_density(digits):
    X, y, X_test, _ = digits
    ink = X.mean((1, 2))
    explainer = DiffeomorphicExplainer(generator=Flow(steps=2, hidden=16, training_budget=0.02), task="regression",
                                       random_state=0, training_budget=0.1, max_steps=30).fit(X, ink)
    chosen = pickle.loads(pickle.dumps(explainer)).set_params(update="adam", step_size=5e-3, plausibility_weight=0.3)
    found, same = (e.explain(X_test[:3], target="maximize") for e in (explainer, chosen))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(same))
    assert (found.prediction > found.source).all()


# ------------------------------------------------------------------ generators
def test_every_way_to_name_a_generator(table):
    X, y, X_test, _ = table
    fitted = Flow(steps=2, hidden=(16,), training_budget=0.02, random_state=0).fit(X)
    encoder, decoder = torch.nn.Linear(10, 8), torch.nn.Linear(8, 10)
    for generator in ("identity", "vae", FrozenEstimator(fitted), Identity(), (encoder, decoder)):
        explainer = DiffeomorphicExplainer(generator=generator, training_budget=0.02, random_state=0, max_steps=2)
        assert explainer.fit(X, y).explain(X_test[:2]).x_cf.shape == (2, 10)
    assert explainer.set_params(generator=FrozenEstimator(fitted)).fit(X, y).coordinates_ is fitted
    with pytest.raises(ValueError, match="flow"):
        explainer.set_params(generator="diffusion").fit(X, y)


def test_a_flow_that_does_not_invert_is_refused(table):
    X, y, _, _ = table
    flow = Flow(steps=2, hidden=(16,), training_budget=0.02, random_state=0).fit(X)
    with torch.no_grad():
        for parameter in flow.module_.parameters():
            parameter.mul_(float("nan"))
    with pytest.raises(ValueError, match="not invertible on X"):
        DiffeomorphicExplainer(generator=FrozenEstimator(flow), training_budget=0.02, random_state=0).fit(X, y)


def test_a_flow_of_other_samples_is_refused(table, digits):
    flow = Flow(steps=1, hidden=8, training_budget=0.001, random_state=0).fit(digits[0])
    with pytest.raises(ValueError, match=r"\(1, 8, 8\)"):
        DiffeomorphicExplainer(generator=FrozenEstimator(flow), training_budget=0.02).fit(*table[:2])


def test_few_columns_of_a_table_end_among_its_rows():
    X, y = make_moons(500, noise=0.05, random_state=0)
    X = X.astype(np.float32)
    explainer = DiffeomorphicExplainer(
        MLPClassifier((32, 32), max_iter=300, random_state=0).fit(X, y), random_state=0, training_budget=0.2).fit(X, y)
    cf = explainer.explain(X[y == 0][:30], 1)
    real = NearestNeighbors(n_neighbors=2).fit(X[y == 1])
    apart, own = real.kneighbors(cf.x_cf)[0][:, 0], real.kneighbors(X[y == 1])[0][:, 1]
    assert "density" in cf.conditions and cf.valid.all()
    assert np.median(apart) < 2 * np.median(own) and np.median(cf.density_percentile) > 10


def test_values_are_ranked_among_rows_that_the_flow_was_not_trained_on(diabetes):
    X, y, X_test, _ = diabetes
    explainer = DiffeomorphicExplainer(RandomForestRegressor(10, random_state=0).fit(X, y), random_state=0,
                                       generator=Flow(steps=6, hidden=(64, 64), noise=0.05), training_budget=0.1).fit(X, y)
    density = explainer.density_
    new = density.score_samples(explainer.coordinates_.transform(X_test))
    raw = density.score_samples(explainer.coordinates_.transform(X))
    ranks = density.percentile(new, np.zeros(len(new), dtype=int))
    assert 30 < np.median(ranks) < 70 and np.median(ranks) > np.median([100 * (raw <= value).mean() for value in new])
    np.testing.assert_array_equal(np.sort(explainer.real_densities_), density.log_densities_[0])
