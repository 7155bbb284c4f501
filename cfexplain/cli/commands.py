"""The commands, written with the public API."""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image
from sklearn.model_selection import train_test_split

from cfexplain.cli.config import make_explainer, read_config
from cfexplain.cli.models import load_classifier
from cfexplain.cli.rows import FileRows, read_rows
from cfexplain.cli.written import CHANGES, refuse_foreign, results_head, write_results, write_table
from cfexplain.datasets import load_digits_images
from cfexplain.evaluation.evaluation import evaluate
from cfexplain.explainers import CounterfactualExplainer, PLACEExplainer
from cfexplain.foundation.arrays import restore_samples
from cfexplain.foundation.files import atomic_write, read_kind
from cfexplain.foundation.progress import bar_delay
from cfexplain.persistence.persistent import load
from cfexplain.plotting.pictures import as_pictures, png
from cfexplain.report.page import piece
from cfexplain.result import Counterfactuals
from cfexplain.scale import load_results

__all__ = ["run_demo", "run_evaluate", "run_explain", "run_fit", "run_report"]

_STORE = "rows"
_TABLES = {".md": "|  |", ".csv": ",rows", ".html": '<table border="1" class="dataframe">'}  # and what they begin with
_PNG = b"\x89PNG"
_REPORT = piece("page.html").partition("$")[0]  # what every report begins with


