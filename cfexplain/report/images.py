"""Signed pictures of a report, and a description of each in words for those who cannot see it."""

from __future__ import annotations

import numpy as np

from cfexplain.plotting.pictures import BLUE, VERMILLION, rgb

__all__ = ["signed_picture", "where_in_words"]


def signed_picture(difference: np.ndarray, limit: float) -> np.ndarray:
    """A signed picture (H, W) as (H, W, 4): blue below 0, orange above, transparent where nothing changed.

    The page shows through, white or black by the reader's colour scheme. Over white the colours are those of the plots.
    """
    strength = np.clip(np.abs(difference) / (limit or 1), 0, 1)[..., None]
    return np.concatenate([np.where(difference[..., None] > 0, rgb(VERMILLION), rgb(BLUE)), strength], -1)


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
