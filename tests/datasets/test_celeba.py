"""CelebA in the published layout, small."""

import numpy as np
import pytest
from packed_pictures import jpeg, packed
from PIL import Image

from cfexplain.datasets import CELEBA_ATTRIBUTES, load_celeba


def celeba_rows():
    """File name, smiling, split: 0 train, 1 validation, 2 test."""
    return [(f"{k + 1:06d}.jpg", k % 3 == 0, "001122"[k]) for k in range(6)]


@pytest.fixture(params=["flat", "published"])
def celeba(request, tmp_path):
    root = tmp_path / "celeba"
    images, attributes, parts = ((root, root, root) if request.param == "flat" else
                                 (root / "Img", root / "Anno", root / "Eval"))
    for folder in (images / "img_align_celeba", attributes, parts):
        folder.mkdir(parents=True, exist_ok=True)
    lines = ["6", "Bald Smiling Young"]
    for k, (name, smiling, _) in enumerate(celeba_rows()):
        lines.append(f"{name}  1 {'1' if smiling else '-1':>2} -1")
        flat = np.full((218, 178, 3), (40 * k, 255 - 40 * k, 100), np.uint8)
        Image.fromarray(flat).save(images / "img_align_celeba" / name, quality=95)
    (attributes / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    (parts / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, _, part in celeba_rows()))
    return root


def test_celeba(celeba, monkeypatch):
    for split, code in (("train", "0"), ("valid", "1"), ("test", "2")):
        X, y = load_celeba(celeba, "Smiling", size=16, split=split)
        rows = [k for k, row in enumerate(celeba_rows()) if row[2] == code]
        assert X.shape == (len(rows), 3, 16, 16) and X.dtype == np.float32
        assert y.tolist() == ["Smiling" if celeba_rows()[k][1] else "not Smiling" for k in rows]
        for x, k in zip(X, rows, strict=True):  # JPEG is off by a little
            np.testing.assert_allclose(x.mean((1, 2)), np.array([40 * k, 255 - 40 * k, 100]) / 255, atol=0.02)
    X, y = load_celeba(celeba.parent, "Bald", size=16, max_rows=1)  # the folder above it
    assert len(X) == 1 and y.tolist() == ["Bald"]
    monkeypatch.setenv("CFEXPLAIN_DATA", str(celeba.parent))
    assert load_celeba(size=8, crop=False)[0].shape == (2, 3, 8, 8)


def test_celeba_says_what_is_wrong(celeba, tmp_path):
    with pytest.raises(ValueError, match="Hat.*Bald, Smiling, Young"):
        load_celeba(celeba, "Hat")
    with pytest.raises(ValueError, match="split='all'"):
        load_celeba(celeba, split="all")
    with pytest.raises(FileNotFoundError, match="img_align_celeba.*list_attr_celeba.txt.*CFEXPLAIN_DATA"):
        load_celeba(tmp_path / "nowhere")
    images = next(celeba.rglob("img_align_celeba"))
    (images / "000001.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="000001.jpg cannot be read"):
        load_celeba(celeba)
    (images / "000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="000001.jpg is missing"):
        load_celeba(celeba)
    lists = next(celeba.rglob("list_attr_celeba.txt"))
    text = lists.read_text()
    lists.write_text(text.replace("000002.jpg  1 -1 -1", "000002.jpg  1 7 -1"))
    with pytest.raises(ValueError, match="line 4"):
        load_celeba(celeba)
    lists.write_text(text.replace("000002.jpg  1 -1 -1\n", ""))
    with pytest.raises(ValueError, match="no line for 000002.jpg"):
        load_celeba(celeba)
    next(celeba.rglob("list_eval_partition.txt")).write_text("000001.jpg\n")
    with pytest.raises(ValueError, match="list_eval_partition.txt is damaged"):
        load_celeba(celeba)


def write_forty(root, names, labels):
    """A published list of all attributes, of which one is given."""
    k = CELEBA_ATTRIBUTES.index("Smiling")
    lines = [str(len(names)), " ".join(CELEBA_ATTRIBUTES)]
    lines += [" ".join([name, *("1" if (a == k) == label else "-1" for a in range(40))])
              for name, label in zip(names, labels, strict=True)]
    root.write_text("\n".join(lines) + "\n")


def test_all_attributes_halved_and_packed(celeba, tmp_path):
    names, smiling = [name for name, _, _ in celeba_rows()], [label for _, label, _ in celeba_rows()]
    write_forty(next(celeba.rglob("list_attr_celeba.txt")), names, smiling)
    X, y = load_celeba(celeba, "all", size=16)
    assert y.shape == (2, 40) and y.dtype == bool and CELEBA_ATTRIBUTES[31] == "Smiling"
    expected = np.array([[(k == 31) == label for k in range(40)] for label in smiling])
    np.testing.assert_array_equal(y, expected[:2])
    images = next(celeba.rglob("img_align_celeba"))
    for name in names:  # made smaller, as such copies are
        with Image.open(images / name) as picture:
            picture.resize((89, 109)).save(images / name, quality=95)
    np.testing.assert_allclose(load_celeba(celeba, size=16)[0], X, atol=0.02)
    published = ["000001.jpg", "162770.jpg", "162771.jpg", "182637.jpg", "182638.jpg", "202599.jpg"]
    attributes = {"attr": expected.astype(np.uint8), "attr_names": np.array(CELEBA_ATTRIBUTES)}
    file = packed(tmp_path / "celeba_89x109_jpeg.npz", [(images / name).read_bytes() for name in names],
                  name=np.array(published), **attributes)
    for k, split in enumerate(("train", "valid", "test")):
        for path in (file, tmp_path / "celeba_89x109_jpeg.npz"):
            found = load_celeba(path, "all", size=16, split=split)
            np.testing.assert_array_equal(found[0], load_celeba(celeba, size=16, split=split)[0])
            np.testing.assert_array_equal(found[1], expected[2 * k:2 * k + 2])
    assert load_celeba(file, "Smiling", size=8)[1].tolist() == ["Smiling", "not Smiling"]
    with pytest.raises(ValueError, match="Hat.*Bald"):
        load_celeba(file, "Hat")
    packed(file, [jpeg(0)] * 6, name=np.array(names), **attributes)
    with pytest.raises(ValueError, match="no image of the split 'test'.*000001.jpg to 000006.jpg"):
        load_celeba(file, split="test")
    packed(file, [jpeg(0)] * 6, name=np.array(["face"] * 6), **attributes)
    with pytest.raises(ValueError, match="names as published"):
        load_celeba(file)
