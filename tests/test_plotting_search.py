"""Pictures of searches, densities and manifolds: what is drawn is what the arrays hold, where it belongs."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.datasets import make_moons
from sklearn.decomposition import PCA

from cfexplain import DiffeomorphicExplainer, GradientExplainer
from cfexplain.coordinates import Flow
from cfexplain.datasets import make_helix
from cfexplain.explainers import decode_path
from cfexplain.plotting import DensityDisplay, ManifoldDisplay, PathDisplay

plt = pytest.importorskip("matplotlib.pyplot")
pytestmark = pytest.mark.usefixtures("quietly")
FLOW = {"steps": 2, "hidden": (32, 32), "noise": 0.05, "training_budget": 0.1}


@pytest.fixture(autouse=True)
def closed_and_unchanged():
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == backend


@pytest.fixture(scope="module")
def digit_paths(image_explainer, digits):
    X = digits[2][digits[3] != 9][:6]
    return image_explainer, image_explainer.explain(X, 9, record_path=True)


@pytest.fixture(scope="module")
def table_paths(table_explainer, table):
    return table_explainer, table_explainer.explain(table[2][:4], record_path=True)


@pytest.fixture(scope="module")
def moons():
    X, y = make_moons(300, noise=0.08, random_state=0)
    explainer = DiffeomorphicExplainer(generator=Flow(**FLOW), training_budget=0.3, random_state=0).fit(X, y)
    return explainer, X, y


@pytest.fixture(scope="module")
def helix():
    X, y = make_helix(300, random_state=0)
    return GradientExplainer(training_budget=0.3, random_state=0).fit(X, y), X, y


@pytest.fixture(scope="module")
def values():
    X, _ = make_helix(300, random_state=1)
    explainer = DiffeomorphicExplainer(generator=Flow(**FLOW), task="regression", training_budget=0.2, random_state=0)
    return explainer.fit(X, X[:, 2]), X


def everything(paths):
    explainer, cf = paths[:2]
    return [PathDisplay(cf, explainer), DensityDisplay(cf, explainer)]


# ---------------------------------------------------------------------------------------------------------------- paths
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
    from cfexplain.plotting.path import _frames, _places

    for n in (1, 2, 3, 5, 15, 100):
        for returned in range(n):
            some = _frames(SimpleNamespace(step=np.arange(n), returned=returned), most)
            at = _places(n, some)
            assert len(at) == n and (np.diff(at) > 0).all() and returned in some
            np.testing.assert_array_equal(at[some], np.arange(len(some)))
            assert at[-1] < len(some) - 0.5


def test_bisections_are_found_and_nothing_else(digit_paths, table_paths):
    from cfexplain.plotting.path import _bisections

    for explainer, cf in (digit_paths, table_paths):
        for row in cf:
            converged = row.status[0] == "converged"
            assert _bisections(row, explainer) == (explainer.refine if converged else 0)
            if converged:
                early = replace(row, path=[row.path[0][: -explainer.refine]])
                assert _bisections(early, explainer) == 0


def test_a_table_shows_the_columns_that_change_most(table_paths):
    explainer, cf = table_paths
    display = PathDisplay.from_explanation(cf, explainer, 2)
    scale = np.array(cf.metadata["feature_scale"])
    for r, path in enumerate(display.paths_):
        ax = display.frame_axes_[r, 0]
        change = np.abs(cf.x_cf[r] - cf.x[r]) / scale
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == [cf.feature_names[k] for k in np.argsort(-change)[: len(names)]] and len(names) == 5
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


# ------------------------------------------------------------------------------------------------------------ densities
@pytest.mark.parametrize("fixture", ["image_explainer", "flow_image_explainer"])
def test_marks_stand_at_their_log_density_with_their_percentile(fixture, request, digits):
    explainer = request.getfixturevalue(fixture)
    cf = explainer.explain(digits[2][digits[3] != 9][:5], 9)
    display = DensityDisplay.from_explanation(cf, explainer)
    display.figure_.canvas.draw()
    for row, ax in zip(cf, display.ax_, strict=True):
        source, target = (explainer.classes_.tolist().index(label[0]) for label in (row.source, row.target))
        before = float(explainer.density_.score_samples(row.z, np.array([source]))[0])
        rank = 100 * (explainer.density_.log_densities_[source] <= before).mean()
        marks, words = ax.lines, [text.get_text() for text in ax.texts]
        assert any(f"x: percentile {rank:.0f}" in word for word in words)
        assert any(f"x′: percentile {row.density_percentile[0]:.0f}" in word for word in words)
        places = [line.get_xdata()[0] for line in marks]
        outside = sum("◂" in word or "▸" in word for word in words)
        assert len(places) + outside == 2
        if not outside:
            np.testing.assert_allclose(places, [before, row.log_density[0]], rtol=1e-6)
        # the filled histogram holds 99 % of the target class
        own = explainer.density_.log_densities_[target]
        filled = [patch for patch in ax.patches if isinstance(patch, matplotlib.patches.Rectangle)]
        low, high = filled[0].get_x(), filled[-1].get_x() + filled[-1].get_width()
        assert ((own >= low - 1e-6) & (own <= high + 1e-6)).mean() >= 0.985
        assert sum(p.get_height() * p.get_width() for p in filled) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("far", [-1e6, -np.inf, np.nan, 1e6])
def test_a_mark_far_away_is_an_arrow(far, digit_paths):
    explainer, cf = digit_paths
    cf = replace(cf[:1], log_density=np.array([far]), density_percentile=np.array([0.0]))
    ax = DensityDisplay.from_explanation(cf, explainer).ax_[0]
    assert any(("▸" if far > 0 else "◂") in text.get_text() for text in ax.texts)
    assert np.isfinite(ax.get_xlim()).all() and np.ptp(ax.get_xlim()) < 1e4


# ------------------------------------------------------------------------------------------------------------ manifolds
def test_pca_is_that_of_the_codes(digit_paths, digits):
    explainer, cf = digit_paths
    X, y = digits[:2]
    display = ManifoldDisplay.from_explanation(cf, explainer, X, y, projection="pca")
    codes = explainer.coordinates_.transform(X[:, None])
    fitted = PCA(2).fit(codes)
    rows = np.random.RandomState(0).permutation(len(X))
    np.testing.assert_allclose(np.abs(display.training_), np.abs(fitted.transform(codes[rows])), atol=1e-2)
    for row, way in zip(cf, display.paths_, strict=True):
        for z, place in ((row.z, way[0]), (row.z_cf, way[-1])):
            np.testing.assert_allclose(np.abs(fitted.transform(z)[0]), np.abs(place), atol=1e-2)
    assert len(display.paths_[0]) > 2
    without = ManifoldDisplay.from_explanation(replace(cf, path=None), explainer, X, y, projection="pca")
    assert [len(way) for way in without.paths_] == [2] * len(cf)


@pytest.mark.parametrize("sources", [[4], [0, 1, 7]])
def test_lda_tells_the_coloured_classes_apart(sources, image_explainer, digits):
    X, y = digits[:2]
    x = np.concatenate([digits[2][digits[3] == k][:2] for k in sources])
    cf = image_explainer.explain(x, 9)
    display = ManifoldDisplay.from_explanation(cf, image_explainer, X, y)
    assert display.projection == "lda"
    coloured = sorted({9, *cf.source.tolist()})
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend[: len(coloured) + 1] == ["other classes", *map(str, coloured)]

    def separation(points):
        """How often the nearest class centre is a row's own."""
        own = np.isin(display.y_, coloured)
        centres = np.array([points[display.y_ == k].mean(0) for k in coloured])
        spread = np.sqrt(np.mean([points[display.y_ == k].var(0) for k in coloured], 0))
        nearest = np.linalg.norm((points[own][:, None] - centres) / spread, axis=2).argmin(1)
        return (np.array(coloured)[nearest] == display.y_[own]).mean()

    pca = ManifoldDisplay(cf, image_explainer, X, y, projection="pca")
    assert separation(display.training_) > 0.8 and separation(display.training_) >= separation(pca.training_)


