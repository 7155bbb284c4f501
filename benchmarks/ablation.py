"""What does each part of the defaults buy? The same fitted explainers search again with one part left out at a time.

    python -m benchmarks.ablation [--only digits mnist wine] [--rows 60] [--pairs 2] [--pictures]

Networks and judges are those of `benchmarks.held_out_defaults`, kept in benchmarks/.cache. Writes
benchmarks/results/ablation.json, and with --pictures a PNG a data set, to look at.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks._common import RESULTS, draw_strips, store
from benchmarks.held_out_defaults import KNOWN, fitted, measure, pairs_of, shown, without_nan

ONLY = ["digits", "mnist", "pneumonia", "wine", "breast_cancer"]
IMAGES = {
    "nothing": {}, "confidence .99 for every class": {"confidence": 0.99},
    "no density": {"plausibility_weight": 0.0, "typical_quantile": None}, "no second opinion": {"second_opinion": 0},
    "no typical features": {"feature_weight": 0.0}, "no ink term": {"ink_weight": 0.0},
    "what the decoder draws": {"detail": "decoder"}, "all detail kept": {"detail": "residual"}}
COLUMNS = {
    "nothing": {}, "confidence .99 for every class": {"confidence": 0.99},
    "no density": {"plausibility_weight": 0.0, "typical_quantile": None}, "no second opinion": {"second_opinion": 0},
    "as many columns as the search moves": {"sparse": False}}


def ablate(name: str, rows: int, pairs: int, pictures: bool) -> list[dict[str, Any]]:
    data = KNOWN[name]()
    explainer, judge = fitted(name, data, 0, 1.0)
    predicted, lines, strips = explainer.predict(data.X_test), [], {}
    for pair, target, places in pairs_of(data, explainer, predicted, pairs):
        places = places[:rows]
        for part, changed in (IMAGES if data.kind == "images" else COLUMNS).items():
            kept = {key: explainer.get_params(deep=False)[key] for key in changed}
            try:
                line, cf = measure(data, explainer.set_params(**changed), judge, target, places)
            finally:
                explainer.set_params(**kept)
            line["changed"] = float(np.median((cf.x_cf != cf.x).reshape(len(cf), -1).sum(1)))
            lines.append({"data": name, "pair": pair, "part": part, **line})
            print("  ".join(f"{k} {shown(v)}" for k, v in lines[-1].items() if k != "warnings"), flush=True)
            if cf.is_image:
                strips.setdefault(pair, [("original", cf.x[:14])]).append((part, cf.x_cf[:14]))
    if pictures and strips:
        draw_strips(strips, RESULTS / f"ablation_{name}.png", dpi=90)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=ONLY, choices=ONLY)
    parser.add_argument("--rows", type=int, default=60, help="held-out rows a pair")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--pictures", action="store_true")
    options = parser.parse_args()
    table = [line for name in options.only for line in ablate(name, options.rows, options.pairs, options.pictures)]
    store("ablation", without_nan({"rows": options.rows, "table": table}))


if __name__ == "__main__":
    main()
