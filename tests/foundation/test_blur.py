"""The blur of images, against SciPy's."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from cfexplain.foundation.blur import gaussian_blur


@pytest.mark.parametrize("sigma", [0.1, 0.25, 1.0, 4.0])
@pytest.mark.parametrize("sides", [(1, 1), (1, 7), (2, 3), (8, 8), (31, 6)])
def test_blur_is_scipys_even_where_the_kernel_is_larger_than_the_image(sigma, sides):
    image = torch.from_numpy(np.random.RandomState(0).rand(1, 1, *sides))
    expected = ndimage.gaussian_filter(image[0, 0].numpy(), sigma, mode="mirror", truncate=3.0)
    np.testing.assert_allclose(gaussian_blur(image, sigma)[0, 0].numpy(), expected, atol=1e-13)
