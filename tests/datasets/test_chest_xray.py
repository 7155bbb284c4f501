"""Kermany's chest X-rays in the published layout and packed, small."""

import numpy as np
import pytest
from packed_pictures import jpeg, packed

from cfexplain.datasets import load_chest_xray

# part, file, kind, patient
CHESTS = [("train", "NORMAL/IM-0115-0001.jpeg", "normal", "IM-0115"),
          ("train", "NORMAL/NORMAL2-IM-0927-0001-0002.jpeg", "normal", "NORMAL2-IM-0927"),
          ("train", "PNEUMONIA/person1_bacteria_1.jpeg", "bacteria", "person1"),
          ("train", "PNEUMONIA/person1_bacteria_2.jpeg", "bacteria", "person1"),
          ("val", "PNEUMONIA/person1946_virus_4874.jpeg", "virus", "person1946"),
          ("test", "NORMAL/IM-0001-0001.jpeg", "normal", "IM-0001"),
          ("test", "PNEUMONIA/person100_virus_184.jpeg", "virus", "person100")]


@pytest.fixture
def chests(tmp_path):
    root = tmp_path / "chest_xray"
    for part in ("train", "test"):
        for name in ("NORMAL", "PNEUMONIA"):
            (root / part / name).mkdir(parents=True)
    for k, (part, name, _, _) in enumerate(CHESTS):
        (root / part / name).parent.mkdir(parents=True, exist_ok=True)
        (root / part / name).write_bytes(jpeg(30 * k, (60, 40)))
    return root


@pytest.mark.parametrize("split", ["all", "train", "val", "test"])
def test_parts_labels_and_patients(chests, split):
    rows = [(k, *row[1:]) for k, row in enumerate(CHESTS) if split in ("all", row[0])]
    for path in (chests, chests.parent):
        X, y, patient = load_chest_xray(path, size=32, split=split)
        assert X.shape == (len(rows), 32, 32) and X.dtype == np.float32
        np.testing.assert_allclose(X.mean((1, 2)) * 255, [30 * row[0] for row in rows], atol=2)
        assert y.tolist() == ["normal" if row[2] == "normal" else "pneumonia" for row in rows]
        assert patient.tolist() == [row[3] for row in rows]
        assert load_chest_xray(path, "kind", size=8, split=split)[1].tolist() == [row[2] for row in rows]


def test_packed_is_the_same(chests, tmp_path):
    pictures = [(chests / part / name).read_bytes() for part, name, _, _ in CHESTS]
    file = packed(tmp_path / "cxr_kermany_224_jpeg.npz", pictures,
                  kind=np.array([kind for *_, kind, _ in CHESTS]), patient=np.array([patient for *_, patient in CHESTS]))
    for found, expected in zip(*(load_chest_xray(path, "kind", size=16) for path in (file, chests)), strict=True):
        np.testing.assert_array_equal(found, expected)
    X, y, _ = load_chest_xray(file, size=8, max_rows=1)
    assert y.tolist() == ["normal", "pneumonia"] and len(X) == 2
    with pytest.raises(ValueError, match="split='test'.*no parts"):
        load_chest_xray(file, split="test")


def test_chest_xray_says_what_is_wrong(chests, tmp_path):
    with pytest.raises(ValueError, match="label='covid'"):
        load_chest_xray(chests, "covid")
    with pytest.raises(ValueError, match="split='valid'"):
        load_chest_xray(chests, split="valid")
    with pytest.raises(FileNotFoundError, match="train/NORMAL.*mendeley"):
        load_chest_xray(tmp_path / "nowhere")
    (chests / "test" / "NORMAL" / "person3_virus_1.jpeg").write_bytes(jpeg(0))
    with pytest.raises(ValueError, match="person3_virus_1.jpeg: expected names like IM-0115"):
        load_chest_xray(chests)
    (chests / "test" / "NORMAL" / "person3_virus_1.jpeg").unlink()
    (chests / "test" / "NORMAL" / "IM-0001-0001.jpeg").write_bytes(b"")
    with pytest.raises(ValueError, match="IM-0001-0001.jpeg cannot be read"):
        load_chest_xray(chests)
