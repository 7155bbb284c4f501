"""The values that real rows have in columns in which rows repeat each other: whole numbers, lumps, zeros."""

from __future__ import annotations

import numpy as np

from cfexplain.explainers.columns import Columns
from cfexplain.explainers.verdict import Verdict

__all__ = ["RealValues"]

_FEW = 0.5  # distinct values a row, of columns in which rows repeat each other


class RealValues:
    """Known values of numbers: of those that hold few, one between two of them is one that nobody has.

    Parameters
    ----------
    verdict : Verdict
    columns : Columns
    real, answers : ndarray of shape (m, width), (m,)
        Training rows, and the class indices, or values, that the model gives them.
    """

    def __init__(self, verdict: Verdict, columns: Columns, real: np.ndarray, answers: np.ndarray):
        self.target, self.known = verdict.goal.rows["target"], {}
        if "density" not in verdict.run.judge.conditions:  # nothing is asked of what real rows are like
            return
        few = [place for place in columns.numbers if len(np.unique(real[:, place])) <= _FEW * len(real)]
        for label in np.unique(self.target):
            own = real[answers == label] if verdict.is_class else real
            for place in few if len(own) else []:
                values = np.unique(own[:, place])
                self.known[label, place] = values[(values >= columns.low[place]) & (values <= columns.high[place])]

    def onward(self, values: np.ndarray, before: np.ndarray, places: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The next known value, away from `before`; as they are where there is none, or any value will do.

        Parameters
        ----------
        values, before : ndarray of shape (n,)
        places : ndarray of int, shape (n,)
            Which number of the row each of them is.
        rows : ndarray of int, shape (n,)
        """
        out, label = values.copy(), self.target[rows]
        for (wanted, place), known in self.known.items():
            some = np.flatnonzero((label == wanted) & (places == place) & (values != before))
            now = values[some]
            up = now > before[some]
            at = np.where(up, np.searchsorted(known, now, "left"), np.searchsorted(known, now, "right") - 1)
            inside = (at >= 0) & (at < len(known))
            out[some[inside]] = known[at[inside]]
        return out

    def unknown(self, codes: np.ndarray, before: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How many numbers of `codes` (n, width), in place of the rows `before`, have a value that is not known, (n,)."""
        count, label = np.zeros(len(codes)), self.target[rows]
        for (wanted, place), known in self.known.items():
            some = np.flatnonzero((label == wanted) & (codes[:, place] != before[:, place]))
            count[some] += ~np.isin(codes[some, place], known)
        return count
