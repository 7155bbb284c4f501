"""Advice to act on: few changes, their cost, rules kept, on real tables; beside DiCE and the nearest unlike row.

    python -m benchmarks.actionable [--tables adult compas german_credit] [--models lr forest gb mlp] [--rows 40]
                                    [--methods scan place neighbour dice_random dice_genetic dice_gradient alibi_prototypes]

Needs adult.csv, compas.csv and german_credit.csv in $CFEXPLAIN_DATA/tables, and for other libraries what
`benchmarks.actionable_peers` says. DiCE's gradients follow lr and mlp only, and alibi knows no rules. The same fitted
pipelines and the same held-out rows, those that the model refuses, for all methods; columns that nobody can change are
fixed and age only rises. Judged by what took no part in the search: the pipeline's own ``predict`` on the DataFrame that
came back, a kernel density of half of the target class's rows (percentiles are among the other half) and an isolation
forest of the training rows, beside real held-out rows; a forest of other seeds and leaves, which is another model of the
same rows (``accepted``); and by LOF of the training rows, which our scan has a price for. ``hypervolume`` is the mean of
the area (1 − cost / 10) · percentile / 100 that answers dominate.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks._common import RESULTS, machine
from benchmarks.actionable_peers import alibi_prototypes, dice
from cfexplain import PipelineExplainer, PLACEExplainer, ScanExplainer
from cfexplain.tables.mixed import MixedTable

# column that is explained, what is wanted, what nobody can change, what may only rise
TABLES: dict[str, tuple[str, Any, list[str], list[str]]] = {
    "adult": ("income-per-year", ">50K", ["race", "sex", "native-country"], ["age"]),
    "compas": ("two_year_recid", 0, ["race", "sex"], ["age"]),
    "german_credit": ("credit", "good", ["personal_status", "foreign_worker"], ["age"])}
MODELS: dict[str, Callable[[], Any]] = {
    "lr": lambda: LogisticRegression(max_iter=2000),
    "forest": lambda: RandomForestClassifier(60, min_samples_leaf=3, random_state=0),
    "gb": lambda: HistGradientBoostingClassifier(max_iter=100, random_state=0),
    "mlp": lambda: MLPClassifier((32, 32), max_iter=60, random_state=0)}
MOST_TRAINED = 10_000
DEAREST = 10.0  # cost from which on an answer dominates nothing
NUMBERS, WORDS = make_column_selector(dtype_include=np.number), make_column_selector(dtype_exclude=np.number)


def pipeline(model: str) -> Pipeline:
    """One of `MODELS` behind scaled numbers and one-hot words."""
    return make_pipeline(make_column_transformer(
        (StandardScaler(), NUMBERS), (OneHotEncoder(handle_unknown="ignore", sparse_output=False), WORDS)), MODELS[model]())


class Case:
    """One table and one model, fitted, with rows that it refuses and the judges."""

    def __init__(self, name: str, model: str, rows: int):
        column, self.wanted, self.fixed, self.rising = TABLES[name]
        frame = pd.read_csv(Path(os.environ["CFEXPLAIN_DATA"]) / "tables" / f"{name}.csv")
        y = frame.pop(column).to_numpy()
        self.X, test, self.y, _ = train_test_split(frame, y, test_size=0.25, random_state=0, stratify=y)
        self.X, self.y = self.X[:MOST_TRAINED], self.y[:MOST_TRAINED]
        self.pipe = pipeline(model).fit(self.X, self.y)
        known = np.logical_and.reduce([test[name].isin(self.X[name]) for name in WORDS(test)])
        said = self.pipe.predict(test)
        self.rows, self.real = test[(said != self.wanted) & known][:rows], test[(said == self.wanted) & known][:500]
        self.table = MixedTable(self.X)
        codes = self.table.encode(self.X)
        wanted = codes[self.y == self.wanted]
        half = len(wanted) // 2
        self.density = KernelDensity(bandwidth=0.5).fit(wanted[:half])
        self.densities = np.sort(self.density.score_samples(wanted[half:][:500]))
        self.other = clone(self.pipe).set_params(**{self.pipe.steps[-1][0]: RandomForestClassifier(
            100, min_samples_leaf=5, random_state=7)}).fit(self.X, self.y)
        self.judges = {"lof": LocalOutlierFactor(20, novelty=True).fit(codes),
                       "isolation": IsolationForest(random_state=0).fit(codes)}

    @property
    def numbers(self) -> list[str]:
        return [name for name in self.X if self.X[name].dtype.kind in "if"]

    @property
    def free(self) -> list[str]:
        return [name for name in self.X if name not in self.fixed]

    def outliers(self, frame: pd.DataFrame) -> dict[str, float]:
        codes = self.table.encode(frame)
        return {**{name: float((judge.predict(codes) < 0).mean()) for name, judge in self.judges.items()},
                "accepted": float((self.other.predict(frame) == self.wanted).mean())}

    def measure(self, after: pd.DataFrame, found: np.ndarray, seconds: float) -> dict[str, Any]:
        """Of rows in the order of ``rows``; what is not `found` counts as not valid, and in no figure but validity."""
        before, after = self.rows[found], after[found].astype(self.X.dtypes.to_dict())
        n, changed = len(self.rows), (before.to_numpy() != after.to_numpy())
        numbers, words = self.numbers, [name for name in self.X if name not in self.numbers]
        cost = (np.abs(after[numbers].to_numpy(float) - before[numbers].to_numpy(float)) / self.X[numbers].std(
            ddof=0).to_numpy()).sum(1) + (after[words].to_numpy() != before[words].to_numpy()).sum(1)
        kept = (after[self.fixed].to_numpy() == before[self.fixed].to_numpy()).all(1) & (
            after[self.rising].to_numpy() >= before[self.rising].to_numpy()).all(1)
        low, high = (np.asarray(self.X[numbers].agg(end)) for end in ("min", "max"))
        was, now = before[numbers].to_numpy(), after[numbers].to_numpy()
        inside = ((now >= np.minimum(low, was)) & (now <= np.maximum(high, was))).all(1)
        log_density = self.density.score_samples(self.table.encode(after))
        percentile = 100 * np.searchsorted(self.densities, log_density, "right") / len(self.densities)
        return {"rows": n, "found": float(found.mean()),
                "valid": float((self.pipe.predict(after) == self.wanted).sum() / n), "rules_kept": float(kept.mean()),
                "columns": float(changed.sum(1).mean()), "most_columns": int(changed.sum(1).max()),
                "cost": float(cost.mean()), "inside": float(inside.mean()), "percentile": float(np.median(percentile)),
                "hypervolume": float((np.maximum(1 - cost / DEAREST, 0) * percentile / 100).sum() / n),
                **self.outliers(after), "seconds_a_row": seconds / n}


# ------------------------------------------------------------------------------------------------------------- methods
def ours(case: Case, kind: Callable[[], Any]) -> tuple[pd.DataFrame, np.ndarray, float, float]:
    started = time.process_time()
    explainer = PipelineExplainer(case.pipe, kind(), immutable=case.fixed, monotone=dict.fromkeys(case.rising, "increase"),
                                  random_state=0).fit(case.X, case.y)
    fitted = time.process_time()
    cf = explainer.explain(case.rows, case.wanted)
    return cf.to_frames()[1], cf.valid, fitted - started, time.process_time() - fitted


def neighbour(case: Case) -> tuple[pd.DataFrame, np.ndarray, float, float]:
    """The nearest training row that the model accepts, but for columns that are fixed; age only rises."""
    started = time.process_time()
    accepted = case.X[case.pipe.predict(case.X) == case.wanted]
    codes, own = case.table.encode(accepted), case.table.encode(case.rows)
    after = case.rows.copy()
    for i, row in enumerate(own):
        near = accepted.iloc[np.argsort(np.square(codes - row).sum(1))[:50]].copy()
        near[case.fixed] = case.rows[case.fixed].iloc[i].to_numpy()
        for name in case.rising:
            near[name] = np.maximum(near[name], case.rows[name].iloc[i])
        fine = np.flatnonzero(case.pipe.predict(near) == case.wanted)
        after.iloc[i] = near.iloc[fine[0] if len(fine) else 0]
    return after, case.pipe.predict(after) == case.wanted, 0.0, time.process_time() - started


METHODS: dict[str, Callable[[Case], tuple[pd.DataFrame, np.ndarray, float, float]]] = {
    "scan": lambda case: ours(case, ScanExplainer), "place": lambda case: ours(case, PLACEExplainer), "neighbour": neighbour,
    "dice_random": lambda case: dice(case, "random"), "dice_genetic": lambda case: dice(case, "genetic"),
    "dice_gradient": lambda case: dice(case, "gradient"), "alibi_prototypes": alibi_prototypes}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS)[:5], choices=METHODS)
    parser.add_argument("--rows", type=int, default=40)
    options = parser.parse_args(arguments)
    file = RESULTS / "actionable.json"
    known = json.loads(file.read_text())["table"] if file.exists() else []
    warnings.simplefilter("ignore")
    for name in options.tables:
        for model in options.models:
            case = Case(name, model, options.rows)
            for method in options.methods:
                after, found, fit_seconds, seconds = METHODS[method](case)
                line = {"data": name, "model": model, "method": method, "fit_seconds": fit_seconds,
                        **case.measure(after, found, seconds), "real": case.outliers(case.real)}
                known = [old for old in known if (old["data"], old["model"], old["method"]) != (name, model, method)]
                known.append(line)
                print("  ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                                for key, value in line.items()), flush=True)
                file.write_text(json.dumps({"table": known, "machine": machine()}, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
