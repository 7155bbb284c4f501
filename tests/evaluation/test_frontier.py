"""Many weights in one batch: each setting has the bits of its own `explain`, and the frontier is the frontier."""

import copy
import itertools

import matplotlib
import numpy as np
import pytest
from results import same
from sklearn.exceptions import NotFittedError

from cfexplain import DiffeomorphicExplainer, Metric, PLACEExplainer, compare_frontier
from cfexplain.evaluation.frontier import pareto_optimal
from cfexplain.plotting import FrontierDisplay

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def closed_and_unchanged():
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture(scope="module")
def frontier(table_explainer, table):
    return compare_frontier(table_explainer, table[2][6:12], weights={"plausibility_weight": [0, 0.3, 3]})


def check_bits(found, explainer, X, target=None):
    for setting, cf in zip(found.settings, found.results.values(), strict=True):
        alone = copy.copy(explainer).set_params(**setting).explain(X, target)
        del alone.metadata["seconds"]
        same(cf, alone)
        for name in ("x_cf", "z_cf", "log_density", "distance"):
            assert getattr(cf, name).tobytes() == getattr(alone, name).tobytes(), (setting, name)
        assert set(cf.conditions) == set(alone.conditions)


def test_every_weight_has_the_bits_of_its_own_run(frontier, table_explainer, table, quietly):
    check_bits(frontier, table_explainer, table[2][6:12])
    assert "density" not in frontier.results["plausibility_weight=0"].conditions
    assert not np.array_equal(*[cf.x_cf for cf in list(frontier.results.values())[1:]])  # the weights do something


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_an_explainer_of_any_weight_sweeps_from_zero(table_explainer, table, own, quietly):
    explainer = copy.copy(table_explainer).set_params(plausibility_weight=own)
    X = table[2][12:15]
    found = compare_frontier(explainer, X, "benign", weights={"plausibility_weight": [2, 0]}, n_bootstrap=10)
    assert list(found.results) == ["plausibility_weight=2", "plausibility_weight=0"]
    check_bits(found, explainer, X, "benign")
    assert explainer.plausibility_weight == own


@pytest.mark.slow
def test_several_weights_are_crossed(table_explainer, table, quietly):
    X, explainer = table[2][:5], copy.copy(table_explainer).set_params(max_steps=30)
    weights = {"decision_weight": [0, 5.0], "distance_weight": [0.5, 1.0, 4.0]}
    found = compare_frontier(explainer, X, weights=weights, n_bootstrap=10)
    assert len(found) == 6 and len({tuple(setting.values()) for setting in found.settings}) == 6
    check_bits(found, explainer, X)


