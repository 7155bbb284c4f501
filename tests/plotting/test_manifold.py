"""Pictures of manifolds: planes of codes, of data, and space."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.offsetbox import AnnotationBbox
from sklearn.decomposition import PCA

from cfexplain.plotting import ManifoldDisplay

plt = pytest.importorskip("matplotlib.pyplot")
pytestmark = pytest.mark.usefixtures("quietly")


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


def test_pictures_cover_no_end_of_a_path(digit_paths, digits):
    explainer, cf = digit_paths
    display = ManifoldDisplay.from_explanation(cf, explainer, *digits[:2])
    display.figure_.canvas.draw()
    ends = display.ax_.transData.transform(np.concatenate([way[[0, -1]] for way in display.paths_]))
    boxes = [artist for artist in display.ax_.artists if isinstance(artist, AnnotationBbox)]
    assert boxes
    for box in boxes:
        area = box.patch.get_window_extent()
        assert not any(area.contains(*end) for end in ends)


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
