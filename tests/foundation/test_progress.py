"""A person sees progress, a file and a pipe do not."""

import io
import sys
import types

import numpy as np
import pytest

from cfexplain import PLACEExplainer
from cfexplain.foundation.progress import bar_delay, new_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("verbose", "person", "pipe"), [(0, None, None), (1, 0.0, 0.0), ("auto", 2.0, None)])
def test_when_bars_are_shown(verbose, person, pipe, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    for stream, expected in ((Terminal(), person), (io.StringIO(), pipe), (None, pipe)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert bar_delay(verbose) == expected


def test_the_stages_of_fit_are_named(monkeypatch, capsys):
    X = np.random.default_rng(0).normal(size=(40, 3))
    y = (X[:, 0] > 0).astype(int)
    PLACEExplainer(training_budget=0.02, random_state=0).fit(X, y).explain(X[:2])
    assert capsys.readouterr().err == ""
    PLACEExplainer(training_budget=0.02, random_state=0, verbose=1).fit(X, y)
    said = capsys.readouterr().err
    assert all(f"training {stage}" in said for stage in ("classifier", "VAE", "flow"))


def test_a_bar_of_a_notebook_is_one_line_beneath_the_cell(monkeypatch, capsys):
    """Two at once, as of trainings side by side, are two; nothing is written to the streams."""
    cell = {}

    def display(data, raw, display_id, update):
        assert raw and update == (display_id in cell)
        cell[display_id] = data["text/plain"]

    shown = types.ModuleType("IPython.display")
    shown.display = display
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    bars = [new_bar(total=3, desc=name, mininterval=0, leave=name != "brief") for name in ("one", "the other", "brief")]
    for _ in range(3):
        for bar in bars:
            bar.update()
    for bar in bars:
        bar.close()
    one, other, brief = cell.values()
    assert one.startswith("one: 100%") and other.startswith("the other: 100%") and brief == ""
    assert capsys.readouterr() == ("", "")
