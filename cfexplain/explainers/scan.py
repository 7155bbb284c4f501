"""Changes of one, two, three … columns of a table, tried on the explained model itself: the cheapest that holds.

No gradient, and nothing that was trained for it: a grid of values for each column, combinations of which are ranked as if
their effects on the score added up, and then asked about. What the model accepts is drawn back towards the row, column by
column, and the cheapest that meets every condition of the search is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from cfexplain.density import KernelDensity
from cfexplain.explainers.candidates import Pool, once, pairs_of, rank_of, seen_before, sets_of
from cfexplain.explainers.columns import FINE_LEVELS, LEVELS, Columns
from cfexplain.explainers.neighbourhood import Neighbourhood
from cfexplain.explainers.real_values import RealValues
from cfexplain.explainers.shape import Shape
from cfexplain.explainers.verdict import TOGETHER, Asked, Judged, Verdict
from cfexplain.foundation.tiles import in_tiles

__all__ = ["Answers", "Scan"]

MOST = 8  # columns that change together, unless more are asked for
_SINGLES = 160  # changes of one column that others are made of
_ASKED = 256  # combinations of each size that the model is asked about
_BEAM = 48  # of which larger ones are made
_DRAWN, _DRAWN_AGAIN = 32, 10  # candidates that are drawn back; and for each other answer
_OF_A_SET = 3  # of them of the same columns
_MOVED, _TURNS = 6, 2  # sets of columns whose values are tried again, and how often
_HALVINGS = 7
_KEPT = 64  # candidates of a row among which its other answers are looked for first
_JUDGED = (12, 24, 48)  # candidates of which the conditions are asked, in turn, until one holds
_TIE = 1e-6
CHARGE = 1.0  # what one more column costs, in standard deviations, beside its change
UNKNOWN = 3.0  # what a value costs that no real row has, where rows repeat each other
ODD = 6.0  # what a pair of values costs that next to no real row has
OUTLIER = 4.0  # what it costs to lie off the rows around it, and from which local outlier factor on, rising
_OUTLYING = (1.2, 1.5)
CROWD = 1.0  # of which the third column costs so much more, and n columns (n - 2)² times as much


@dataclass
class Answers:
    """The best candidate of each row, if there is any.

    Attributes
    ----------
    x_cf : ndarray of shape (n, width)
    complete, valid : ndarray of bool, shape (n,)
        There is one that meets every condition; that the model accepts.
    judged : Judged
        Of `x_cf`; of rows without a candidate, of the row itself.
    """

    x_cf: np.ndarray
    complete: np.ndarray
    valid: np.ndarray
    judged: Judged

    def put(self, rows: np.ndarray, others: Answers) -> None:
        """Write `others` in place of those of `rows`."""
        self.x_cf[rows], self.complete[rows], self.valid[rows] = others.x_cf, others.complete, others.valid
        self.judged.put(rows, others.judged)


class Scan:
    """Looks for the cheapest change of few columns.

    Parameters
    ----------
    verdict : Verdict
    columns : Columns
    shape : Shape
        What is typical, roughly.
    values : RealValues
    around : Neighbourhood
        What lies around candidates.
    most : int, optional
        Columns that may change.
    """

    def __init__(self, verdict: Verdict, columns: Columns, shape: Shape, values: RealValues, around: Neighbourhood,
                 most: int | None = None):
        self.verdict, self.columns, self.shape, self.values, self.around = verdict, columns, shape, values, around
        # of prices that are given the total is minimised, and nothing else
        self.charge = _TIE if columns.prices else CHARGE
        self.most = MOST if most is None else most
        self.before: np.ndarray | None = None
        self.kept: list[Pool] | None = None  # candidates of rows of which other answers are wanted; `owner` is the row
        conditions = verdict.run.judge.conditions
        self.judges = "density" in conditions
        self.opinions = "second_opinion" in conditions

    def __call__(self, rows: np.ndarray, before: np.ndarray | None = None, also: np.ndarray | None = None) -> Answers:
        """The best candidate of each of `rows`.

        Parameters
        ----------
        rows : ndarray of int, shape (n,)
        before : ndarray of shape (n, k, width), optional
            Answers that each row has already: another must not change all columns of one of them, nor repeat it.
        also : ndarray of shape (n, width), optional
            Rows whose values are tried, too.
        """
        X, parts = self.verdict.X, []
        for some in self.verdict.parts(np.arange(len(rows)), _SINGLES * _BEAM // 8):
            parts.append(self._part(rows[some], *(None if given is None else given[some] for given in (before, also))))
        rest = rows[sum(len(part.x_cf) for part in parts) :]
        if len(rest) or not parts:  # no time, or no rows
            none = np.zeros(len(rest), dtype=bool)
            parts.append(Answers(X[rest], none, none, self.verdict.judge(X[rest], rest)))
        x_cf, complete, valid = (np.concatenate([getattr(part, name) for part in parts])
                                 for name in ("x_cf", "complete", "valid"))
        return Answers(x_cf, complete, valid, Judged.concatenate([part.judged for part in parts]))

    def _part(self, rows: np.ndarray, before: np.ndarray | None, also: np.ndarray | None) -> Answers:
        self.before = before
        pool = self._moved(self._combined(rows, also), rows)
        if self.kept is not None and before is None:
            hope = np.round(pool.cost + pool.off + pool.unusual, 5)
            some = pool[rank_of(sets_of(pool.owner, pool.acted), ~pool.complete, pool.gap, hope) < _OF_A_SET]
            hope = np.round(some.cost + some.off + some.unusual, 5)
            some = some[rank_of(some.owner, ~some.complete, some.gap, hope) < _KEPT]
            self.kept.append(replace(some, owner=rows[some.owner]))
        return self._best(self._drawn_back(pool, rows), rows)

    def again(self, rows: np.ndarray, before: np.ndarray) -> Answers:
        """Other answers of `rows` than those `before` (n, k, width): among what was kept; scanned for where none of it will
        do.
        """
        if not self.kept or self.verdict.run.deadline.passed:
            return self(rows, before=before)
        kept, self.before = Pool.concatenate(self.kept), before
        place = np.full(len(self.verdict.X), -1)
        place[rows] = np.arange(len(rows))
        pool = replace(kept, owner=place[kept.owner])
        pool = pool[pool.owner >= 0]
        pool = pool[self._allowed(rows, pool.owner, pool.codes, pool.acted)]
        answers = self._best(self._drawn_back(pool, rows, _DRAWN_AGAIN), rows)
        left = np.flatnonzero(~answers.complete)
        if len(left):
            answers.put(left, self(rows[left], before=before[left]))
        return answers

    # ---------------------------------------------------------------- candidates
    def _asked(self, rows: np.ndarray, owner: np.ndarray, codes: np.ndarray, acted: np.ndarray) -> Pool:
        """Candidates that differ from their rows, as the model sees them."""
        x = self.verdict.X[rows[owner]]
        codes = self.columns.ruled(codes, x, acted)
        cost = self._cost(codes, x, acted)
        kept = np.flatnonzero((codes != x).any(1) & np.isfinite(cost) & self._allowed(rows, owner, codes, acted))
        owner, codes, acted, cost = owner[kept], codes[kept], acted[kept], cost[kept]
        asked = self.verdict.asked(codes, rows[owner])
        zero = np.zeros(len(owner))
        pool = Pool(owner, codes, acted, cost, asked.score, asked.gap, asked.sure, *4 * (zero,), asked.sure.copy())
        if self.judges and len(pool):
            verdict, which = self.verdict, rows[pool.owner]
            said = verdict.judge(pool.codes, which, asked)
            pool.density, pool.opinion = _rounded(said.log_density), _rounded(said.opinion)
            pool.complete = pool.sure & said.conditions.all(1)
            pool.off = self._off(pool.density, pool.opinion, which)
            pool.unusual = self._rare(pool, which)
            if not self.columns.prices:
                before = verdict.X[which]
                pool.unusual += UNKNOWN * self.values.unknown(pool.codes, before, which)
                pool.unusual += ODD * self.around.odd_pairs(pool.codes, self.columns.changed(pool.codes, before))
        return pool

    def _allowed(self, rows: np.ndarray, owner: np.ndarray, codes: np.ndarray, acted: np.ndarray) -> np.ndarray:
        """Which candidates are other answers than those before."""
        if self.before is None:
            return np.ones(len(owner), dtype=bool)
        X, scale, before = self.verdict.X[rows], self.verdict.scale, self.before.swapaxes(0, 1)
        inside, repeated = seen_before(
            acted, (codes - X[owner]) / scale, [self.columns.changed(one, X)[owner] for one in before],
            [((one - X) / scale)[owner] for one in before])
        return ~(inside | repeated)

    def unusual(self, log_density: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What it costs to be less typical; nothing, where prices are given."""
        if not self.judges or self.columns.prices:
            return np.zeros(len(rows))
        return np.round(self.verdict.unusual(log_density, rows), 4)

    def _rare(self, pool: Pool, rows: np.ndarray) -> np.ndarray:
        """What it costs to be less typical.

        Of rows with categories also as rows, and not only as codes in a latent space, in which a category is little.
        """
        verdict, unusual = self.verdict, self.unusual(pool.density, rows)
        if self.columns.prices or isinstance(verdict.explainer.density_, KernelDensity):
            return unusual
        kernel = self.around.kernel  # fitted here, the first time
        if kernel is None:
            return unusual
        labels = torch.from_numpy(verdict.goal.rows["target"][rows])
        said = in_tiles(kernel.log_prob, torch.from_numpy(pool.codes), labels, tile=TOGETHER).numpy()
        return np.maximum(unusual, np.round(verdict.unusual(_rounded(said), rows, kernel), 4))

    def _off(self, density: np.ndarray, opinion: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How far candidates are from the conditions that do not ask the model: √nats and log-odds."""
        off = np.sqrt(np.maximum(self.verdict.wanted[rows] - density, 0))
        if self.opinions:
            off += np.minimum(np.maximum(self.verdict.needed(rows, opinion=True) - opinion, 0), 5.0)
        return np.round(off, 4)

    def _off_others(self, codes: np.ndarray) -> np.ndarray:
        """What it costs to lie off the rows around it; nothing, where prices are given."""
        if not self.judges or self.columns.prices:
            return np.zeros(len(codes))
        low, high = _OUTLYING
        return np.round(OUTLIER * np.clip((self.around.outlying(codes) - low) / (high - low), 0, 1), 4)

    def cost(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What changes of `rows` cost, with the charge for each column."""
        x = self.verdict.X[rows]
        return self._cost(codes, x, self.columns.acted(codes, x))

    def _cost(self, codes: np.ndarray, x: np.ndarray, acted: np.ndarray) -> np.ndarray:
        count = acted.sum(1)
        crowd = self.charge * (count + CROWD * np.maximum(count - 2, 0) ** 2)
        return np.round(np.where(acted, self.columns.costs(codes, x), 0.0).sum(1) + crowd, 9)

    def _singles(self, rows: np.ndarray, also: np.ndarray | None, levels: int = LEVELS) -> Pool:
        x, width, parts = self.verdict.X[rows], len(self.columns.places), []
        values_of = self.columns.values(levels)
        for k, (values, (first, last)) in enumerate(zip(values_of, self.columns.places, strict=True)):
            tried = np.tile(values, (len(rows), 1, 1))
            if also is not None:
                tried = np.concatenate([also[:, None, first:last], tried], axis=1)
            count = tried.shape[1]
            codes, before = np.repeat(x, count, axis=0), np.repeat(x, count, axis=0)
            codes[:, first:last] = tried.reshape(-1, last - first)
            acted = np.zeros((len(codes), width), dtype=bool)
            acted[:, k] = True
            ruled = self.columns.ruled(codes, before, acted)
            # what the rules made of it in this column
            moved = (ruled[:, first:last] != before[:, first:last]).any(1)
            owner = np.repeat(np.arange(len(rows)), count)[moved]
            some = np.column_stack([owner, ruled[moved][:, first:last]])
            _, once = np.unique(some, axis=0, return_index=True)
            once = np.sort(once)
            parts.append((owner[once], ruled[moved][once], acted[: len(once)]))
        owner, codes, acted = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(owner, kind="stable")
        return self._asked(rows, owner[order], codes[order], acted[order])

    def _combined(self, rows: np.ndarray, also: np.ndarray | None) -> Pool:
        """Changes of one, two, … columns."""
        X, verdict = self.verdict.X[rows], self.verdict
        as_it_is, needed = verdict.asked(X, rows), verdict.needed(rows) if verdict.is_class else None
        start, said = as_it_is.score, verdict.judge(X, rows, as_it_is)
        typical, opinion = _rounded(said.log_density), _rounded(said.opinion)
        singles = self._singles(rows, also)
        pools, best = [singles, self._singles(rows, None, FINE_LEVELS)], np.full(len(rows), np.inf)
        for alone in pools:
            self._note(best, alone)
        short = self._short(start, rows, needed)
        gain = singles.score - start[singles.owner] if verdict.is_class else (
            short[singles.owner] - self._short(singles.score, rows[singles.owner], None))
        singles = singles[rank_of(singles.owner, *self._worth(singles, gain)) < _SINGLES]
        column, beam = singles.acted.argmax(1), singles
        whole = short + self._off(typical, opinion, rows) * self.judges
        dearest = np.zeros(len(rows))  # of one change
        np.maximum.at(dearest, singles.owner, singles.cost)
        for size in range(2, min(self.most, len(self.columns.places)) + 1):
            left, right = pairs_of(beam.owner, singles.owner)
            new = column[left] < column[right] if size == 2 else ~beam.acted[left, column[right]]
            left, right = left[new], right[new]
            new = beam.cost[left] + singles.cost[right] < best[beam.owner[left]]
            left, right = left[new], right[new]
            if not len(left) or verdict.run.deadline.passed:
                break
            owner, cost = beam.owner[left], beam.cost[left] + singles.cost[right]
            # what is short is likely to cost as much as it did in the cheapest that will do
            rate = np.where(np.isfinite(best), best / 1.5, dearest) / np.maximum(whole, 1e-6)
            # as if effects added up
            score = beam.score[left] + singles.score[right] - start[owner]
            short = self._short(score, rows[owner], None if needed is None else needed[owner])
            far, likely, near = short.copy(), cost, cost
            if self.judges:
                which = rows[owner]
                density = beam.density[left] + singles.density[right] - typical[owner]
                agreed = beam.opinion[left] + singles.opinion[right] - opinion[owner]
                # and as the columns of real rows hang together
                hung = density - self.shape.together(beam.codes - X[beam.owner], left, singles.codes - X[singles.owner],
                                                     right, column, which, self.columns.places)
                short += self._off(density, agreed, which)
                far += self._off(hung, agreed, which)
                likely, near = (np.round(cost + self.unusual(said, which), 5) for said in (density, hung))
            far, short = np.round(far, 4), np.round(short, 4)
            hope = np.round(cost + rate[owner] * short, 6)
            first = [(np.where(short > 0, np.inf, cost), short), (np.where(short > 0, np.inf, likely), short), (hope,),
                     (short, cost), (far, near)]
            some = np.flatnonzero(np.logical_or.reduce([rank_of(owner, *keys) < _ASKED // 4 for keys in first]))
            left, right, owner = left[some], right[some], owner[some]
            asked = once(self._asked(rows, owner, self._joined(beam, left, singles, right, column),
                                      beam.acted[left] | singles.acted[right]))
            pools.append(asked)
            self._note(best, asked)
            short = np.round(asked.off + self._short(asked.score, rows[asked.owner], None if needed is None
                                                     else needed[asked.owner]), 4)
            # what will do already gets no cheaper by one more column
            hope = np.round(asked.cost + rate[asked.owner] * short, 6)
            done = asked.complete & (asked.unusual == 0)
            first = [(short, asked.cost), (hope,)]
            beam = asked[~done & np.logical_or.reduce(
                [rank_of(asked.owner, done, *keys) < _BEAM // len(first) for keys in first])]
        return once(Pool.concatenate(pools))

    def _joined(self, beam: Pool, left: np.ndarray, singles: Pool, right: np.ndarray, column: np.ndarray) -> np.ndarray:
        codes = beam.codes[left].copy()
        for k, (first, last) in enumerate(self.columns.places):
            at = np.flatnonzero(column[right] == k)
            codes[at, first:last] = singles.codes[right[at], first:last]
        return codes

    @staticmethod
    def _worth(singles: Pool, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Changes of one column by what they bring for what they cost; those of each column that bring most come first."""
        most = rank_of(singles.owner * singles.acted.shape[1] + singles.acted.argmax(1), -gain) > 3
        return most.astype(float), -np.round(gain / (singles.cost + 0.1), 6)

    def _short(self, score: np.ndarray, rows: np.ndarray, needed: np.ndarray | None) -> np.ndarray:
        """By how much a score falls short."""
        if needed is not None:
            return np.round(np.maximum(needed - score, 0), 5)
        goal = self.verdict.goal.rows
        return np.maximum(np.maximum(goal["low"][rows] - score, score - goal["high"][rows]), 0)

    @staticmethod
    def _note(best: np.ndarray, pool: Pool) -> None:
        """Note what dearer combinations need not be tried of each row."""
        # a little above the cheapest that will do: what is drawn back may become cheaper than it
        np.minimum.at(best, pool.owner[pool.complete], 1.5 * (pool.cost + pool.unusual)[pool.complete])

    def _moved(self, pool: Pool, rows: np.ndarray) -> Pool:
        """With other values in the columns of the best of each few sets of columns, one column at a time, in turns."""
        values = self.columns.values(LEVELS if self.judges else FINE_LEVELS)  # a density is slower to ask than most models
        for _ in range(_TURNS):
            if self.verdict.run.deadline.passed:
                break
            hope = np.round(pool.cost + pool.off + pool.unusual, 5)
            of_its_set = rank_of(sets_of(pool.owner, pool.acted), ~pool.sure, hope) == 0
            best = pool[of_its_set & pool.sure]
            best = best[rank_of(best.owner, ~best.complete, np.round(best.cost + best.off + best.unusual, 5)) < _MOVED]
            parts = []
            for k, (first, last) in enumerate(self.columns.places):
                some = np.flatnonzero(best.acted[:, k])
                codes = np.repeat(best.codes[some], len(values[k]), axis=0)
                codes[:, first:last] = np.tile(values[k], (len(some), 1))
                which = np.repeat(some, len(values[k]))
                parts.append((best.owner[which], codes, best.acted[which]))
            owner, codes, acted = (np.concatenate(part) for part in zip(*parts, strict=True))
            order = np.argsort(owner, kind="stable")
            pool = once(Pool.concatenate([pool, self._asked(rows, owner[order], codes[order], acted[order])]))
        return pool

    # ------------------------------------------------------------------ drawn back
    def _drawn_back(self, pool: Pool, rows: np.ndarray, most: int = _DRAWN) -> Pool:
        """The cheapest that the model accepts, with each number as near to the row as it accepts; and as they were.

        By bisection, column by column, the dearest change first. Rows of which it accepts nothing as sure as is asked for
        keep what it accepts at all, and then what it accepts nearly.
        """
        level = np.select([pool.complete, pool.sure, pool.gap == 0], [0, 1, 2], 3)
        best = np.full(len(rows), 3)
        np.minimum.at(best, pool.owner, level)
        some = level <= np.maximum(best, 1)[pool.owner]
        pool, worse = pool[some], np.where(level == 3, 1.0 + pool.gap, 0.0)[some]
        hope = np.round(pool.cost + pool.off + pool.unusual, 5)
        some = rank_of(sets_of(pool.owner, pool.acted), worse, hope) < _OF_A_SET
        pool, worse, hope = pool[some], worse[some], hope[some]
        pool = pool[rank_of(pool.owner, worse, hope) < most]
        move = np.flatnonzero(pool.gap == 0)
        if not len(move):
            return pool
        drawn = pool[move]
        x = self.verdict.X[rows[drawn.owner]]
        for turn in range(int(drawn.acted.sum(1).max())):
            if not self.verdict.run.deadline.passed:
                self._draw_one(drawn, x, rows, turn)
        drawn = self._asked(rows, drawn.owner, drawn.codes, drawn.acted)  # as typical as they are now
        return once(Pool.concatenate([pool, drawn]))

    def _draw_one(self, drawn: Pool, x: np.ndarray, rows: np.ndarray, turn: int) -> None:
        """Draw back that number of each candidate which is dearest but `turn`, in place."""
        columns = self.columns
        costs = np.where(drawn.acted, columns.costs(drawn.codes, x), -1.0)
        column = np.argsort(-np.round(costs, 9), axis=1, kind="stable")[:, turn]
        first = np.array([place[0] for place in columns.places])[column]
        some = np.flatnonzero((np.take_along_axis(costs, column[:, None], 1)[:, 0] > 0) & columns.free[first])
        if not len(some):
            return
        place, owner = first[some], drawn.owner[some]
        start, end = x[some, place], drawn.codes[some, place].copy()
        near, far, sure = np.zeros(len(some)), np.ones(len(some)), drawn.sure[some]
        for _ in range(_HALVINGS):
            if self.verdict.run.deadline.passed:
                break
            share, codes = (near + far) / 2, drawn.codes[some].copy()
            codes[np.arange(len(some)), place] = start + share * (end - start)
            codes = columns.ruled(codes, x[some], drawn.acted[some])
            asked = self.verdict.asked(codes, rows[owner])
            fine = np.where(sure, asked.sure, asked.gap == 0)
            at = some[fine]
            drawn.codes[at], drawn.score[at], drawn.gap[at] = codes[fine], asked.score[fine], asked.gap[fine]
            near, far = np.where(fine, near, share), np.where(fine, share, far)
        self._to_real(drawn, x, rows, some, place)
        drawn.cost[some] = self._cost(drawn.codes[some], x[some], drawn.acted[some])

    def _to_real(self, drawn: Pool, x: np.ndarray, rows: np.ndarray, some: np.ndarray, place: np.ndarray) -> None:
        """Move that number of some candidates on to a value that real rows have, where a column has few, in place."""
        codes = drawn.codes[some].copy()
        codes[np.arange(len(some)), place] = self.values.onward(
            codes[np.arange(len(some)), place], x[some, place], place, rows[drawn.owner[some]])
        codes = self.columns.ruled(codes, x[some], drawn.acted[some])
        new = np.flatnonzero((codes != drawn.codes[some]).any(1))
        if not len(new):
            return
        asked = self.verdict.asked(codes[new], rows[drawn.owner[some[new]]])
        fine = np.where(drawn.sure[some[new]], asked.sure, asked.gap == 0)
        at = some[new[fine]]
        drawn.codes[at], drawn.score[at], drawn.gap[at] = codes[new[fine]], asked.score[fine], asked.gap[fine]

    # ------------------------------------------------------------------------- judged
    def _best(self, pool: Pool, rows: np.ndarray) -> Answers:
        """The cheapest that meets every condition; else what the model accepts and meets most; else the least far off."""
        n = len(rows)
        x_cf = self.verdict.X[rows].copy()
        complete, valid = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        judged = self.verdict.judge(x_cf, rows)
        met = np.full(n, -1)
        order = np.lexsort([pool.acted.sum(1), pool.cost + pool.off + pool.unusual, pool.gap, pool.owner])
        pool = pool[order]
        rank = rank_of(pool.owner, np.arange(len(pool)))
        done = 0
        for until in _JUDGED:
            some = np.flatnonzero(~complete[pool.owner] & (rank >= done) & (rank < until))
            if not len(some):
                break
            done = until
            said = self.verdict.judge(pool.codes[some], rows[pool.owner[some]], Asked(
                pool.gap[some], pool.score[some], pool.sure[some]))
            count = np.where(pool.gap[some] == 0, 1 + said.conditions.sum(1), 0)
            every = (pool.gap[some] == 0) & said.conditions.all(1)
            price = np.where(every, pool.cost[some] + pool.unusual[some] + self._off_others(pool.codes[some]), 0.0)
            by = np.lexsort([rank[some], np.round(price, 6), -count, ~every, pool.owner[some]])
            who, first = np.unique(pool.owner[some][by], return_index=True)
            chosen = by[first]
            better = count[chosen] > met[who]
            who, chosen = who[better], chosen[better]
            met[who], complete[who], valid[who] = count[chosen], every[chosen], count[chosen] > 0
            x_cf[who] = pool.codes[some[chosen]]
            judged.put(who, said[chosen])
        return Answers(x_cf, complete, valid, judged)


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.round(np.nan_to_num(values.astype(float), nan=-1e6, neginf=-1e6, posinf=1e6), 4)
