"""What each method of another paper does, against its own formula."""

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from cfexplain import (
    CLARITYExplainer,
    ClassDirectionExplainer,
    GradientExplainer,
    LeapExplainer,
    PrototypeExplainer,
    REVISEExplainer,
)
from cfexplain.foundation.exceptions import ClassifierOutputError
from cfexplain.search import SearchOptions, search_path
from cfexplain.search.gradient import Evaluation

pytestmark = pytest.mark.usefixtures("quietly")


def point_of(explainer, x, target):
    """The start of a search, in float64 arithmetic's reach: the point and its rows."""
    from cfexplain.explainers.run import Run

    run, x = Run(explainer), explainer.read_samples(x)
    rows, start = run.prepare(x, explainer.goal(x, target))
    return run, run.judge.point(start, rows), rows


def test_revise_objective_is_cross_entropy_and_l1_in_x(revise_image_explainer, digits):
    x = digits[2][digits[3] == 4][:5]
    run, point, rows = point_of(revise_image_explainer, x, 9)
    with torch.no_grad():
        loss = run.objective.evaluate(point).loss.double().numpy()
    proba = revise_image_explainer.predict_proba(point.x.detach().numpy()[:, 0]).astype(float)[:, 9]
    l1 = np.abs(point.x.detach().numpy().astype(float)[:, 0] - x).reshape(5, -1).sum(1)
    np.testing.assert_allclose(loss, -np.log(proba) + 0.05 * l1, rtol=1e-3)


def test_revise_carla_keeps_the_least_objective_among_valid_points(revise_image_explainer, digits):
    x = digits[2][digits[3] == 4][:6]
    fitted = {"coordinates": FrozenEstimator(revise_image_explainer.coordinates_),
              "density": FrozenEstimator(revise_image_explainer.density_)}
    carla = REVISEExplainer.preset("carla", classifier=revise_image_explainer.classifier_.module, max_steps=60,
                                   patience=60, random_state=0, **fitted).fit(*digits[:2])
    cf = carla.explain(x, 9, record_path=True)
    run, _, rows = point_of(carla, x, 9)
    for i in np.flatnonzero(cf.valid):
        assert len(cf.path[i]) == 61
        some = {name: values[i : i + 1].expand(61, *values.shape[1:]) for name, values in rows.items()}
        with torch.no_grad():
            found = run.judge.evaluate(torch.from_numpy(cf.path[i]), some)
        best = torch.where(found.valid, found.loss, torch.inf).argmin()
        np.testing.assert_allclose(cf.z_cf[i], cf.path[i][best], atol=1e-6)


def test_clarity_follows_the_ensemble_and_reports_both_verdicts(clarity_table_explainer, table):
    x = table[2][table[3] == "malignant"][:20]
    cf = clarity_table_explainer.explain(x, "benign")
    with torch.no_grad():
        members = clarity_table_explainer.opinions_(torch.from_numpy(cf.z_cf)).softmax(-1).double().numpy()
    column = list(clarity_table_explainer.classes_).index("benign")
    mean = members.mean(0)[:, column]
    np.testing.assert_array_equal(cf.conditions["ensemble"], mean >= 0.9 - 1e-6)
    assert cf.conditions["ensemble"].all()
    np.testing.assert_array_equal(cf.valid, clarity_table_explainer.predict(np.asarray(cf)) == "benign")


def test_a_leap_is_the_flows_swap_and_stops_at_the_smallest_fraction(leap_image_explainer, digits):
    x = digits[2][digits[3] == 4][:8]
    cf = leap_image_explainer.explain(x, 9)
    density = leap_image_explainer.density_
    z0, four, nine = torch.from_numpy(cf.z), torch.full((8,), 4), torch.full((8,), 9)
    for i in range(8):
        # the fraction that was found, by a fine grid over the same path
        grid = torch.linspace(0, 3, 3001)
        with torch.no_grad():
            along = density.swap_codes(z0[i].expand(3001, -1), four[:1].expand(3001), nine[:1].expand(3001), grid)
        distance = (along - torch.from_numpy(cf.z_cf[i])).norm(dim=1)
        assert distance.min() < 2e-2
        a = grid[distance.argmin()]
        shorter = leap_image_explainer.coordinates_.inverse_transform(along[grid < a - 0.1].numpy())
        assert len(shorter) and cf.valid[i]


