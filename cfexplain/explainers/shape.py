"""How the columns of real rows of each class hang together, roughly: what two changes are worth that are made together."""

from __future__ import annotations

import numpy as np

from cfexplain.explainers.verdict import Verdict

__all__ = ["Shape"]

_ROWS = 1000  # of a class


class Shape:
    """A normal distribution of each class's training rows.

    Parameters
    ----------
    verdict : Verdict
    real, answers : ndarray of shape (m, width), (m,)
        Training rows, and the class indices, or values, that the model gives them.
    """

    def __init__(self, verdict: Verdict, real: np.ndarray, answers: np.ndarray):
        self.target, self.known = verdict.goal.rows["target"], {}
        if "density" not in verdict.run.judge.conditions or not len(real):
            return
        for label in np.unique(self.target):
            own = real[answers == label] if verdict.is_class else real
            if len(own) < 2:
                continue
            own = own[:: max(1, len(own) // _ROWS)].astype(float)
            spread = np.cov(own, rowvar=False).reshape(own.shape[1], -1)
            scale = np.sqrt(np.diag(spread)) + 1e-9 * (1 + np.abs(own).max(0))
            shared = spread / scale / scale[:, None] + 0.05 * np.eye(len(scale))  # of numbers of any unit
            self.known[label] = np.linalg.inv(shared) / scale / scale[:, None]

    def together(self, left_moves: np.ndarray, left: np.ndarray, right_moves: np.ndarray, right: np.ndarray,
                 column: np.ndarray, rows: np.ndarray, places: list[tuple[int, int]]) -> np.ndarray:
        """By how many nats changes `left` and `right`, these of one `column` each, cost more together than one by one."""
        out = np.zeros(len(left))
        for label, inverse in self.known.items():
            here = np.flatnonzero(self.target[rows] == label)
            if not len(here):
                continue
            pull = left_moves @ inverse
            for k, (first, last) in enumerate(places):
                some = here[column[right[here]] == k]
                out[some] = (pull[left[some], first:last] * right_moves[right[some], first:last]).sum(1)
        return np.round(out, 4)
