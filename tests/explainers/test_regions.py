"""A region keeps all other pixels."""

import numpy as np
import pytest

from cfexplain import (
    CLARITYExplainer,
    ClassDirectionExplainer,
    GradientExplainer,
    LeapExplainer,
    PrototypeExplainer,
    REVISEExplainer,
)

pytestmark = pytest.mark.usefixtures("quietly")


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
