"""Is the cheapest change found? The scan beside every change that there is, on real tables of eight columns.

    python -m benchmarks.optimum [--tables adult compas german_credit] [--models lr forest gb mlp] [--rows 20]

Needs the tables in $CFEXPLAIN_DATA/tables. For each row that the model refuses, every combination of values of all eight
columns (each category; numbers at `LEVELS` quantiles of the training rows) that is cheaper than our answer is asked of the
model, whatever it changes: `ratio` is our cost over that of the cheapest that it accepts as surely, where our own answer
counts among all. Twice: where prices are given, whose total is the cost (1 a standard deviation, 1 a category), and by the
default, by which each column costs 1 more, and columns beyond two (n - 2)². What is typical is left out of both, so that
the model alone decides what may be.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._common import RESULTS, machine
from benchmarks.actionable import MODELS, NUMBERS, TABLES, WORDS, pipeline
from cfexplain import PipelineExplainer, ScanExplainer

COLUMNS = {
    "adult": ["age", "workclass", "education-num", "marital-status", "occupation", "capital-gain", "hours-per-week", "sex"],
    "compas": ["sex", "age", "race", "juv_fel_count", "juv_misd_count", "juv_other_count", "priors_count",
               "c_charge_degree"],
    "german_credit": ["status", "month", "credit_history", "credit_amount", "savings", "employment", "age", "housing"]}
LEVELS = 25  # of a number
CONFIDENCE = 0.55
TOGETHER = 20_000  # rows that a model is asked about at once, the cheapest first


def charge_of(count: Any) -> Any:
    """What so many columns cost by the default, beside their changes."""
    return count + np.maximum(count - 2, 0) ** 2


def cheapest(pipe: Any, wanted: Any, row: pd.Series, values: dict[str, np.ndarray], scale: pd.Series, known: float,
             charge: bool) -> tuple[float, int]:
    """The cost of the cheapest change that the model accepts, if any is cheaper than the one `known`, and how many were
    asked.
    """
    names, costs = list(values), []
    for name, tried in values.items():
        costs.append(np.abs(tried - row[name]) / scale[name] if name in scale else (tried != row[name]).astype(float))
    total, count, places = np.zeros(1), np.zeros(1, dtype=int), np.zeros((1, 0), dtype=np.int16)
    for own in costs:  # column by column, so that what is too dear already is never built
        total, count = np.add.outer(total, own), np.add.outer(count, (own > 0).astype(int))
        left, right = np.nonzero(total + (charge_of(count) if charge else 0) < known - 1e-9)
        total, count = total[left, right], count[left, right]
        places = np.column_stack([places[left], right.astype(np.int16)])
    total = total + (charge_of(count) if charge else 0)
    order = np.argsort(total, kind="stable")
    column = list(pipe.classes_).index(wanted)
    for first in range(0, len(order), TOGETHER):
        some = order[first : first + TOGETHER]
        tried = pd.DataFrame({name: values[name][places[some, k]] for k, name in enumerate(names)})
        accepted = np.flatnonzero(pipe.predict_proba(tried)[:, column] >= CONFIDENCE)
        if len(accepted):
            return float(total[some[accepted[0]]]), first + len(some)
    return known, len(order)


def compared(name: str, model: str, rows: int) -> list[dict[str, Any]]:
    column, wanted, *_ = TABLES[name]
    frame = pd.read_csv(Path(os.environ["CFEXPLAIN_DATA"]) / "tables" / f"{name}.csv")
    y, X = frame[column].to_numpy(), frame[COLUMNS[name]]
    train, rest = np.split(np.random.RandomState(0).permutation(len(X)), [min(int(0.75 * len(X)), 10_000)])
    known = X.iloc[train]
    pipe = pipeline(model).fit(known, y[train])
    rest = X.iloc[rest][np.logical_and.reduce([X.iloc[rest][name].isin(known[name]) for name in WORDS(X)])]
    refused = rest[pipe.predict(rest) != wanted][:rows]
    scale = known[NUMBERS(X)].std(ddof=0)
    seen = {name: np.quantile(known[name], np.linspace(0, 1, LEVELS), method="nearest") if name in scale
            else known[name].unique() for name in X}
    explainer = PipelineExplainer(pipe, ScanExplainer(typical_quantile=None, confidence=CONFIDENCE), random_state=0)
    explainer.fit(known, y[train])
    out = []
    for priced in (True, False):
        cf = explainer.explain(refused, wanted, max_changes=len(X.columns),
                               costs={name: 1.0 for name in X} if priced else None)
        after, ratios, asked = cf.to_frames()[1], [], 0
        for i in np.flatnonzero(cf.complete):
            row, answer = refused.iloc[i], after.iloc[i]
            values = {name: np.unique(np.append(seen[name], row[name])) for name in X}
            cost = sum(abs(row[name] - answer[name]) / scale[name] if name in scale else row[name] != answer[name]
                       for name in X) + (0 if priced else charge_of((row != answer).sum()))
            best, tried = cheapest(pipe, wanted, row, values, scale, cost, not priced)
            ratios.append(cost / best)
            asked += tried
        out.append({"data": name, "model": model, "prices": priced, "rows": len(refused), "found": float(cf.complete.mean()),
                    "mean": float(np.mean(ratios)), "median": float(np.median(ratios)), "most": float(np.max(ratios)),
                    "within 5 %": float((np.array(ratios) <= 1.05).mean()), "changes asked of the model": asked})
    return out


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--rows", type=int, default=20)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    table = []
    for name in options.tables:
        for model in options.models:
            for line in compared(name, model, options.rows):
                table.append(line)
                print(line, flush=True)
            (RESULTS / "optimum.json").write_text(json.dumps({"table": table, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