def test_a_plane_of_data_has_the_probability_behind_it(moons):
    explainer, X, y = moons
    cf = explainer.explain(X[y == 0][:4], target=1, record_path=True)
    display = ManifoldDisplay.from_explanation(cf, explainer, X, y)
    assert display.projection == "data" and len(display.figure_.axes) == 2
    np.testing.assert_array_equal(np.sort(display.training_, 0), np.sort(X, 0))
    line = display.ax_.collections[-1]  # of probability one half
    points = np.concatenate([path.vertices for path in line.get_paths()])
    inside = ((points > X.min(0)) & (points < X.max(0))).all(1)
    np.testing.assert_allclose(explainer.predict_proba(points[inside])[:, 1], 0.5, atol=0.15)
    for row, way in zip(cf, display.paths_, strict=True):
        np.testing.assert_allclose(way[[0, -1]], np.concatenate([row.x, row.x_cf]))
    both = explainer.explain(X[:6])
    assert len(ManifoldDisplay.from_explanation(both, explainer, X).figure_.axes) == 2


def test_three_columns_are_drawn_in_space(helix):
    explainer, X, y = helix
    cf = explainer.explain(X[:3], record_path=True)
    display = ManifoldDisplay.from_explanation(cf, explainer, X, y)
    assert display.ax_.name == "3d" and display.training_.shape == (300, 3)
    display.figure_.canvas.draw()
    figure, axes = plt.subplots(1, 2)
    again = ManifoldDisplay(cf, explainer, X, y).plot(axes[1])
    assert again.figure_ is figure and again.ax_.name == "3d" and not axes[1].axison
    deep = plt.figure().add_subplot(projection="3d")
    assert ManifoldDisplay(cf, explainer, X, y).plot(deep).ax_ is deep


# -------------------------------------------------------------------------------------------------------------- any one
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
    with pytest.raises(ValueError, match="30 columns"):
        ManifoldDisplay(table_paths[1], table_paths[0], table[0], projection="data")
    with pytest.raises(ValueError, match="one label for each"):
        ManifoldDisplay(cf, explainer, X, y[:5])
    with pytest.raises(ValueError, match="apart, but X holds"):
        ManifoldDisplay(cf, explainer, X[y == 9], y[y == 9])
