"""What is ink on paper, and what has shades that mean something."""

import numpy as np
import pytest

from cfexplain.datasets import load_digits_images
from cfexplain.foundation.ink import ink_sign


def shapes(shades, n=60, size=16):
    """Bright shapes on black, of any size and place, each of one of the `shades` with a darker edge."""
    rng, images = np.random.default_rng(0), np.zeros((n, 1, size, size))
    for image in images[:, 0]:
        a, b = rng.integers(1, 5, 2)
        shade = rng.choice(shades)
        image[a : a + 10, b : b + 10] = 0.9 * shade
        image[a + 1 : a + 9, b + 1 : b + 9] = shade
    return images


@pytest.mark.parametrize("invert", [False, True])
def test_strokes_of_one_shade_are_ink_and_things_of_many_shades_are_not(invert):
    digits = load_digits_images()[0][:, None]
    for images, sign in ((digits, 1), (shapes([1.0]), 1), (shapes([0.3, 0.95, 1.0]), 0), (shapes([0.9, 0.97]), 1)):
        assert ink_sign(1 - images if invert else images) == (-sign if invert else sign)
    # in any range
    assert ink_sign(255 * digits, (0, 255)) == ink_sign(2 * digits - 1, (-1, 1)) == 1


def test_a_few_faint_or_blank_images_change_nothing():
    digits = load_digits_images()[0][:400, None].copy()
    digits[:10] *= 0.3
    digits[10:20] = 0
    assert ink_sign(digits) == 1
    assert ink_sign(np.zeros((5, 1, 4, 4))) == 0 == ink_sign(np.ones((5, 1, 4, 4)))
