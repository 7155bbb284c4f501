"""Write docs/results.md from the JSON files in benchmarks/results: ``python -m benchmarks.report``."""

from __future__ import annotations

import json
from typing import Any

from benchmarks._common import HERE, RESULTS

MNIST = [("valid", "valid", 3), ("judge", "second CNN", 3), ("svm", "SVM", 3), ("density_percentile", "density %", 0),
         ("realism", "realism %", 0), ("l2", "L2", 2), ("l2_z", "L2 in Z", 2), ("l2_ratio", "ratio", 2),
         ("faint_ink", "faint ink", 2), ("faint_ink_of_decoder", "… of the decoder's own", 2),
         ("slant_kept", "slant kept", 2), ("stroke_kept", "stroke kept", 2), ("diversity", "diversity", 2),
         ("steps", "steps", 0), ("seconds", "seconds", 1)]
FACES = [("valid", "valid", 2), ("every_condition", "every condition", 2), ("judge", "second CNN", 2), ("svm", "SVM", 2),
         ("l2", "L2", 1), ("density_percentile", "density %", 0), ("realism", "realism %", 0), ("sharpness", "sharpness", 2),
         ("identity", "identity", 2), ("same_person", "same person", 2), ("upper_half", "upper half", 2),
         ("steps", "steps", 0), ("seconds", "seconds", 1)]
ABLATION = [("valid", "valid", 2), ("converged", "conv.", 2), ("judge", "judge", 2), ("steps", "steps", 0),
            ("percentile", "pct.", 0), ("realism", "realism", 0), ("spread", "spread", 2), ("shade_kept", "shade r", 2),
            ("sharpness", "sharp", 2), ("specks", "specks", 3), ("grey", "grey", 2), ("columns_changed", "columns", 1),
            ("l2", "L2", 2)]


def load(name: str) -> dict[str, Any] | None:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def span(cell: dict[str, float] | None, digits: int) -> str:
    """Mean over seeds, and the range where it is not one number."""
    if cell is None:
        return "–"
    mean, low, high = (f"{cell[k]:.{digits}f}" for k in ("mean", "min", "max"))
    return mean if low == high else f"{mean} ({low}–{high})"


