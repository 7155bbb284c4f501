"""Loaders of folders of pictures read small ones in the published layouts, as the papers crop and label them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from cfexplain.datasets import load_mall

DATA = Path(os.environ.get("CFEXPLAIN_DATA", ""))  # before a fixture hides it


@pytest.mark.skipif(not (DATA / "mall_64.npz").is_file(),
                    reason="needs mall_64.npz in the folder $CFEXPLAIN_DATA")
def test_the_mall_data_set():
    X, counts, heads = load_mall(DATA)
    assert X.shape == (2000, 3, 64, 64) and X.dtype == np.float32 and X.min() >= 0 and 0.9 < X.max() <= 1
    assert counts.shape == (2000,) and counts.dtype == np.float32 and len(heads) == 2000
    np.testing.assert_array_equal(counts, [len(points) for points in heads])
    every = np.concatenate(heads)
    assert every.shape == (counts.sum(), 2) and every.min() >= 0 and every.max() < 64


def test_a_missing_mall_data_set_says_where_it_belongs(tmp_path):
    with pytest.raises(FileNotFoundError, match="CFEXPLAIN_DATA"):
        load_mall(tmp_path)


def test_mall_reads_a_file_of_ones_own(tmp_path):
    x = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.savez(tmp_path / "mall_64.npz", x=x, count=np.array([0, 2]), heads=np.array([[1, 2], [3, 0]], dtype=np.float32),
             head_offset=np.array([0, 0, 2]))
    X, counts, heads = load_mall(tmp_path)
    np.testing.assert_allclose(X[1, 2], x[1, :, :, 2] / 255, rtol=1e-6)
    assert counts.tolist() == [0, 2] and [h.tolist() for h in heads] == [[], [[1, 2], [3, 0]]]


@pytest.fixture(params=["cell", "struct"])
def mall(request, tmp_path):
    """Three frames of 640×480 with a white square around one head inside the cut-out; other heads are outside."""
    folder = tmp_path / "mall_dataset"
    (folder / "frames").mkdir(parents=True)
    heads = [np.array([[450.0, 300.0], [5.0, 5.0]]), np.array([[500.0, 400.0]]), np.zeros((0, 2))]
    for i, places in enumerate(heads):
        frame = np.zeros((480, 640, 3), np.uint8)
        for x, y in places.astype(int):
            frame[y - 4 : y + 5, x - 4 : x + 5] = 255
        Image.fromarray(frame).save(folder / "frames" / f"seq_{i + 1:06d}.jpg", quality=95)
    if request.param == "cell":
        frames = np.empty((1, 3), dtype=object)
        frames[0] = [{"loc": places} for places in heads]
    else:
        frames = np.array([[(places,) for places in heads]], dtype=[("loc", object)])
    savemat(folder / "mall_gt.mat", {"frame": frames, "count": np.array([[2], [1], [0]])})
    return folder


def test_mall_cuts_out_what_the_paper_does(mall):
    for path in (mall, mall.parent):
        X, count, heads = load_mall(path)
        assert X.shape == (3, 3, 64, 64) and X.dtype == np.float32 and count.tolist() == [1, 1, 0]
        assert [len(one) for one in heads] == [1, 1, 0] and all(one.dtype == np.float32 for one in heads)
    # a frame becomes 170 × 128 pixels, of which those from column 100 and row 64 are kept
    np.testing.assert_allclose(heads[0], [[450 * 170 / 640 - 100, 300 * 128 / 480 - 64]], rtol=1e-5)
    for i in (0, 1):  # the brightest pixel is the head's
        y, x = np.unravel_index(X[i].mean(0).argmax(), (64, 64))
        assert np.abs(heads[i][0] - (x, y)).max() < 1.5
    assert X[2].max() < 0.05


def test_mall_says_what_is_wrong(mall, tmp_path):
    (mall / "frames" / "seq_000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="seq_000002.jpg is missing"):
        load_mall(mall)
    Image.new("RGB", (64, 48)).resize((160, 120)).crop((0, 0, 100, 120)).save(mall / "frames" / "seq_000002.jpg")
    with pytest.raises(ValueError, match="640×480"):
        load_mall(mall)
    (mall / "mall_gt.mat").write_bytes(b"no MATLAB")
    with pytest.raises(ValueError, match="mall_gt.mat is damaged"):
        load_mall(mall)
    with pytest.raises(FileNotFoundError, match="seq_000001.jpg.*CFEXPLAIN_DATA"):
        load_mall(tmp_path / "nowhere")
