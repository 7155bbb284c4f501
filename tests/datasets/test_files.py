"""Pictures are cropped as torchvision does."""

import numpy as np
import pytest
from PIL import Image

from cfexplain.datasets.files import resized, shorter_to

RNG = np.random.RandomState(0)


@pytest.mark.parametrize("sides", [(178, 218), (218, 178), (64, 64), (320, 390), (65, 64)])
def test_cropping_is_torchvisions(sides):
    transforms = pytest.importorskip("torchvision.transforms")
    picture = Image.fromarray(RNG.randint(0, 256, (sides[1], sides[0], 3)).astype(np.uint8))
    expected = transforms.Compose([transforms.Resize(48), transforms.CenterCrop(48)])(picture)
    np.testing.assert_array_equal(np.asarray(resized(picture, 48, True)), np.asarray(expected))
    assert resized(picture, 48, False).size == (48, 48) and min(shorter_to(sides, 48)) == 48
