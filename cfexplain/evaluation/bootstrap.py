"""Means with intervals, and paired differences, from one resampling of rows for all methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

__all__ = ["PairedDifference", "Resampling", "Statistic", "paired", "statistic"]

_BLOCK = 4_000_000  # at most so many entries of the matrix of counts are in memory


@dataclass(frozen=True)
class Resampling:
    """`n_bootstrap` draws of `n` rows with replacement, which `seed` fixes: every call uses the same draws.

    Examples
    --------
    >>> low, high = Resampling(4, 500, 0.95, 0).intervals(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [6.0, np.nan]])).T
    >>> low[0] < 3 < high[0], low[1], high[1]
    (np.True_, np.float64(5.0), np.float64(5.0))
    """

    n: int
    n_bootstrap: int
    level: float
    seed: int

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of each column of `values` (n, c) in each draw, (n_bootstrap, c); NaN where a draw has no finite value."""
        rng = np.random.default_rng(self.seed)
        finite = np.isfinite(values)
        filled = np.where(finite, values, 0.0)
        step, parts = max(1, _BLOCK // max(self.n, 1)), [np.empty((0, values.shape[1]))]
        for first in range(0, self.n_bootstrap, step):
            draws = min(step, self.n_bootstrap - first)
            drawn = rng.integers(0, self.n, (draws, self.n)) + self.n * np.arange(draws)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=draws * self.n).reshape(draws, self.n).astype(float)
            with np.errstate(invalid="ignore"):
                parts.append((counts @ filled) / (counts @ finite.astype(float)))
        return np.concatenate(parts)

    def intervals(self, values: np.ndarray) -> np.ndarray:
        """Percentile interval of the mean of each column of `values` (n, c), shape (c, 2); NaN where there is none."""
        out = np.full((values.shape[1], 2), np.nan)
        known = np.isfinite(values).any(0)
        if self.n and self.n_bootstrap and known.any():
            tails = (1 - self.level) / 2
            out[known] = np.nanquantile(self.means(values[:, known]), (tails, 1 - tails), axis=0).T
            finite: dict[str, Any] = {"axis": 0, "where": np.isfinite(values)}
            # rounding must not move a mean beyond the smallest or the largest row
            out = np.clip(out, values.min(initial=np.inf, **finite)[:, None], values.max(initial=-np.inf, **finite)[:, None])
        return out


@dataclass(frozen=True)
class Statistic:
    """Mean of the finite values, their standard deviation (n − 1), the mean's interval, and how many rows are in it.

    ``missing`` counts rows without a finite value; rows that the metric itself leaves out are in neither count.
    """

    mean: float = np.nan
    std: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: int = 0
    missing: int = 0


def statistic(values: np.ndarray, counts: np.ndarray, interval: np.ndarray) -> Statistic:
    """Of `values` (n,) at the rows of the mask `counts`."""
    finite = values[counts & np.isfinite(values)]
    n = len(finite)
    return Statistic(
        float(finite.mean()) if n else np.nan, float(finite.std(ddof=1)) if n > 1 else np.nan, float(interval[0]),
        float(interval[1]), n, int(counts.sum()) - n)


@dataclass(frozen=True)
class PairedDifference:
    """`a` against `b` on the rows in which both have a value.

    Attributes
    ----------
    metric, a, b : str
    n, missing : int
        Rows that were compared, and rows in which either has no value.
    difference, low, high : float
        Mean of a − b, and its interval.
    share_better : float
        Share of the rows in which a is strictly better than b; NaN for a metric of no direction.
    share_equal : float
    p_value : float
        Of Wilcoxon's signed-rank test, two-sided; 1 where no row differs. Not corrected for the number of comparisons.
    comparable : bool
        False if the methods are measured by different parts: then the difference has no meaning.
    better : str
        `a` or `b` where the interval of the difference excludes 0, the metric has a direction and the two are
        comparable; else empty.
    """

    metric: str
    a: str
    b: str
    n: int
    missing: int
    difference: float
    low: float
    high: float
    share_better: float
    share_equal: float
    p_value: float
    comparable: bool
    better: str


def paired(metric: str, a: str, b: str, difference: np.ndarray, interval: np.ndarray, sign: int,
           comparable: bool) -> PairedDifference:
    """Of the values `difference` (n,) = a − b, NaN where either is missing; `sign` is 1 where up is better."""
    known = difference[np.isfinite(difference)]
    n, (low, high), nan = len(known), interval, float("nan")
    if n == 0:
        return PairedDifference(metric, a, b, 0, len(difference), nan, nan, nan, nan, nan, nan, comparable, "")
    better = ""
    if sign and comparable and (low > 0 or high < 0):
        better = a if (low > 0) == (sign > 0) else b
    return PairedDifference(
        metric, a, b, n, len(difference) - n, float(known.mean()), float(low), float(high),
        float((sign * known > 0).mean()) if sign else np.nan, float((known == 0).mean()),
        float(wilcoxon(known).pvalue) if known.any() else 1.0, comparable, better)
