"""UTKFace in the published layout and packed, small."""

import warnings

import numpy as np
import pytest
from packed_pictures import jpeg, packed

from cfexplain.datasets import load_utkface

FACES = [(35, 0, 4), (1, 1, 0), (116, 1, 2), (50, 0, 3)]  # age, gender, race


@pytest.fixture(params=["flat", "parts"])
def utkface(request, tmp_path):
    for k, (age, gender, race) in enumerate(FACES):
        folder = tmp_path / "UTKFace" / (f"part{1 + k % 3}" if request.param == "parts" else ".")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{age}_{gender}_{race}_2017010918130{k}.jpg.chip.jpg").write_bytes(jpeg(age, (200, 200)))
    return tmp_path / "UTKFace"


def expected(label, order):
    return [FACES[i][("age", "gender", "race").index(label)] for i in order]


def test_utkface(utkface, monkeypatch):
    by_name = sorted(range(4), key=lambda i: f"{FACES[i][0]}_")  # "116_…", "1_…", "35_…", "50_…"
    for path in (utkface, *([utkface.parent] if any(utkface.glob("*.jpg")) else [])):
        X, age = load_utkface(path, "age", size=16, random_state=None)
        assert X.shape == (4, 3, 16, 16) and X.dtype == np.float32 and age.dtype == float
        assert age.tolist() == expected("age", by_name)
        np.testing.assert_allclose(X.mean((1, 2, 3)) * 255, age, atol=3)
    assert load_utkface(utkface, size=8, random_state=None)[1].tolist() == [
        ("male", "female")[g] for g in expected("gender", by_name)]
    assert load_utkface(utkface, "race", size=8, random_state=None)[1].tolist() == [
        ("White", "Black", "Asian", "Indian", "Other")[r] for r in expected("race", by_name)]
    monkeypatch.setenv("CFEXPLAIN_DATA", str(utkface))
    some, all_ = load_utkface(label="age", size=8, max_rows=2, random_state=1), load_utkface(
        label="age", size=8, random_state=1)
    np.testing.assert_array_equal(some[0], all_[0][:2])
    assert sorted(all_[1]) == sorted(age) and some[1].tolist() == all_[1][:2].tolist()
    np.testing.assert_allclose(all_[0].mean((1, 2, 3)) * 255, all_[1], atol=3)


def test_packed_is_the_same(tmp_path):
    columns = {"age": np.array([a for a, _, _ in FACES], np.uint8), "female": np.array([g for _, g, _ in FACES], np.uint8),
               "race": np.array([r for _, _, r in FACES], np.uint8)}
    packed(tmp_path / "utkface_200_jpeg.npz", [jpeg(a, (200, 200)) for a, _, _ in FACES], **columns)
    for path in (tmp_path, tmp_path / "utkface_200_jpeg.npz"):
        X, y = load_utkface(path, "age", size=16, random_state=None)
        assert y.tolist() == expected("age", range(4))
        np.testing.assert_allclose(X.mean((1, 2, 3)) * 255, y, atol=3)
    packed(tmp_path / "utkface_200_jpeg.npz", [jpeg(0)] * 4, **{**columns, "race": np.full(4, 7)})
    with pytest.raises(ValueError, match="race from 0 to 4, got 7"):
        load_utkface(tmp_path, "race")


def test_utkface_says_what_is_wrong(utkface, tmp_path):
    with pytest.raises(ValueError, match="label='sex'.*gender"):
        load_utkface(utkface, "sex")
    with pytest.raises(FileNotFoundError, match=r"\[age\]_\[gender\].*CFEXPLAIN_DATA"):
        load_utkface(tmp_path / "nowhere")
    files = sorted(utkface.rglob("*.jpg"))
    files[0].rename(files[0].with_name("39_1_20170116174525125.jpg.chip.jpg"))  # such there are in what is published
    with pytest.warns(UserWarning, match="1 of 4 pictures.*39_1_2017"):
        assert len(load_utkface(utkface, size=8)[0]) == 3
    files[1].write_bytes(b"no picture")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="cannot be read as a picture"):
            load_utkface(utkface, size=8)
    for k, file in enumerate(utkface.rglob("*.jpg")):
        file.rename(file.with_name(f"a_{k}.jpg"))
    with pytest.raises(ValueError, match="expected names like 35_0_4"):
        load_utkface(utkface, size=8)
