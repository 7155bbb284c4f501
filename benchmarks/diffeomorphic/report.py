"""Write docs/diffeomorphic.md from the JSON files: ``python -m benchmarks.diffeomorphic.report``."""

from __future__ import annotations

from typing import Any

from benchmarks._common import HERE
from benchmarks.report import load, made_with, table

# Table 1 (IM1), 2 (L2 in X) and 3 (L2 in Z) of the paper: to the source image / to the source class
PAPER = {
    "mnist": {"success": "498/500", "bits/dim": "1.21", "oracle": "92 %",
              "X": dict(im1="1.603", l2_x="2.54 / 8.77", l2_z="41.86 / 42.12"),
              "Z": dict(im1="1.056", l2_x="4.82 / 9.27", l2_z="35.26 / 39.91")},
    "faces": {"success": "496/500 (CelebA)", "bits/dim": "1.32 (5 bits)", "oracle": "85 %",
              "X": dict(im1="1.144", l2_x="2.84 / 41.13", l2_z="473.72 / 542.21"),
              "Z": dict(im1="0.807", l2_x="19.10 / 40.79", l2_z="138.35 / 380.24")},
    "xray": {"success": "990/1000 (CheXpert)", "bits/dim": "3.59", "oracle": "70 %",
             "X": dict(im1="–", l2_x="1.59 / 33.68", l2_z="355.50 / 539.18"),
             "Z": dict(im1="–", l2_x="13.69 / 34.71", l2_z="64.90 / 400.31")},
}
TITLES = {"mnist": "MNIST, 4 → 9", "faces": "Faces, 64×64 grey (the paper: CelebA)",
          "xray": "Chest X-rays, 28×28 (the paper: CheXpert)", "approximate": "VAE and GAN on MNIST (section 2.4)"}
COLUMNS = [("success", "p > Λ", 3), ("judge", "second network", 3), ("svm", "SVM oracle", 3), ("im1", "IM1", 3),
           ("im1_dense", "IM1, dense", 3),
           ("neighbour_share", "10-NN share", 2), ("realism", "realism %", 0), ("sharpness", "sharpness", 2)]
CONVENTION = (
    "Bits per dimension: n_bits − log₂ p(v)/d, with v in (0, 1)^d dequantised uniformly within 2^n_bits bins, the logit's "
    "Jacobian included: the convention of RealNVP and Glow, and of the authors' code.")


