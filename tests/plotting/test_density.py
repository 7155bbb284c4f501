"""Pictures of densities: marks stand at their log density."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest

from cfexplain.plotting import DensityDisplay

pytestmark = pytest.mark.usefixtures("quietly")


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
        assert any(f"x: plausibility {int(rank)}" in word for word in words)
        assert any(f"x′: plausibility {int(row.density_percentile[0])}" in word for word in words)
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


def test_a_class_is_drawn_once_where_it_is_the_target_too(image_explainer, digits):
    cf = image_explainer.explain(digits[2][digits[3] == 9][:3], 9)
    there = cf[cf.status == "already_target"][:1]
    texts = DensityDisplay.from_explanation(there, image_explainer).ax_[0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["training 9"]


@pytest.mark.parametrize("far", [-1e6, -np.inf, np.nan, 1e6])
def test_a_mark_far_away_is_an_arrow(far, digit_paths):
    explainer, cf = digit_paths
    cf = replace(cf[:1], log_density=np.array([far]), density_percentile=np.array([0.0]))
    ax = DensityDisplay.from_explanation(cf, explainer).ax_[0]
    assert any(("▸" if far > 0 else "◂") in text.get_text() for text in ax.texts)
    assert np.isfinite(ax.get_xlim()).all() and np.ptp(ax.get_xlim()) < 1e4
