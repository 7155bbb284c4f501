"""What is said of candidate rows of a table: by the explained model itself, and by the conditions of the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cfexplain.density.base import ClassDensity
from cfexplain.explainers.candidates import OfRows
from cfexplain.explainers.found import Found
from cfexplain.explainers.task import Classification, Goal
from cfexplain.foundation.deadline import in_time
from cfexplain.foundation.numbers import log_odds_of
from cfexplain.foundation.tiles import in_tiles

__all__ = ["Asked", "Judged", "Verdict"]

TOGETHER = 256  # rows that are judged at once
NUMBERS = 2**22  # of candidates that are held at once: bounds memory
_OF_THE_MODEL = ("decision", "value")  # conditions that ask the model alone
_OF_CODES = ("density", "second_opinion")  # and those that do not ask it
UNIQUE = 10.0  # the price of being less typical than any row of the class, in standard deviations of a number
_ENOUGH = 0.6  # the quantile of the class's densities from which on nothing is to be paid
_TAIL = 0.05  # the quantile below which densities are told apart by how low they are
_AT_LEAST = 16  # candidates that are asked about together where time is limited: with fewer, a fast model waits for us
_CERTAIN = 35.0  # log-odds beyond which nothing is surer


@dataclass
class Judged(OfRows):
    """What the search says of candidate rows; ``judged[rows]`` of some of them."""

    z: np.ndarray
    log_density: np.ndarray
    valid: np.ndarray
    opinion: np.ndarray  # log-odds, of the least convinced member
    conditions: np.ndarray  # (n, conditions)


@dataclass
class Asked(OfRows):
    """What the model says of candidate rows.

    Attributes
    ----------
    gap : ndarray of shape (n,)
        How far it is from what is wanted: 0 where it says so.
    score : ndarray of shape (n,)
        Log-odds of the target, or the value.
    sure : ndarray of bool, shape (n,)
        It says so, and is as sure as the search asks for.
    """

    gap: np.ndarray
    score: np.ndarray
    sure: np.ndarray


class Verdict:
    """Asks about candidates for the rows of one call.

    Parameters
    ----------
    run : Run
        Of the fitted explainer.
    X, goal, prepared
        The rows, what is wanted of them, and what the search knows of them.
    ask : callable ``(rows, which) -> answers``, optional
        What the model says of rows in place of the rows `which` of X, as ``task_.answers`` has it.
    """

    def __init__(self, run: Any, X: np.ndarray, goal: Goal, prepared: dict[str, Any], ask: Callable | None = None):
        self.run, self.explainer, self.X, self.goal, self.prepared = run, run.explainer, X, goal, prepared
        explainer = self.explainer
        self.ask = ask or (lambda codes, which: explainer.task_.answers(explainer.classifier_, codes))
        # a model that networks of the search imitate, or that no gradient is asked of, is asked itself
        self.imitated = ask is not None or explainer.classifier_.is_surrogate or not explainer.differentiable
        self.is_class = isinstance(explainer.task_, Classification)
        self.names = list(prepared)
        self.scale = np.where(explainer.scale_ > 0, explainer.scale_, 1.0)  # of columns, by which answers are told apart
        self.wanted = prepared["typical"].cpu().numpy()
        self.known = {name: values for name, values in prepared.items() if values.ndim == 1}
        self.terms = [term for term in run.objective.terms if term.name in _OF_THE_MODEL]

    # ------------------------------------------------------------------------ the model
    def asked(self, codes: np.ndarray, rows: np.ndarray) -> Asked:
        """What the model says of `codes` (n, width), in place of `rows` (n,).

        Rounded: the last bits of a model's answers may depend on the company that a row is asked about in. What there is no
        time to ask about counts as not accepted.
        """
        deadline, parts = self.run.deadline, []
        if not deadline.limited or len(codes) <= _AT_LEAST:
            return self._asked(codes, rows)
        for some in in_time(np.arange(len(codes)), len(codes), deadline, _AT_LEAST):
            parts.append(self._asked(codes[some], rows[some]))
        left = len(codes) - sum(len(part.gap) for part in parts)
        parts.append(Asked(np.full(left, np.inf), np.full(left, -_CERTAIN if self.is_class else np.inf),
                           np.zeros(left, dtype=bool)))
        return Asked.concatenate(parts)

    def _asked(self, codes: np.ndarray, rows: np.ndarray) -> Asked:
        if not len(codes):
            return Asked(np.empty(0), np.empty(0), np.empty(0, dtype=bool))
        answers, goal, task = self.ask(codes, rows), self.goal.rows, self.explainer.task_
        if not self.is_class:
            values = np.asarray(answers, dtype=float)
            unit = max(task.spread, 1e-12) * 1e-7
            gap = np.maximum(np.maximum(goal["low"][rows] - values, values - goal["high"][rows]), 0)
            known = np.isfinite(values)
            gap = np.where(known, np.round(gap / unit) * unit, np.inf)
            return Asked(gap, np.where(known, np.round(np.nan_to_num(values) / unit) * unit, np.inf), gap == 0)
        predicted, proba = answers
        missed = predicted != goal["target"][rows]
        if proba is None:
            return Asked(missed.astype(float), np.where(missed, -1.0, 1.0), ~missed)
        own = np.nan_to_num(np.asarray(proba)[np.arange(len(rows)), goal["target"][rows]].astype(float))
        odds = np.clip(np.log(np.maximum(own, 1e-300)) - np.log1p(-np.minimum(own, 1 - 1e-16)), -_CERTAIN, _CERTAIN)
        gap = np.where(missed, np.round(1.0 + 1e-5 - own, 6), 0.0)
        return Asked(gap, np.round(odds, 5), ~missed & self._met(predicted, proba, rows).all(1))

    def gap(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How far the model is from what is wanted of those rows: 0 where it says so."""
        return self.asked(codes, rows).gap

    def needed(self, rows: np.ndarray, opinion: bool = False) -> np.ndarray:
        """The log-odds at which the model, or the second opinion, is sure enough, as far as that is known."""
        name = "opinion_needed" if opinion else "needed"
        terms = [term for term in self.run.objective.terms if (term.name == "second_opinion") == opinion]
        asked = [term.confidence for term in terms if hasattr(term, "confidence")]
        if name in self.known and (None in asked or not asked):
            return self.known[name].cpu().numpy()[rows].astype(float)
        return np.full(len(rows), log_odds_of(max(asked)) if asked else 0.0)

    def _met(self, predicted: np.ndarray, proba: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Which conditions of the model's own the answers meet, (n, terms)."""
        index = torch.from_numpy(rows).to(self.explainer.device_)
        known = {name: values[index] for name, values in self.known.items()}
        logits = torch.from_numpy(np.log(np.maximum(np.nan_to_num(np.asarray(proba, dtype=float)), 1e-300)))
        verdict = torch.nn.functional.one_hot(torch.from_numpy(np.maximum(predicted, 0)), logits.shape[1]).to(logits)
        point = self.explainer.task_.point(None, known, None, logits.to(index.device), verdict=verdict.to(index.device))
        met = [term.holds(point) for term in self.terms]
        return np.array([one.cpu().numpy() for one in met if one is not None], dtype=bool).reshape(-1, len(rows)).T

    # ----------------------------------------------------------------------- the search
    def judge(self, x_cf: np.ndarray, rows: np.ndarray, asked: Asked | None = None) -> Judged:
        """What the search says of given x′ of those rows; of what only the model can say, the model itself, which is not
        asked again if it was `asked`.
        """
        if not len(rows):
            return self.judge(self.X[:1], np.zeros(1, dtype=int))[rows]
        run, explainer, names, conditions = self.run, self.explainer, self.names, self.run.judge.conditions
        x = torch.from_numpy(np.ascontiguousarray(x_cf)).to(explainer.device_)
        # a model that the search imitates may be slow, and what it says of the row is what counts
        apart = self.imitated and set(conditions) <= {*_OF_THE_MODEL, *_OF_CODES}

        def judged(x: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            z, known = explainer.coordinates_.encode(x), dict(zip(names, values, strict=True))
            if apart:
                point = explainer.task_.point(z, known, x, None, None, run.judge.engine.log_density, explainer.opinions_)
            else:  # x itself, not what its code decodes to
                point = run.judge.point(z, known, x)
            met = {term.name: term.holds(point) for term in run.objective.terms
                   if term.name in conditions and not (apart and term.name in _OF_THE_MODEL)}
            none = torch.zeros(len(z), dtype=torch.bool, device=z.device)
            return (z, point.log_density, none if apart else point.valid,
                    torch.zeros_like(point.log_density) if explainer.opinions_ is None else point.opinion,
                    *(met.get(name, none) for name in conditions))

        index = torch.from_numpy(rows).to(explainer.device_)
        with torch.no_grad():
            z, log_density, valid, opinion, *met = (
                part.cpu().numpy() for part in in_tiles(judged, x, *(values[index] for values in self.prepared.values()),
                                                     tile=TOGETHER))
        out = np.array(met, dtype=bool).reshape(len(conditions), len(rows)).T
        if self.imitated:
            asked = self.asked(x_cf, rows) if asked is None else asked
            out[:, [k for k, name in enumerate(conditions) if name in _OF_THE_MODEL]] = asked.sure[:, None]
            valid = asked.gap == 0 if apart else valid
        return Judged(z, log_density, valid, opinion, out)

    def unusual(self, log_density: np.ndarray, rows: np.ndarray, density: ClassDensity | None = None) -> np.ndarray:
        """What it costs to be less typical than most of the class, in standard deviations of a number, (n,).

        By the explainer's density, or by another. By rank among the class's own training rows, so that no unit of the
        density counts: nothing from the `_ENOUGH` quantile on, and `UNIQUE` at the end, beyond which it rises slowly. A row
        with much that cannot change may never get there, and a column more for little is not worth its cost.
        """
        density, out = self.explainer.density_ if density is None else density, np.empty(len(rows))
        log_density, labels = np.nan_to_num(log_density, nan=-1e6, neginf=-1e6), self.goal.rows["target"][rows]
        for label in np.unique(labels):
            some, known = labels == label, density.log_densities_[label]
            known = known[np.isfinite(known)]
            rank = np.interp(log_density[some], known, np.linspace(0, 1, len(known))) if len(known) else np.ones(some.sum())
            low, half = np.quantile(known, [_TAIL, 0.5]) if len(known) else (-np.inf, np.inf)
            beyond = np.maximum(low - log_density[some], 0) / max(half - low, 1e-6)
            out[some] = UNIQUE * np.maximum(1 - rank / _ENOUGH, 0) + np.sqrt(beyond)
        return out

    def write(self, found: Found, rows: np.ndarray, x_cf: np.ndarray, judged: Judged) -> None:
        """What was judged, in place of what was `found` of `rows`."""
        found.x_cf[rows] = x_cf
        found.z[rows], found.log_density[rows] = judged.z, judged.log_density
        found.valid[rows], found.second_opinion[rows] = judged.valid, judged.opinion > 0
        for name, met in zip(self.run.judge.conditions, judged.conditions.T, strict=True):
            found.conditions[name][rows] = met
        found.finished[rows] = True
        found.done[rows] = judged.conditions.all(1)

    def parts(self, rows: np.ndarray, candidates: int) -> Iterator[np.ndarray]:
        """Some of the rows at a time, of each of which there are so many candidates; until time is up."""
        some = max(1, min(TOGETHER, NUMBERS // max(candidates * self.X.shape[1], 1)))
        yield from in_time(rows, some, self.run.deadline)

    # --------------------------------------------------------------------- real rows
    def real_of_goals(self, real: np.ndarray, answers: np.ndarray, rows: np.ndarray,
                      ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each thing that is wanted of some of `rows`: those of the rows `real`, if any, that have it by the model's
        `answers`, and the places of those.
        """
        goal = self.goal.rows
        low, high = (goal["target"][rows],) * 2 if self.is_class else (goal["low"][rows], goal["high"][rows])
        for a, b in np.unique(np.stack([low, high], axis=1), axis=0):
            own = real[(answers >= a) & (answers <= b)]
            if len(own):
                yield own, np.flatnonzero((low == a) & (high == b))