def number(value: Any, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def images(name: str, result: dict[str, Any]) -> str:
    """One section: the figures of every search with every generator, and the paper's beside them."""
    parts = [f"## {TITLES[name]}\n"]
    accuracy = ", ".join(f"{k} {v:.3f}" for k, v in result["accuracy"].items())
    parts.append(f"Balanced accuracy on test images: {accuracy}.\n")
    for generator in result["generators"]:
        head = f"### {generator['generator']}\n"
        if "bits_per_dim_test" in generator:
            head += (f"\n{generator['parameters']:,} parameters; {generator['bits_per_dim_test']:.3f} bits/dim on test "
                     f"images at {generator['n_bits']} bits (paper: {PAPER[name]['bits/dim']}); round trip "
                     f"max |x − g(g⁻¹(x))| = {generator['round_trip']:.1e}.\n")
        else:
            head += (f"\nRoot mean square error of the reconstruction, which is not part of the explanation: "
                     f"{generator['inversion_rms']:.3f} a pixel.\n")
        rows = [[row["direction"], row["search"], str(row["rows"])] + [number(row.get(k), d) for k, _, d in COLUMNS]
                + [f"{row['l2_x']:.2f} / {row['l2_x_to_class']:.2f}" if "l2_x" in row else "–",
                   number(row.get("l2_z_path"), 2),
                   f"{row['l2_z']:.1f} / {row['l2_z_to_class']:.1f}" if "l2_z" in row else "–",
                   number(row.get("bits_per_dim"), 2), number(row.get("steps"), 0)] for row in generator["table"]]
        if name in PAPER and generator is result["generators"][0]:
            rows += [["", f"paper, {k}", "", "–", "–", "–", PAPER[name][k]["im1"], "–", "–", "–", "–",
                      PAPER[name][k]["l2_x"], "–", PAPER[name][k]["l2_z"], "–", "–"] for k in ("Z", "X")]
        parts += [head, table(["direction", "search", "rows", *(n for _, n, _ in COLUMNS), "L2 in X to source / class",
                               "path in Z", "L2 in Z of the stored image, to source / class", "bits/dim", "steps"], rows)]
    if name in PAPER:
        parts.append(f"The paper's success: {PAPER[name]['success']}; its SVM oracle's test accuracy: "
                     f"{PAPER[name]['oracle']}.\n")
    if result.get("confidence_sweep"):
        parts += ["### The same image at rising confidence (figure 18)\n", "One batched call; Glow, steps of 0.2.\n",
                  table(["Λ", "reached", "second network", "L2 in X", "steps"], [
                      [str(row["confidence"]), number(row["reached"], 2), number(row["judge"], 2), number(row["l2_x"], 2),
                       number(row["steps"], 0)] for row in result["confidence_sweep"]]),
                  "![Confidence sweep](../benchmarks/results/diffeomorphic_sweep.png)\n"]
    parts += [f"![{TITLES[name]}](../benchmarks/results/diffeomorphic_{name}.png)\n", made_with(result)]
    return "\n".join(parts)


def plain(title: str, picture: tuple[str, ...], result: dict[str, Any]) -> str:
    """A section for an experiment that brings its own words: ``text`` and ``table`` (head, rows)."""
    parts = [f"## {title}\n", result.get("text", ""), ""]
    for name, part in result.get("tables", {}).items():
        parts += [f"**{name}**\n", table(part["head"], [[str(cell) for cell in row] for row in part["rows"]])]
    parts += [f"![{title}](../benchmarks/results/{file}.png)\n" for file in picture]
    return "\n".join([*parts, made_with(result)])


def crowd(result: dict[str, Any]) -> str:
    """Figures 9 and 11 and the Mall columns of tables 2 and 3."""

    def mean(row: dict[str, Any], name: str, digits: int = 2) -> str:
        return number(row[name]["mean"], digits) if row.get(name) else "–"

    names = {"max": "few → 10", "min": "many → 0.01"}
    rows = [[names[row["direction"]], row["method"], str(row["rows"]), number(row.get("reached"), 2),
             mean(row, "explained"), mean(row, "oracle"), mean(row, "near_3"), mean(row, "near_10"), mean(row, "l2_x"),
             mean(row, "l2_x_source_class"), mean(row, "l2_z_path", 1), mean(row, "l2_z", 1),
             mean(row, "l2_z_source_class", 1), number(row["steps"]["median"], 0) if "steps" in row else "–"]
            for row in result["table"]]
    paper = result["paper"]
    rows += [[names[direction], f"paper, {space}", "100", "1.00", "–", "–", "–", "–",
              f"{paper['l2_x'][direction][space]:.2f}", f"{paper['l2_x_source_class'][direction][space]:.2f}", "–",
              f"{paper['l2_z'][direction][space]:.1f}", f"{paper['l2_z_source_class'][direction][space]:.1f}", "–"]
             for direction in names for space in "ZX"]
    rmse = ", ".join(f"{name} {value:.3f} (paper {paper['rmse'][name]:.2f})" for name, value in result["rmse"].items())
    return "\n".join([
        "## Crowd counting (section 4.2, figures 9 to 11)\n",
        f"Root mean square error of the counts on 200 test frames: {rmse}. Glow: {result['bits_per_dim']:.3f} bits/dim at 5 "
        f"bits (paper: {paper['bits_per_dim']}). Counts are driven up to 10 from frames of less than 1, and down to 0.01 "
        "from frames of more than 3; the oracle is an independently trained, larger network. *near 3*, *near 10*: mean "
        "labelled count of the nearest training frames.\n",
        table(["direction", "search", "frames", "reached", "explained", "oracle", "near 3", "near 10", "L2 in X",
               "… to class", "path in Z", "L2 in Z, encoded again", "… to class", "steps"], rows),
        "![Crowd](../benchmarks/results/diffeomorphic_crowd.png)\n",
        "![Heads, by a Gaussian mixture on the probability maps](../benchmarks/results/diffeomorphic_heads.png)\n",
        made_with(result)])


def main() -> None:
    parts = ["# Diffeomorphic Counterfactuals: the paper's experiments, and ours\n",
             "Made by `python -m benchmarks.diffeomorphic` and written by `python -m benchmarks.diffeomorphic.report`; "
             "figures of the paper are for its own networks and data.\n", CONVENTION + "\n",
             "*Path in Z* is ‖z′ − z₀‖ of the search. *L2 in Z of the stored image* encodes the picture again after it was "
             "clipped and rounded to 256 values, as a file holds it; the paper does not say which of the two it prints. "
             "IM1: lower is better (‖x − AE_target(x)‖ / ‖x − AE_source(x)‖, not squared), by small convolutional and by "
             "small dense autoencoders. *10-NN share*: nearest real images of the two classes, balanced. *Realism*: "
             "percentile among real held-out images, 50 is the median real one.\n"]
    for name, title, pictures in (("helix", "Helix (section 4.1.1)", ("diffeomorphic_helix",)),):
        if (result := load(f"diffeomorphic_{name}")) is not None:
            parts.append(plain(title, pictures, result))
    parts += [images(name, result) for name in ("mnist", "approximate", "faces", "xray")
              if (result := load(f"diffeomorphic_{name}")) is not None]
    if (result := load("diffeomorphic_crowd")) is not None:
        parts.append(crowd(result))
    page = HERE.parent / "docs" / "diffeomorphic.md"
    page.write_text("\n".join(parts))
    print(f"[wrote {page.relative_to(HERE.parent)}]")


if __name__ == "__main__":
    main()
