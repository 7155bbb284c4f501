"""Real rows around candidates: pairs of values that none of them has, and how far off a candidate lies.

A density of whole rows hardly notices that a husband is female, or that eleven years of school end in a bachelor's degree,
and of two rows that are as dense it does not say that one lies beside a crowd and not in it. A flow of latent codes hardly
notices which categories were changed, either: of such tables a density of the rows is asked, too.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from sklearn.neighbors import LocalOutlierFactor

from cfexplain.density import KernelDensity
from cfexplain.explainers.columns import Columns

__all__ = ["Neighbourhood"]

_BINS = 16  # of a number
_EXPECTED = 5.0  # rows that should have a pair of values, were the columns independent, of which it is told
_ODD = 0.05  # of them that have it, or fewer
_NEIGHBOURS = 20  # as scikit-learn has it
_TOGETHER = 256  # rows seen together, always: the bits of a row then do not depend on how many others came with it

_known: WeakKeyDictionary[Any, Neighbourhood] = WeakKeyDictionary()


class Neighbourhood:
    """Training rows, of all classes, that candidates are seen among; what is known of them is found out when asked for.

    Parameters
    ----------
    columns : Columns
    real, answers : ndarray of shape (m, width), (m,)
        Rows, and the class indices, or values, that the model gives them.
    classes : int
        How many there are; 0 where answers are values.
    """

    def __init__(self, columns: Columns, real: np.ndarray, answers: np.ndarray, classes: int):
        self.places, self.groups = columns.places, set(columns.groups)
        self.real, self.answers, self.classes = real, answers, classes

    @classmethod
    def of(cls, owner: Any, columns: Columns, real: np.ndarray, answers: np.ndarray, classes: int) -> Neighbourhood:
        """That of an `owner`, kept from call to call while it has the same rows."""
        known = _known.get(owner)
        if known is None or known.real is not real:
            known = _known[owner] = cls(columns, real, answers, classes)
        return known

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("places", "groups", "real", "answers", "classes")}

    # ------------------------------------------------------------------------------------------------- pairs of values
    def odd_pairs(self, codes: np.ndarray, changed: np.ndarray) -> np.ndarray:
        """How many pairs of values of `codes` (n, width) next to no real row has, one of them `changed` (n, columns), (n,).

        Numbers count by the interval between quantiles in which they lie.
        """
        out = np.zeros(len(codes))
        if not len(self.real):
            return out
        odd, cells = self._odd, self._cells(codes)
        for k in range(len(self.places)):
            some = np.flatnonzero(changed[:, k])
            beside = odd[cells[some, k][:, None], cells[some]]
            out[some] += (beside * np.where(changed[some], 0.5, 1.0)).sum(1)  # where both are changed it is met twice
        return out

    def _cells(self, codes: np.ndarray) -> np.ndarray:
        """The cell of each value, of all columns' cells, (n, columns)."""
        inside = [codes[:, first:last].argmax(1) if edges is None else np.searchsorted(edges, codes[:, first])
                  for edges, (first, last) in zip(self._edges, self.places, strict=True)]
        return np.stack(inside, axis=1) + self._begins[:-1]

    @cached_property
    def _edges(self) -> list[np.ndarray | None]:
        shares = np.linspace(0, 1, _BINS + 1)
        return [None if place in self.groups else np.unique(np.quantile(self.real[:, place[0]], shares, method="nearest"))
                for place in self.places]

    @cached_property
    def _begins(self) -> np.ndarray:
        """The first cell of each column, and the number of all."""
        sizes = [last - first if edges is None else len(edges) + 1
                 for edges, (first, last) in zip(self._edges, self.places, strict=True)]
        return np.cumsum([0, *sizes])

    @cached_property
    def _odd(self) -> np.ndarray:
        """Which cells next to no row has together although many rows have each of them, bool (cells, cells)."""
        begins, cells, count = self._begins, self._cells(self.real), int(self._begins[-1])
        odd = np.zeros((count, count), dtype=bool)
        seen = np.bincount(cells.reshape(-1), minlength=count)
        for i in range(len(self.places)):
            mine = slice(begins[i], begins[i + 1])
            for j in range(i):
                other = slice(begins[j], begins[j + 1])
                expected = np.outer(seen[mine], seen[other]) / len(self.real)
                met = np.bincount((cells[:, i] - begins[i]) * expected.shape[1] + cells[:, j] - begins[j],
                                  minlength=expected.size).reshape(expected.shape)
                odd[mine, other] = (expected >= _EXPECTED) & (met <= _ODD * expected)
                odd[other, mine] = odd[mine, other].T
        return odd

    # ------------------------------------------------------------------------------------------------ whole rows
    @cached_property
    def kernel(self) -> KernelDensity | None:
        """A density of rows with categories, of each class by its index, as the model tells them.

        None if it does not say all classes, or there are no categories.
        """
        if not self.groups:
            return None
        if not self.classes:
            return KernelDensity(random_state=0).fit(self.real) if len(self.real) else None
        if len(np.unique(self.answers[self.answers >= 0])) < self.classes:
            return None
        said = self.answers >= 0
        return KernelDensity(random_state=0).fit(self.real[said], self.answers[said])

    def outlying(self, codes: np.ndarray) -> np.ndarray:
        """How much further apart rows lie around each of `codes` than around its neighbours, (n,): about 1 for most rows.

        The local outlier factor (Breunig et al., 2000); 1 where there are too few real rows to tell.
        """
        if self._factor is None or not len(codes):
            return np.ones(len(codes))
        parts = []
        for first in range(0, len(codes), _TOGETHER):
            some = codes[first : first + _TOGETHER]
            parts.append(-self._factor.score_samples(np.resize(some, (_TOGETHER, some.shape[1])))[: len(some)])
        return np.round(np.concatenate(parts), 4)

    @cached_property
    def _factor(self) -> LocalOutlierFactor | None:
        if len(self.real) <= 2 * _NEIGHBOURS:
            return None
        with warnings.catch_warnings():  # of rows that are the same, which tables have
            warnings.simplefilter("ignore", UserWarning)
            return LocalOutlierFactor(n_neighbors=_NEIGHBOURS, algorithm="brute", novelty=True).fit(self.real)
