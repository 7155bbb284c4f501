"""Small data: do rows still meet every condition with 1,797 tiny digits, and with 6,000 MNIST images?

    python -m benchmarks.place_small
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from benchmarks._common import store, trained
from cfexplain import PLACEExplainer
from cfexplain.datasets import load_digits_images, load_mnist

PAIRS = [(4, 9), (0, 8), (1, 5)]


def measure(name: str, explainer: PLACEExplainer, X: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    table = []
    for source, target in PAIRS:
        x = X[(y == source) & (explainer.predict(X) == source)][:96]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cf = explainer.explain(x, target)
        row = {"data": name, "pair": f"{source}->{target}", "rows": len(x), "valid": float(cf.valid.mean()),
               "every_condition": float((cf.status == "converged").mean()), "steps": float(np.median(cf.n_steps)),
               "held": {k: float(v.mean()) for k, v in cf.conditions.items()}}
        print(row, flush=True)
        table.append(row)
    print(cf.summary(), flush=True)
    return table


def main() -> None:
    X, y = load_digits_images()
    order = np.random.RandomState(0).permutation(len(X))
    X, y = X[order], y[order]
    digits = trained("place-digits", {"seed": 0}, lambda: PLACEExplainer(random_state=0, verbose=1).fit(X[:1350], y[:1350]))
    table = measure("digits 8x8, 1350 images", digits, X[1350:], y[1350:])
    X, y, X_test, y_test = load_mnist()
    few = trained("place-mnist-6000", {"seed": 0}, lambda: PLACEExplainer(random_state=0, verbose=1).fit(X[:6000], y[:6000]))
    table += measure("MNIST, 6000 images", few, X_test, y_test)
    store("place_small", {"table": table})


if __name__ == "__main__":
    main()
