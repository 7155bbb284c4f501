"""Which pixels may change, block by block: one region for all rows of X, or one for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from cfexplain.foundation.digest import digest
from cfexplain.foundation.protocols import FittedExplainer

__all__ = ["Regions"]


class Regions:
    """The ``region=`` of each block.

    Parameters
    ----------
    explainer : FittedExplainer
    region : array of bool, image, box, outline, "auto", or None
        As in `explain`. Masks or boxes with a first axis of rows are one for each row.
    length : int or None
        Rows of X, if that is known.

    Raises
    ------
    ValueError
        There are more or fewer of them than rows.
    """

    def __init__(self, explainer: FittedExplainer, region: Any, length: int | None):
        self.region, self.per_row = region, False
        if region is None or isinstance(region, str) or hasattr(region, "convert"):
            return
        given, shapes = np.asarray(region), (explainer.layout_.net_shape, explainer.layout_.user_shape)
        masks = given.dtype == bool and given.ndim > 2 and given.shape not in shapes
        self.per_row = masks or (given.dtype != bool and given.ndim == 2 and given.shape[1] == 4)
        if self.per_row:
            self.region = given
            if length is not None and len(given) != length:
                raise ValueError(f"region holds {len(given)} regions for {length} rows; expected one, or one a row.")

    def of(self, first: int, length: int) -> dict[str, Any]:
        """``region=`` of a call for the rows `first` to ``first + length``."""
        if self.region is None:
            return {}
        some = self.region[first : first + length] if self.per_row else self.region
        if self.per_row and len(some) < length:
            raise ValueError(f"region holds {len(self.region)} regions, but X has more rows; expected one, or one a row.")
        return {"region": some}

    def described(self) -> dict[str, Any]:
        """What a manifest says of it; nothing where there is none, so that folders of earlier versions go on."""
        if self.region is None:
            return {}
        return {"region": self.region if isinstance(self.region, str) else digest(np.asarray(self.region))}
