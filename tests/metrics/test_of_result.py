"""A whole result measured: each figure against the arrays, and every collapse with its sentence."""

import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from results import made

from cfexplain.foundation.ink import greyness
from cfexplain.metrics import ink, shade_kept, sharpness_ratio, specks, spread_ratio
from cfexplain.metrics.of_result import measures_of, training_figures


def result(x, x_cf, source=4, target=9, status="converged", **metadata):
    """A result of these arrays, all of it found; every condition met."""
    n, is_image = len(x), x.ndim > 2
    cf = made(n, "grey" if is_image else "table", paths=False, optional=False)
    cf.x, cf.x_cf, cf.reconstruction = x, x_cf, x.copy()
    cf.source, cf.target, cf.status = np.full(n, source), np.full(n, target), np.full(n, status, dtype="<U14")
    cf.prediction, cf.valid = cf.target.copy(), np.ones(n, dtype=bool)
    cf.conditions = {"decision": np.ones(n, dtype=bool)}
    cf.density_percentile, cf.reconstruction_error = np.full(n, 50.0), np.zeros(n)
    cf.distance_x = np.linalg.norm(np.nan_to_num(x_cf - x).reshape(n, -1), axis=1)
    net = list(x.shape[1:]) if x.ndim != 3 else [1, *x.shape[1:]]
    cf.metadata = {"is_image": is_image, "net_shape": net, "data_range": [0.0, 1.0], "classes": [4, 9],
                   "class_counts": [500, 500], "n_train": 1000, **metadata}
    return cf


def digits_like(n=30, seed=0, width=2):
    """Vertical strokes of several lengths, places and darknesses."""
    rng, x = np.random.default_rng(seed), np.zeros((n, 20, 20))
    for image in x:
        top, left = rng.integers(2, 5), rng.integers(3, 14)
        image[top : top + rng.integers(8, 13), left : left + width] = rng.uniform(0.9, 1)
    return x


def test_images_are_measured_as_the_metrics_say():
    x, x_cf = digits_like(), digits_like(seed=1)
    x_cf[:2, 19, 19] = 1.0
    groups = np.zeros(30, dtype=int)
    figures = training_figures(np.concatenate([x, x])[:, None], np.append(groups, groups + 1), 2, (0.0, 1.0))
    found = measures_of(result(x, x_cf, **figures))
    assert (found.rows, found.converged) == (30, 1.0)
    assert found.spread == pytest.approx(spread_ratio(x, x_cf))
    assert found.shade_kept == pytest.approx(shade_kept(x, x_cf)[0])
    assert found.sharpness == np.median(sharpness_ratio(x, x_cf))
    assert found.specks == specks(x, x_cf).mean() == 2 / 30
    grey = [greyness(torch.from_numpy(images[:, None])).numpy() for images in (x, x_cf)]
    assert found.grey == pytest.approx(np.median(grey[1]) / np.median(grey[0]), rel=1e-6)
    assert found.outside_range == 0 and np.isnan(found.columns_changed)
    assert [(pair.name, pair.rows) for pair in found.pairs] == [("4 → 9", 30)]
    assert "2 of 30 rows have stray specks that the original has not." in found.warnings
    assert f"stray specks in {200 / 30:.2g} %" in found.lines[0]


def test_one_prototype_for_all_is_said_to_be_one():
    rng = np.random.default_rng(0)
    x = np.clip(rng.uniform(0.1, 0.9, (92, 1, 1)) + 0.05 * rng.normal(size=(92, 12, 12)), 0, 1)
    x_cf = 0.38 * x + 0.62 * x.mean(0)
    for cf in (result(x, x_cf, "pullover", "coat", classes=["coat", "pullover"]),
               result(x, x_cf, "pullover", "coat", classes=["coat", "pullover"], class_spread=[9.0, 9.0])):
        found = measures_of(cf)
        said = "the 92 counterfactuals for pullover → coat look alike: spread 0.38 (of the originals' 1.0)."
        assert said in found.warnings
        assert found.warnings == [line[2:] for line in cf.summary().split("What to look at first:\n")[1].split("\n")]
    # a class whose real images are as alike is not collapsed
    alike = result(x, x_cf, "pullover", "coat", classes=["coat", "pullover"], class_spread=[0.01, 9.0])
    assert not any("alike" in line for line in measures_of(alike).warnings)


def test_pairs_are_measured_by_themselves():
    """Two prototypes far apart, as far as the originals of both classes are: together they would look varied."""
    x = np.concatenate([digits_like(), 1 - digits_like(seed=2)])
    cf = result(x, np.repeat(x[[0, 30]], 30, 0))
    cf.target[30:], cf.source[30:] = 4, 9
    found = measures_of(cf)
    assert [pair.spread for pair in found.pairs] == [0, 0] and found.spread == 0
    assert sum("look alike" in line for line in found.warnings) == 2
    few = measures_of(cf[[0, 1, 2, 3, 40, 41]])
    assert few.pairs == [] and np.isnan(few.spread)


