"""A folder of pictures as an array: which files are meant, how their pixels are read, and of what size they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from cfexplain.foundation.optional import optional_import

__all__ = ["picture_files", "read_pictures"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_NOT_MEANT = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN")  # beginnings of names that systems and notebooks make by themselves
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_SIDEWAYS = (5, 6, 7, 8)  # values of EXIF's orientation that change height and width


def picture_files(folder: Path) -> list[Path]:
    """The pictures in `folder` and below it, sorted; hidden files and folders are left out.

    Raises
    ------
    ValueError
        There are none.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file()
                   and not any(part.startswith(_NOT_MEANT) for part in file.relative_to(folder).parts))
    if not files:
        raise ValueError(f"{folder} holds no images; expected files ending in {', '.join(_SUFFIXES)}.")
    return files


def read_pictures(files: list[Path], *, size: tuple[int, int] | None, channels: int | None,
                  resize: bool) -> tuple[np.ndarray, int]:
    """Pictures as every viewer shows them, float32 in [0, 1], (n, H, W) or (n, 3, H, W); and how many were resized.

    EXIF's orientation is applied, what is transparent lies on white, and 16 bits and floats keep their shades.

    Parameters
    ----------
    files : list of Path
    size : (H, W), optional
        Default: their own, which must be the same for all.
    channels : {1, 3}, optional
        Default: grey where all pictures are grey.
    resize : bool
        Whether pictures of another size than `size` are resized, or refused.

    Raises
    ------
    ValueError
        A file is no picture, has several, or shades whose white is not known; sizes differ.
    """
    seen = [_looked_at(file) for file in files]
    channels = channels or (1 if all(grey for _, grey in seen) else 3)
    sizes = Counter(shape for shape, _ in seen)
    if size is None and len(sizes) > 1:
        most = ", ".join(f"{count} of {height}×{width}" for (height, width), count in sizes.most_common(6))
        odd = next(file for file, (shape, _) in zip(files, seen, strict=True) if shape != sizes.most_common(1)[0][0])
        raise ValueError(f"The pictures have {len(sizes)} different sizes (height×width): {most}{', …' * (len(sizes) > 6)} "
                         f"(the first other one is {odd}). Say which they are brought to: size = [H, W] in [data].")
    wanted = next(iter(sizes)) if size is None else (int(size[0]), int(size[1]))
    strange = [(file, shape) for file, (shape, _) in zip(files, seen, strict=True) if shape != wanted]
    if strange and not resize:
        file, shape = strange[0]
        raise ValueError(f"{file} is {shape[0]}×{shape[1]} (height×width), but the explainer was trained on "
                         f"{wanted[0]}×{wanted[1]}. Pass --resize to bring it to that size.")
    X = np.empty((len(files), *wanted, *((3,) if channels == 3 else ())), dtype=np.float32)
    for i, file in enumerate(files):
        X[i] = _pixels(file, wanted, channels)
    return np.ascontiguousarray(X if channels == 1 else X.transpose(0, 3, 1, 2)), len(strange)


def _open(file: Path) -> Any:
    return optional_import("PIL.Image", "Reading images").open(file)


def _unreadable(file: Path, error: Exception) -> ValueError:
    said = str(error).strip() or type(error).__name__
    return ValueError(f"{file} cannot be read as an image: {said}. Take it out of the folder, or save it anew.")


def _looked_at(file: Path) -> tuple[tuple[int, int], bool]:
    """Height and width as a viewer shows it, and whether it is grey; its pixels are not read yet."""
    try:
        with _open(file) as picture:
            grey, frames, kind = picture.mode in _GREY, getattr(picture, "n_frames", 1), picture.format
            if picture.getexif().get(0x0112) in _SIDEWAYS:
                picture = optional_import("PIL.ImageOps", "Reading images").exif_transpose(picture)
            height, width = picture.height, picture.width
    except ImportError:
        raise
    except Exception as error:  # Pillow raises whatever a damaged file makes happen in it
        raise _unreadable(file, error) from error
    if frames > 1 and kind != "MPO":  # a photo of a phone, whose other pictures are for screens in 3-D
        raise ValueError(f"{file} holds {frames} pictures; expected one a file. Save each as a file of its own.")
    return (height, width), grey


def _pixels(file: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """The picture in [0, 1], (H, W) or (H, W, 3)."""
    image, ops = (optional_import(f"PIL.{name}", "Reading images") for name in ("Image", "ImageOps"))
    try:
        with _open(file) as opened:
            picture = ops.exif_transpose(opened)
            shades = _fine_shades(picture, opened.format, file)
            if shades is None:
                if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
                    picture = picture.convert("RGBA")
                    picture = image.alpha_composite(image.new("RGBA", picture.size, "white"), picture)
                picture = picture.convert("L" if channels == 1 else "RGB")
            else:
                picture = image.fromarray(shades)
            if (picture.height, picture.width) != size:
                picture = picture.resize((size[1], size[0]), image.Resampling.BICUBIC)
            pixels = np.asarray(picture)
    except _RefusedError:
        raise
    except Exception as error:  # as above
        raise _unreadable(file, error) from error
    if shades is None:
        return pixels.astype(np.float32) / 255
    pixels = pixels.clip(0, 1)  # bicubic resizing may step over the edge
    return pixels if channels == 1 else np.repeat(pixels[:, :, None], 3, axis=2)


class _RefusedError(ValueError):
    """Says already what is wrong with the file."""


def _fine_shades(picture: Any, kind: str, file: Path) -> np.ndarray | None:
    """Shades of 16 bits or floats in [0, 1]; None where 8 bits a channel are all there is."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind == "PNG"):
        return np.asarray(picture).astype(np.float32) / 65535
    if picture.mode == "I":
        raise _RefusedError(f"{file} has shades of 32-bit integers, whose white is not known. Save it with 8 or 16 bits, or "
                            "as floats from 0 to 1.")
    if picture.mode != "F":
        return None
    shades = np.asarray(picture, dtype=np.float32)
    low, high = float(shades.min()), float(shades.max())
    if not (low >= 0 and high <= 1):
        raise _RefusedError(f"{file} has shades of floats from {low:g} to {high:g}; expected 0 (black) to 1 (white). Scale "
                            "them, or save it with 8 or 16 bits.")
    return shades

