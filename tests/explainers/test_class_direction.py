"""Directions between classes."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from cfexplain import (
    ClassDirectionExplainer,
)

pytestmark = pytest.mark.usefixtures("quietly")


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
