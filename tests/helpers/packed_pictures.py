"""Packed files of pictures, small."""

import io

import numpy as np
from PIL import Image


def jpeg(value, size=(20, 16)):
    """The bytes of a picture of one grey, width and height as given."""
    file = io.BytesIO()
    Image.fromarray(np.full((*size[::-1], 3), value, np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def packed(file, pictures, **arrays):
    """Write a packed file, and say where it is."""
    np.savez(file, jpeg=np.frombuffer(b"".join(pictures), np.uint8),
             off=np.cumsum([0, *(len(picture) for picture in pictures)]), **arrays)
    return file
