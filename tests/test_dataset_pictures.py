"""Loaders of folders of pictures read small ones in the published layouts, as the papers crop and label them."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from cfexplain.datasets import load_celeba, load_chexpert, load_mall
from cfexplain.datasets.files import resized, shorter_to

RNG = np.random.RandomState(0)


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("CFEXPLAIN_DATA", raising=False)


@pytest.mark.parametrize("sides", [(178, 218), (218, 178), (64, 64), (320, 390), (65, 64)])
def test_cropping_is_torchvisions(sides):
    transforms = pytest.importorskip("torchvision.transforms")
    picture = Image.fromarray(RNG.randint(0, 256, (sides[1], sides[0], 3)).astype(np.uint8))
    expected = transforms.Compose([transforms.Resize(48), transforms.CenterCrop(48)])(picture)
    np.testing.assert_array_equal(np.asarray(resized(picture, 48, True)), np.asarray(expected))
    assert resized(picture, 48, False).size == (48, 48) and min(shorter_to(sides, 48)) == 48


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


# patient, view, "No Finding", "Cardiomegaly"; published lists write 1.0, 0.0, -1.0 and nothing
CHESTS = [(1, "Frontal", "", "1.0"), (1, "Lateral", "", "1.0"), (6500, "Frontal", "1.0", ""),
          (6501, "Frontal", "", "1.0"), (6502, "Frontal", "", "0.0"), (6503, "Frontal", "", "-1.0"),
          (6504, "Frontal", "1.0", ""), (6505, "Frontal", "", "")]


@pytest.fixture
def chexpert(tmp_path):
    root = tmp_path / "CheXpert-v1.0-small"
    head = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly\n"
    lines = {"train": [head], "valid": [head]}
    for k, (part, (patient, view, none, label)) in enumerate([
            *(("train", chest) for chest in CHESTS), ("valid", (64541, "Frontal", "0.0", "1.0"))]):
        place = f"{part}/patient{patient:05d}/study1/view{k}_{view.lower()}.jpg"
        lines[part].append(f"CheXpert-v1.0-small/{place},Female,68,{view},AP,{none},{label}\n")
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((320, 390), 20 * k, np.uint8)).save(root / place)
    for part, rows in lines.items():
        (root / f"{part}.csv").write_text("".join(rows))
    return root


YES, NO = "Cardiomegaly", "no Cardiomegaly"


@pytest.mark.parametrize(("options", "expected"), [
    ({}, {6501: YES, 6502: NO, 6504: NO}),
    ({"uncertain": "positive"}, {6501: YES, 6502: NO, 6503: YES, 6504: NO}),
    ({"uncertain": "negative"}, {6501: YES, 6502: NO, 6503: NO, 6504: NO}),
    ({"blank": "negative"}, {6501: YES, 6502: NO, 6504: NO, 6505: NO}),
    ({"split": "test"}, {1: YES, 6500: NO}),
    ({"split": "valid"}, {64541: YES}),
    ({"max_rows": 2}, {6501: YES, 6502: NO})])
def test_chexpert(options, expected, chexpert):
    for path in (chexpert, chexpert.parent):
        X, y, patient = load_chexpert(path, size=32, **options)
        assert X.shape == (len(expected), 32, 32) and X.dtype == np.float32
        assert dict(zip(patient.tolist(), y.tolist(), strict=True)) == {f"patient{k:05d}": v for k, v in expected.items()}
    if options == {}:
        np.testing.assert_allclose(X.mean((1, 2)), np.array([60, 80, 120]) / 255, atol=0.01)


def test_no_finding_is_a_finding(chexpert):
    y = load_chexpert(chexpert, "No Finding", size=8)[1]
    assert (y == "No Finding").tolist() == [False, False, False, True, False]


def test_chexpert_says_what_is_wrong(chexpert, tmp_path):
    for options, said in (({"uncertain": "maybe"}, "uncertain='maybe'"), ({"split": "all"}, "split='all'"),
                          ({"finding": "Cough"}, "Cough"), ({"blank": "x"}, "blank='x'")):
        with pytest.raises(ValueError, match=said):
            load_chexpert(chexpert, **options)
    with pytest.raises(FileNotFoundError, match="train.csv.*patient00001.*CFEXPLAIN_DATA"):
        load_chexpert(tmp_path / "nowhere")
    lists = chexpert / "train.csv"
    text = lists.read_text()
    lists.write_text(text.replace(",0.0\n", ",yes\n"))
    with pytest.raises(ValueError, match="'yes'"):
        load_chexpert(chexpert)
    lists.write_text(text.replace("CheXpert-v1.0-small/train", "../../etc"))
    with pytest.raises(ValueError, match="expected paths like"):
        load_chexpert(chexpert)
    lists.write_text(text.splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="No frontal row"):
        load_chexpert(chexpert)
    lists.write_text(text)
    next(chexpert.rglob("patient06501/*/*.jpg")).unlink()
    with pytest.raises(FileNotFoundError, match="patient06501"):
        load_chexpert(chexpert)


# ----------------------------------------------------------------------------------------------------------------- Mall
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
