"""Leaps along the flow's swap."""

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator

from cfexplain import (
    LeapExplainer,
)
from cfexplain.foundation.exceptions import ClassifierOutputError

pytestmark = pytest.mark.usefixtures("quietly")


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
