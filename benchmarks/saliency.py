"""Do saliency maps point at what would change the decision? Captum's maps beside PLACE's counterfactuals.

    python -m benchmarks.saliency mnist|faces [--rows 100]

MNIST: the default classifier, 4 → 9, 0 → 8 and 1 → 5 on held-out digits. Faces: a ResNet-34 that tells smiles, both ways.
Networks are those of ``benchmarks.baselines``. Maps explain the target's logit minus that of the class before; what the
usual choice, the logit of the class before, gives stands beside it. Needs ``mnist.npz`` or ``smiles_64.npz`` in
``$CFEXPLAIN_DATA``. Writes benchmarks/results/saliency_mnist.json and .png, saliency_faces.json and .png.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from benchmarks._common import RESULTS, store
from benchmarks.baselines import load_digits_case, load_faces_case
from cfexplain import Counterfactuals
from cfexplain.bridges.captum import CounterfactualPathGradients, SaliencyComparison, compare_saliency

METHODS = ("Saliency", "InputXGradient", "IntegratedGradients", "GradientShap", "Occlusion", "LRP", "DeepLift",
           "GuidedBackprop")
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
SHOWN = ("Saliency", "IntegratedGradients", "GradientShap", "Occlusion", "LRP", "GuidedBackprop", "path gradients")


def explained(case: Any, rows: int) -> Counterfactuals:
    """Counterfactuals of held-out images that the classifier gets right, `rows` a pair."""
    parts = []
    for source, target in case.pairs:
        right = np.flatnonzero((case.y_test == source) & (case.place.predict(case.X_test) == case.label(source)))[:rows]
        parts.append(case.place.explain(case.X_test[right], target=case.label(target), record_path=True))
    return Counterfactuals.concatenate(parts)


def drawn(found: SaliencyComparison, name: str, pairs: int, rows: int) -> None:
    """Maps of two rows of each pair, above the share of flips."""
    first = [int(np.flatnonzero(found.used >= k * rows)[i]) for k in range(pairs) for i in range(2 if pairs > 2 else 3)]
    some = found[first]
    some.maps = {method: maps for method, maps in some.maps.items() if method in ("counterfactual", *SHOWN)}
    figure = Figure(figsize=(11.5, 13.0), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(9.2, 3.8))
    some.plot(n=len(first), figure=above)
    found.plot("flips", figure=below)
    file = RESULTS / f"saliency_{name}.png"
    figure.savefig(file, dpi=80)
    colours = Image.open(file).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    colours.save(file, optimize=True)


def run(name: str, rows: int) -> None:
    case = {"mnist": load_digits_case, "faces": load_faces_case}[name](False)
    case.place.set_params(verbose=0)
    warnings.simplefilter("ignore")  # statuses and failures are in the result
    cf = explained(case, rows)
    path_gradients, delta = CounterfactualPathGradients(case.place).integrate(cf)
    result: dict[str, Any] = {"captum": version("captum"), "rows": len(cf), "shares": SHARES,
                              "path_delta": float(np.abs(delta).max()), "tables": {}}
    for explains in ("contrast", "source"):
        methods: dict[str, Any] = {method: method for method in METHODS}
        if explains == "contrast":
            methods["path gradients"] = path_gradients
        found = compare_saliency(cf, methods, case.place, explains=explains, shares=SHARES)
        print(f"\n{name}, {explains}\n{found.to_markdown()}\n{found.summary()}", flush=True)
        result["tables"][explains] = {
            "compared": len(found), "left_out": found.left_out, "failures": found.failures, "gaps": found.gaps,
            "table": {method: {metric: asdict(entry) for metric, entry in entries.items()}
                      for method, entries in found.table.items()}}
        if explains == "contrast":
            drawn(found, name, len(case.pairs), rows)
    store(f"saliency_{name}", result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", choices=["mnist", "faces"])
    parser.add_argument("--rows", type=int, default=100, help="images a pair")
    options = parser.parse_args()
    for name in options.names:
        run(name, options.rows)


if __name__ == "__main__":
    main()
