"""log p(z | y) by a kernel on each training row of the class: nothing is trained."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cfexplain.density.base import ClassDensity, or_impossible
from cfexplain.foundation.random import draw_seed
from cfexplain.foundation.tiles import in_tiles
from cfexplain.persistence import storable

__all__ = ["KernelDensity", "columns_of"]

_TILE = 256  # rows evaluated at once, always: the bits of a row then do not depend on how many others came with it
_SHARE, _LEAST_WIDTH = 0.5, 1e-3
_WIDTHS = (0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8, 1.12, 1.6)  # that are tried, in standard deviations
_TRIED = 400  # rows of a class that they are tried on
_SWAPPED = 2  # columns of these that come from another row
_NEARLY = 0.9  # of what the best width tells: the widest that tells as much is taken


@storable
class KernelDensity(ClassDensity):
    """Class-conditional density log p(z | y) of tables: the mean of normal densities around training rows of the class.

    Codes are standardised first, but for those that are only ever 0 or 1. The width of the kernels of a class is one that
    tells its rows, each by the others, from the same rows with two columns of another row: kernels as wide as rows of many
    columns lie apart tell nothing of a change of one column. Where no width tells them apart, it is half the median distance
    from a row to its k-th neighbour in the class.

    Parameters
    ----------
    neighbours : int, default=5
        k of that width.
    most : int, default=2000
        Training rows a class that are kept, drawn at random.
    random_state : int, RandomState or None

    Examples
    --------
    >>> import numpy as np
    >>> Z = np.concatenate([np.random.default_rng(0).normal(size=(200, 2)), np.full((200, 2), 9.0)])
    >>> density = KernelDensity(random_state=0).fit(Z, np.repeat([0, 1], 200))
    >>> density.score_samples([[0.0, 0.0], [5.0, 5.0]], [0, 0]).round(0).tolist()
    [-2.0, -445.0]
    """

    loc_: np.ndarray
    scale_: np.ndarray
    rows_: list[np.ndarray]
    widths_: np.ndarray

    def __init__(self, *, neighbours: int = 5, most: int = 2000, random_state: Any = None):
        self.neighbours = neighbours
        self.most = most
        self.random_state = random_state

    def fit(self, Z: ArrayLike, y: ArrayLike | None = None, *, std: Any = None) -> KernelDensity:
        """Keep rows of each class of the codes `Z` (n, d)."""
        Z = np.asarray(Z)
        self.classes_, index = np.unique(np.zeros(len(Z), dtype=int) if y is None else y, return_inverse=True)
        spread, flags = Z.std(0), ((Z == 0) | (Z == 1)).all(0)
        self.loc_ = np.where(flags, 0, Z.mean(0)).astype(Z.dtype)
        self.scale_ = np.where(flags | ~(spread > 0), 1, spread).astype(Z.dtype)
        random = np.random.RandomState(draw_seed(self.random_state))
        self.rows_ = []
        for k in range(len(self.classes_)):
            own = np.flatnonzero(index == k)
            own = np.sort(random.permutation(own)[: self.most])
            self.rows_.append(((Z[own] - self.loc_) / self.scale_).astype(Z.dtype))
        self.widths_ = np.ones(len(self.rows_))
        apart = [self._apart(rows) for rows in self.rows_]
        for k, far in enumerate(apart):
            place = min(self.neighbours, far.shape[1] - 1)
            typical = float(np.median(np.sort(far, axis=1)[:, place - 1])) if place else 1.0
            self.widths_[k] = self._telling_width(self.rows_[k], flags, far, random) or max(_SHARE * typical, _LEAST_WIDTH)
        self.log_densities_ = []
        for k, far in enumerate(apart):  # of each row by the others
            power = torch.from_numpy(-far**2 / (2 * self.widths_[k] ** 2))
            count = max(far.shape[1] - 1, 1)
            self.log_densities_.append(np.sort(or_impossible(
                (power.logsumexp(1) - math.log(count) + self._constant(k)).numpy().astype(Z.dtype))))
        return self

    @staticmethod
    def _telling_width(rows: np.ndarray, flags: np.ndarray, far: np.ndarray, random: np.random.RandomState) -> float | None:
        """The widest that tells rows from such with columns of another row; None if none does, or there are few rows."""
        columns, n = columns_of(rows, flags), len(rows)
        swapped = min(_SWAPPED, len(columns) // 2)
        if not swapped or n < 20:
            return None
        some = random.permutation(n)[:_TRIED]
        mixed, other = rows[some].copy(), rows[random.randint(0, n, len(some))]
        for i in range(len(some)):
            for first, last in (columns[c] for c in random.permutation(len(columns))[:swapped]):
                mixed[i, first:last] = other[i, first:last]
        new = (mixed != rows[some]).any(1)
        if not new.any():
            return None
        some, mixed = some[new], mixed[new]
        away = torch.cdist(torch.from_numpy(mixed).double(), torch.from_numpy(rows).double())
        away[torch.arange(len(some)), torch.from_numpy(some)] = torch.inf  # the row that it was made of
        told = []
        for width in _WIDTHS:
            real, made = ((-distance.square() / (2 * width**2)).logsumexp(1).numpy()
                          for distance in (torch.from_numpy(far[some]), away))
            order = np.sort(made)
            below = np.searchsorted(order, real, "left") + np.searchsorted(order, real, "right")
            told.append(float(below.mean()) / (2 * len(made)) - 0.5)  # the area under the curve, but for chance
        enough = _NEARLY * max(told)
        return max(width for width, tells in zip(_WIDTHS, told, strict=True) if tells >= enough) if enough > 0.02 else None

    @staticmethod
    def _apart(rows: np.ndarray) -> np.ndarray:
        """Distances of rows to each other, infinite to themselves."""
        points = torch.from_numpy(rows).double()
        far = torch.cdist(points, points).numpy()
        np.fill_diagonal(far, np.inf)
        return far

    def _constant(self, k: int) -> float:
        """log of what a kernel of class k is divided by, negative, in the units of the codes."""
        return -float(np.log(self.scale_.astype(float)).sum()) - len(self.scale_) * (
            math.log(self.widths_[k]) + math.log(2 * math.pi) / 2)

    def log_prob(self, z: Tensor, c: Tensor) -> Tensor:
        loc, scale = (torch.from_numpy(values).to(z) for values in (self.loc_, self.scale_))
        z, out = (z - loc) / scale, torch.zeros(len(z), dtype=z.dtype, device=z.device)
        for k, rows in enumerate(self.rows_):
            others = torch.from_numpy(rows).to(z)
            squares = (z.square().sum(1)[:, None] + others.square().sum(1) - 2 * torch.nn.functional.linear(z, others))
            own = (-squares.clamp_min(0) / (2 * self.widths_[k] ** 2)).logsumexp(1) - math.log(len(rows)) + self._constant(k)
            out = torch.where(c == k, own, out)
        return out

    def score_samples(self, Z: ArrayLike, y: Any = None) -> np.ndarray:
        """log p(z | y) in nats, shape (n,); without `y`, log p(z) with classes as in training."""
        Z = np.asarray(Z, dtype=self.loc_.dtype)
        with torch.no_grad():
            every = [torch.full((len(Z),), k) for k in range(len(self.rows_))]
            each = [in_tiles(self.log_prob, torch.from_numpy(Z), c, tile=_TILE).numpy() for c in every]
        if y is not None:
            return or_impossible(np.stack(each, 1)[np.arange(len(Z)), self._indices(y, len(Z))])
        share = np.log([len(rows) for rows in self.rows_]) - np.log(sum(map(len, self.rows_)))
        return or_impossible(np.logaddexp.reduce(np.stack(each, 1) + share, axis=1).astype(self.loc_.dtype))


def columns_of(rows: np.ndarray, flags: np.ndarray) -> list[tuple[int, int]]:
    """Codes that belong together, (first, last + 1): neighbouring flags of which exactly one is set, and all others alone.

    Examples
    --------
    >>> rows = np.array([[0.3, 1, 0, 0, 1], [0.1, 0, 1, 0, 0], [0.2, 0, 0, 1, 1]])
    >>> columns_of(rows, np.array([False, True, True, True, True]))
    [(0, 1), (1, 4), (4, 5)]
    """
    out, first = [], 0
    while first < rows.shape[1]:
        last, total = first + 1, rows[:, first]
        while flags[first] and last < rows.shape[1] and flags[last] and not (total == 1).all():
            total, last = total + rows[:, last], last + 1
        out.append((first, last if flags[first] and (total == 1).all() else first + 1))
        first = out[-1][1]
    return out
