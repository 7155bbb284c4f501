"""What all densities share: ranks among the training codes of a class, and labels as indices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.foundation.exceptions import TargetError
from cfexplain.foundation.labels import class_indices
from cfexplain.foundation.numbers import quantile_of_sorted
from cfexplain.persistence import MayBeAbsent

__all__ = ["ClassDensity", "as_unseen", "or_impossible"]

_FEWEST, _OWN = 10, 50  # held-out rows of all classes, and of a class, by which densities are corrected


class ClassDensity(BaseEstimator, ABC):
    """Base of densities p(z | y) of codes; `fit` sets ``classes_`` and ``log_densities_``.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    log_densities_ : list of K ndarrays
        log p(z | k) of the training codes of class k, sorted, as they would be had the density not been trained on them
        (`as_unseen`); densities that are not finite are -inf.
    """

    n_features_in_: MayBeAbsent[int]
    feature_names_in_: MayBeAbsent[np.ndarray]
    classes_: np.ndarray
    log_densities_: list[np.ndarray]

    @abstractmethod
    def log_prob(self, z: Tensor, c: Tensor) -> Tensor:
        """log p(z | c) in nats, (B,), differentiable in `z`; `c` are class indices."""

    def percentile(self, log_density: ArrayLike, y: Any) -> Any:
        """Where a log density ranks among class `y`'s own training codes.

        Parameters
        ----------
        log_density : float or array-like of shape (n,)
        y : label or array-like of shape (n,)

        Returns
        -------
        float or ndarray of shape (n,), 0-100
            Percentage of codes like the training codes of the class that are no denser; 0 for NaN and infinities.
        """
        check_is_fitted(self)
        values = np.asarray(log_density, dtype=np.float64)
        flat = np.broadcast_to(values, np.broadcast_shapes(values.shape, np.shape(y))).reshape(-1)
        codes, rank = self._indices(y, len(flat)), np.zeros(len(flat))
        for k in np.unique(codes):
            mine, own = codes == k, self.log_densities_[k]
            rank[mine] = 100 * np.searchsorted(own, flat[mine], "right") / len(own)
        rank[~np.isfinite(flat)] = 0.0
        return float(rank[0]) if values.ndim == 0 and np.ndim(y) == 0 else rank

    def quantile(self, q: float, y: Any) -> Any:
        """Log density that a share `q` of class `y`'s training codes does not exceed: an observed one, the higher.

        `y` is a label (gives a float) or has shape (n,) (gives an array of shape (n,)).
        """
        check_is_fitted(self)
        values = self.quantiles_by_index(q)[self._indices(y, np.size(y))]
        return float(values[0]) if np.ndim(y) == 0 else values

    def quantiles_by_index(self, q: float) -> np.ndarray:
        """:meth:`quantile` of every class, in the order of ``classes_``: float64, shape (K,)."""
        if not 0 <= q <= 1:
            raise ValueError(f"q={q!r} must lie in [0, 1].")
        return np.array([quantile_of_sorted(v, q, higher=True) for v in self.log_densities_], dtype=np.float64)

    def _indices(self, y: Any, n: int) -> np.ndarray:
        """Labels (one, or one a row) as class indices of shape (n,)."""
        labels = np.asarray(y)
        if labels.ndim > 1 or (labels.ndim == 1 and len(labels) != n):
            raise ValueError(f"Expected one label, or one label for each of the {n} rows; got shape {labels.shape}.")
        index = class_indices(labels.reshape(-1), self.classes_)
        unknown = sorted(map(str, set(labels.reshape(-1)[index < 0].tolist())))
        if unknown:
            raise TargetError(f"Unknown class {', '.join(unknown)}; fitted on the classes {self.classes_.tolist()}.")
        return np.broadcast_to(index, (n,))


def as_unseen(densities: np.ndarray, codes: np.ndarray, held: np.ndarray, n_classes: int) -> list[np.ndarray]:
    """Log densities of the rows of each class, sorted, as they would be of rows that were not trained on.

    What a flow was trained on is denser than other rows of the same kind: trained on 1,300 digits, the median digit that it
    has not seen is no denser than the thirteenth of a hundred that it has. Asked for the median of those, a counterfactual
    would have to be more typical than real rows are. So what was trained on gets the quantile among held-out rows that it
    has among its own, both beside the median of its class; of held-out rows of the class where there are many, else of all
    classes together.

    Parameters
    ----------
    densities : ndarray of shape (n,)
    codes : ndarray of int, shape (n,)
        Class indices.
    held : ndarray of int
        The rows that were not trained on; if there are too few, densities stay what they are.
    n_classes : int

    Returns
    -------
    list of `n_classes` ndarrays

    Examples
    --------
    >>> seen, unseen = np.arange(90.0), np.arange(-20.0, 70.0, 9)
    >>> (own,) = as_unseen(np.concatenate([seen, unseen]), np.zeros(100, dtype=int), np.arange(90, 100), 1)
    >>> len(own), float(np.median(own))
    (100, 20.5)
    """
    densities = or_impossible(densities)
    corrected, fine = densities.copy(), np.isfinite(densities)
    held = held[fine[held]]
    seen = np.setdiff1d(np.flatnonzero(fine), held)
    if len(held) >= _FEWEST and len(np.unique(codes[seen])) == n_classes:
        beside = densities - np.array([np.median(densities[seen[codes[seen] == k]]) for k in range(n_classes)])[codes]
        for k in range(n_classes):
            mine, others = seen[codes[seen] == k], held[codes[held] == k]
            place = (rankdata(beside[mine], "ordinal") - 0.5) / len(mine)
            moved = np.quantile(beside[others if len(others) >= _OWN else held], place) - beside[mine]
            corrected[mine] += moved.astype(densities.dtype)
    return [np.sort(corrected[codes == k]) for k in range(n_classes)]


def or_impossible(log_density: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(log_density), log_density, -np.inf).astype(log_density.dtype, copy=False)
