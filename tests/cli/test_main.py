"""The command line, called as a terminal calls it."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cfexplain import PLACEExplainer, load, load_results
from cfexplain.cli import main
from cfexplain.cli.models import load_classifier
from cfexplain.cli.rows import read_rows

CONFIG = """\
[data]
path = "{data}"

[explainer]
method = "place"
training_budget = 0.02
random_state = 0
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory, digits):
    """Digits as PNGs, one subfolder a label, and an explainer that the command line fitted on them."""
    folder = tmp_path_factory.mktemp("cli")
    X, y, X_test, y_test = digits
    for i, (x, label) in enumerate(zip(X[:400], y[:400], strict=True)):
        _write_image(folder / "train" / f"digit-{label}" / f"{i:04}.png", x)
    for i, x in enumerate(X_test[y_test == 4][:5]):
        _write_image(folder / "new" / f"four-{i}.png", x)
    (folder / "config.toml").write_text(CONFIG.format(data="train"))
    assert main(["fit", str(folder / "config.toml"), "--out", str(folder / "digits.safetensors"), "--quiet"]) == 0
    return folder


def _write_image(file, x):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(255 * x).astype(np.uint8)).save(file)


def test_fit_writes_what_the_api_would(work):
    saved = load(work / "digits.safetensors")
    rows = read_rows(work / "train")
    assert rows.X.shape == (400, 8, 8) and rows.X.dtype == np.float32 and rows.X.max() == 1
    assert set(rows.y) == {f"digit-{k}" for k in range(10)}
    direct = PLACEExplainer(training_budget=0.02, random_state=0).fit(rows.X, rows.y)
    np.testing.assert_array_equal(saved.explain(rows.X[:3], "digit-9").x_cf, direct.explain(rows.X[:3], "digit-9").x_cf)


def test_explain_writes_results_that_agree(work, tmp_path, capsys):
    out = tmp_path / "results"
    command = ["explain", str(work / "digits.safetensors"), str(work / "new"), "--target", "digit-9", "--out", str(out),
               "--path"]
    assert main(command) == 0
    assert "Report:" in capsys.readouterr().out
    cf = load_results(out / "rows").concatenate()
    again = load(work / "digits.safetensors").explain(read_rows(work / "new").X, "digit-9")
    np.testing.assert_array_equal(cf.x_cf, again.x_cf)
    with (out / "counterfactuals.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == [f"four-{i}.png" for i in range(5)]
    assert [line["status"] for line in lines] == list(cf.status) and {line["target"] for line in lines} == {"digit-9"}
    pictures = [np.asarray(Image.open(out / "images" / f"four-{i}.png")) for i in range(5)]
    np.testing.assert_array_equal(pictures, np.round(255 * np.clip(cf.x_cf, 0, 1)))
    assert "four-3.png" in (out / "report.html").read_text()
    # called again, it finds everything there, and other rows are refused
    before = (out / "rows" / "block-00000000.safetensors").read_bytes()
    assert main(command) == 0 and (out / "rows" / "block-00000000.safetensors").read_bytes() == before
    command[4] = "digit-3"
    assert main(command) == 1

    assert main(["report", str(out), "--out", str(tmp_path / "again.html"), "--title", "Fours"]) == 0
    assert "Fours" in (tmp_path / "again.html").read_text()


def test_evaluate_prints_and_writes_a_table(work, tmp_path, capsys):
    model, out = str(work / "digits.safetensors"), tmp_path / "table.md"
    assert main(["evaluate", model, "--data", str(work / "new"), "--target", "digit-9", "--metrics", "validity", "steps",
                 "--out", str(out)]) == 0
    assert "digits" in capsys.readouterr().out and "validity" in out.read_text()


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)).eval()


@pytest.mark.parametrize("kind", ["torchscript", "export", "pickle", "weights"])
def test_a_model_of_ones_own(kind, tmp_path, monkeypatch):
    module, x, weights, trust = net(), torch.rand(3, 1, 8, 8), None, False
    if kind == "torchscript":
        file = tmp_path / "net.pt"
        torch.jit.trace(module, x).save(file)
    elif kind == "export":
        file = tmp_path / "net.pt2"
        batch = torch.export.Dim("batch", min=1, max=4096)
        torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: batch},)), file)
    elif kind == "pickle":
        file, trust = tmp_path / "net.pth", True
        torch.save(module, file)
        with pytest.raises(ValueError, match="--trust"):
            load_classifier(str(file))
    else:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "own_nets.py").write_text(
            "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), "
            "torch.nn.ReLU(), torch.nn.Linear(16, 10))\n")
        file, weights = "own_nets:make", tmp_path / "net.safetensors"
        save_file(module.state_dict(), weights)
    loaded = load_classifier(str(file), weights=weights, trust=trust)
    torch.testing.assert_close(loaded(x), module(x))


