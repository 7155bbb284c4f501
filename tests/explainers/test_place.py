"""PLACE itself: equations 1–5 by hand, the plateau, presets, surrogates, and real digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from cfexplain import PLACEExplainer
from cfexplain.datasets import load_mnist
from cfexplain.explainers.run import Run
from cfexplain.objective import Objective, PerceptualDistance, Point, greyness

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.fixture
def published(table_explainer):
    """The table's explainer with the published terms; parameters restored afterwards."""
    before = table_explainer.get_params(deep=False)
    table_explainer.set_params(decision="probability", confidence=0.55, plausibility="likelihood", second_opinion=0,
                               decision_weight=10.0, distance_weight=2.0, plausibility_weight=3.0, detail="decoder")
    yield table_explainer
    table_explainer.set_params(**before)


def test_the_objective_is_equation_1(published, table):
    explainer, x = published, table[2][:16]
    run = Run(explainer)
    z0 = torch.from_numpy(explainer.coordinates_.transform(x))
    z = z0 + 0.5 * torch.randn(z0.shape, generator=torch.Generator().manual_seed(0))
    target = torch.arange(16) % 2
    rows = {"x": torch.from_numpy(x), "z0": z0, "target": target}
    got = run.judge.evaluate(z, rows).loss
    decoded = explainer.coordinates_.inverse_transform(z.numpy())
    p = explainer.predict_proba(decoded)[np.arange(16), target].astype(float)
    log_density = explainer.density_.score_samples(z.numpy(), target.numpy()).astype(float)
    distance = np.sqrt(((z - z0).numpy().astype(float) ** 2).sum(1))
    expected = 10 * np.maximum(0.55 - p, 0) + 2 * distance - 3 * log_density  # eqs. 2, 3, 4
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_the_perceptual_term_is_equation_5_and_costs_nothing_at_weight_0(image_explainer, digits):
    calls = []

    def distance(x, other):
        calls.append(len(x))
        return (x - other).abs().flatten(1).sum(1)

    before = image_explainer.get_params(deep=False)
    x = digits[2][digits[3] == 4][:3]
    try:
        image_explainer.set_params(perceptual=distance, perceptual_weight=0.0)
        plain = image_explainer.explain(x, 9)
        assert not calls
        image_explainer.set_params(perceptual_weight=20.0, distance_weight=0.0, refine=0)
        near = image_explainer.explain(x, 9)
        assert calls and near.valid.all() and not np.array_equal(np.asarray(near), np.asarray(plain))
    finally:
        image_explainer.set_params(**before)
    term = PerceptualDistance(2.0, distance)
    point = Point(torch.zeros(2, 1), {"x": torch.zeros(2, 1, 2, 2), "target": torch.zeros(2).long()},
                  torch.ones(2, 1, 2, 2), torch.zeros(2, 2))
    assert Objective([term]).evaluate(point).loss.tolist() == [8.0, 8.0]


def test_crisp_is_no_greyer_than_asked(image_explainer, digits):
    X, y, X_test, y_test = digits
    before, x = image_explainer.get_params(deep=False), X_test[y_test == 4][:20]
    try:
        image_explainer.set_params(ink_weight=20.0, ink_quantile=0.7)
        cf = image_explainer.explain(x, 9)
    finally:
        image_explainer.set_params(**before)
    real = greyness(torch.from_numpy(X[y == 9][:, None])).numpy()
    made = greyness(torch.from_numpy(np.asarray(cf)[:, None])).numpy()
    assert (made[cf.conditions["ink"]] <= np.quantile(real, 0.7) + 1e-4).all() and cf.conditions["ink"].mean() > 0.8


def test_a_start_at_the_swap_is_the_flows_swap(image_explainer, digits):
    x = digits[2][digits[3] == 4][:8]
    before = image_explainer.get_params(deep=False)
    made = {}
    try:
        for start in (0.0, 0.5, 1.0, "latent", "swap"):
            image_explainer.set_params(start=start, max_steps=0, refine=0)
            made[start] = image_explainer.explain(x, 9)
    finally:
        image_explainer.set_params(**before)
    z0 = made["latent"].z
    source = np.searchsorted(image_explainer.classes_, made["latent"].source)
    swapped = image_explainer.density_.swap(z0, source, 9)
    np.testing.assert_allclose(made["swap"].z_cf, swapped, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made[0.0].z_cf, z0)
    np.testing.assert_array_equal(made[1.0].z_cf, made["swap"].z_cf)
    np.testing.assert_allclose(made[0.5].z_cf, (z0 + swapped) / 2, rtol=1e-4, atol=1e-5)


