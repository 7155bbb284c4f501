"""Collapse, shades and specks, against computations that share nothing with the package's."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr

from cfexplain.datasets import load_digits_images
from cfexplain.metrics import ink, shade_kept, specks, spread_ratio


def photographs(n=40, seed=0):
    """Smooth colour pictures of many shades."""
    rng = np.random.default_rng(seed)
    shade = rng.uniform(0.2, 0.8, (n, 3, 1, 1))
    return np.clip(shade + 0.1 * np.sin(np.arange(12) / 3 + rng.uniform(0, 6, (n, 3, 12, 1))), 0, 1)


def test_spread_is_that_of_scipy():
    x, other = photographs(), photographs(seed=1)
    flat = [images.reshape(len(images), -1) for images in (x, other)]
    assert spread_ratio(x, other) == pytest.approx(pdist(flat[1]).mean() / pdist(flat[0]).mean(), rel=1e-10)
    assert spread_ratio(x, x) == 1 and spread_ratio(x + 1e6, x + 2e6) == pytest.approx(1, rel=1e-6)
    assert spread_ratio(x, 0.25 * x) == pytest.approx(0.25)


def test_one_prototype_for_all_has_no_spread():
    x = photographs()
    assert spread_ratio(x, np.repeat(x[:1], 40, 0)) == 0
    blend = 0.6 * x.mean(0) + 0.4 * x
    assert spread_ratio(x, blend) == pytest.approx(0.4)


def test_shades_are_kept_by_channel():
    x = photographs()
    x_cf = np.clip(x[:, [2, 1, 0]] * 0.9, 0, 1)  # red becomes blue, and the brightness stays
    kept = shade_kept(x, x_cf)
    before, after = x.mean((2, 3)), x_cf.mean((2, 3))
    expected = [pearsonr(before.mean(1), after.mean(1))[0], *(pearsonr(before[:, c], after[:, c])[0] for c in range(3))]
    np.testing.assert_allclose(kept, expected, atol=1e-10)
    assert kept[0] > 0.99 and kept[2] > 0.99 and kept[1] < 0.5
    assert shade_kept(x[:, 0], 1 - x[:, 0]) == pytest.approx(-1)


@pytest.mark.parametrize("x", [np.zeros((5, 8, 8)), np.ones((5, 8, 8)), np.full((5, 8, 8), 0.3), np.zeros((1, 8, 8))])
def test_images_without_any_contrast_have_no_figures(x):
    with np.errstate(all="raise"):
        assert np.isnan(spread_ratio(x, x)) and np.isnan(shade_kept(x, x)).all()
        assert not specks(x, x).any() and ink(x) == 0
        assert spread_ratio(x, x + 0.0) is not None


def test_ink_is_told_from_photographs():
    digits, _ = load_digits_images()
    assert (ink(digits), ink(1 - digits), ink(photographs())) == (1, -1, 0)
    assert ink(2 * digits - 1, (-1, 1)) == 1


def strokes(n=6):
    """A vertical stroke of soft edges in each image of 28×28 pixels."""
    x = np.zeros((n, 28, 28))
    x[:, 5:23, 12:15], x[:, 5:23, 11], x[:, 5:23, 15] = 1, 0.4, 0.4
    return x


def test_only_what_strays_is_a_speck():
    x, x_cf = strokes(), strokes()
    x_cf[1, 3:5, 22] = 0.9  # far from the stroke
    x_cf[2, 10, 17] = 0.9  # the next pixel but one
    x_cf[3, 10:14, 22:24] = 0.9  # a stroke, not a speck
    x_cf[4, 3, 22] = 0.4  # too faint
    x_cf[5, 3, 22] = x[5, 4, 23] = 0.9  # the original has it, too
    expected = [False, True, False, False, False, False]
    assert specks(x, x_cf).tolist() == expected
    assert specks(1 - x, 1 - x_cf).tolist() == expected
    assert specks(x[:, None] * 2 - 1, x_cf[:, None] * 2 - 1, (-1, 1)).tolist() == expected
    assert not specks(photographs()[:6], np.clip(photographs()[:6] + 0.5, 0, 1)).any()


def test_real_digits_have_hardly_any():
    digits, y = load_digits_images()
    threes, nines = digits[y == 3][:150], digits[y == 9][:150]
    assert specks(threes, nines).mean() <= 0.02


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="same shape"):
        spread_ratio(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="images"):
        specks(np.zeros((3, 2)), np.zeros((3, 2)))