def test_a_leap_explains_what_has_no_gradient_and_asks_it_itself(forest_table_explainer, table):
    x = table[2][table[3] == "malignant"][:20]
    cf = forest_table_explainer.explain(x, "benign")
    assert cf.surrogate_valid is None and forest_table_explainer.classifier_.surrogate_fidelity_ is None
    assert (forest_table_explainer.classifier.predict(np.asarray(cf)) == "benign").mean() >= 0.95
    with pytest.raises(ClassifierOutputError, match="no network"):
        forest_table_explainer.classifier_.logits_and_features(torch.from_numpy(x))


def test_a_model_with_nothing_but_predict(table, table_explainer):
    X, y, X_test, y_test = table

    class Remote:
        def predict(self, rows):
            return np.where(rows[:, 0] > 0.2, "malignant", "benign")

    explainer = LeapExplainer(Remote(), coordinates=FrozenEstimator(table_explainer.coordinates_),
                              density=FrozenEstimator(table_explainer.density_), random_state=0).fit(X, y)
    cf = explainer.explain(X_test[Remote().predict(X_test) == "malignant"][:10], "benign")
    assert cf.valid.mean() >= 0.9
    np.testing.assert_array_equal(Remote().predict(np.asarray(cf)) == "benign", cf.valid)


def test_directions_join_class_centres(table, table_explainer):
    X, y, X_test, y_test = table
    frozen = FrozenEstimator(table_explainer.coordinates_)
    codes = table_explainer.coordinates_.transform(X).astype(float)
    centres = ClassDirectionExplainer(generator=frozen, training_budget=0.1, random_state=0).fit(X, y)
    wanted = codes[y == "malignant"].mean(0) - codes[y == "benign"].mean(0)
    np.testing.assert_allclose(centres.directions_[0, 1], wanted, atol=1e-5)
    np.testing.assert_allclose(centres.directions_[1, 0], -wanted, atol=1e-5)
    linear = ClassDirectionExplainer(generator=frozen, direction="linear", training_budget=0.1, random_state=0).fit(X, y)
    normal = LogisticRegression(C=0.1, max_iter=200).fit(codes, y).coef_[0]
    delta = linear.directions_[0, 1].astype(float)
    assert abs(delta @ normal) / np.linalg.norm(delta) / np.linalg.norm(normal) > 1 - 1e-4
    np.testing.assert_allclose(delta @ normal, wanted @ normal, rtol=1e-3)
    cf = centres.explain(X_test[:5])
    for i in range(5):  # every counterfactual lies on its row's line
        step, way = cf.z_cf[i] - cf.z[i], centres.directions_[
            list(centres.classes_).index(cf.source[i]), list(centres.classes_).index(cf.target[i])]
        np.testing.assert_allclose(step, (step @ way) / (way @ way) * way, atol=1e-4)


def test_prototype_objective_is_its_formula(prototype_table_explainer, table):
    explainer, x = prototype_table_explainer, table[2][table[3] == "malignant"][:4]
    run, point, rows = point_of(explainer, x, "benign")
    moved = run.point(rows["z0"] + 0.1, rows)
    with torch.no_grad():
        loss = run.objective.evaluate(moved).loss.double().numpy()
    other = x.astype(float) + 0.1
    codes = explainer.autoencoder_.transform(other.astype(np.float32)).astype(float)
    back = explainer.autoencoder_.inverse_transform(codes.astype(np.float32)).astype(float)
    members, own = explainer.prototype_codes_[0], explainer.autoencoder_.transform(x)
    prototypes = np.stack([members[np.argsort(np.linalg.norm(members - code, axis=1))[:5]].mean(0) for code in own])
    proba = explainer.predict_proba(other.astype(np.float32)).astype(float)[:, 0]
    hinge = np.maximum(np.log(0.55 / 0.45) + 0.02 - np.log(proba / (1 - proba)), 0)
    expected = (10 * hinge + 0.1 * np.abs(other - x).sum(1) + ((other - x) ** 2).sum(1) + ((other - back) ** 2).sum(1)
                + ((codes - prototypes) ** 2).sum(1))
    np.testing.assert_allclose(loss, expected, rtol=2e-3)


