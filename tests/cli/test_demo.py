"""The command explains itself, and its demonstration runs."""

import csv

import numpy as np
import pytest
import torch

import cfexplain
from cfexplain.cli import main
from cfexplain.cli.commands import run_demo
from cfexplain.foundation import precision
from cfexplain.foundation.precision import computes_in_bfloat16


def global_state():
    name, keys, *rest = np.random.get_state()
    return name, keys.tobytes(), tuple(rest), torch.get_rng_state().numpy().tobytes()


def test_the_command_explains_itself(capsys):
    for arguments, words in ((["--help"], "demo"), (["demo", "--help"], "--out")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0 and words in capsys.readouterr().out
    for arguments in ([], ["nonsense"], ["demo", "--seed", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and "usage: cfexplain" in capsys.readouterr().err


def test_the_version_and_the_machine(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"cfexplain {cfexplain.__version__}\n"
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert torch.__version__.partition("+")[0] in said and "All that cfexplain needs works." in said


@pytest.mark.skipif(not computes_in_bfloat16("cpu"), reason="this processor emulates bfloat16")
def test_the_doctor_says_of_bfloat16_what_a_search_decides_by(capsys, monkeypatch):
    for times_as_fast, words in ((5.0, "in matrix units"), (2.0, "faster than float32"), (0.5, "slower than float32 here")):
        monkeypatch.setattr(precision, "_tried", lambda fast=times_as_fast: fast)
        assert main(["doctor"]) == 0 and words in capsys.readouterr().out


def test_the_demo_says_where_it_cannot_write(tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for out in (taken, taken / "below"):
        assert main(["demo", "--out", str(out)]) == 1
        said = capsys.readouterr()
        assert str(out) in said.err and "--out" in said.err and said.out == ""
    assert taken.read_text() == "mine"


@pytest.mark.slow
def test_the_demo_from_end_to_end(tmp_path, capsys):
    from PIL import Image

    before = global_state()
    assert run_demo(tmp_path / "new" / "folder") == 0
    told, out = capsys.readouterr(), tmp_path / "new" / "folder"
    said = told.out
    assert "Valid:" in said and str(out) in said and global_state() == before
    assert "row/s" not in told.err  # bars are for terminals
    assert Image.open(out / "counterfactuals.png").size > (100, 100)
    with (out / "counterfactuals.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = {("4", "9"), ("0", "6"), ("3", "8"), ("7", "9"), ("1", "4"), ("5", "6")}
    assert {(row["source"], row["target"]) for row in rows} == pairs
    assert all((row["prediction"] == row["target"]) == (row["valid"] == "True") for row in rows)
    assert np.mean([row["valid"] == "True" for row in rows]) > 0.9
