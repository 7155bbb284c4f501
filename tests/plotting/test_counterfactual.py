"""Pictures: what is drawn is what the arrays hold, and Matplotlib's settings stay as they were."""


import numpy as np
import pytest
from matplotlib.figure import Figure
from results import LAYOUTS, made

from cfexplain.plotting import CounterfactualDisplay
from cfexplain.report import render_report
from cfexplain.tables.frames import largest_changes

plt = pytest.importorskip("matplotlib.pyplot")


def boxes(figure, texts):
    renderer = figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in texts if text.get_text()]


@pytest.mark.parametrize("layout", ["grey", "colour", "flat image"])
@pytest.mark.parametrize(("rows", "n"), [(1, 8), (3, 8), (5, 2), (12, 12)])
def test_images_are_four_rows_of_pictures_and_a_scale(layout, rows, n):
    cf = made(rows, layout)
    display = cf.plot(n)
    columns = min(rows, n)
    assert isinstance(display, CounterfactualDisplay) and display.axes_.shape == (4, columns)
    assert len(display.figure_.axes) == 4 * columns
    assert len(display.axes_[3, -1].child_axes) == 1
    for c in range(columns):
        shown = [ax.images[0].get_array() for ax in display.axes_[:, c]]
        net = (cf.x[c].reshape(LAYOUTS[layout][1]), cf.x_cf[c].reshape(LAYOUTS[layout][1]))
        expected = [np.moveaxis(image, 0, -1) if layout == "colour" else image[0] for image in net]
        np.testing.assert_allclose(shown[0], expected[0])
        np.testing.assert_allclose(shown[2], expected[1])
        np.testing.assert_allclose(shown[3], (net[1].astype(float) - net[0]).mean(0), atol=1e-7)
        low, high = display.axes_[3, c].images[0].get_clim()
        assert low == -high  # white means no change
    assert len({ax.images[0].get_clim() for ax in display.axes_[3]}) == 1  # one scale for all


@pytest.mark.parametrize("labels", ["int", "str"])
@pytest.mark.parametrize("columns", [1, 4, 12])
def test_no_text_of_an_image_grid_overlaps(columns, labels):
    display = made(columns, "grey", labels).plot(columns)
    display.figure_.canvas.draw()
    top = boxes(display.figure_, [ax.title for ax in display.axes_[0]])
    below = boxes(display.figure_, [ax.xaxis.label for ax in display.axes_[-1]])
    side = boxes(display.figure_, [ax.yaxis.label for ax in display.axes_[:, 0]])
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(side, side[1:], strict=False)) and len(side) == 4
    for line in (top, below):
        assert len(line) == columns
        for left, right in zip(line, line[1:], strict=False):
            assert left.x1 <= right.x0
    width, height = display.figure_.canvas.get_width_height()
    for box in top + below + side:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_what_failed_is_marked():
    cf = made(6, "grey")
    display = cf.plot()
    for c, valid in enumerate(cf.valid):
        assert ("not valid" in display.axes_[-1, c].get_xlabel()) == (not valid)
        assert (display.axes_[2, c].spines["left"].get_linewidth() > 1) == (not valid)
    display = (cf := made(6)).plot()
    for ax, valid in zip(display.axes_, cf.valid, strict=True):
        assert any("not valid" in text.get_text() for text in ax.texts) == (not valid)


@pytest.mark.parametrize(("rows", "n"), [(1, 8), (2, 8), (7, 3), (9, 8)])
def test_table_rows_are_bars_of_their_largest_changes(rows, n):
    scale = [1.0, 10.0, 0.1, 2.0, 0.0]
    cf = made(rows, feature_scale=scale, feature_names=["age", "income $", "a", "b", "held"])
    cf.x_cf[:, 4] = cf.x[:, 4]
    display = cf.plot(n)
    assert display.axes_.shape == (min(rows, n),) and len(display.figure_.axes) == min(rows, n)
    for i, ax in enumerate(display.axes_):
        names = [label.get_text().replace("\\", "") for label in ax.get_yticklabels()]
        change = (cf.x_cf[i].astype(float) - cf.x[i])[:4] / scale[:4]
        order = np.argsort(-np.abs(change))
        assert names == [cf.feature_names[k] for k in order]
        np.testing.assert_allclose([bar.get_width() for bar in ax.patches], change[order])
        texts = [text.get_text() for text in ax.texts]
        assert f"{cf.x[i, order[0]]:.4g} → {cf.x_cf[i, order[0]]:.4g}" in texts
    display.figure_.canvas.draw()


def test_changes_leave_out_what_is_held_and_count_what_is_not_shown():
    cf = made(1)
    cf.x_cf = cf.x + np.array([[0, 3, -5, 1e-9, 1]])
    top, more = largest_changes(cf, 2)
    assert [name for name, *_ in top] == ["x2", "x1"] and more == 1
    cf.x_cf = cf.x.copy()
    assert largest_changes(cf, 2) == ([], 0)
    assert any("nothing changed" in text.get_text() for text in cf.plot().axes_[0].texts)


@pytest.mark.parametrize("layout", ["grey", "table"])
def test_it_draws_where_it_is_told_to(layout):
    cf = made(3, layout)
    figure, axes = plt.subplots(1, 2, layout="constrained", figsize=(12, 5))
    display = CounterfactualDisplay(cf, n=2).plot(axes[1])
    assert display.figure_ is figure and axes[0].axison and not axes[1].axison
    figure.canvas.draw()
    edge = axes[0].get_position().x1
    assert all(ax.get_position().x0 > edge for ax in display.axes_.ravel())
    if layout == "grey":  # pictures of one row of the result stand in one column
        for column in display.axes_.T:
            np.testing.assert_allclose([ax.get_position().x0 for ax in column], column[0].get_position().x0)
    free = plt.figure().add_axes((0.1, 0.1, 0.8, 0.8))
    assert cf.plot(ax=free).figure_ is free.figure
    own = Figure()
    assert CounterfactualDisplay.from_explanation(cf, figure=own).figure_ is own
    assert cf.plot(figure=plt.figure().subfigures(1, 2)[0]).axes_.size
    with pytest.raises(ValueError, match="not both"):
        cf.plot(ax=free, figure=own)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        made(0).plot()
    with pytest.raises(ValueError, match="at least 1"):
        made(2).plot(0)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_of_nothing_new_have_no_division_by_zero(layout):
    """No row changed, and no column varies in training: NumPy would warn of every 0 / 0."""
    cf = made(2, layout, feature_scale=[0.0] * 5, data_range=[0.0, 1.0])
    cf.x_cf = cf.x.copy()
    cf.x[0] = cf.x_cf[0] = 0
    display = cf.plot()
    display.figure_.canvas.draw()
    for image in [image for ax in display.figure_.axes for image in ax.images]:
        assert np.isfinite(image.get_clim()).all() and image.get_clim()[0] < image.get_clim()[1]
    assert cf._repr_html_() and render_report(cf)
    if layout == "table":
        cf.x_cf[1, 0] += 1
        cf.plot().figure_.canvas.draw()
        assert largest_changes(cf[1], 5)[0] == [(cf.feature_names[0], cf.x[1, 0], cf.x_cf[1, 0], pytest.approx(1))]