@pytest.mark.parametrize("published", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_other_objectives(flow_table_explainer, table_explainer, table, published, quietly):
    X = table[2][:3]
    explainer = copy.copy(table_explainer).set_params(
        plausibility="likelihood", decision="probability", update="adam", stop="converged", max_steps=15, patience=5,
        refine=0, start="latent") if published else flow_table_explainer
    found = compare_frontier(explainer, X, weights={"plausibility_weight": [0.0, 0.5, 2.0]}, n_bootstrap=10)
    check_bits(found, explainer, X)


def test_two_terms_of_one_name(prototype_table_explainer, table, quietly):
    weights = {"l1_weight": [0, 0.1, 1.0], "l2_weight": [0, 2.0]}
    explainer = copy.copy(prototype_table_explainer).set_params(max_steps=10)
    check_bits(compare_frontier(explainer, table[2][:4], weights=weights, n_bootstrap=10), explainer, table[2][:4])


def test_values_of_a_regressor(table, quietly):
    X = table[0]
    explainer = DiffeomorphicExplainer(generator="identity", task="regression", training_budget=0.02, random_state=0,
                                       max_steps=10).fit(X[:, 1:], X[:, 0])
    for target in (1.5, "maximize"):
        found = compare_frontier(explainer, X[:4, 1:], target, weights={"plausibility_weight": [0.1, 1.0]}, n_bootstrap=10)
        check_bits(found, explainer, X[:4, 1:], target)


def test_the_frontier_is_the_frontier(frontier):
    means = np.array([[cf.distance_x.astype(float).mean(), cf.log_density.astype(float).mean()]
                      for cf in frontier.results.values()])
    np.testing.assert_allclose(frontier.means, means, rtol=1e-6)
    for k, (near, dense) in enumerate(frontier.means):
        beaten = any(a <= near and b >= dense and (a < near or b > dense) for a, b in frontier.means)
        assert frontier.optimal[k] == (not beaten)
    np.testing.assert_array_equal(frontier.validity, [cf.valid.mean() for cf in frontier.results.values()])
    assert all(frontier.evaluation.comparable[name] for name in ("l2_z", "log_density", "density_percentile"))


def test_pareto_optimal_against_every_pair():
    points = np.random.default_rng(0).integers(0, 5, (60, 3)).astype(float)
    points[4, 1] = np.nan
    for k, good in enumerate(pareto_optimal(points)):
        beaten = any((other >= points[k]).all() and (other > points[k]).any() for other in points)
        assert good == (not beaten and k != 4)


def test_tables_and_words(frontier):
    frame, rows = frontier.to_frame(), frontier.to_frame(rows=True)
    assert list(frame.plausibility_weight) == [0, 0.3, 3] and list(frame.index) == list(frontier.results)
    assert (frame.l2_low <= frame.l2).all() and (frame.l2 <= frame.l2_high).all()
    np.testing.assert_allclose(rows.groupby("plausibility_weight").log_density.mean(), frame.log_density)
    assert len(rows) == 18 and "Pareto-optimal" in frontier.summary()
    assert repr(frontier) == "<Frontier: 3 settings of plausibility_weight on 6 rows, l2 against log_density>"


def test_the_picture_is_the_means(frontier):
    display = frontier.plot()
    points = [line for line in display.ax_.lines if line.get_marker() == "o"]
    np.testing.assert_allclose([point.get_xydata()[0] for point in points], frontier.means)
    assert display.figure_ is display.ax_.figure and "log_density" in display.ax_.get_ylabel()
    assert [point.get_markerfacecolor() == "white" for point in points] == (~frontier.optimal).tolist()
    figure, axes = plt.subplots(1, 2)
    assert frontier.plot(ax=axes[0]).ax_ is axes[0]
    figure.canvas.draw()


def test_labels_of_settings_lie_on_no_point_and_on_no_other_label(frontier):
    crowd = copy.copy(frontier)
    crowd.means = np.array([[1.0, 2.0], [1.001, 2.0005], [1.0005, 1.9998]])
    for drawn in (frontier, crowd):
        display = FrontierDisplay.from_frontier(drawn)
        display.figure_.canvas.draw()
        boxes = [text.get_window_extent() for text in display.ax_.texts]
        places = display.ax_.transData.transform(drawn.means)
        assert len(boxes) == 3 and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        assert not any(box.contains(*place) for box in boxes for place in places)


def test_bad_input_is_told_from_good(table_explainer, gradient_table_explainer, table):
    X = table[2][:3]
    good = {"plausibility_weight": [0.1, 1]}
    for weights, message in (
            ({"max_steps": [1]}, "'max_steps' is not a weight.*plausibility_weight"), ({}, "empty"),
            ({"plausibility_weight": []}, "at least one"), ({"plausibility_weight": [1, 1.0]}, "none twice"),
            ({"plausibility_weight": [-1]}, "none negative"), ({"plausibility_weight": [np.nan]}, "finite"),
            ({"feature_weight": [1, 2]}, "does not weigh a term")):
        with pytest.raises(ValueError, match=message):
            compare_frontier(table_explainer, X, weights=weights)
    with pytest.raises(ValueError, match="is not a weight of GradientExplainer"):
        compare_frontier(gradient_table_explainer, X, weights=good)
    with pytest.raises(ValueError, match="'nearness' is not known"):
        compare_frontier(table_explainer, X, weights=good, x="nearness")
    with pytest.raises(ValueError, match="no better side"):
        compare_frontier(table_explainer, X, weights=good, y=Metric("m", lambda cf, _: cf.distance))
    with pytest.raises(NotFittedError):
        compare_frontier(PLACEExplainer(), X, weights=good)
