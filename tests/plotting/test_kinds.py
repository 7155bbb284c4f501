"""``cf.plot(kind)`` finds every picture of a result, says what it needs, and what it left out."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from results import made

import cfexplain.plotting as plotting
from cfexplain.plotting.axes import wrapped
from cfexplain.plotting.kinds import KINDS

plt = pytest.importorskip("matplotlib.pyplot")


def test_every_kind_is_drawn_by_its_display(digit_paths, table_paths, digits, table):
    for (explainer, cf), X, own in ((digit_paths, digits[0], "pixels"), (table_paths, table[0], "columns")):
        for kind, display in KINDS.items():
            if kind in ("pixels", "columns") and kind != own:
                with pytest.raises(ValueError, match=f"use kind='{own}'"):
                    cf.plot(kind)
                continue
            needs = {"path": {"explainer": explainer}, "density": {"explainer": explainer},
                     "manifold": {"explainer": explainer, "X": X}}.get(kind, {})
            figure = Figure()
            assert type(cf.plot(kind, 2, figure=figure, **needs)) is display
            figure.canvas.draw()
            if needs:
                with pytest.raises(ValueError, match=rf"cf.plot\('{kind}', explainer=explainer"):
                    cf.plot(kind)
        assert type(cf.plot(figure=Figure())) is KINDS[own]
    drawn_elsewhere = {"EvaluationDisplay", "FrontierDisplay", "SaliencyDisplay", "SharedChangesDisplay"}
    assert {display.__name__ for display in KINDS.values()} | drawn_elsewhere == set(plotting.__all__)


def test_a_kind_that_there_is_not_is_named_with_the_nearest():
    for kind, said in (("densty", "Did you mean 'density'"), ("pie", "Known: pixels, columns, answers"),
                       ("radar", r"evaluate\(...\).plot\('radar'\)"), ("maps", "compare_saliency")):
        with pytest.raises(ValueError, match=said):
            made(3).plot(kind)


def said(display):
    return " ".join(text.get_text() for text in display.figure_.texts) + " ".join(
        text.get_text() for ax in display.figure_.axes for text in ax.texts) + (display.figure_.get_supxlabel())


@pytest.mark.parametrize("layout", ["grey", "table"])
def test_all_rows_are_drawn_or_the_picture_says_how_many(layout):
    for rows, n, drawn in ((12, None, 12), (20, None, 8), (20, 20, 20), (5, 3, 3)):
        display = made(rows, layout).plot(n=n)
        assert display.axes_.shape[-1] == drawn
        assert (f"{drawn} of {rows} rows are drawn; n={rows} draws all" in said(display)) == (drawn < rows)
    place = plt.figure().add_axes((0.1, 0.1, 0.8, 0.8))
    assert "2 of 9 rows" in said(made(9, layout).plot(n=2, ax=place))


def test_several_answers_are_drawn_as_such():
    cf = made(6)
    cf.row, cf.answer = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    assert cf.plot(figure=Figure()).axes_.shape == (2, 3)
    assert "1 of 2 rows" in said(cf.plot(n=1))
    assert "row 1, answer 2" in said(cf.plot(figure=Figure()))
    pictures = made(6, "grey")
    pictures.row, pictures.answer = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    above = [panel.get_title() for panel in pictures.plot(figure=Figure()).axes_[0, 1:]]
    assert above == ["answer 1", "answer 2", "answer 3"]


@pytest.mark.parametrize("layout", ["grey", "table"])
def test_a_row_that_was_not_searched_says_so(layout):
    cf = made(2, layout)
    cf.status[:], cf.valid[:] = ["already_target", "converged"], True
    display = cf.plot(figure=Figure())
    words = said(display) + " ".join(panel.get_xlabel() for panel in display.axes_.flat)
    assert words.count("already the target") == 1


def test_the_group_of_a_table_is_counted_right():
    cf = made(40, feature_names=["a", "b", "c", "held", "e"])
    cf.status[:] = np.where(np.arange(40) < 30, "converged", "already_target")
    cf.valid = np.arange(40) % 3 > 0
    cf.x_cf[:, 3] = cf.x[:, 3]
    display = cf.plot("group")
    own = cf[(cf.status != "already_target") & cf.valid]
    step = own.x_cf.astype(float) - own.x
    bars = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in display.axes_[0].patches]
    names = [label.get_text() for label in display.axes_[0].get_yticklabels()]
    assert sorted(names) == ["a", "b", "c", "e"]
    for place, name in enumerate(names):
        up, down = (width for y, width in bars if round(y) == place)
        column = step[:, cf.feature_names.index(name)]
        assert up == pytest.approx(100 * (column > 1e-4).mean(), abs=6)
        assert up - down == pytest.approx(100 * (np.abs(column) > 1e-4).mean(), abs=6)
    assert display.axes_[0].get_title(loc="left") == (
        f"{len(own)} rows; {30 - len(own)} more not valid; 10 more already the target")
    assert "2 of 4 columns that change" in said(cf.plot("group", 2))


def test_the_group_of_images_is_the_mean_of_each_pair():
    cf = made(30, "grey")
    cf.status[:], cf.valid = "converged", np.arange(30) > 2
    display = cf.plot("group")
    assert "27 rows; 3 more not valid" in said(display)
    own = cf[cf.valid]
    for column in display.axes_.T:
        source, target = column[0].get_title().replace("\n", " ").split(" → ")
        rows = (own.source.astype(str) == source) & (own.target.astype(str) == target)
        assert column[2].get_xlabel().split()[0] == str(rows.sum())
        for panel, mean in zip(column, (own.x[rows].mean(0), own.x_cf[rows].mean(0),
                                        (own.x_cf - own.x)[rows].mean(0)), strict=True):
            np.testing.assert_allclose(panel.images[0].get_array(), mean, atol=1e-6)
    cf.valid[:] = False
    with pytest.raises(ValueError, match="none of 30 rows has a valid counterfactual"):
        cf.plot("group")


NAMES = ["age", "number_of_open_credit_lines_in_the_last_24_months", "x" * 70, "a b c " * 20, "€" * 3, "",
         "share of the instalments that were paid on time"]


@pytest.mark.parametrize("name", NAMES)
def test_long_names_fit_their_lines_and_keep_both_ends(name):
    lines = wrapped(name, 20).split("\n")
    assert len(lines) <= 2 and max(map(len, lines)) <= 21
    letters, (first, *_), (*_, last) = "".join(name.split()), lines, lines
    assert letters.startswith("".join(first.split())[:8]) and letters.endswith("".join(last.split())[-6:])
    one, other = (wrapped(f"number_of_open_credit_lines_in_the_last_{months}_months", 20) for months in (12, 24))
    assert one != other
