"""How a map is measured against a counterfactual, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

__all__ = ["Judge", "rank_correlation"]

POINTING = 0.1  # "pointing": the map's strongest pixel is among this share of the most changed ones


class Judge:
    """Measures saliency maps against the change |x′ − x| and against the classifier, row by row."""

    def __init__(self, adapter: Any, x: np.ndarray, x_cf: np.ndarray, target: np.ndarray, change: np.ndarray,
                 shares: tuple[float, ...], seed: int):
        self.adapter, self.x, self.x_cf, self.target, self.change = adapter, x, x_cf, target, change
        self.shares, self.rng = shares, np.random.default_rng(seed)
        self.top = {share: self._top(change, share) for share in {*shares, POINTING}}

    def all(self, maps: np.ndarray) -> dict[str, np.ndarray]:
        return {"spearman": rank_correlation(maps, self.change),
                **{f"overlap@{share:g}": self._overlap(self._top(maps, share), share) for share in self.shares},
                "pointing": self._overlap(self._top(maps, 0.0), POINTING), **self.flips(maps)}

    def flips(self, maps: np.ndarray) -> dict[str, np.ndarray]:
        return {f"flip@{share:g}": self._flipped(self._top(maps, share)) for share in self.shares}

    def random(self, n: int) -> dict[str, np.ndarray]:
        drawn = [self.all(self.rng.random(self.change.shape)) for _ in range(n)]
        return {name: np.mean([values[name] for values in drawn], axis=0) for name in drawn[0]}

    def _top(self, maps: np.ndarray, share: float) -> np.ndarray:
        """Mask of each row's strongest share of pixels, at least one; ties are broken at random."""
        flat = maps.reshape(len(maps), -1)
        order = np.lexsort((self.rng.random(flat.shape), -flat), axis=1)
        mask = np.zeros(flat.shape, bool)
        np.put_along_axis(mask, order[:, : max(1, round(share * flat.shape[1]))], True, axis=1)
        return mask.reshape(maps.shape)

    def _overlap(self, mask: np.ndarray, share: float) -> np.ndarray:
        """Share of the marked pixels that are among the most changed `share`."""
        mask, top = (m.reshape(len(m), -1) for m in (mask, self.top[share]))
        return (mask & top).sum(1) / mask.sum(1)

    def _flipped(self, mask: np.ndarray) -> np.ndarray:
        """1 where the classifier gives x with the marked pixels of x′ its target, else 0."""
        mixed = np.where(mask[:, None] if self.x.ndim == 4 else mask, self.x_cf, self.x)
        return (self.adapter.answers(mixed)[0] == self.target).astype(float)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of `a` and `b` (n, …), shape (n,); NaN where either is constant.

    >>> rank_correlation(np.array([[1.0, 2.0, 9.0], [1.0, 1.0, 1.0]]), np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]))
    array([ 1., nan])
    """
    ranks = [rankdata(values.reshape(len(values), -1), axis=1) for values in (a, b)]
    first, second = (r - r.mean(1, keepdims=True) for r in ranks)
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return np.divide((first * second).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)
