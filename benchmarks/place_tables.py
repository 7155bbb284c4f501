"""Tables in a pipeline: original units, some columns held, others bounded.

    python -m benchmarks.place_tables
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks._common import store
from cfexplain import PLACEExplainer

# columns held, and columns kept within two standard deviations of the mean
CASES = {"breast cancer": (load_breast_cancer, ["mean texture", "mean symmetry"], ["mean area", "worst area"]),
         "wine": (load_wine, ["hue", "ash"], ["proline", "alcohol"])}


def measure(name: str) -> dict[str, Any]:
    load, held, bounded = CASES[name]
    data = load(as_frame=True)
    X, y = data.data, data.target_names[data.target]
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), PLACEExplainer(
        immutable=held, bounds={column: (-2.0, 2.0) for column in bounded}, random_state=0)).fit(X, y)
    scaled = pipe[:-1].transform(X_test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = pipe[-1].explain(scaled)
        units = np.asarray(pipe.inverse_transform(pipe.transform(X_test)))
    still = np.asarray(pipe[:-1].inverse_transform(scaled))
    columns = [list(X.columns).index(c) for c in held]
    edges = [list(X.columns).index(c) for c in bounded]
    inside = np.clip(np.abs(np.asarray(cf)[:, edges]) - np.maximum(2.0, np.abs(scaled.to_numpy()[:, edges])), 0, None)
    return {"data": name, "rows": len(X_test), "accuracy": float((pipe.predict(X_test) == y_test).mean()),
            "valid": float(cf.valid.mean()), "every_condition": float((cf.status == "converged").mean()),
            "density_percentile": float(np.median(cf.density_percentile)), "steps": float(np.median(cf.n_steps)),
            "held_columns_moved_scaled": float(np.abs(np.asarray(cf)[:, columns] - scaled.to_numpy()[:, columns]).max()),
            "held_columns_moved_units": float(np.abs(units[:, columns] - still[:, columns]).max()),
            "bounds_exceeded_by": float(inside.max())}


def main() -> None:
    table = [measure(name) for name in CASES]
    for row in table:
        print(row, flush=True)
    store("place_tables", {"table": table})


if __name__ == "__main__":
    main()