def test_a_region_keeps_all_other_pixels(digits, image_explainer):
    X, y, X_test, y_test = digits
    region = np.zeros((8, 8), dtype=bool)
    region[:, :5] = True
    explainer = GradientExplainer(image_explainer.classifier_.module, region=region, step_size=5e-3, random_state=0)
    x = X_test[y_test == 4][:10]
    cf = explainer.fit(X, y).explain(x, 9)
    changed = np.asarray(cf) != x
    assert not changed[:, :, 5:].any() and changed[:, :, :5].any() and cf.valid.mean() >= 0.8


@pytest.mark.parametrize("region", [np.ones((8, 8)), np.ones((7, 8), bool), np.zeros((8, 8), bool)])
def test_regions_that_fit_nothing(digits, image_explainer, region):
    with pytest.raises(ValueError, match="region must hold one bool a pixel"):
        GradientExplainer(image_explainer.classifier_.module, region=region).fit(*digits[:2])


def test_a_region_is_for_images(table):
    with pytest.raises(ValueError, match="immutable="):
        GradientExplainer(region=np.ones(30, bool)).fit(*table[:2])


@pytest.mark.parametrize(("explainer", "message"), [
    (REVISEExplainer(norm=3), "norm=3"), (CLARITYExplainer(members=0), "members=0"),
    (CLARITYExplainer(confidence=1.0), "confidence=1.0"), (LeapExplainer(max_fraction=0), "max_fraction=0"),
    (LeapExplainer(max_steps=0), "max_steps=0"), (ClassDirectionExplainer(direction="up"), "direction='up'"),
    (PrototypeExplainer(k=0), "k=0"), (PrototypeExplainer(confidence=2), "confidence=2")])
def test_parameters_that_make_no_sense_name_themselves(explainer, message, table):
    X, y, X_test, _ = table
    with pytest.raises(ValueError, match=message):
        explainer.set_params(training_budget=0.01).fit(X, y).explain(X_test[:2])


def test_a_preset_that_is_not_known():
    with pytest.raises(ValueError, match="carla"):
        REVISEExplainer.preset("carl")


def test_search_path_finds_the_first_of_several_intervals_to_the_bisections_width():
    """Against the roots of a function that is met, lost and met again."""
    first = torch.tensor([0.31, 0.72, 1.9, 5.0], dtype=torch.float64)
    rows = {"z0": torch.zeros(4, 1, dtype=torch.float64), "first": first}

    def evaluate(z, some):
        a = z[:, 0]
        done = (a >= some["first"]) & ~((a > some["first"] + 1) & (a < some["first"] + 1.5))
        return Evaluation(loss=a, done=done, valid=done, score=a)

    options = SearchOptions(max_steps=20, refine=10, tile=4, record_path=True)
    found = search_path(lambda a, some: some["z0"] + a[:, None], evaluate, rows, 2.0, options)
    assert found.done.tolist() == [True, True, True, False]
    gap = found.z[:3, 0] - first[:3]
    assert (gap >= 0).all() and (gap <= 0.1 / 2**10 + 1e-12).all()
    assert found.z[3, 0] == 2.0 and not found.finished[3]  # best effort: the point nearest to its target
    assert [len(p) - 1 for p in found.path] == found.n_steps.tolist() == [14, 18, 29, 20]
