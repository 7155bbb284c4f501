"""A `PipelineExplainer` as displays and reports ask it: searches in the table's columns, training rows as codes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cfexplain.explainers.decoded_path import DecodedPath
from cfexplain.result import Counterfactuals
from cfexplain.tables.build import read_frame

__all__ = ["PipelineView"]


class PipelineView:
    """What is not here, the explainer of the codes has.

    Parameters
    ----------
    explainer : PipelineExplainer
        Fitted.
    """

    reads_codes = True  # rows of X are read as codes, and differ from those of a result

    def __init__(self, explainer: Any):
        self.of, self.table = explainer.explainer_, explainer.table_

    def __getattr__(self, name: str) -> Any:
        if name in ("of", "table"):  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.of, name)

    def read_samples(self, X: Any) -> np.ndarray:
        """Rows as the pipeline takes them, as codes."""
        return self.table.encode(read_frame(X)).astype(self.of.dtype_)

    def decode_path(self, cf: Counterfactuals, *, frames: int | None = None) -> list[DecodedPath]:
        """As `CounterfactualExplainer.decode_path`, each point in the columns of the table."""
        codes = {name: self.table.codes(getattr(cf, name)).astype(self.of.dtype_)
                 for name in ("x", "x_cf", "reconstruction")}
        paths = []
        of_codes = self.of.decode_path(dataclasses.replace(cf, **codes), frames=frames)
        for row, code, path in zip(cf, codes["x_cf"], of_codes, strict=True):
            found = np.isfinite(path.x).all(1)
            x, times = np.full((len(path.x), row.x.shape[1]), np.nan), (int(found.sum()), 1)
            x[found] = self.table.decode(path.x[found], like=(np.tile(code, times), np.tile(row.x_cf, times)))
            paths.append(dataclasses.replace(path, x=x))
        return paths
