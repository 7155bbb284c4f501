"""Pictures of a report: as data: addresses, with words for those who cannot see them."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

__all__ = ["png", "png_address", "signed_picture", "where_in_words"]

_COLOR_TYPE = {1: 0, 3: 2, 4: 6}  # of PNG, by channels


def png_address(picture: np.ndarray) -> str:
    """A picture as ``data:image/png;base64,…``: short enough that a page needs no imaging library.

    Parameters
    ----------
    picture : ndarray of shape (H, W), (H, W, 3) or (H, W, 4), in [0, 1]

    Examples
    --------
    >>> png_address(np.zeros((2, 3)))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()


def png(picture: np.ndarray) -> bytes:
    """The content of a PNG file of such a picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    lines = pixels.reshape(height, -1)
    above = np.concatenate([np.zeros_like(lines[:1]), lines[:-1]])
    # lines as they are (PNG's filter 0), or their difference from the line above (2), modulo 256: whatever packs better
    packed = min((zlib.compress(b"".join(kind + line.tobytes() for line in some))
                  for kind, some in ((b"\0", lines), (b"\2", lines - above))), key=len)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPE[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def signed_picture(difference: np.ndarray, limit: float) -> np.ndarray:
    """A signed picture (H, W) as (H, W, 4): blue below 0, orange above, transparent where nothing changed.

    The page shines through, white by day and black by night, and over white the colours are those of the plots.
    """
    from cfexplain.plotting.counterfactual import BLUE, VERMILLION

    blue, orange = (np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for color in (BLUE, VERMILLION))
    strength = np.clip(np.abs(difference) / (limit or 1), 0, 1)[..., None]
    return np.concatenate([np.where(difference[..., None] > 0, orange, blue), strength], -1)


def where_in_words(difference: np.ndarray) -> str:
    """Where a signed picture (H, W) is brighter and where darker, and how much of it.

    >>> where_in_words(np.pad([[1.0]], ((0, 8), (8, 0))))
    'brighter mostly at the upper right; 1 % of the pixels change'
    """
    size = np.abs(difference)
    most = size.max(initial=0.0)
    if not most > 0:
        return "nothing changes"
    parts = []
    for word, part in (("brighter", np.maximum(difference, 0)), ("darker", np.maximum(-difference, 0))):
        if part.max() >= 0.1 * most:
            parts.append(f"{word} mostly {_place(part)}")
    share = 100 * float((size > 0.1 * most).mean())
    amount = "less than 1 %" if share < 1 else f"{share:.0f} %"
    return f"{', '.join(parts)}; {amount} of the pixels change"


def _place(mass: np.ndarray) -> str:
    """The ninth of a picture in which most of `mass` lies."""
    thirds = [np.array_split(half, 3, axis=1) for half in np.array_split(mass, 3, axis=0)]
    sums = np.array([[part.sum() for part in line] for line in thirds])
    down, right = np.unravel_index(int(sums.argmax()), sums.shape)
    place = " ".join(filter(None, (("upper", "", "lower")[down], ("left", "", "right")[right])))
    return {"": "in the middle", "upper": "at the top", "lower": "at the bottom"}.get(place, f"at the {place}")