def made_with(result: dict[str, Any]) -> str:
    m = result["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    return f"*{m['cpu']}, {m['cores']} cores, {m['torch_threads']} torch thread(s); {versions}.*\n"


def mnist(result: dict[str, Any]) -> str:
    seeds = len(result["seeds"])
    before = result.get("published_before", {"summary": []})
    rows = [[cell["pair"], cell["preset"], f"{cell['rows']['mean']:.0f}"] + [span(cell.get(k), d) for k, _, d in MNIST]
            for cell in result["summary"] + before["summary"]]
    accuracy = "; ".join(f"seed {s['seed']}: " + ", ".join(f"{k} {v:.4f}" for k, v in s["accuracy"].items())
                         for s in result["seeds"])
    paper = "; ".join(f"{k} L2 {v['l2']}, log density {v['log_density']}, {v['seconds']} s"
                      for k, v in result["paper_table_2"].items())
    return (f"## MNIST, {result['train_size']} training images, {seeds} training seed(s)\n\n"
            "Mean over seeds (lowest–highest). `ratio` is pixel L2 over the classifier-only search in the same space; "
            "`faint ink` is relative to real images of the target class, and to their reconstructions; `realism` is the "
            "median percentile among real held-out images, 50 being the median real one.\n\n"
            + table(["pair", "preset", "rows"] + [name for _, name, _ in MNIST], rows)
            + (f"\nThe rows of `place-mnist` are means of {before['seeds']} seeds, from before networks were sized by the "
               "data.\n" if before["summary"] else "")
            + f"\nAccuracy. {accuracy}.\n\nThe paper's Table 2 (other networks and latent units; validity 1.0): "
            f"{paper}.\n\n"
            "![MNIST](../benchmarks/results/place_mnist.png)\n\n" + made_with(result))


def faces(result: dict[str, Any]) -> str:
    rows = [[row["direction"], row["variant"]] + [f"{row[k]:.{d}f}" if k in row else "–" for k, _, d in FACES]
            for row in result["table"]]
    recall = "; ".join(f"{k} {v[0]:.3f} / {v[1]:.3f}" for k, v in result["recall"].items())
    return (f"## Faces, 64×64, {result['table'][0]['rows']} each way\n\n"
            "`identity` is the median distance in a face recogniser (the same person below .6, two people about .70); "
            "`sharpness` is relative to the original; `upper half` is the median correlation with the original.\n\n"
            + table(["direction", "variant"] + [name for _, name, _ in FACES], rows)
            + f"\nRecall of no smile / smile: {recall}.\n\n![Faces](../benchmarks/results/place_faces.png)\n\n"
            + made_with(result))


def small(result: dict[str, Any]) -> str:
    rows = [[r["data"], r["pair"], str(r["rows"]), f"{r['valid']:.3f}", f"{r['every_condition']:.3f}", f"{r['steps']:.0f}"]
            for r in result["table"]]
    head = ["data", "pair", "rows", "valid", "every condition", "steps"]
    return "## Small data\n\n" + table(head, rows) + "\n" + made_with(result)


def tables(result: dict[str, Any]) -> str:
    head = list(result["table"][0])
    rows = [[f"{row[k]:.3g}" if isinstance(row[k], float) else str(row[k]) for k in head] for row in result["table"]]
    return ("## Tables in a pipeline\n\nHeld columns are compared in scaled and in original units.\n\n"
            + table([name.replace("_", " ") for name in head], rows) + "\n" + made_with(result))


def ratio(cell: dict[str, float], digits: int = 1) -> str:
    """Median, and the range."""
    return f"{cell['ratio']:.{digits}f}× ({cell['low']:.{digits}f}–{cell['high']:.{digits}f})"


def loop_rows(name: str, against: dict[str, Any]) -> list[list[str]]:
    return [[name, str(against["rows"]), backend, ratio(cell), f"{cell['evaluations_a_row']:.1f}",
             f"{cell['same_steps_as_eager']:.3f}", f"{cell['same_validity_as_eager']:.3f}", str(cell["repeats"])]
            for backend, cell in against["backends"].items()]


LOOP_HEAD = ["", "rows", "backend", "ratio", "evaluations a row", "equal steps", "equal validity", "repeats"]


def speed_digits(result: dict[str, Any]) -> str:
    rows = [row for against in result["against_one_image_loop"] for row in loop_rows("PLACE, MNIST", against)]
    others = [[name, cell.get("failed") or ratio(cell)] for name, cell in result["against_whole_batch"].items()]
    share = result["share_of_sgemm_peak"]
    return ("## Speed: PLACE on MNIST\n\nOne call of `explain`, encoding and judging included, against a loop over images "
            "on the same networks, terms and stopping rule, interleaved in one process; medians (lowest–highest).\n\n"
            + table(LOOP_HEAD, rows)
            + "\nThe packed search of 64 rows, refinement off, against one batch that nothing leaves:\n\n"
            + table(["batch", "ratio"], others)
            + f"\nA step takes {result['flops_of_a_step'] / 1e6:.0f} million operations a row; the whole call ran at "
            f"{share['ratio']:.2f} ({share['low']:.2f}–{share['high']:.2f}) of the machine's float32 matrix product.\n\n"
            + made_with(result))


def speed_published(result: dict[str, Any]) -> str:
    return ("## Speed: the default against the published setting\n\n"
            f"The default in one batch of {result['rows']} rows, against `preset(\"place-mnist\")` one image at a time on "
            f"the same networks, its {result['published_rows']} rows in several parts, which compute with one thread.\n\n"
            + table(["backend", "ratio", "repeats"], [[name, ratio(cell, 0), str(cell["repeats"])]
                                                      for name, cell in result["backends"].items()])
            + "\n" + made_with(result))


def speed_table(result: dict[str, Any]) -> str:
    return "## Speed: a table of 16 columns\n\n" + table(LOOP_HEAD, loop_rows("PLACE", result)) + "\n" + made_with(result)


def speed_diffeomorphic(result: dict[str, Any]) -> str:
    rows = [*loop_rows("Glow, MNIST", result["mnist"]), *loop_rows("RealNVP, 16 columns", result["table"])]
    return "## Speed: diffeomorphic\n\n" + table(LOOP_HEAD, rows) + "\n" + made_with(result)


def numbers(rows: list[dict[str, float]]) -> str:
    return table([name.replace("_", " ") for name in rows[0]],
                 [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows])


def speed_scaling(result: dict[str, Any]) -> str:
    parts = [("Rows of MNIST (over and over again beyond 10,000), PLACE's default. Memory is the most that the process held "
              "during the calls, 1 GiB of it before them.", "against_rows"),
             ("One step (value and gradient of 32 rows together), milliseconds a row, by latents on MNIST; `at peak` is the "
              "number of operations over the machine's own matrix product.", "against_latent"),
             ("The same by the side of the image, faces, 64 latents.", "against_side")]
    told = [f"{about}\n\n{numbers(result[name]) if name in result else 'Not measured.'}" for about, name in parts]
    return "## Speed: how it scales\n\n" + "\n".join(told) + "\n" + made_with(result)


def thickness(result: dict[str, Any]) -> str:
    head = {"generator": "generator", "asked": "asked", "rows": "rows", "valid": "valid", "status": "status",
            "predicted": "model says", "measured": "measured", "measured_error": "off by", "percentile": "density %",
            "same_digit": "same digit", "steps": "steps"}
    rows = [[", ".join(f"{name} {n}" for name, n in row[k].items()) if k == "status" else
             f"{row[k]:.3g}" if isinstance(row[k], float) else str(row[k]) for k in head] for row in result["table"]]
    low, most = (result["thickness_of_data"][q] for q in ("0.01", "0.99"))
    return ("## A value: how thick is the stroke?\n\nMNIST, {} training images, `DiffeomorphicExplainer` of a regressor; "
            "the picture itself is measured by its skeleton, and a CNN says whether it is still the digit that it was. Of "
            "the training images 98 % lie between {:.1f} and {:.1f} pixels.\n\n".format(result["train_rows"], low, most)
            + table(list(head.values()), rows) + "\n" + made_with(result))


ACTIONABLE = [("valid", 2), ("rules_kept", 2), ("columns", 2), ("cost", 2), ("inside", 2), ("percentile", 0),
              ("hypervolume", 2), ("accepted", 2), ("lof", 2), ("isolation", 2), ("seconds_a_row", 2), ("fit_seconds", 1)]


def actionable(result: dict[str, Any]) -> str:
    rows = [[row["data"], row["model"], row["method"].replace("_", " "), str(row["rows"])]
            + [f"{row[name]:.{digits}f}" if name in row else "–" for name, digits in ACTIONABLE]
            + [f"{row['real']['lof']:.2f} / {row['real']['isolation']:.2f}"] for row in result["table"]]
    head = ["table", "model", "method", "rows", *(name.replace("_", " ") for name, _ in ACTIONABLE), "real outliers"]
    return ("## Advice on real tables\n\n"
            "Held-out rows that the model refuses; columns that nobody can change are fixed, and age only rises. "
            "`scan` is `ScanExplainer`, `neighbour` the nearest training row that the model accepts, beside DiCE and "
            "alibi, which knows no rules. `columns` and `cost` (standard deviations; 1 for another category) are "
            "means, `percentile` the median typicality among real rows of the target by a kernel density that took no "
            "part, `hypervolume` the mean of (1 − cost / 10) · percentile / 100, `accepted` the share that a forest "
            "of other seeds accepts, `lof` and `isolation` the shares of outliers (the scan has a price for the "
            "former), beside those among real rows of the target in the last column; seconds are of the processor.\n\n"
            + table(head, rows) + "\n" + made_with(result))


def optimum(result: dict[str, Any]) -> str:
    rows = [[row["data"], row["model"], "prices" if row["prices"] else "default", str(row["rows"]),
             *(f"{row[name]:.3f}" for name in ("mean", "median", "most")), f"{row['within 5 %']:.2f}"]
            for row in result["table"]]
    return ("## Is the cheapest change found?\n\n"
            "`ScanExplainer` on tables of eight columns, beside every combination of their values (25 quantiles of numbers) "
            "that is cheaper than its answer: our cost over that of the cheapest which the model accepts. `prices`: of "
            "`costs=` the total is minimised; `default`: each column costs 1 more. What is typical is not asked: "
            "`python -m benchmarks.optimum`.\n\n"
            + table(["table", "model", "cost", "rows", "mean", "median", "most", "rows within 5 %"], rows) + "\n"
            + made_with(result))


def ablation(result: dict[str, Any]) -> str:
    rows = [[line["data"], line["pair"], line["part"]]
            + ["–" if line.get(key) is None else f"{line[key]:.{digits}f}" for key, _, digits in ABLATION]
            for line in result["table"]]
    return (f"## What each part of the defaults buys\n\nThe same fitted explainers, {result['rows']} held-out rows a pair "
            "at most, one part left out at a time: `python -m benchmarks.ablation`.\n\n"
            + table(["data", "pair", "left out", *(head for _, head, _ in ABLATION)], rows) + "\n" + made_with(result))


SECTIONS = {"place_mnist": mnist, "place_faces": faces, "place_small": small, "place_tables": tables,
            "actionable": actionable, "optimum": optimum, "ablation": ablation, "thickness": thickness,
            "speed_digits": speed_digits, "speed_published": speed_published, "speed_table": speed_table,
            "speed_diffeomorphic": speed_diffeomorphic, "speed_scaling": speed_scaling}


def defaults() -> str:
    """The table of `held_out_defaults`, with what the summary itself says about each."""
    return ("## Defaults, on data that nobody tuned them for\n\nHeld-out rows; `judge` is another model, `room` the spread "
            "of real rows of the target over that of the originals; "
            "`python -m benchmarks.held_out_defaults` makes the table for any folder of data sets.\n\n"
            + (RESULTS / "defaults" / "table.md").read_text() + "\n" + (RESULTS / "defaults" / "looks.md").read_text())


def main() -> None:
    text = ["# Results\n\nMade by `python -m benchmarks.report` from `benchmarks/results/*.json`.\n"]
    text += [defaults()] + [write(result) for name, write in SECTIONS.items() if (result := load(name)) is not None]
    (HERE.parent / "docs" / "results.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