def test_lost_shades_blur_grey_and_lost_people_are_said():
    rng = np.random.default_rng(0)
    shade = rng.uniform(0.2, 0.8, 40)
    x = np.clip(shade[:, None, None] + 0.1 * rng.normal(size=(40, 10, 10)), 0, 1)
    cf = result(x, np.clip(x + rng.permutation(shade)[:, None, None] - shade[:, None, None], 0, 1))
    assert any(line.startswith("dark does not stay dark, nor bright bright, from 4 → 9: r ")
               for line in measures_of(cf).warnings)
    blurred = result(x, 0.5 * x + 0.25, class_sharpness=[0.3, 0.3])
    assert any("blurred: sharpness 0.25 of the originals' (median), where real images of these classes have 1.00" in line
               for line in measures_of(blurred).warnings)
    plain = result(x, 0.5 * x + 0.25, class_sharpness=[0.4, 0.1])  # as real images of the two classes differ
    assert not any("blurred" in line for line in measures_of(plain).warnings)
    assert measures_of(plain).sharpness_of_real == pytest.approx(1) and "between real ones 0.25" in plain.summary()
    edges = result(x, x, class_sharpness=[0.1, 0.4])  # a target of more edges, none of which were drawn
    assert any("sharpness 1.00 of the originals' (median), where real images of these classes have 4.00" in line
               for line in measures_of(edges).warnings)
    blurred.reconstruction_error = 0.7 * blurred.distance_x
    assert any("cannot draw these images" in line for line in measures_of(blurred).warnings)
    ink_on_paper = digits_like()
    grey = result(ink_on_paper, np.where(ink_on_paper > 0, 0.6, 0.0), class_greyness=[[0.05, 0.9], [0.05, 0.9]])
    assert measures_of(grey).grey == pytest.approx(8, rel=1e-4)
    assert any(line.startswith("the ink is grey: 8.00 times") for line in measures_of(grey).warnings)
    assert ink(1 - ink_on_paper) == -1
    reverse = result(1 - ink_on_paper, np.where(ink_on_paper > 0, 0.4, 1.0), class_greyness=[[0.9, 0.05], [0.9, 0.05]])
    assert measures_of(reverse).grey == pytest.approx(8, rel=1e-4)


def test_columns_are_counted_and_ranges_kept():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 6))
    x_cf = x + np.array([1.0, 1e-9, 0, 0, 0, 2])
    x_cf[:5, 2:5] += 1
    cf = result(x, x_cf, **training_figures(x, np.arange(20) % 2, 2))
    found = measures_of(cf)
    assert found.columns_changed == 2 and "2 of 6 columns in the median row" in found.lines[0]
    low, high = x.min(0), x.max(0)
    expected = ((x_cf > high + 1e-3) | (x_cf < low - 1e-3)).any(1)
    assert found.outside_range == expected.mean() > 0.2
    assert any("values that no training row has: bounds=" in line for line in found.warnings)
    wide = measures_of(result(x, x + 1))
    assert any("6 of 6 columns change in the median row" in line for line in wide.warnings)
    assert np.isnan(wide.outside_range) and "outside" not in wide.lines[0]


def test_categories_lie_apart_by_what_they_are_and_not_by_their_place():
    columns = [{"kind": "category", "name": "job", "categories": list("abcdefghij")}, {"kind": "number", "name": "age"}]
    x = np.column_stack([np.arange(10) % 5, np.zeros(10)]).astype(float)
    moved = x.copy()
    moved[:, 0] += 5
    moved[x[:, 0] == 4, 0] = 9
    cf = result(x, moved, columns=columns, feature_names=["job", "age"], feature_scale=[1.0, 1.0])
    assert measures_of(cf).spread == pytest.approx(1)
    same = x * [0, 1]
    assert measures_of(result(x, same, columns=columns, feature_names=["job", "age"])).spread == 0


EMPTY = {"black": np.zeros((8, 10, 10)), "constant": np.full((8, 10, 10), 0.5), "one image": digits_like(1),
         "one black image": np.zeros((1, 10, 10)), "three": digits_like(3), "one row": np.ones((1, 4)),
         "three rows": np.arange(12.0).reshape(3, 4), "constant rows": np.ones((8, 4)), "missing": np.full((8, 4), np.nan)}


@pytest.mark.parametrize("kind", EMPTY)
@pytest.mark.parametrize("moved", [False, True])
def test_nothing_to_measure_is_no_warning_and_no_nan_in_words(kind, moved):
    x = EMPTY[kind]
    groups, image = np.arange(len(x)) % 2 if len(x) > 1 else np.zeros(1, int), x.ndim > 2
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        figures = {} if np.isnan(x).any() else training_figures(
            x[:, None] if image else x, groups, len(np.unique(groups)), (0.0, 1.0) if image else None)
        x_cf = np.clip(x + 0.5, 0, 1) if moved and image else x + moved
        cf = result(x, x_cf, **figures, **({"classes": [9]} if len(x) == 1 else {}))
        found = cf.measures()
        text = cf.summary()
    assert "nan" not in text and "inf" not in " ".join([*found.lines, *found.warnings])
    assert found.rows == len(x) and found.converged == 1
    equal = len(x) >= 5
    assert equal == any("are all equal" in line for line in found.warnings)
    assert set(asdict(found)) >= {"spread", "sharpness", "specks", "columns_changed"}


def test_rows_that_were_not_searched_are_left_out():
    x = digits_like()
    cf = result(x, x)
    cf.status[:] = "already_target"
    assert measures_of(cf).rows == 0 and measures_of(cf).lines == []
    cf.status[:10] = "model_failed"
    assert measures_of(cf[:0]).rows == measures_of(cf).rows == 0 and "nan" not in cf.summary()


def test_values_are_named_by_six_digits_and_all_real_rows_are_of_one_kind():
    x = digits_like()
    cf = result(x, np.roll(x[:1], 1, 2).repeat(len(x), 0), source=1.5, target=100 / 3, task="regression", classes=None,
                class_spread=[0.9])
    [pair] = cf.measures().pairs
    assert cf.is_regression and (pair.name, pair.target) == ("target 33.3333", "") and 0 < pair.room < 1
    assert "target 33.3333." in cf.summary() and "; real ones have " in cf.summary() and "33.33333" not in cf.summary()
    assert "target 33.3333)" in cf[0].summary()
