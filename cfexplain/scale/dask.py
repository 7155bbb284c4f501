"""Explainers on Dask collections: lazily, each chunk on the worker that holds it."""

from __future__ import annotations

from typing import Any

import numpy as np

from cfexplain.foundation.arrays import to_numpy
from cfexplain.foundation.digest import digest
from cfexplain.foundation.exceptions import TargetError
from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.protocols import FittedExplainer
from cfexplain.scale.blocks import is_dask, one_for_each_row

__all__ = ["transform_dask"]


def transform_dask(explainer: FittedExplainer, X: Any, target: Any = None) -> Any:
    """``explainer.transform`` of every chunk, as a lazy Dask array.

    Parameters
    ----------
    X : Dask array of shape (n, …), or Dask DataFrame
    target : label, Dask array or array of shape (n,), or None

    Returns
    -------
    Dask array of shape (n, …), in chunks of the same rows

    Raises
    ------
    TargetError
        One label a row for rows of unknown number.
    """
    optional_import("dask.array", "transform() of a Dask collection")
    import dask.array as da
    from dask import delayed

    if target is None:
        target = explainer.target
    # one node of the graph, so that each worker gets it once; its name is its digest, not that of its pickle, which varies
    shared = delayed(explainer, name=f"explainer-{digest(explainer)}", pure=True, traverse=False)
    shape, dtype = explainer.layout_.user_shape, explainer.dtype_
    if hasattr(X, "partitions") and not hasattr(X, "chunks"):
        if one_for_each_row(target, explainer):
            raise TargetError("The rows of a Dask DataFrame are not counted, so that one target a row cannot be given to "
                              "its chunks. Pass one label, or X.to_dask_array(lengths=True).")
        parts = [delayed(_transformed)(shared, part, target) for part in X.to_delayed()]
        chunks = [da.from_delayed(part, (np.nan, *shape), dtype=dtype) for part in parts]
        return da.concatenate(chunks, allow_unknown_chunksizes=True)
    X = X.rechunk({axis: -1 for axis in range(1, X.ndim)})
    if X.dtype in (np.float32, np.float64):
        dtype = X.dtype
    meta = np.empty((0,) * X.ndim, dtype)
    if not one_for_each_row(target, explainer):
        return da.map_blocks(_chunk, X, explainer=shared, target=target, dtype=dtype, meta=meta)
    if np.isnan(X.shape[0]):
        raise TargetError("X has chunks of unknown size, so that one target a row cannot be given to them. Pass one label, "
                          "or call X.compute_chunk_sizes() before.")
    target = target if is_dask(target) else da.from_array(np.asarray(to_numpy(target)), chunks=-1)
    if target.shape != X.shape[:1]:
        raise TargetError(f"target has shape {target.shape} for {X.shape[0]} rows; expected one label, or one a row.")
    target = target.rechunk((X.chunks[0],)).reshape(-1, *[1] * (X.ndim - 1))
    return da.map_blocks(_chunk_with_targets, X, target, explainer=shared, dtype=dtype, meta=meta, chunks=X.chunks)


def _transformed(explainer: FittedExplainer, X: Any, target: Any) -> np.ndarray:
    if not len(X):
        return np.empty((0, *explainer.layout_.user_shape), explainer.dtype_)
    return np.asarray(explainer.transform(X, target))


def _chunk(X: np.ndarray, explainer: FittedExplainer, target: Any) -> np.ndarray:
    return explainer.transform(X, target) if len(X) else X


def _chunk_with_targets(X: np.ndarray, target: np.ndarray, explainer: FittedExplainer) -> np.ndarray:
    return explainer.transform(X, target.reshape(-1)) if len(X) else X
