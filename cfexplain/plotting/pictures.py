"""Samples and differences as arrays of pictures, their colours, and PNG files of them: nothing here needs matplotlib."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.protocols import Result

__all__ = ["BLUE", "GREY", "MARKERS", "PALETTE", "VERMILLION", "as_pictures", "difference_pictures", "layout_of", "png",
           "png_address", "rgb"]

# Okabe and Ito's colours, which colour-blind readers can tell apart
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#595959"
PALETTE = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX"
_COLOR_TYPE = {1: 0, 3: 2, 4: 6}  # of PNG, by the number of channels


def rgb(color: str) -> np.ndarray:
    """``#RRGGBB`` as three numbers in [0, 1].

    >>> rgb("#0000FF").tolist()
    [0.0, 0.0, 1.0]
    """
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def layout_of(cf: Result) -> Layout:
    """The layout of one sample: from the metadata where they have it, otherwise from the array's shape."""
    shape = cf.metadata.get("net_shape")
    if shape:
        return Layout(cf.x_cf.shape[1:], tuple(shape), cf.metadata.get("channels", "first"))
    return Layout.of(cf.x_cf.shape[1:], None)


def as_pictures(samples: np.ndarray, cf: Result) -> np.ndarray:
    """`samples` in the layout of `cf` as (n, H, W) or (n, H, W, 3), in [0, 1]; other channel counts are averaged."""
    low, high = cf.metadata.get("data_range") or (0.0, 1.0)
    images = layout_of(cf).to_net(samples).astype(float)
    images = np.clip((np.nan_to_num(images, nan=low) - low) / (high - low), 0, 1)
    return np.moveaxis(images, 1, -1) if images.shape[1] == 3 else images.mean(1)


def difference_pictures(cf: Result) -> tuple[np.ndarray, float]:
    """x′ − x averaged over channels, shape (n, H, W), in the data's units; and the largest absolute value."""
    difference = layout_of(cf).to_net(cf.x_cf.astype(float) - cf.x).mean(1)
    return difference, float(np.abs(difference).max(initial=0.0))


def png_address(picture: np.ndarray) -> str:
    """A picture as ``data:image/png;base64,…``, written without an imaging library.

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
    # lines as they are (PNG's filter 0), or their difference from the line above modulo 256 (filter 2): the shorter file
    packed = min((zlib.compress(b"".join(kind + line.tobytes() for line in filtered))
                  for kind, filtered in ((b"\0", lines), (b"\2", lines - above))), key=len)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPE[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
