"""Pictures go where they are told, no word leaves them, and bad input says so."""

from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from cfexplain.plotting import DensityDisplay, ManifoldDisplay, PathDisplay

plt = pytest.importorskip("matplotlib.pyplot")
pytestmark = pytest.mark.usefixtures("quietly")


def everything(paths):
    explainer, cf = paths[:2]
    return [PathDisplay(cf, explainer), DensityDisplay(cf, explainer)]


def test_it_draws_where_it_is_told_to(digit_paths, table_paths, digits, table):
    for paths, X in ((digit_paths, digits[0]), (table_paths, table[0])):
        for display in [*everything(paths), ManifoldDisplay(paths[1], paths[0], X)]:
            figure, axes = plt.subplots(1, 2, layout="constrained", figsize=(16, 9))
            display.plot(axes[1])
            assert display.figure_ is figure and axes[0].axison
            figure.canvas.draw()
            edge = axes[0].get_position().x1
            assert all(ax.get_position().x0 > edge for ax in figure.axes[1:])
            own = Figure()
            assert display.plot(figure=own).figure_ is own
            display.plot(figure=plt.figure().subfigures(1, 2)[0])
            with pytest.raises(ValueError, match="not both"):
                display.plot(axes[0], figure=own)


@pytest.mark.parametrize("n", [1, 6])
def test_no_word_leaves_the_figure(n, digit_paths, table_paths, digits, table):
    for (explainer, cf), X in ((digit_paths, digits[0]), (table_paths, table[0])):
        for display in (PathDisplay(cf, explainer, n=n), DensityDisplay(cf, explainer, n=n),
                        ManifoldDisplay(cf, explainer, X, n=n)):
            figure = display.plot().figure_
            figure.canvas.draw()
            width, height = figure.canvas.get_width_height()
            for ax in figure.axes:
                words = [ax.title, ax._left_title, ax._right_title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
                legend = ax.get_legend()
                for text in [*words, *(legend.get_texts() if legend else [])]:
                    if text.get_text() and text.get_visible():
                        box = text.get_window_extent()
                        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text


def test_bad_input_says_so(digit_paths, table_paths, moons, digits, table):
    explainer, cf = digit_paths
    for display in (PathDisplay, DensityDisplay):
        with pytest.raises(ValueError, match="no rows"):
            display(cf[:0], explainer)
        with pytest.raises(ValueError, match="at least 1"):
            display(cf, explainer, n=0)
        with pytest.raises(ValueError, match="Pass the explainer that"):
            display(cf, table_paths[0])
    with pytest.raises(ValueError, match="record_path=True"):
        PathDisplay(replace(cf, path=None), explainer)
    with pytest.raises(ValueError, match="frames=1"):
        PathDisplay(cf, explainer, frames=1)
    X, y = digits[:2]
    with pytest.raises(ValueError, match="no rows"):
        ManifoldDisplay(cf[:0], explainer, X)
    with pytest.raises(ValueError, match="projection='umap'"):
        ManifoldDisplay(cf, explainer, X, projection="umap")
    with pytest.raises(ValueError, match="images.*'pca'"):
        ManifoldDisplay(cf, explainer, X, projection="data")
    with pytest.raises(ValueError, match="10 columns"):
        ManifoldDisplay(table_paths[1], table_paths[0], table[0], projection="data")
    with pytest.raises(ValueError, match="one label for each"):
        ManifoldDisplay(cf, explainer, X, y[:5])
    with pytest.raises(ValueError, match="apart, but X holds"):
        ManifoldDisplay(cf, explainer, X[y == 9], y[y == 9])
