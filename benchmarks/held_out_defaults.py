"""Do the defaults hold on data that nobody tuned them for? One table for the known data sets, and for a folder of yours.

    python -m benchmarks.held_out_defaults [FOLDER] [--only wine mnist] [--rows 100] [--pairs 3] [--budget 1.0] [--seed 0]
                                           [--again] [--fresh] [--pictures] [--out benchmarks/results/defaults]

Every ``.npz`` in FOLDER with arrays x and y (or x_train, y_train, x_test, y_test) is a data set of images, every ``.csv``
one of a table, whose last column is the target, or that of ``--target NAME``; a target of more than 20 numbers is a value.
The defaults explain a network that is trained here: `PLACEExplainer` for classes (`PipelineExplainer` where a table has
categories), `DiffeomorphicExplainer` for values. They are judged on held-out rows by models that took no part.

One JSON file a data set, and table.md of all of them, are written to --out. What is there with the same settings is kept:
--again measures anew, and --fresh also trains anew what benchmarks/.cache keeps.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from benchmarks._common import CACHE, RESULTS, draw_strips, encoder, machine, trained
from cfexplain import DiffeomorphicExplainer, PipelineExplainer, PLACEExplainer
from cfexplain.datasets import load_digits_images, load_mall, load_mnist, load_pneumonia, load_smiles
from cfexplain.datasets.files import places
from cfexplain.foundation.random import seeded_torch
from cfexplain.metrics import precision_recall_f1, realism_percentile
from cfexplain.nets.classifiers import cnn, mlp
from cfexplain.nets.training import train_network

MOST_TRAINED, MOST_REFERENCES, MOST_CLASSES = 10_000, 1500, 20
# What a default should keep to
LIMITS = {"converged": ("≥", 0.95), "spread": ("≥", 0.8), "sharpness": ("≥", 0.85), "specks": ("≤", 0.01),
          "grey": ("≤", 1.25), "columns_changed": ("≤", 3)}
COLUMNS = {"data": "data", "pair": "pair", "rows": "n", "valid": "valid", "converged": "conv.", "judge": "judge",
           "steps": "steps", "percentile": "pct.", "realism": "realism", "f1": "F₁", "f1_real": "real F₁",
           "spread": "spread", "room": "room", "shade_kept": "shade r", "sharpness": "sharp", "sharpness_of_real": "of real",
           "specks": "specks", "grey": "grey", "columns_changed": "columns", "outside_range": "outside",
           "seconds_a_row": "s/row"}


@dataclass
class Data:
    """Images (n, H, W) or (n, C, H, W) in [0, 1], an array of numbers, or a DataFrame; labels, or values."""

    X: Any
    y: np.ndarray
    X_test: Any
    y_test: np.ndarray
    pairs: tuple[tuple[Any, Any], ...] = ()

    @property
    def kind(self) -> str:
        if self.y.dtype.kind == "f" and len(np.unique(self.y)) > MOST_CLASSES:
            return "values"
        return "columns" if hasattr(self.X, "columns") else "images" if self.X.ndim > 2 else "numbers"


# -------------------------------------------------------------------------------------------------------------------- data
def split(X: Any, y: np.ndarray, pairs: Any = ()) -> Data:
    few = y.dtype.kind != "f" or len(np.unique(y)) <= MOST_CLASSES
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=0, stratify=y if few else None)
    return Data(X[:MOST_TRAINED], y[:MOST_TRAINED], X_test, y_test, pairs)


def standardised(load: Callable) -> Data:
    source = load(as_frame=False)
    values = getattr(source, "target_names", None) is None
    data = split(source.data, source.target.astype(float) if values else source.target_names[source.target])
    scaler = StandardScaler().fit(data.X)
    return Data(scaler.transform(data.X), data.y, scaler.transform(data.X_test), data.y_test)


def table(file: Path, target: str | None = None) -> Data:
    import pandas

    frame = pandas.read_csv(file)
    name = target if target in frame.columns else frame.columns[-1]
    y, X = frame[name].to_numpy(), frame.drop(columns=[name])
    if y.dtype.kind in "if" and len(np.unique(y)) > MOST_CLASSES:
        y = y.astype(float)
    if not any(dtype.kind in "iuf" for dtype in X.dtypes) or X.isna().any().any() or any(
            dtype.kind not in "iuf" for dtype in X.dtypes):
        return split(X, y)
    data = split(X.to_numpy(float), y)
    scaler = StandardScaler().fit(data.X)
    return Data(scaler.transform(data.X), data.y, scaler.transform(data.X_test), data.y_test)


def pictures(file: Path) -> Data:
    with np.load(file) as arrays:
        found = {name.lower(): arrays[name] for name in arrays.files}

    def images(name: str) -> np.ndarray:
        x = found[name]
        x = x.astype(np.float32) / 255 if x.dtype.kind in "iu" else x.astype(np.float32)
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 and x.shape[3] <= 4 < x.shape[1] else x

    if "x_train" in found:
        parts = [found[name].reshape(-1) for name in ("y_train", "y_test")]
        X, y = images("x_train"), parts[0]
        order = np.random.RandomState(0).permutation(len(X))[:MOST_TRAINED]
        return Data(X[order], y[order], images("x_test"), parts[1])
    return split(images("x"), found["y"].reshape(-1))


def _mnist() -> Data:
    X, y, X_test, y_test = load_mnist(size=28)
    return Data(X[:10_000], y[:10_000], X_test, y_test, ((4, 9), (0, 8), (1, 5)))


def _mall() -> Data:
    X, count, _ = load_mall()
    values = count + np.random.RandomState(0).uniform(-1e-3, 1e-3, len(count))  # counts are values, not 12 classes
    return Data(X[:1500], values[:1500].astype(np.float32), X[1500:], values[1500:].astype(np.float32))


def _known_table(name: str, target: str) -> Callable[[], Data]:
    def load() -> Data:
        for folder in places(None, None):
            for file in (folder / f"{name}.csv", folder / "tables" / f"{name}.csv"):
                if file.is_file():
                    return table(file, target)
        raise FileNotFoundError(f"{name}.csv is in none of {list(map(str, places(None, None)))}; set CFEXPLAIN_DATA.")
    return load


KNOWN: dict[str, Callable[[], Data]] = {
    "digits": lambda: split(*load_digits_images(), ((4, 9), (0, 8), (1, 5))), "mnist": _mnist,
    "pneumonia": lambda: Data(*load_pneumonia()), "smiles": lambda: split(*load_smiles()), "mall": _mall,
    "wine": lambda: standardised(load_wine), "breast_cancer": lambda: standardised(load_breast_cancer),
    "diabetes": lambda: standardised(load_diabetes), "adult": _known_table("adult", "income-per-year"),
    "german_credit": _known_table("german_credit", "credit"), "compas": _known_table("compas", "two_year_recid")}


def data_sets(folder: str | None, target: str | None) -> dict[str, Callable[[], Data]]:
    """Name -> what loads it: of the folder, or else the known ones."""
    if folder is None:
        return KNOWN
    files = sorted(Path(folder).glob("*.npz")) + sorted(Path(folder).glob("*.csv"))
    if not files:
        raise SystemExit(f"{folder} holds no .npz and no .csv file.")
    return {file.stem: (lambda file=file: pictures(file) if file.suffix == ".npz" else table(file, target))
            for file in files}


# ---------------------------------------------------------------------------------------------------------------- networks
def judge_net(shape: tuple[int, ...], n_classes: int) -> nn.Sequential:
    """Another architecture than the explained CNN: strided 5×5 convolutions, GELU, no normalisation."""
    channels, *sides = shape
    layers: list[nn.Module] = []
    for width in (24, 48, 96):
        if min(sides) < 6:
            break
        layers += [nn.Conv2d(channels, width, 5, 2, 2), nn.GELU()]
        channels, sides = width, [(side + 1) // 2 for side in sides]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * math.prod(sides), 128), nn.GELU(), nn.Dropout(0.3),
                         nn.Linear(128, n_classes))


def classifier(build: Callable, X: np.ndarray, places: np.ndarray, seed: int, budget: float, **options: Any) -> nn.Module:
    """The network of `build`, trained on X (n, …) and class indices."""
    def loss(module: nn.Module, rows: Any, _: float) -> torch.Tensor:
        return F.cross_entropy(module(rows["x"]), rows["y"], reduction="none")

    with seeded_torch(seed):
        net = build()
    train_network(net, loss, {"x": torch.from_numpy(X).float(), "y": torch.from_numpy(places)}, strata=places, seed=seed,
                  updates=max(1, round(min(1000, 200 + len(X) / 8) * budget)), weight_decay=1e-2, name="network", **options)
    return net.eval().requires_grad_(False)


def fitted(name: str, data: Data, seed: int, budget: float) -> tuple[Any, Any]:
    """The explainer with its defaults, and a model beside it that judges; kept between runs."""
    config = {"kind": data.kind, "n": len(data.X), "shape": np.shape(data.X)[1:], "seed": seed, "budget": budget,
              "sum": float(np.nansum(data.y)) if data.y.dtype.kind in "iuf" else sorted(set(map(str, data.y)))}
    own = {"random_state": seed, "training_budget": budget}
    defaults = {"PLACE": repr(PLACEExplainer().get_params()), "values": repr(DiffeomorphicExplainer().get_params())}
    mixed = hasattr(data.X, "columns")
    if mixed:
        encode = encoder(data.X)
        config["encoded"] = repr(encode)
        net = {"hidden_layer_sizes": (64,), "early_stopping": True, "random_state": seed, "max_iter": round(60 * budget) + 5}
        options = {"random_state": seed} if budget == 1 else {"explainer": PLACEExplainer(**own)}
    if data.kind == "values":
        if mixed:
            pipe = trained(f"defaults-{name}-pipe", config, lambda: make_pipeline(encode, TransformedTargetRegressor(
                MLPRegressor(**{**net, "early_stopping": False}), transformer=StandardScaler())).fit(data.X, data.y))
            return trained(f"defaults-{name}", {**config, **defaults}, lambda: PipelineExplainer(pipe, **options).fit(
                data.X, data.y)), None
        # a Glow of pictures takes two cores hours: see `benchmarks.diffeomorphic`
        generator = "vae" if np.ndim(data.X) > 2 else "flow"
        explainer = trained(f"defaults-{name}", {**config, **defaults, "generator": generator}, lambda:
                            DiffeomorphicExplainer(task="regression", generator=generator, **own).fit(data.X, data.y))
        return explainer, None
    labels, where = np.unique(data.y, return_inverse=True)
    if mixed:
        pipe = trained(f"defaults-{name}-pipe", config, lambda: make_pipeline(
            encode, MLPClassifier(**net)).fit(data.X, data.y))
        judge = trained(f"defaults-{name}-judge", config, lambda: make_pipeline(encode, RandomForestClassifier(
            random_state=seed, min_samples_leaf=3)).fit(data.X, data.y))
        return trained(f"defaults-{name}", {**config, **defaults}, lambda: PipelineExplainer(pipe, **options).fit(
            data.X, data.y)), judge
    image = data.kind == "images"
    X = data.X[:, None] if image and data.X.ndim == 3 else data.X
    shape = X.shape[1:]
    net = trained(f"defaults-{name}-net", config, lambda: classifier(
        (lambda: cnn(shape, len(labels))) if image else (lambda: mlp(shape[0], len(labels))), X, where, seed, budget))
    judge = trained(f"defaults-{name}-judge", config, lambda: classifier(
        lambda: judge_net(shape, len(labels)), X, where, 100 + seed, budget) if image else RandomForestClassifier(
            random_state=seed, min_samples_leaf=2).fit(X, data.y))
    explainer = trained(f"defaults-{name}", {**config, **defaults}, lambda: PLACEExplainer(
        net.float() if image else net.to(torch.from_numpy(X).dtype), **own).fit(data.X, data.y))
    return explainer, judge


# ----------------------------------------------------------------------------------------------------------------- figures
def pairs_of(data: Data, explainer: Any, predicted: np.ndarray, most: int) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Name, target, and held-out rows of up to `most` pairs: of values, up from below the median and down from above."""
    if data.kind == "values":
        low, half, high = (float(np.quantile(data.y, q)) for q in (0.25, 0.5, 0.75))
        yield f"to {high:.3g}", high, np.flatnonzero(predicted < half)
        yield f"to {low:.3g}", low, np.flatnonzero(predicted > half)
        return
    labels = explainer.classes_
    pairs = list(data.pairs)
    if not pairs and len(labels) == 2:
        pairs = [(labels[0], labels[1]), (labels[1], labels[0])]
    elif not pairs:  # each class with its nearest neighbour by means, classes evenly chosen
        means = np.stack([np.asarray(data.X[data.y == label], dtype=float).mean(0).reshape(-1) for label in labels]
                         if data.kind != "columns" else [np.array([k]) for k in range(len(labels))])
        apart = np.linalg.norm(means[:, None] - means, axis=2) + np.diag(np.full(len(labels), np.inf))
        chosen = np.unique(np.linspace(0, len(labels) - 1, most).round().astype(int))
        pairs = [(labels[k], labels[apart[k].argmin()]) for k in chosen]
    for source, target in pairs[:most]:
        yield f"{source} → {target}", target, np.flatnonzero((predicted == source) & (data.y_test == source))


