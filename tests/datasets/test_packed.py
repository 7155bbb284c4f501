"""Many pictures in one file: the same pictures as the files, and damage said in words."""

import numpy as np
import pytest
from packed_pictures import jpeg, packed

from cfexplain.datasets.files import read_pictures
from cfexplain.datasets.packed import packed_named, read_packed


def test_pictures_are_those_of_the_files(tmp_path):
    pictures = [jpeg(40 * k) for k in range(4)]
    file = packed(tmp_path / "faces_jpeg.npz", pictures, label=np.arange(4))
    found, (labels,) = read_packed(file, ["label"])
    assert found == pictures and labels.tolist() == [0, 1, 2, 3]
    files = [tmp_path / f"{k}.jpg" for k in range(4)]
    for place, picture in zip(files, pictures, strict=True):
        place.write_bytes(picture)
    for colour in (True, False):
        np.testing.assert_array_equal(read_pictures(found, 8, colour=colour, crop=True),
                                      read_pictures(files, 8, colour=colour, crop=True))
    assert packed_named("faces*.npz")(tmp_path) == file == packed_named("faces*.npz")(file)
    assert packed_named("others*.npz")(tmp_path) is None


def test_damage_is_said(tmp_path):
    file = packed(tmp_path / "faces_jpeg.npz", [jpeg(0), jpeg(9)], label=np.arange(3))
    with pytest.raises(ValueError, match="2 pictures, but 3 rows in 'label'"):
        read_packed(file, ["label"])
    with pytest.raises(ValueError, match="no arrays.*age"):
        read_packed(file, ["age"])
    np.savez(file, jpeg=np.zeros(9, np.uint8), off=[0, 4, 8])
    with pytest.raises(ValueError, match="from 0 up to their number, 9"):
        read_packed(file, [])
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ValueError, match="damaged"):
        read_packed(file, [])
    with pytest.raises(ValueError, match="Picture 1 of the file cannot be read"):
        read_pictures([jpeg(0), b"no picture"], 8, colour=True, crop=True)
