"""The points of a recorded search: decoded, they are what the search saw, and the returned one is what it returned."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes

from cfexplain import DiffeomorphicExplainer, GradientExplainer
from cfexplain.coordinates import Flow
from cfexplain.explainers import decode_path
from cfexplain.explainers.decoded_path import spread_points

pytestmark = pytest.mark.usefixtures("quietly")
ON_DIGITS = ["image_explainer", "flow_image_explainer", "vae_image_explainer", "revise_image_explainer",
             "leap_image_explainer"]
ON_TABLES = ["table_explainer", "flow_table_explainer", "gradient_table_explainer", "clarity_table_explainer",
             "forest_table_explainer", "direction_table_explainer", "prototype_table_explainer"]


@pytest.fixture(scope="module")
def regression():
    X, y = load_diabetes(return_X_y=True)
    X = (X / X.std(0)).astype(np.float32)
    flow = Flow(steps=2, hidden=(32, 32), noise=0.1, training_budget=0.05)
    return DiffeomorphicExplainer(generator=flow, task="regression", training_budget=0.2, random_state=0).fit(X, y), X, y


@pytest.mark.parametrize("name", ON_DIGITS + ON_TABLES)
def test_the_returned_point_is_what_was_returned(name, request, digits, table):
    explainer = request.getfixturevalue(name)
    X = digits[2][:5] if name in ON_DIGITS else table[2][:5]
    target = 9 if name in ON_DIGITS else None
    cf = explainer.explain(X, target, record_path=True)
    paths = decode_path(explainer, cf)
    assert len(paths) == len(cf)
    for i, path in enumerate(paths):
        assert len(path.step) == len(path.x) == len(path.proba) == len(path.log_density) == len(cf.path[i])
        assert path.x.shape[1:] == X.shape[1:] and path.value is None
        np.testing.assert_array_equal(path.x[path.returned], cf.x_cf[i])
        assert path.proba[path.returned] == cf.proba_after[i]
        assert path.log_density[path.returned] == cf.log_density[i]
        assert path.density_percentile[path.returned] == cf.density_percentile[i]


def test_every_point_is_decoded_as_if_it_were_alone(table_explainer, table):
    """Detail is put back: x + g(z) − g(z₀), for each point by itself and in float64 elsewhere."""
    cf = table_explainer.explain(table[2][:3], record_path=True)
    coordinates = table_explainer.coordinates_
    for row, path in zip(cf, decode_path(table_explainer, cf), strict=True):
        g = coordinates.inverse_transform(row.path[0].astype(np.float32))
        expected = row.x + g - coordinates.inverse_transform(row.z)
        searched = np.arange(len(path.x)) != path.returned  # what was returned may have fewer changes than its code
        if row.status[0] != "already_target":
            np.testing.assert_allclose(path.x[searched], expected[searched], atol=1e-4)
        k = table_explainer.classes_.tolist().index(row.target[0])
        np.testing.assert_allclose(path.proba, table_explainer.predict_proba(path.x)[:, k], atol=1e-6)


@given(n=st.integers(1, 200), frames=st.integers(2, 30), data=st.data())
def test_frames_are_few_in_order_and_hold_the_first_and_the_returned(n, frames, data):
    returned = data.draw(st.integers(0, n - 1))
    some = spread_points(n, returned, frames)
    assert len(some) == min(n, frames) and (np.diff(some) > 0).all()
    assert 0 in some and returned in some


def test_frames_are_a_part_of_the_whole(image_explainer, digits):
    cf = image_explainer.explain(digits[2][:4], 9, record_path=True)
    whole, part = decode_path(image_explainer, cf), decode_path(image_explainer, cf, frames=3)
    for a, b in zip(whole, part, strict=True):
        assert len(b.step) == min(3, len(a.step)) and b.step[b.returned] == a.step[a.returned]
        for name in ("x", "proba", "log_density", "density_percentile"):
            np.testing.assert_array_equal(getattr(b, name), getattr(a, name)[b.step])


def test_rows_that_had_their_target_stay_as_they_were(image_explainer, digits):
    cf = image_explainer.explain(digits[2][:30], image_explainer.predict(digits[2][:30]), record_path=True)
    for row, path in zip(cf, decode_path(image_explainer, cf), strict=True):
        assert len(path.x) == 1
        np.testing.assert_array_equal(path.x[0], row.x[0])


def test_values_of_a_regressor(regression):
    explainer, X, y = regression
    for target in (float(np.quantile(y, 0.8)), (100, 120), "maximize"):
        cf = explainer.explain(X[:3], target, record_path=True)
        for row, path in zip(cf, decode_path(explainer, cf), strict=True):
            assert np.isnan(path.proba).all() and path.value[path.returned] == row.prediction[0]


def test_points_that_are_not_finite_are_nan_and_nothing_else_is(image_explainer, digits):
    cf = image_explainer.explain(digits[2][:3], 9, record_path=True)
    cf = cf[cf.n_steps > 2]
    good = decode_path(image_explainer, cf)
    worse = replace(cf, path=[path.copy() for path in cf.path])
    hole = next(k for k in (1, 2) if k != good[0].returned)
    worse.path[0][hole] = np.nan
    path = decode_path(image_explainer, worse)[0]
    for name in ("x", "proba", "log_density", "density_percentile"):
        values, before = getattr(path, name), getattr(good[0], name)
        assert np.isnan(values[hole]).all()
        np.testing.assert_array_equal(np.delete(values, hole, 0), np.delete(before, hole, 0))


def test_what_cannot_be_decoded_says_so(image_explainer, table_explainer, digits):
    cf = image_explainer.explain(digits[2][:2], 9)
    with pytest.raises(ValueError, match="record_path=True"):
        decode_path(image_explainer, cf)
    cf = image_explainer.explain(digits[2][:2], 9, record_path=True)
    with pytest.raises(ValueError, match="Pass the explainer"):
        decode_path(table_explainer, cf)
    with pytest.raises(ValueError, match="at least 2"):
        decode_path(image_explainer, cf, frames=1)
    assert decode_path(image_explainer, cf[:0]) == []
    with pytest.raises(Exception, match="not fitted"):
        decode_path(GradientExplainer(), cf)
