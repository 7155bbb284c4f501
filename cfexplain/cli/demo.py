"""``cfexplain demo``: the main job on data that comes with scikit-learn."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import numpy as np

from cfexplain.cli.csv_files import write_results

__all__ = ["run_demo"]


def run_demo(out: Path, seed: int = 0, quiet: bool = False) -> int:
    """Explain held-out digits and write ``counterfactuals.png`` and ``counterfactuals.csv`` into `out`."""
    from sklearn.model_selection import train_test_split

    from cfexplain import PLACEExplainer
    from cfexplain.datasets import load_digits_images

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"cfexplain demo: cannot write into {out}: {error}. Choose another folder with --out.", file=sys.stderr)
        return 1
    started = time.perf_counter()
    X, y = load_digits_images()
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=seed)
    print(f"Training on {len(X)} images of handwritten digits, 8x8 pixels (classifier, latent space, density) ...")
    explainer = PLACEExplainer(random_state=seed, verbose=0 if quiet else 1).fit(X, y)
    accuracy = float((explainer.predict(X_test) == y_test).mean())
    print(f"The classifier is right on {accuracy:.1%} of {len(X_test)} images that it never saw.")

    pairs = [(4, 9), (0, 6), (3, 8), (7, 9), (1, 4), (5, 6)]
    rows = np.concatenate([np.flatnonzero((y_test == a) & (explainer.predict(X_test) == a))[:20] for a, _ in pairs])
    target = np.array([dict(pairs)[label] for label in y_test[rows]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the summary says the same in words
        cf = explainer.explain(X_test[rows], target=target)
    print(f"\nWhat would have to change for it to see another digit? ({len(pairs)} questions, {len(rows)} images)\n")
    print(cf.summary())

    first = np.concatenate([np.flatnonzero((cf.source == a) & (cf.target == b))[:2] for a, b in pairs])
    picture, table = out / "counterfactuals.png", out / "counterfactuals.csv"
    cf[first].plot(n=len(first)).figure_.savefig(picture, dpi=120)
    write_results(table, cf, row=rows)
    print(f"\nPicture: {picture}\nTable:   {table}\n({time.perf_counter() - started:.0f} seconds)")
    return 0