def run_demo(out: Path, seed: int = 0, quiet: bool = False) -> int:
    """Explain held-out digits and write ``counterfactuals.png`` and ``counterfactuals.csv`` into `out`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"cfexplain demo: cannot write into {out}: {error}. Choose another folder with --out.", file=sys.stderr)
        return 1
    picture, table = out / "counterfactuals.png", out / "counterfactuals.csv"
    head = ",".join(results_head("row"))
    refuse_foreign({table: head, picture: _PNG if table.exists() else None})
    started = time.perf_counter()
    X, y = load_digits_images()
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=seed)
    print(f"Training on {len(X)} images of handwritten digits, 8x8 pixels (classifier, latent space, density) ...")
    explainer = PLACEExplainer(random_state=seed, verbose=0 if quiet else "auto").fit(X, y)
    accuracy = float((explainer.predict(X_test) == y_test).mean())
    print(f"The classifier is right on {accuracy:.1%} of {len(X_test)} images that it never saw.")

    pairs = [(4, 9), (0, 6), (3, 8), (7, 9), (1, 4), (5, 6)]
    rows = np.concatenate([np.flatnonzero((y_test == a) & (explainer.predict(X_test) == a))[:20] for a, _ in pairs])
    target = np.array([dict(pairs)[label] for label in y_test[rows]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the summary reports the same
        cf = explainer.explain(X_test[rows], target=target)
    print(f"\nWhat would have to change for it to see another digit? ({len(pairs)} questions, {len(rows)} images)\n")
    print(cf.summary())

    first = np.concatenate([np.flatnonzero((cf.source == a) & (cf.target == b))[:2] for a, b in pairs])
    cf[first].plot(n=len(first)).figure_.savefig(picture, dpi=120)
    write_results(table, cf, row=rows)
    print(f"\nPicture: {picture}\nTable:   {table}\n({time.perf_counter() - started:.0f} seconds)")
    return 0


def run_fit(options: argparse.Namespace) -> int:
    """Train what ``options.config`` describes, and save it."""
    config = read_config(options.config, options.overrides)
    data, own, chosen = config["data"], config.get("classifier"), config.get("explainer", {})
    if not options.out.parent.is_dir():  # before minutes of training
        raise FileNotFoundError(f"The folder {options.out.parent} does not exist; create it first.")
    _refuse_other_kinds(options.out)
    classifier = None if own is None else load_classifier(
        own.get("file") or own["import"], trust=own.get("trust", False),
        weights=Path(own["weights"]) if "weights" in own else None)
    explainer = make_explainer(chosen, classifier, verbose=0 if options.quiet else "auto")
    size = data.get("size")
    rows = read_rows(Path(data["path"]), size=None if size is None else tuple(size), channels=data.get("channels"),
                     label=data.get("label"), ignore=data.get("ignore", []), data_range=explainer.data_range)
    _tell(rows)
    if rows.y is None:
        raise ValueError(f"{data['path']} has no labels to learn from. Use one subfolder a label, an array 'y' in an .npz, "
                         "or label = \"column\" of a .csv.")
    explainer.fit(rows.X, rows.y)
    explainer.save(options.out)
    classes = "" if explainer.is_regression else f", classes {', '.join(map(str, explainer.classes_))}"
    print(f"{type(explainer).__name__} learned from {len(rows.names)} rows{classes}.\nSaved: {options.out}")
    if classifier is not None:
        print("The classifier is yours and is not in that file: pass it again with --classifier.")
    return 0


def run_explain(options: argparse.Namespace) -> int:
    """Explain the rows of ``options.data`` into the folder ``options.out``."""
    explainer = _load_explainer(options.model, options).set_params(verbose=0)  # one bar is enough
    rows = _rows_for(explainer, options.data, options.resize)
    target = _read_target(explainer, options.target)
    image, region = explainer.layout_.is_image, _read_region(options.region)
    names = [name if options.answers == 1 else _answer_name(name, k + 1) for name in rows.names
             for k in range(options.answers)]
    pictures = _picture_names(names, options.out / "images") if image else []
    begun = (options.out / _STORE).is_dir()
    refuse_foreign({
        options.out / "counterfactuals.csv": ",".join(results_head("name")), options.out / "report.html": _REPORT,
        **({} if image else {options.out / "changes.csv": ",".join(CHANGES)}),
        **dict.fromkeys(pictures, _PNG if begun else None)})
    options.out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the summary reports the same
        store = explainer.explain_to(options.out / _STORE, rows.X, target, block_size=options.block_size, k=options.answers,
                                     time_limit=options.time_limit, region=region, record_path=options.path,
                                     n_jobs=options.jobs, progress=not options.quiet and bar_delay("auto") is not None)
    if not len(store) and options.time_limit is not None:
        raise ValueError(f"No block of {options.block_size} rows was finished within --time-limit {options.time_limit:g}. "
                         "Allow more seconds, or pass a smaller --block-size.")
    if len(store) < len(names):
        print(f"Note: the time limit was over after {len(store) // options.answers} of {len(rows.names)} rows. The same "
              "command goes on after them.", file=sys.stderr)
    names, pictures = names[:len(store)], pictures[:len(store)]
    cf = replace(store.concatenate(), index=np.array(names))  # the report calls rows by their files' names
    write_results(options.out / "counterfactuals.csv", cf, name=names)
    if image:
        for picture, file in zip(as_pictures(cf.x_cf, cf), pictures, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, png(picture))
    else:
        write_table(options.out / "changes.csv", CHANGES, [
            [names[i], cf.feature_names[k], cf.x[i, k], cf.x_cf[i, k]]
            for i, k in np.argwhere(~np.isclose(cf.x, cf.x_cf, equal_nan=True))])
    cf.to_html(options.out / "report.html", explainer=explainer if options.path else None)
    if not options.quiet:
        print(cf.summary())
        print(f"\nReport:  {options.out / 'report.html'}\nTable:   {options.out / 'counterfactuals.csv'}\n"
              f"Results: {options.out / _STORE} (cfexplain.load_results)")
    return 0


def _answer_name(name: str, answer: int) -> str:
    """``face.png`` is ``face-2.png`` for its second answer."""
    path = PurePath(name)
    return str(path.with_name(f"{path.stem}-{answer}{path.suffix}"))


def run_evaluate(options: argparse.Namespace) -> int:
    """Compare explainers on the same rows."""
    if options.out is not None:
        if options.out.suffix not in _TABLES:
            raise ValueError(f"--out {options.out} must end in one of {', '.join(_TABLES)}.")
        if not options.out.parent.is_dir():
            raise FileNotFoundError(f"The folder {options.out.parent} does not exist; create it first.")
        refuse_foreign({options.out: _TABLES[options.out.suffix]})
    explainers = {}
    for path in options.models:
        name = path.stem
        if name in explainers:
            raise ValueError(f"Two files are called {name!r}; rename one, since the table is read by these names.")
        explainers[name] = _load_explainer(path, options)
    first = next(iter(explainers.values()))
    rows = _rows_for(first, options.data, options.resize)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate(explainers, rows.X, _read_target(first, options.target), k=options.answers, metrics=options.metrics,
                         n_jobs=options.jobs)
    print(f"{found.to_markdown()}\n\n{found.summary()}")
    if options.out is not None:
        frame = found.to_frame()
        writers = {".md": found.to_markdown, ".csv": frame.to_csv, ".html": frame.to_html}
        atomic_write(options.out, writers[options.out.suffix]().encode())
        print(f"\nTable: {options.out}")
    return 0


def run_report(options: argparse.Namespace) -> int:
    """Write results as HTML."""
    refuse_foreign({options.out: _REPORT})
    if not options.results.exists():
        raise FileNotFoundError(f"There is no {options.results}. Expected a folder that `cfexplain explain` wrote, or a "
                                "file that cf.save() wrote.")
    if options.results.is_dir():
        inner = options.results / _STORE
        cf = load_results(inner if inner.is_dir() else options.results).concatenate()
    else:
        cf = Counterfactuals.load(options.results)
    explainer = None if options.model is None else _load_explainer(options.model, options)
    cf.to_html(options.out, explainer=explainer, title=options.title, max_rows=options.max_rows)
    print(f"Report: {options.out}")
    return 0


def _load_explainer(path: Path, options: argparse.Namespace) -> CounterfactualExplainer:
    given: dict[str, Any] = {}
    if options.classifier is not None:
        given["classifier"] = load_classifier(options.classifier, weights=options.weights, trust=options.trust)
    explainer = load(path, **given)
    if not isinstance(explainer, CounterfactualExplainer):
        raise ValueError(f"{path} holds a {type(explainer).__name__}, not an explainer. Pass a file that `cfexplain fit` "
                         "wrote.")
    return explainer


def _rows_for(explainer: CounterfactualExplainer, path: Path, resize: bool) -> FileRows:
    """Rows in the layout that the explainer was fitted on."""
    net, image = explainer.layout_.net_shape, explainer.layout_.is_image
    names = getattr(explainer, "feature_names_in_", None)
    rows = read_rows(path, size=(net[1], net[2]) if image else None, channels=net[0] if image else None,
                     columns=None if names is None else list(names), data_range=explainer.data_range, resize=resize)
    _tell(rows)
    if image and path.is_dir():
        rows.X = restore_samples(rows.X.reshape(len(rows.X), *net), explainer.layout_)
    return rows


def _tell(rows: FileRows) -> None:
    for note in rows.notes:
        print(f"Note: {note}", file=sys.stderr)


def _refuse_other_kinds(path: Path) -> None:
    """Raise FileExistsError where something else than an explainer would be replaced."""
    if path.is_file():
        try:
            kind = read_kind(path)
        except ValueError:
            kind = "something else"
        if kind != "explainer":
            raise FileExistsError(f"{path} exists, and holds {kind}, not an explainer. Nothing was changed: move it away, "
                                  "or choose another --out.")


def _read_target(explainer: CounterfactualExplainer, text: str | None) -> Any:
    """The label, number or interval that `text` of the command line stands for."""
    if text is None:
        return None
    if not explainer.is_regression:
        known = {str(label): label for label in explainer.classes_}
        if text not in known:
            raise ValueError(f"--target {text}: no such class; the explainer knows {', '.join(known)}.")
        return known[text]
    if text in ("maximize", "minimize"):
        return text
    try:
        low, colon, high = text.partition(":")
        return (float(low), float(high)) if colon else float(low)
    except ValueError:
        raise ValueError(f"--target {text}: expected a number, LOW:HIGH, maximize or minimize.") from None


def _read_region(text: str | None) -> Any:
    """The region that `text` of the command line stands for."""
    if text is None or text == "auto":
        return text
    if re.fullmatch(r"\s*\d+(\s*,\s*\d+){3}\s*", text):
        return tuple(int(edge) for edge in text.split(","))
    if not Path(text).is_file():
        raise ValueError(f"--region {text}: expected auto, four whole numbers TOP,LEFT,BOTTOM,RIGHT, or a picture in which "
                         "what is not black is marked; there is no such file.")
    with Image.open(text) as picture:
        return picture.convert("L")


def _picture_names(names: list[str], folder: Path) -> list[Path]:
    """A PNG for each row, under the name of its original; with that one's ending, too, where x.png and x.jpg are two."""
    short = [(folder / name).with_suffix(".png") for name in names]
    return short if len(set(short)) == len(short) else [folder / f"{name}.png" for name in names]