def test_several_answers_have_names_of_their_own(work, tmp_path):
    out = tmp_path / "results"
    assert main(["explain", str(work / "digits.safetensors"), str(work / "new"), "--target", "digit-9", "--out", str(out),
                 "--answers", "2", "--quiet"]) == 0
    cf = load_results(out / "rows").concatenate()
    assert cf.k == 2 and len(cf) == 10
    pictures = [np.asarray(Image.open(out / "images" / f"four-{i}-{k}.png")) for i in range(5) for k in (1, 2)]
    np.testing.assert_array_equal(pictures, np.round(255 * np.clip(cf.x_cf, 0, 1)))


def test_a_region_and_a_time_limit_are_said_on_the_command_line(work, tmp_path, capsys):
    out = tmp_path / "results"
    command = ["explain", str(work / "digits.safetensors"), str(work / "new"), "--target", "digit-9", "--quiet", "--out"]
    assert main([*command, str(out), "--region", "0,0,8,5"]) == 0
    cf = load_results(out / "rows").concatenate()
    np.testing.assert_array_equal(cf.x_cf.reshape(5, 8, 8)[:, :, 5:], cf.x.reshape(5, 8, 8)[:, :, 5:])
    assert (cf.x_cf != cf.x).any()
    assert main([*command, str(tmp_path / "late"), "--time-limit", "0.0001"]) == 1
    assert "No block of 256 rows was finished within --time-limit 0.0001" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "late"), "--time-limit", "1000", "--block-size", "256"]) == 0
    assert main([*command, str(tmp_path / "where"), "--region", "mouth.png"]) == 1
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_a_program_of_ones_own_is_explained(kind, tmp_path, digits, work):
    """Trained, compiled to a file, fitted and explained from the command line."""
    X, y, _, _ = digits
    module = net()
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(150):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(torch.from_numpy(X)[:, None]), torch.from_numpy(y)).backward()
        optimiser.step()
    x = torch.rand(3, 1, 8, 8)
    if kind == "torchscript":
        torch.jit.trace(module, x).save(tmp_path / "net.pt")
    else:
        batch = torch.export.Dim("batch", min=1, max=4096)
        torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: batch},)), tmp_path / "net.pt2")
    file = next(tmp_path.glob("net.pt*"))
    np.savez(tmp_path / "train.npz", X=X[:400], y=y[:400])
    np.savez(tmp_path / "new.npz", X=X[400:404])
    (tmp_path / "config.toml").write_text(CONFIG.format(data="train.npz") + f'\n[classifier]\nfile = "{file.name}"\n')
    model = str(tmp_path / "own.safetensors")
    assert main(["fit", str(tmp_path / "config.toml"), "--out", model, "--quiet"]) == 0
    out = tmp_path / "out"
    command = ["explain", model, str(tmp_path / "new.npz"), "--target", "3", "--out", str(out), "--quiet"]
    assert main(command) == 1  # the model is not in the file
    assert main([*command, "--classifier", str(file)]) == 0
    cf = load_results(out / "rows").concatenate()
    with torch.no_grad():
        np.testing.assert_array_equal(cf.prediction, module(torch.from_numpy(cf.x_cf)[:, None]).argmax(1))


def test_a_table(tmp_path, table):
    pandas = pytest.importorskip("pandas")
    X, y, X_test, _ = table
    names = [f"measure {i}" for i in range(X.shape[1])]
    pandas.DataFrame(X, columns=names).assign(finding=y).to_csv(tmp_path / "train.csv", index=False)
    pandas.DataFrame(X_test[:4], columns=names).to_csv(tmp_path / "new.csv", index=False)
    (tmp_path / "config.toml").write_text(CONFIG.format(data="train.csv").replace('csv"', 'csv"\nlabel = "finding"'))
    model, out = str(tmp_path / "model.safetensors"), tmp_path / "out"
    assert main(["fit", str(tmp_path / "config.toml"), "--out", model, "--set", "explainer.immutable=['measure 3']",
                 "--quiet"]) == 0
    assert main(["explain", model, str(tmp_path / "new.csv"), "--out", str(out), "--quiet"]) == 0
    changed = pandas.read_csv(out / "changes.csv")
    assert len(changed) and set(changed["column"]) <= set(names) - {"measure 3"}