def test_published_presets_are_section_4_1():
    mnist, celeba = PLACEExplainer.preset("place-mnist"), PLACEExplainer.preset("place-celeba")
    assert (mnist.step_size, mnist.decision_weight, mnist.distance_weight, mnist.plausibility_weight) == (1e-2, 10, 1, 10)
    assert (celeba.step_size, celeba.decision_weight) == (5e-3, 1000)
    assert (celeba.distance_weight, celeba.plausibility_weight) == (1, 2)
    for preset in (mnist, celeba):
        assert preset.confidence == 0.55 and preset.decision == "probability" and preset.plausibility == "likelihood"
        assert preset.coordinates == "autoencoder" and preset.density.base == "attributes" and preset.update == "adam"
    assert PLACEExplainer.preset("swap", max_steps=7).max_steps == 7


def test_the_published_setting_runs_end_to_end(table):
    X, y, X_test, _ = table
    explainer = PLACEExplainer.preset("place-mnist", random_state=0, training_budget=0.1, max_steps=100).fit(X, y)
    cf = explainer.explain(X_test[:10])
    assert cf.valid.mean() >= 0.8
    before = explainer.density_.score_samples(cf.z, np.searchsorted(explainer.classes_, cf.target))
    assert (cf.log_density > before).all()  # eq. 4 climbs


@pytest.mark.slow
def test_a_forest_is_explained_through_a_surrogate_and_both_say_so():
    data = load_wine()
    X = StandardScaler().fit_transform(data.data).astype(np.float32)
    y = data.target_names[data.target]
    forest = RandomForestClassifier(100, random_state=0).fit(X[::2], y[::2])
    explainer = PLACEExplainer(forest, random_state=0, training_budget=0.2).fit(X[::2], y[::2])
    cf = explainer.explain(X[1::2])
    np.testing.assert_array_equal(cf.prediction, forest.predict(np.asarray(cf)))
    np.testing.assert_array_equal(cf.valid, forest.predict(np.asarray(cf)) == cf.target)
    assert cf.surrogate_valid.mean() >= 0.95 and cf.valid.mean() >= 0.9
    assert "surrogate" in cf.summary().lower()


def test_a_head_that_is_not_linear_has_no_features_to_compare(digits):
    X, y, X_test, _ = digits

    class Convolutional(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 32, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(32, 10, 3))

        def forward(self, x):
            return self.body(x).amax((2, 3))

    torch.manual_seed(0)
    net = Convolutional()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.from_numpy(X)[:, None]), torch.from_numpy(y)).backward()
        optimiser.step()
    explainer = PLACEExplainer(net, random_state=0, training_budget=0.03).fit(X, y)
    assert explainer.class_features_ is None and explainer.explain(X_test[:4]).valid.any()
    with pytest.raises(ValueError, match="feature_weight=0"):
        PLACEExplainer(net, feature_weight=1.0, random_state=0, training_budget=0.005).fit(X, y)


@pytest.mark.data
def test_real_digits():
    """Of three classes, which people confuse, at half the resolution."""
    X, y, X_test, y_test = load_mnist()
    X, y = (array[np.isin(y, [4, 7, 9])][:1500] for array in (X, y))
    X, fours = (images.reshape(-1, 16, 2, 16, 2).mean((2, 4)) for images in (X, X_test[y_test == 4][:100]))
    explainer = PLACEExplainer(random_state=0, training_budget=0.15).fit(X, y)
    oracle = LinearSVC(C=0.01, dual=False).fit(X.reshape(len(X), -1), y)
    x = fours[explainer.predict(fours) == 4][:64]
    cf = explainer.explain(x, 9)
    assert cf.valid.mean() >= 0.98 and (cf.status == "converged").mean() >= 0.95
    assert (oracle.predict(np.asarray(cf).reshape(64, -1)) == 9).mean() >= 0.9
    assert np.median(cf.density_percentile) >= 50 and np.median(cf.n_steps) <= 25
