"""How long `fit` takes by kind and size of the data, and what it says at its start.

    python -m benchmarks.fit_time [--only digits table ...]

Seconds of processor time with one thread, so that they depend little on what else the machine does; an idle machine with
more cores takes less. ``said`` is the estimate that `fit` prints. Each line is stored when it is measured
(benchmarks/results/fit_time.json). MNIST, faces and COMPAS (compas.csv) need ``$CFEXPLAIN_DATA``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_wine, make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from benchmarks._common import RESULTS, encoder, store
from benchmarks.held_out_defaults import KNOWN
from cfexplain import DiffeomorphicExplainer, PipelineExplainer, PLACEExplainer, REVISEExplainer, ScanExplainer
from cfexplain.classifiers.training import train_classifier
from cfexplain.datasets import load_digits_images, load_mnist, load_smiles
from cfexplain.explainers.forecast import seconds_to_fit
from cfexplain.explainers.run import Run  # noqa: F401  what is imported once is no part of what is measured
from cfexplain.nets import training  # noqa: F401

FILE = RESULTS / "fit_time.json"


def table(rows: int, columns: int = 12) -> tuple[np.ndarray, np.ndarray]:
    X, y = make_classification(rows, columns, n_informative=6, random_state=0)
    return X.astype(np.float32), y


def own(X: np.ndarray, y: np.ndarray) -> Any:
    """A network as a user brings it: trained before, and no part of what is measured."""
    return train_classifier(X.reshape(len(X), -1, *X.shape[-2:]), np.eye(y.max() + 1)[y], seed=0, training_budget=0.3)


def cases() -> dict[str, tuple[str, Callable[[], tuple[Any, np.ndarray, np.ndarray]]]]:
    """What is measured: words for it, and a function that gives explainer, X and y."""
    def digits(n: int = 1350) -> tuple[np.ndarray, np.ndarray]:
        X, y = load_digits_images()
        return X[:n], y[:n]

    def mnist(n: int) -> tuple[np.ndarray, np.ndarray]:
        X, y = load_mnist()[:2]
        return X[:n], y[:n]

    def faces() -> tuple[np.ndarray, np.ndarray]:
        X, y = load_smiles()[:2]
        return X, np.unique(y, return_inverse=True)[1]

    def compas() -> tuple[Any, np.ndarray, np.ndarray]:
        data = KNOWN["compas"]()
        pipe = make_pipeline(encoder(data.X), HistGradientBoostingClassifier(random_state=0)).fit(data.X, data.y)
        return PipelineExplainer(pipe, PLACEExplainer(random_state=0)), data.X, data.y

    def explained(make: Callable, data: Callable, model: Callable | None = None) -> Callable:
        def case() -> tuple[Any, np.ndarray, np.ndarray]:
            X, y = data()
            return make(None if model is None else model(X, y), random_state=0), X, y
        return case

    def logistic(X: np.ndarray, y: np.ndarray) -> Any:
        return LogisticRegression(max_iter=1000).fit(X, y)

    return {
        "digits": ("images 8×8, nothing given", explained(PLACEExplainer, digits)),
        "digits_own": ("images 8×8, a network of yours", explained(PLACEExplainer, digits, own)),
        "digits_revise": ("images 8×8, REVISEExplainer", explained(REVISEExplainer, digits, own)),
        "wine": ("table of 13 columns, 178 rows", explained(PLACEExplainer, lambda: load_wine(return_X_y=True))),
        "cancer": ("table of 30 columns, 569 rows", explained(PLACEExplainer, lambda: load_breast_cancer(return_X_y=True))),
        "table": ("table of 12 columns", explained(PLACEExplainer, lambda: table(1000))),
        "table_large": ("table of 12 columns", explained(PLACEExplainer, lambda: table(10_000))),
        "compas": ("table of 11 columns of mixed types, a forest", compas),
        "table_scan": ("table of 12 columns, ScanExplainer", explained(ScanExplainer, lambda: table(10_000), logistic)),
        "table_flow": ("table of 12 columns, DiffeomorphicExplainer", explained(
            DiffeomorphicExplainer, lambda: table(1000), logistic)),
        "mnist_small": ("images 28×28, a network of yours", explained(PLACEExplainer, lambda: mnist(2000), own)),
        "mnist": ("images 28×28, a network of yours", explained(PLACEExplainer, lambda: mnist(10_000), own)),
        "faces": ("images 64×64, a network of yours", explained(PLACEExplainer, faces, own))}


def measured(name: str) -> dict[str, Any]:
    words, case = cases()[name]
    outer, X, y = case()
    explainer = outer.explainer if isinstance(outer, PipelineExplainer) else outer
    read: list[tuple[np.ndarray, np.ndarray]] = []

    class Timed(type(explainer)):  # type: ignore[misc]
        """Says what it would say when its rows have been read."""

        def _fit(self, X: np.ndarray, y: np.ndarray) -> Any:
            if not read:
                read.append((X, y))
                plain = type(explainer)(**self.get_params(deep=False))
                vars(plain).update(vars(self))
                began = time.process_time()
                said.append(seconds_to_fit(plain, X, y, time.process_time))
                rehearsed.append(time.process_time() - began)
            return super()._fit(X, y)

    said: list[float | None] = []
    rehearsed: list[float] = []
    timed = Timed(**explainer.get_params(deep=False))
    whole, began = timed if outer is explainer else PipelineExplainer(outer.pipeline, timed), time.process_time()
    whole.fit(X, y)
    return {"words": words, "rows": len(X), "seconds": round(time.process_time() - began - rehearsed[0], 1),
            "said": None if said[0] is None else round(said[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(cases()), choices=list(cases()))
    torch.set_num_threads(1)
    for name in parser.parse_args().only:
        done = json.loads(FILE.read_text("utf-8"))["fits"] if FILE.exists() else {}
        done[name] = measured(name)
        store("fit_time", {"fits": done})
        print(name, done[name], flush=True)


if __name__ == "__main__":
    main()
