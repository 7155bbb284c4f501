"""The suite runs on a folder of one's own, keeps what it did, and writes figures that say what the data are."""

import json

import numpy as np
import pytest

from benchmarks import _common, held_out_defaults
from cfexplain.datasets import load_digits_images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(_common, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(held_out_defaults, "CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    X, y = load_digits_images()
    some = np.flatnonzero(y < 2)[:120]
    np.savez(tmp_path / "strokes.npz", x=(X[some] * 255).astype(np.uint8), y=y[some])
    age, job = rng.integers(18, 70, 200), rng.choice(["cook", "clerk"], 200)
    rows = [f"{a},{j},{'yes' if a + 20 * (j == 'cook') > 50 else 'no'}" for a, j in zip(age, job, strict=True)]
    rows[::20] = [row[2:] for row in rows[::20]]  # an age is missing
    (tmp_path / "credit.csv").write_text("\n".join(["age,job,credit", *rows]) + "\n")
    numbers = rng.normal(size=(120, 3))
    lines = [",".join(f"{v:.6f}" for v in [*row, row @ [1, 2, 3]]) for row in numbers]
    (tmp_path / "values.csv").write_text("\n".join(["a,b,c,y", *lines]) + "\n")
    return tmp_path


def test_a_folder_becomes_a_table(folder, capsys):
    out = folder / "out"
    arguments = [str(folder), "--rows", "12", "--budget", "0.02", "--out", str(out)]
    held_out_defaults.main([*arguments, "--pictures"])
    assert (out / "strokes.png").is_file() and not (out / "credit.png").exists()
    found = {name: json.loads((out / f"{name}.json").read_text()) for name in ("strokes", "credit", "values")}
    assert [result["kind"] for result in found.values()] == ["images", "columns", "values"]
    digits, people, values = (result["table"] for result in found.values())
    assert [line["pair"] for line in digits] == ["0 → 1", "1 → 0"] and all(line["rows"] <= 12 for line in digits)
    assert all(0 <= line["f1"] <= 1 and line["sharpness"] > 0 and line["columns_changed"] is None for line in digits)
    assert all(line["columns_changed"] <= 2 and line["specks"] is None and "judge" in line for line in people)
    assert len(values) == 2 and all("judge" not in line for line in values)
    table = (out / "table.md").read_text()
    assert table.count("\n| strokes |") == 2 and "nan" not in table.lower()
    capsys.readouterr()
    held_out_defaults.main(arguments)
    assert capsys.readouterr().out.count("kept, --again measures it anew") == 3
    held_out_defaults.main([*arguments, "--only", "credit", "--again"])
    assert "reusing defaults-credit" in capsys.readouterr().out


def test_names_and_folders_are_checked(tmp_path):
    with pytest.raises(SystemExit, match="not known; choose from"):
        held_out_defaults.main(["--only", "minst", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"no \.npz and no \.csv"):
        held_out_defaults.main([str(tmp_path)])


def test_a_class_of_little_spread_is_allowed_it():
    assert held_out_defaults.misses({"spread": 0.7, "room": 0.75, "converged": 0.9, "specks": None}) == ["converged"]
    assert held_out_defaults.misses({"spread": 0.7, "room": 1.0, "grey": 1.3}) == ["spread", "grey"]
    assert held_out_defaults.misses({"sharpness": 0.5, "sharpness_of_real": 0.9}) == []
    assert held_out_defaults.misses({"sharpness": 0.5, "sharpness_of_real": None}) == ["sharpness"]
    assert held_out_defaults.shown(float("nan")) == held_out_defaults.shown(None) == "–"
