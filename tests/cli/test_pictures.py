"""Pictures are read as every viewer shows them, and what is not meant is left out."""

import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from cfexplain.cli.rows import read_rows

RAMP = np.linspace(0, 1, 24 * 20).reshape(24, 20)
GREY = np.round(RAMP * 255).astype(np.uint8)


def save(array, file, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **options)


def test_hidden_files_and_folders_are_no_classes(tmp_path):
    root = tmp_path / ".data"  # where the folder itself lies does not matter
    for name in ("smile/1.png", "no/1.png", "smile/.ipynb_checkpoints/1-checkpoint.png", ".thumbnails/1.png",
                 "__MACOSX/smile/1.png", "no/._1.png", "no/@eaDir/1.png"):
        save(GREY, root / name)
    (root / "no" / "folder.png").mkdir()
    rows = read_rows(root)
    assert rows.y.tolist() == ["no", "smile"] and rows.names == ["no/1.png", "smile/1.png"]


@pytest.mark.parametrize(("array", "name"), [
    ((RAMP * 65535).astype(np.uint16), "a.png"), ((RAMP * 65535).astype(np.uint16), "a.tif"),
    (RAMP.astype(np.float32), "a.tif"), (GREY, "a.png")])
def test_every_depth_keeps_its_shades(tmp_path, array, name):
    save(array, tmp_path / name)
    X = read_rows(tmp_path, data_range=(-1, 1)).X
    np.testing.assert_allclose(X[0], 2 * RAMP - 1, atol=1 / 255)
    assert X.dtype == np.float32 and (len(np.unique(X)) > 256) == (array.dtype != np.uint8)
    small = read_rows(tmp_path, size=(12, 10), channels=3).X
    assert small.shape == (1, 3, 12, 10) and abs(small.mean() - 0.5) < 0.01 and 0 <= small.min() <= small.max() <= 1


def test_shades_whose_white_is_unknown_are_refused(tmp_path):
    for array in (RAMP.astype(np.float32) * 255, np.full((4, 4), np.nan, np.float32), GREY.astype(np.int32)):
        save(array, tmp_path / "a.tif")
        with pytest.raises(ValueError, match=r"a\.tif has shades of .* 8 or 16 bits"):
            read_rows(tmp_path)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_the_camera_says(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(np.stack([GREY] * 3, axis=-1), tmp_path / f"a.{kind}", exif=exif)
    with Image.open(tmp_path / f"a.{kind}") as opened:
        shown = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).transpose(2, 0, 1) / 255
    X = read_rows(tmp_path).X  # its size is that of the turned picture
    assert X.shape[1:] == shown.shape == ((3, 20, 24) if orientation > 4 else (3, 24, 20))
    np.testing.assert_allclose(X[0], shown, atol=1e-6)


def test_what_is_transparent_lies_on_white(tmp_path):
    clear = np.zeros((4, 6, 4), np.uint8)
    clear[:, :3] = (10, 20, 30, 255)
    save(clear, tmp_path / "rgba" / "1.png")
    Image.fromarray(clear).convert("LA").save(tmp_path / "rgba" / "2.png")
    palette = Image.fromarray(np.repeat(np.array([[0, 0, 0, 1, 1, 1]], np.uint8), 4, axis=0), mode="P")
    palette.putpalette([10, 20, 30, 0, 0, 0])
    palette.save(tmp_path / "rgba" / "3.png", transparency=1)
    X = read_rows(tmp_path / "rgba").X
    assert X.shape == (3, 3, 4, 6) and (X[..., 3:] == 1).all()
    np.testing.assert_allclose(X[0, :, 0, 0] * 255, [10, 20, 30])
    np.testing.assert_allclose(X[2, :, 0, 0] * 255, [10, 20, 30])


def test_sizes_that_differ_are_named_with_the_fix(tmp_path):
    for i in range(3):
        save(GREY, tmp_path / f"{i}.png")
    save(GREY[:10], tmp_path / "9.png")
    with pytest.raises(ValueError, match=r"3 of 24×20, 1 of 10×20 .*9\.png.*size = \[H, W\]"):
        read_rows(tmp_path)
    rows = read_rows(tmp_path, size=(24, 20))
    assert rows.X.shape == (4, 24, 20) and "1 of 4 pictures had another size" in rows.notes[0]


def test_colour_is_kept_whichever_picture_comes_first(tmp_path):
    save(GREY, tmp_path / "1.png")
    save(np.stack([GREY, 0 * GREY, 0 * GREY], axis=-1), tmp_path / "2.png")
    assert read_rows(tmp_path).X.shape == (2, 3, 24, 20)
    assert read_rows(tmp_path, channels=1).X.shape == (2, 24, 20)


def test_several_pictures_in_one_file_are_refused(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(GREY)] * 2)
    with pytest.raises(ValueError, match="holds 3 pictures"):
        read_rows(tmp_path)


def test_damaged_pictures_are_named_whatever_the_damage(tmp_path):
    rng, raw = np.random.default_rng(0), {}
    for kind in ("png", "jpg", "bmp", "tif", "webp"):
        save(GREY, tmp_path / f"whole.{kind}")
        raw[kind] = (tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"whole.{kind}").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(30):
            for kind, whole in raw.items():
                data = bytearray(whole[: rng.integers(0, len(whole) + 1)])
                for place in rng.integers(0, max(1, len(data)), 4):
                    data[place : place + 1] = bytes([rng.integers(256)])
                file = tmp_path / f"broken.{kind}"
                file.write_bytes(bytes(data))
                try:
                    read_rows(tmp_path)
                except ValueError as error:
                    assert f"broken.{kind}" in str(error)
                file.unlink()
