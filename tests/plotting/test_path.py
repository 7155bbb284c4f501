"""Pictures of searches: what is drawn is what the arrays hold, where it belongs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cfexplain.explainers import decode_path
from cfexplain.plotting import DensityDisplay, ManifoldDisplay, PathDisplay

plt = pytest.importorskip("matplotlib.pyplot")
pytestmark = pytest.mark.usefixtures("quietly")


def everything(paths):
    explainer, cf = paths[:2]
    return [PathDisplay(cf, explainer), DensityDisplay(cf, explainer)]


@pytest.mark.parametrize(("n", "frames", "layout"), [(1, 8, None), (4, 3, "tight"), (3, 40, "constrained"), (2, 5, None)])
def test_frames_are_points_of_the_search_over_their_place_on_the_curves(digit_paths, n, frames, layout):
    explainer, cf = digit_paths
    display = PathDisplay(cf, explainer, n=n, frames=frames)
    figure = display.plot(figure=None if n == 1 else plt.figure(figsize=(9, 8), layout=layout)).figure_
    figure.canvas.draw()
    assert display.ax_.shape == display.density_ax_.shape == (n,)
    for r, path in enumerate(decode_path(explainer, cf[:n])):
        shown = [ax for ax in display.frame_axes_[r] if ax is not None]
        ticks = dict(zip([t.get_text() for t in display.ax_[r].get_xticklabels()], display.ax_[r].get_xticks(), strict=True))
        assert len(shown) == len(ticks) and len(shown) - 1 == min(frames, len(path.step))
        assert "original" in ticks and "0" in ticks and str(path.step[path.returned]) in ticks
        for ax, (name, tick) in zip(shown, ticks.items(), strict=True):
            expected = cf.x[r] if name == "original" else path.x[int(name)]
            np.testing.assert_allclose(ax.images[0].get_array(), expected, atol=1e-6)
            centre = ax.transData.transform((3.5, 3.5))[0]  # of 8×8 pixels
            assert abs(centre - display.ax_[r].transData.transform((tick, 0))[0]) < 2
            thick = [patch.get_linewidth() > 2 for patch in ax.patches]
            assert thick == [name == str(path.step[path.returned])]


def test_curves_hold_every_point(digit_paths):
    explainer, cf = digit_paths
    display = PathDisplay.from_explanation(cf, explainer, 4, frames=4)
    for r, path in enumerate(display.paths_):
        np.testing.assert_array_equal(display.ax_[r].lines[0].get_ydata(), path.proba)
        np.testing.assert_array_equal(display.density_ax_[r].lines[1].get_ydata(), path.log_density)
        x = display.ax_[r].lines[0].get_xdata()
        assert (np.diff(x) > 0).all() and len(x) == cf.n_steps[r] + 1
        # from the original on, hollow
        assert display.ax_[r].lines[-1].get_ydata()[0] == cf.proba_before[r]
        k = explainer.classes_.tolist().index(cf.target[r])
        before = explainer.density_.score_samples(cf.z[r : r + 1], k)[0]
        assert display.density_ax_[r].lines[-1].get_ydata()[0] == pytest.approx(before)
        band = display.density_ax_[r].patches[-1].get_extents().transformed(
            display.density_ax_[r].transData.inverted())
        own = explainer.density_.log_densities_[k]
        assert ((own >= band.y0 - 1e-3) & (own <= band.y1 + 1e-3)).mean() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("most", [2, 3, 4, 8])
def test_every_point_has_its_own_place_and_a_frame_stands_above_it(most):
    from cfexplain.plotting.path import point_places, shown_frames

    for n in (1, 2, 3, 5, 15, 100):
        for returned in range(n):
            some = shown_frames(SimpleNamespace(step=np.arange(n), returned=returned), most)
            at = point_places(n, some)
            assert len(at) == n and (np.diff(at) > 0).all() and returned in some
            np.testing.assert_array_equal(at[some], np.arange(len(some)))
            assert at[-1] < len(some) - 0.5


def test_bisections_are_found_and_nothing_else(digit_paths, table_paths):
    from cfexplain.plotting.path import count_bisections

    for explainer, cf in (digit_paths, table_paths):
        for row in cf:
            converged = row.status[0] == "converged" and row.n_steps[0] > 1  # the scan of a table is one step
            ended = 0 if row.is_image or not converged else len(row.path[0]) - 1 - int(
                np.flatnonzero(np.linalg.norm(row.path[0] - row.z_cf[0], axis=1) > 0)[-1])  # changed after the search
            assert count_bisections(row, explainer) in ((explainer.refine, explainer.refine + ended) if converged else (0,))
            if converged:
                early = replace(row, path=[row.path[0][: -explainer.refine - 1]])
                assert count_bisections(early, explainer) == 0


def test_a_table_shows_the_columns_that_change_most(table_paths):
    explainer, cf = table_paths
    display = PathDisplay.from_explanation(cf, explainer, 2)
    scale = np.array(cf.metadata["feature_scale"])
    for r, path in enumerate(display.paths_):
        ax = display.frame_axes_[r, 0]
        change = np.abs(cf.x_cf[r] - cf.x[r]) / scale
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == [cf.feature_names[k] for k in np.argsort(-change)[: len(names)]]
        assert len(names) == min(5, (change > 0).sum())
        first = cf.feature_names.index(names[0])
        drawn = next(line for line in ax.lines if line.get_label() == names[0])
        np.testing.assert_allclose(drawn.get_ydata()[1:], (path.x[:, first] - cf.x[r, first]) / scale[first], rtol=1e-4,
                                   atol=1e-6)
        assert drawn.get_ydata()[0] == 0


def test_what_failed_is_marked(image_explainer, digits):
    cf = image_explainer.explain(digits[2][:3], 9, record_path=True)
    cf = replace(cf, valid=np.zeros(3, bool))
    display = PathDisplay.from_explanation(cf, image_explainer)
    assert all("not valid" in axes[0].get_ylabel() for axes in display.frame_axes_)
    display = DensityDisplay.from_explanation(cf, image_explainer)
    assert all("not valid" in ax.get_title(loc="right") for ax in display.ax_)


def test_rows_that_did_not_move_are_drawn(image_explainer, digits):
    X = digits[2][:3]
    cf = image_explainer.explain(X, image_explainer.predict(X), record_path=True)
    for display in everything((image_explainer, cf)):
        display.plot().figure_.canvas.draw()


def test_values_instead_of_classes(values):
    explainer, X = values
    cf = explainer.explain(X[:3], 1.5, record_path=True)
    display = PathDisplay.from_explanation(cf, explainer)
    assert display.ax_[0].get_ylabel() == "value"
    np.testing.assert_array_equal(display.ax_[0].lines[0].get_ydata(), display.paths_[0].value)
    density = DensityDisplay.from_explanation(cf, explainer)
    assert len(density.ax_[0].get_legend().get_texts()) == 1
    for projection, shape in (("pca", (300, 2)), ("data", (300, 3))):
        found = ManifoldDisplay.from_explanation(cf, explainer, X, projection=projection)
        assert found.training_.shape == shape
        found.figure_.canvas.draw()
    with pytest.raises(ValueError, match="a regressor has none"):
        ManifoldDisplay(cf, explainer, X, projection="lda")
