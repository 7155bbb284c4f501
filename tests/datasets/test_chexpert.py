"""CheXpert in the published layout, small."""

import numpy as np
import pytest
from PIL import Image

from cfexplain.datasets import load_chexpert

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