@pytest.mark.parametrize(("change", "message"), [
    ('[data]\npath = "nowhere"', "There is no"),
    ('[data]\npath = "empty"', "no images"),
    ('[data]\npath = "new"', "no labels"),
    ('[explainer]\nmethod = "place"', "training data"),
    ('[data]\npath = "train"\n[explainer]\nmethod = "palce"', "Did you mean 'place'"),
    ('[data]\npath = "train"\n[explainer]\ntraining_bugdet = 1', "Did you mean 'training_budget'"),
    ('[data]\npath = "train"\n[explainer]\nmetod = "place"', "Did you mean 'method'"),
    ('[data]\npath = "train"\n[explainers]\n', "Did you mean 'explainer'"),
    ('[data]\npath = "train"\n[classifier]\nfile = "none.pt2"', "There is no file"),
    ('[data]\npath = "train"\n[classifier]\nimport = "no_such_module:net"', "cannot be imported"),
    ("[data\n", "not valid TOML"),
])
def test_what_is_wrong_with_a_config_is_said_before_training(work, change, message, capsys):
    (work / "empty").mkdir(exist_ok=True)
    (work / "bad.toml").write_text(change)
    out = work / "never.safetensors"
    assert main(["fit", str(work / "bad.toml"), "--out", str(out), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("cfexplain fit: ") and message in said and "Traceback" not in said
    assert not out.exists()


def test_what_is_wrong_with_a_call_is_said(work, tmp_path, capsys):
    model, out = str(work / "digits.safetensors"), str(tmp_path / "out")
    broken, text, large = tmp_path / "broken", tmp_path / "x.safetensors", tmp_path / "large"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no png")
    text.write_text("no explainer")
    _write_image(large / "a.png", np.zeros((16, 16)))
    for arguments, message in (
        ([model, str(work / "new"), "--target", "digit-x"], "no such class; the explainer knows digit-0"),
        ([model, str(work / "nowhere")], "There is no"),
        ([model, str(broken)], "cannot be read as an image"),
        ([model, str(large)], "--resize"),
        ([str(text), str(work / "new")], "x.safetensors"),
        ([str(work / "none.safetensors"), str(work / "new")], "There is no file"),
    ):
        assert main(["explain", *arguments, "--out", out]) == 1
        assert message in capsys.readouterr().err
    assert main(["explain", model, str(large), "--resize", "--out", out, "--quiet"]) == 0
    with pytest.raises(SystemExit) as stopped:
        main(["explain", model])
    assert stopped.value.code == 2


def test_the_command_itself_answers_in_a_process_of_its_own():
    done = subprocess.run([sys.executable, "-m", "cfexplain.cli", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    for name in ("demo", "fit", "explain", "evaluate", "report", "exit status"):
        assert name in done.stdout


def test_npz_of_bytes_is_scaled_and_pickles_in_it_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.full((2, 4, 4), 255, dtype=np.uint8))
    assert read_rows(tmp_path / "a.npz", data_range=(-1, 1)).X.max() == 1
    np.savez(tmp_path / "b.npz", X=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="cannot be read as .npz"):
        read_rows(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="no array 'X'"):
        read_rows(tmp_path / "c.npz")


def test_pictures_of_one_name_and_two_kinds_are_two(work, tmp_path):
    x = np.asarray(Image.open(work / "new" / "four-0.png"))
    for name in ("x.png", "x.bmp", "y.png"):
        _write_image(tmp_path / "new" / name, x / 255)
    out = tmp_path / "out"
    assert main(["explain", str(work / "digits.safetensors"), str(tmp_path / "new"), "--out", str(out), "--quiet"]) == 0
    assert sorted(file.name for file in (out / "images").iterdir()) == ["x.bmp.png", "x.png.png", "y.png.png"]


def test_a_file_of_somebody_else_is_not_overwritten(work, tmp_path, capsys):
    model, data, out = str(work / "digits.safetensors"), str(work / "new"), tmp_path / "out"
    calls = {
        out / "counterfactuals.csv": ["explain", model, data, "--quiet", "--out", str(out)],
        out / "report.html": ["explain", model, data, "--quiet", "--out", str(out)],
        out / "images" / "four-3.png": ["explain", model, data, "--quiet", "--out", str(out)],
        out / "page.html": ["report", str(out), "--out", str(out / "page.html")],
        out / "table.md": ["evaluate", model, "--data", data, "--out", str(out / "table.md"), "--metrics", "steps"],
        out / "model.safetensors": ["fit", str(work / "config.toml"), "--out", str(out / "model.safetensors")],
        out / "demo" / "counterfactuals.png": ["demo", "--out", str(out / "demo")]}
    for file, call in calls.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\x89PNG mine" if file.suffix == ".png" else b"<!DOCTYPE html> mine")
        assert main(call) == 1, file
        assert str(file) in capsys.readouterr().err and b"mine" in file.read_bytes()
        assert not (out / "rows").exists()
        file.unlink()
    for _ in range(2):  # what an earlier call has written is
        for file in list(calls)[2:5]:
            assert main(calls[file]) == 0
