"""A report holds what the arrays hold, nothing else, and nothing that a label could run."""

import base64
import copy
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hostile_words import EVIL
from PIL import Image
from results import LAYOUTS, made

from cfexplain.explainers import decode_path
from cfexplain.plotting.pictures import as_pictures, png_address
from cfexplain.plotting.words import summary
from cfexplain.report import render_report
from cfexplain.report.images import signed_picture, where_in_words
from cfexplain.result import STATUSES

VOID = {"br", "meta", "img", "input"}


class Document(HTMLParser):
    """Tags with their attributes, checked for balance, and the text outside of style and script."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.inside = [], [], [], {"style": "", "script": ""}
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice"
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]] += data
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def all(self, tag, **attributes):
        return [found for name, found in self.tags if name == tag
                and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())]


def pixels(address):
    kind, data = address.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.fixture(scope="module")
def with_path(image_explainer, digits):
    """Digits and their search, of which some rows have their target already."""
    X, y = digits[2:]
    rows = np.concatenate([np.flatnonzero(y == k)[:4] for k in (4, 0, 9)])
    return image_explainer, image_explainer.explain(X[rows], target=9, record_path=True)


def test_what_is_bad_stands_first():
    cf = made(12, "grey", paths=False)
    cf.source[:], cf.target[:], cf.status[:], cf.valid[:] = 4, 9, "converged", True
    cf.x_cf = np.repeat(cf.x_cf[:1], 12, 0)
    page = Document(render_report(cf))
    at = page.text.index("What to look at first:")
    assert at < page.text.index("the 12 counterfactuals for 4 → 9 look alike: spread 0.00") < page.text.index("Row 0")
    assert page.text.count("look alike") == 2  # in the note, and beside the figure
    assert "Spread" in page.text and "Sharpness" in page.text and "Columns changed" not in page.text


@pytest.mark.parametrize("labels", ["int", "bool", "str"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_report_is_one_file_with_a_card_a_row(tmp_path, layout, labels, n):
    cf = made(n, layout, labels)
    cf.to_html(tmp_path / "report.html", title="A <title>")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Document(text)
    assert text.startswith("<!DOCTYPE html>") and page.all("html", lang="en") and "A <title>" in page.text
    assert len(page.all("article")) == n
    assert summary(cf).split("\n")[0] in page.text
    # nothing is loaded from elsewhere
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "action", "data", "srcset"):
            value = attributes.get(name, "#")
            assert value.startswith(("data:image/png;base64,", "#")), value
    assert "@import" not in page.inside["style"] and "url(" not in page.inside["style"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.parametrize("layout", ["grey", "table"])
def test_whatever_a_user_supplied_stays_text(layout):
    n = len(STATUSES)
    cf = made(n, layout, explainer=EVIL, feature_names=[EVIL + str(i) for i in range(5)], parameters=EVIL,
              backend=EVIL, versions={EVIL: EVIL}, device="</pre>" + EVIL)
    cf.source = cf.target = cf.prediction = np.array([EVIL, "b"] * (n // 2))
    cf.conditions = {EVIL: ~cf.valid}
    cf.index = np.array([EVIL] * n)
    cf.status = np.array(STATUSES)
    page = Document(render_report(cf, title=EVIL))
    clean = made(n, layout, "str", explainer="a", parameters="a")
    clean.source, clean.status = np.array(["a", "b"] * (n // 2)), cf.status
    clean.target = clean.prediction = clean.source
    assert len(page.all("script")) == 1 and {tag for tag, _ in page.tags} <= {
        tag for tag, _ in Document(render_report(clean)).tags} | {"pre", "details", "summary", "ul", "li"}
    assert "<script>window.hacked = 1</script>" in page.text
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    assert len(page.all("img")) == (4 * n if layout == "grey" else 0)


def test_the_browser_may_run_the_pages_own_script_and_style_only():
    page = Document(render_report(made(2)))
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["form-action"] == rules["base-uri"] == "'none'" and rules["img-src"] == "data:"
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.inside[kind].encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def test_the_same_result_gives_the_same_bytes(with_path):
    explainer, cf = with_path
    assert render_report(cf, explainer=explainer) == render_report(cf, explainer=explainer)


@pytest.mark.parametrize("layout", ["grey", "colour", "flat image"])
def test_pictures_are_the_arrays(layout):
    cf = made(70, layout)  # more than one block
    images = Document(render_report(cf)).all("img")
    assert len(images) == 4 * 70 and all(image["alt"].startswith(f"Row {k // 4}, ") for k, image in enumerate(images))
    limit = np.abs((cf.x_cf.astype(float) - cf.x).reshape(70, *LAYOUTS[layout][1]).mean(1)).max()
    for i in (0, 63, 64, 69):
        for k, samples in enumerate((cf.x, cf.reconstruction, cf.x_cf)):
            wanted = as_pictures(samples[i : i + 1], cf)[0]
            np.testing.assert_allclose(pixels(images[4 * i + k]["src"]) / 255, wanted, atol=0.51 / 255)
        signed = pixels(images[4 * i + 3]["src"]) / 255
        difference = (cf.x_cf[i].astype(float) - cf.x[i]).reshape(LAYOUTS[layout][1]).mean(0)
        np.testing.assert_allclose(signed[..., 3], np.abs(difference) / limit, atol=0.51 / 255)
        red = signed[..., 0] > signed[..., 2]
        np.testing.assert_array_equal(red, difference > 0)


def test_a_signed_picture_over_white_has_the_colours_of_the_plots():
    from matplotlib.colors import LinearSegmentedColormap

    from cfexplain.plotting.pictures import BLUE, VERMILLION

    difference = np.linspace(-2, 2, 41)[None]
    shown = signed_picture(difference, 2.0)
    over_white = shown[..., :3] * shown[..., 3:] + 1 - shown[..., 3:]
    plots = LinearSegmentedColormap.from_list("signed", [BLUE, "white", VERMILLION], N=4001)
    np.testing.assert_allclose(over_white, plots(difference / 4 + 0.5)[..., :3], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (5, 4, 3), (9, 2, 4), (300, 300)])
def test_pictures_are_png_files_that_others_read(shape):
    picture = np.random.RandomState(0).rand(*shape)
    np.testing.assert_allclose(pixels(png_address(picture)) / 255, picture, atol=0.51 / 255)


def test_words_for_those_who_do_not_see():
    change = np.zeros((9, 9))
    assert where_in_words(change) == "nothing changes"
    change[0, 0], change[8, 4] = 1, -0.5
    assert where_in_words(change) == (
        "brighter mostly at the upper left, darker mostly at the bottom; 2 % of the pixels change")
    change[4, 4] = 3.0
    assert where_in_words(change).startswith("brighter mostly in the middle, darker")


def test_each_row_says_what_became_of_it():
    cf = made(8, "grey", "str", optional=False)
    cf.source, cf.target = np.array(["a"] * 8), np.array(["b"] * 8)
    cf.status = np.array(["converged", "step_budget", "implausible", "time_limit", "repeated", "already_target", "not_found",
                          "model_failed"])
    assert set(cf.status) == set(STATUSES)
    cf.prediction = np.array(["b"] * 6 + ["a"] * 2)
    cf.valid = np.array([True, True, True, True, False, True, False, False])
    cf.conditions = {"decision": np.array([True] * 6 + [False] * 2),
                     "density": np.array([True, False, True, True, True, True, False, False])}
    cf.proba_before[7] = cf.proba_after[7] = np.nan
    page = Document(render_report(cf))
    for words in ("Valid: the classifier says b. Every condition is met.",
                  "Valid, but the steps ran out: the classifier says b. Not met: typical enough.",
                  "Time was up: the classifier says b of the best effort, and b is asked for.",
                  "No other answer was found: this one, b, repeats an answer before it, and does not count.",
                  "Already the target: the classifier said a before. Nothing was changed.",
                  "Not valid: the classifier still says a, not b. This is the best effort.",
                  "The classifier gives NaN or infinity for this row: nothing was searched."):
        assert page.text.count(words) == 1, words


def test_probabilities_are_never_rounded_to_certainty():
    cf = made(2, "table")
    cf.proba_before, cf.proba_after = np.array([0.001, 0.0]), np.array([0.999, 1.0])
    text = Document(render_report(cf)).text
    assert "< 0.01 before, → > 0.99 after" in text.replace("\u00a0", " ") and (
        text.count("> 0.99 after") == 2)


def test_a_table_lists_columns_by_scaled_change():
    names = ["age", "income", "height", "weight", "same"]
    cf = made(1, "table", feature_names=names, feature_scale=[1.0, 10.0, 0.1, 1.0, 1.0])
    cf.x[0] = [1, 20, 3, 4, 5]
    cf.x_cf[0] = [2, 60, 3.05, 1, 5]  # 1, 4, 0.5, −3 and 0 standard deviations
    page = Document(render_report(cf))
    rows = re.findall(r'<th scope="row"><bdi>(\w+)</bdi></th><td class="figure">([^<]*)</td><td class="figure">([^<]*)</td>',
                      render_report(cf))
    assert rows == [("income", "20", "60"), ("weight", "4", "1"), ("age", "1", "2"), ("height", "3", "3.05")]
    assert "1 of 5 columns did not change." in page.text and "+4.00" in page.text and "−3.00" in page.text
    assert page.all("caption") and all(cell.get("scope") in ("row", "col") for cell in page.all("th"))


def test_a_regression_has_values_and_no_probability():
    cf = made(3, "table", "float", task="regression")
    cf.source, cf.target, cf.prediction = np.array([1.0, 2.0, 3.0]), np.array([7.0] * 3), np.array([7.0, 6.0, 7.5])
    cf.proba_before = cf.proba_after = np.full(3, np.nan)
    page = Document(render_report(cf))
    assert "probability" not in page.text.lower() and "2 before, → 6 after" in page.text
    changes = [row["data-change"] for row in page.all("li") if "data-change" in row]
    assert [float(change) for change in changes] == [6.0, 4.0, 4.5]


def test_rows_that_do_not_fit_are_left_out_and_it_says_so(tmp_path):
    cf = made(30, "colour")
    assert "This report shows the first" not in Document(render_report(cf, max_rows=30)).text
    few = Document(render_report(cf, max_rows=5))
    assert len(few.all("article")) == 5 and "shows the first 5 of 30 rows: max_rows=5" in few.text and "cf[5:]" in few.text
    whole = len(render_report(cf))
    for room in (0.02, 0.04, 0.07):
        text = render_report(cf, max_megabytes=room)
        page = Document(text)
        n = len(page.all("article"))
        assert 1 < n < 30 and f"first {n} of 30 rows: more would not fit into max_megabytes={room}" in page.text
        # style and script come on top
        assert len(text) < room * 1e6 + len(render_report(made(0))) + 25_000 < whole + 1e6
    assert len(Document(render_report(cf, max_megabytes=1e-6)).all("article")) == 1
    for wrong in ({"max_rows": 0}, {"max_frames": 1}, {"max_megabytes": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            cf.to_html(tmp_path / "a.html", **wrong)
    assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.slow
def test_a_thousand_rows_are_shown_unless_others_are_asked_for():
    cf = made(1030, "table", paths=False, optional=False)
    assert len(Document(render_report(cf)).all("article")) == 1000


def test_a_path_leads_from_the_original_to_the_counterfactual(with_path):
    explainer, cf = with_path
    page = Document(render_report(cf, explainer=explainer, max_frames=6))
    paths = [found for tag, found in page.tags if "data-points" in found]
    moved = np.flatnonzero(cf.status != "already_target")
    assert 0 < len(moved) < len(cf) and len(paths) == len(moved)
    films = page.all("img", class_="film crisp")
    everything = decode_path(explainer, cf)
    for i, path, film in zip(moved, paths, films, strict=True):
        told = json.loads(path["data-points"])["words"]
        frames = pixels(film["src"]).reshape(8, len(told), 8).swapaxes(0, 1) / 255
        assert 3 <= len(told) <= 7 and told[0].startswith("Original: ") and told[-1].startswith("Counterfactual (step ")
        np.testing.assert_allclose(frames[0], cf.x[i], atol=0.51 / 255)
        np.testing.assert_allclose(frames[-1], cf.x_cf[i], atol=0.51 / 255)
        # each picture between is the point of the path whose step it names, with what the classifier says of it
        for frame, words in zip(frames[2:-1], told[2:-1], strict=True):
            step = int(re.match(r"Step (\d+): ", words)[1])
            np.testing.assert_allclose(frame, np.clip(everything[i].x[step], 0, 1), atol=0.51 / 255)
            proba = explainer.predict_proba(everything[i].x[step : step + 1])[0, list(explainer.classes_).index(9)]
            said = re.search(r"probability of 9 ([=<>])\s([\d.]+)", words)
            assert abs(float(said[2]) - proba) < 0.0100001


def test_the_path_of_a_table_is_its_values(table_explainer, table):
    cf = table_explainer.explain(table[2][:3], record_path=True)
    page = Document(render_report(cf, explainer=table_explainer))
    for path in [found for _, found in page.tags if "data-points" in found]:
        told = json.loads(path["data-points"])
        i = int(path["aria-labelledby"].removeprefix("path-"))
        assert len(told["values"]) == len(told["words"])
        changed = sorted(f"{v:.4g}".replace("-", "−") for v, old in zip(cf.x[i], cf.x_cf[i], strict=True)
                         if f"{v:.4g}" in [w.replace("−", "-") for w in told["values"][0]])
        assert set(told["values"][0]) <= set(changed)
        assert set(told["values"][-1]) <= {f"{v:.4g}".replace("-", "−") for v in cf.x_cf[i]}


def test_paths_that_do_not_fit_or_cannot_be_decoded_are_named(with_path, digits, tmp_path):
    explainer, cf = with_path
    without = Document(render_report(cf))
    assert "The search path was recorded but is not shown" in without.text
    assert not [found for _, found in without.tags if "data-points" in found]
    small = render_report(cf[:4], explainer=explainer)
    room = (len(render_report(cf[:4])) - len(render_report(cf[:0]))) / 1e6 + 0.004
    few = Document(render_report(cf[:4], explainer=explainer, max_megabytes=room))
    assert "The search path is shown for the first" in few.text and len(few.all("article")) == 4
    assert "is shown for the first" not in Document(small).text
    bare = explainer.explain(digits[2][:2], target=9)
    with pytest.raises(ValueError, match="record_path=True"):
        bare.to_html(tmp_path / "a.html", explainer=explainer)
    other = copy.copy(explainer).set_params(detail="decoder")
    with pytest.raises(ValueError, match="not the one that made this result"):
        cf.to_html(tmp_path / "a.html", explainer=other)
    assert not os.listdir(tmp_path)
