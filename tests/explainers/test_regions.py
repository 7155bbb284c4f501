"""A region keeps all other pixels."""

import numpy as np
import pytest
from PIL import Image

from cfexplain import (
    CLARITYExplainer,
    ClassDirectionExplainer,
    Counterfactuals,
    GradientExplainer,
    LeapExplainer,
    PrototypeExplainer,
    REVISEExplainer,
)
from cfexplain.explainers.regions import read_regions
from cfexplain.foundation.arrays import Layout

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
        GradientExplainer(region=np.ones(10, bool)).fit(*table[:2])


@pytest.mark.parametrize(("explainer", "message"), [
    (REVISEExplainer(norm=3), "norm=3"), (CLARITYExplainer(members=0), "members=0"),
    (CLARITYExplainer(confidence=1.0), "confidence=1.0"), (LeapExplainer(max_fraction=0), "max_fraction=0"),
    (LeapExplainer(max_steps=0), "max_steps=0"), (ClassDirectionExplainer(direction="up"), "direction='up'"),
    (PrototypeExplainer(k=0), "k=0"), (PrototypeExplainer(confidence=2), "confidence=2")])
def test_parameters_that_make_no_sense_name_themselves(explainer, message, table):
    X, y, X_test, _ = table
    with pytest.raises(ValueError, match=message):
        explainer.set_params(training_budget=0.01).fit(X, y).explain(X_test[:2])


# ------------------------------------------------------------------------------------------------ regions of one call
@pytest.mark.parametrize("name", ["image_explainer", "leap_image_explainer", "revise_image_explainer",
                                  pytest.param("vae_image_explainer", marks=pytest.mark.slow)])
def test_every_explainer_keeps_what_is_outside_of_a_region_to_the_bit(name, digits, request):
    explainer, x = request.getfixturevalue(name), digits[2][:8]
    box, one_a_row = (0, 0, 8, 5), np.zeros((8, 8, 8), dtype=bool)
    one_a_row[:, :, :5] = True
    cf = explainer.explain(x, region=box, record_path=name == "image_explainer")
    assert (cf.x_cf[:, :, 5:] == x[:, :, 5:]).all() and (cf.x_cf != x).any() and cf.region.shape == (8, 8, 8)
    np.testing.assert_array_equal(explainer.explain(x, region=one_a_row).x_cf, cf.x_cf)
    np.testing.assert_array_equal(explainer.explain(x[3:4], region=one_a_row[3:4]).x_cf, cf.x_cf[3:4])
    np.testing.assert_array_equal(explainer.predict(cf.x_cf) == cf.target, cf.valid)
    if cf.path is not None:
        for path, row in zip(explainer.decode_path(cf), cf, strict=True):
            np.testing.assert_array_equal(path.x[path.returned], row.x_cf[0])


def test_a_region_that_is_enough_and_one_that_is_not(image_explainer, digits, tmp_path):
    x = digits[2][:12]
    corner = image_explainer.explain(x, region=(0, 0, 1, 1))
    assert not corner.valid.all() and "not enough" in corner[~corner.valid][0].summary()
    whole = image_explainer.explain(x, region=np.ones((8, 8), dtype=bool))
    np.testing.assert_array_equal(whole.x_cf, image_explainer.explain(x).x_cf)
    assert "100 % of the pixels, is enough" in whole[0].summary() and "Region: 100 %" in whole.summary()
    whole.save(tmp_path / "cf.safetensors")
    np.testing.assert_array_equal(Counterfactuals.load(tmp_path / "cf.safetensors").region, whole.region)


def test_the_smallest_region_is_found_by_itself(image_explainer, digits):
    x = digits[2][:5]
    cf = image_explainer.explain(x, region="auto", k=2)
    share = cf.region.reshape(len(cf), -1).mean(1)
    assert not ((cf.x_cf != cf.x) & ~cf.region).any()
    first = cf.answer == 0
    assert cf[first].valid.mean() >= 0.98 and share.mean() <= 0.15
    alone = image_explainer.explain(x[3:4], region="auto", k=2)
    np.testing.assert_array_equal(alone.x_cf, cf.group(3).x_cf)
    np.testing.assert_array_equal(alone.region, cf.group(3).region)


def test_boxes_outlines_and_drawings_are_masks():
    layout = Layout.of((1, 4, 6), None)
    box = np.zeros((4, 6), dtype=bool)
    box[1:3, 2:5] = True
    for region in ((1, 2, 3, 5), [[1, 2, 3, 5]] * 2, box, np.stack([box, box]), np.stack([box, box])[:, None],
                   [[1, 2], [1, 5], [3, 5], [3, 2]], Image.fromarray(box.astype(np.uint8) * 255)):
        np.testing.assert_array_equal(read_regions(region, layout, 2), np.stack([box, box])[:, None])


@pytest.mark.parametrize("region", [np.ones((8, 8)), np.ones((7, 8), bool), np.zeros((8, 8), bool), (3, 3, 3, 3), "mouth",
                                    np.zeros((2, 8, 8), bool)])
def test_what_is_no_region_of_a_call(region, image_explainer, digits):
    with pytest.raises(ValueError, match="region must mark some pixels"):
        image_explainer.explain(digits[2][:2], region=region)


def test_a_table_has_no_region(table_explainer, table):
    with pytest.raises(ValueError, match="immutable="):
        table_explainer.explain(table[2][:2], region="auto")