def judged(judge: Any, images: Any, labels: np.ndarray) -> np.ndarray:
    if not isinstance(judge, nn.Module):
        return judge.predict(images)
    with torch.no_grad():
        x = torch.from_numpy(np.asarray(images, dtype=np.float32))
        return labels[torch.cat([judge(part[:, None] if x.ndim == 3 else part) for part in x.split(250)]).argmax(1).numpy()]


def measure(data: Data, explainer: Any, judge: Any, target: Any, rows: np.ndarray) -> tuple[dict[str, Any], Any]:
    """The line of one pair, and the result."""
    X = data.X_test.iloc[rows] if hasattr(data.X_test, "iloc") else data.X_test[rows]
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = explainer.explain(X, target)
    seconds = time.perf_counter() - started
    found = asdict(cf.measures())
    said, of_pair = found.pop("warnings"), found.pop("pairs")
    found.pop("lines")
    line: dict[str, Any] = {
        "valid": float(cf.valid.mean()), "percentile": float(np.nanmedian(cf.density_percentile)),
        "steps": float(np.median(cf.n_steps)), "l2": float(np.median(cf.distance_x)),
        "reconstruction_error": float(np.median(cf.reconstruction_error)), **found,
        "room": of_pair[0]["room"] if of_pair else None, "seconds_a_row": seconds / len(cf), "warnings": said}
    if judge is not None:
        out = cf.to_frames()[1] if data.kind == "columns" else cf.x_cf
        line["judge"] = float((judged(judge, out, explainer.classes_) == target).mean())
    if data.kind == "images":
        def features(images: Any) -> np.ndarray:
            with torch.no_grad():
                x = torch.from_numpy(np.asarray(images, dtype=np.float32))
                return torch.cat([judge[:-1](part[:, None] if x.ndim == 3 else part) for part in x.split(250)]).numpy()

        reference = data.X[data.y == target][:MOST_REFERENCES]
        held_out = data.X_test[data.y_test == target]
        real = held_out[: len(cf)]
        if min(len(reference), len(real), len(cf)) > 5:
            y_ref, y_real = np.full(len(reference), target), np.full(len(held_out), target)
            line["realism"] = float(np.median(realism_percentile(
                cf.x_cf, target, features, reference, y_ref, held_out, y_real)))
            line["f1"] = precision_recall_f1(reference, cf.x_cf, features)
            line["f1_real"] = precision_recall_f1(reference, real, features)
    return line, cf


def run(name: str, data: Data, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """All lines of one data set."""
    started = time.perf_counter()
    explainer, judge = fitted(name, data, options.seed, options.budget)
    prepared = time.perf_counter() - started
    model = explainer.pipeline if isinstance(explainer, PipelineExplainer) else explainer
    predicted = model.predict(data.X_test)
    fits = (float(np.corrcoef(predicted, data.y_test)[0, 1]) if data.kind == "values"
            else float((predicted == data.y_test).mean()))
    lines, strips = [], {}
    for pair, target, rows in pairs_of(data, explainer, predicted, options.pairs):
        if not len(rows):
            continue
        line, cf = measure(data, explainer, judge, target, rows[: options.rows])
        lines.append({"data": name, "pair": pair, **line})
        print("  ".join(f"{k} {shown(v)}" for k, v in lines[-1].items() if k != "warnings"), flush=True)
        print("".join(f"    - {sentence}\n" for sentence in line["warnings"]), end="", flush=True)
        if cf.is_image:
            some = [np.moveaxis(images[:16], 1, -1) if images.ndim == 4 else images[:16]
                    for images in (cf.x, cf.reconstruction, cf.x_cf)]
            strips[f"{name}: {pair}"] = list(zip(("original", "reconstruction", "counterfactual"), some, strict=True))
    if options.pictures and strips:
        draw_strips(strips, out / f"{name}.png", dpi=110)
    return {"settings": settings(options), "kind": data.kind, "train_rows": len(data.X), "model_fits": fits,
            "seconds_of_networks": prepared, "table": lines, "machine": machine()}


def settings(options: argparse.Namespace) -> dict[str, Any]:
    return {"rows": options.rows, "pairs": options.pairs, "budget": options.budget, "seed": options.seed}


# ------------------------------------------------------------------------------------------------------------------- words
def shown(value: Any) -> str:
    """Three digits; "–" for what is not measured."""
    if value is None or isinstance(value, float) and not np.isfinite(value):
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def misses(line: dict[str, Any]) -> list[str]:
    """Which figures are beyond their limits. A class of little spread (`room`), or of few edges, is allowed it."""
    missed = []
    for name, (sign, limit) in LIMITS.items():
        value = line.get(name)
        if value is None or not np.isfinite(value):
            continue
        limit = limit * (line.get("room") or 1) if name == "spread" else limit
        value = line.get("sharpness_of_real") or value if name == "sharpness" else value
        if value < limit if sign == "≥" else value > limit:
            missed.append(name)
    return missed


def markdown(results: dict[str, dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS.values())} |", f"|{'---|' * len(COLUMNS)}"]
    said = []
    for name, result in results.items():
        for line in result["table"]:
            bad = misses(line)
            cells = [shown(line.get(key)) for key in COLUMNS]
            lines.append("| " + " | ".join(f"**{cell}**" if key in bad else cell
                                           for key, cell in zip(COLUMNS, cells, strict=True)) + " |")
            said += [f"- {name}, {line['pair']}: {sentence}" for sentence in line["warnings"]]
    limits = ", ".join(f"{name} {sign} {limit:g}" for name, (sign, limit) in LIMITS.items())
    return "\n".join([*lines, "", f"Bold: not within {limits} (of spread, times room: that of real rows of the target; of "
                      "sharpness, over that between real ones). F₁ is `precision_recall_f1`, beside that of as many "
                      "held-out real images.", "", *said]) + "\n"


def without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", help="of .npz and .csv files; default: the known data sets")
    parser.add_argument("--only", nargs="+", help="names of data sets (files without their ending)")
    parser.add_argument("--target", help="column of a .csv that is explained; default: the last")
    parser.add_argument("--rows", type=int, default=100, help="held-out rows a pair")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--budget", type=float, default=1.0, help="of all training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    parser.add_argument("--fresh", action="store_true", help="and train it anew")
    parser.add_argument("--pictures", action="store_true", help="a PNG a data set of images")
    parser.add_argument("--out", type=Path, default=RESULTS / "defaults")
    options = parser.parse_args(arguments)
    known = data_sets(options.folder, options.target)
    names = options.only or list(known)
    if set(names) - set(known):
        raise SystemExit(f"{sorted(set(names) - set(known))} are not known; choose from {list(known)}.")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = options.out / f"{name}.json"
        if file.exists() and not (options.again or options.fresh) and (
                json.loads(file.read_text())["settings"] == settings(options)):
            print(f"[{name}: kept, --again measures it anew]", flush=True)
            continue
        if options.fresh:
            for kept in [*CACHE.glob(f"defaults-{name}-*.joblib")]:
                kept.unlink()
        try:
            data = known[name]()
        except FileNotFoundError as error:
            print(f"[{name}: left out: {error}]", flush=True)
            continue
        result = run(name, data, options, options.out)
        file.write_text(json.dumps(without_nan(result), indent=1, default=float) + "\n")
    results = {file.stem: json.loads(file.read_text()) for file in sorted(options.out.glob("*.json"))}
    (options.out / "table.md").write_text(markdown(results))
    print(f"\n{markdown(results)}")


if __name__ == "__main__":
    main()
