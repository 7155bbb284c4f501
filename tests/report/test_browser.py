"""The report in a real browser: it sorts, filters and slides, by keyboard too, and asks the network for nothing."""

import os
import shutil

import numpy as np
import pytest
from hostile_words import EVIL
from results import made

from cfexplain.explainers import decode_path
from cfexplain.plotting.pictures import as_pictures
from cfexplain.result import STATUSES

api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH (apt install chromium)")

# Text on its background, as WCAG counts: every element with text of its own that is seen
CONTRAST = """() => {
  const read = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a = 1] = read(getComputedStyle(e).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!(own || e.matches("input, select")) || !e.checkVisibility() || e.closest("script, .unseen, option")) continue;
    const [a, b] = [light(read(getComputedStyle(e).color)), light(behind(e))];
    found.push([`${e.tagName}.${e.className}`, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
}"""

# What a checker of accessibility asks first
PROBLEMS = """() => {
  const wrong = [];
  const say = (what, e) => wrong.push(`${what}: ${e.outerHTML.slice(0, 120)}`);
  const all = (name) => [...document.querySelectorAll(name)];
  if (document.documentElement.lang !== "en") wrong.push("no language");
  if (!document.title.trim()) wrong.push("no title");
  for (const one of ["h1", "main", "body > header", "body > footer"])
    if (all(one).length !== 1) wrong.push(`${all(one).length} of ${one}`);
  let level = 0;
  for (const h of all("h1, h2, h3, h4, h5, h6")) {
    if (Number(h.tagName[1]) > level + 1) say("a level of headings is left out", h);
    if (!h.textContent.trim()) say("an empty heading", h);
    level = Number(h.tagName[1]);
  }
  for (const e of all("img")) if (!(e.alt || "").trim()) say("no alt", e);
  for (const e of all("canvas, svg:not([aria-hidden])")) if (!e.getAttribute("aria-label")) say("no label", e);
  for (const e of all("input, select, button"))
    if (!(e.labels && e.labels.length && e.labels[0].textContent.trim()) && !e.getAttribute("aria-label")
        && !e.textContent.trim()) say("no name", e);
  for (const e of all("[aria-labelledby]"))
    if (!document.getElementById(e.getAttribute("aria-labelledby"))) say("a label that is not there", e);
  for (const e of all("th")) if (!["row", "col"].includes(e.scope)) say("no scope", e);
  for (const e of all("table")) if (!e.caption || !e.tHead) say("no caption or head", e);
  for (const e of all("a[href^='#']")) if (!document.querySelector(e.getAttribute("href"))) say("leads nowhere", e);
  for (const e of all("details")) if (e.firstElementChild.tagName !== "SUMMARY") say("no summary", e);
  for (const e of all("ul, ol")) for (const c of e.children) if (c.tagName !== "LI") say("no li", c);
  const ids = all("[id]").map((e) => e.id);
  if (new Set(ids).size !== ids.length) wrong.push("an id is there twice");
  return wrong;
}"""


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"{CHROMIUM} does not start: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a report; after the test, nothing was logged and nothing was asked of the network."""
    heard, contexts = [], []

    def open_report(cf, *, width=1200, scheme="light", **options):
        cf.to_html(tmp_path / "report.html", **options)
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(dialog.message))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else heard.append(request.url))
        page.goto((tmp_path / "report.html").as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert heard == []


@pytest.fixture(scope="module")
def searched(image_explainer, digits):
    """Digits, some found and some not, with their paths."""
    X, y = digits[2:]
    rows = np.concatenate([np.flatnonzero(y == k)[:3] for k in (4, 0, 9)])
    return image_explainer, image_explainer.explain(X[rows], target=9, record_path=True)


def numbers(page):
    return [int(n) for n in page.eval_on_selector_all(".row:not([hidden])", "rows => rows.map(row => row.dataset.row)")]


def mixed(layout="grey", n=12):
    cf = made(n, layout, "str", optional=False)
    cf.status = np.array(STATUSES)[np.arange(n) % len(STATUSES)]
    cf.valid = ~np.isin(cf.status, ["not_found", "model_failed"])
    cf.density_percentile[3] = np.nan
    return cf


# --------------------------------------------------------------------------------------------------------- sort and filter
@pytest.mark.parametrize(("name", "values"), [
    ("percentile", lambda cf: cf.density_percentile), ("distance", lambda cf: cf.distance),
    ("distancex", lambda cf: cf.distance_x), ("change", lambda cf: cf.proba_after - cf.proba_before),
    ("steps", lambda cf: cf.n_steps), ("status", lambda cf: np.array([STATUSES.index(s) for s in cf.status])),
    ("row", lambda cf: np.arange(len(cf)))])
def test_rows_are_sorted_both_ways(opened, name, values):
    cf = mixed()
    page, keys = opened(cf), values(cf).astype(float)
    assert numbers(page) == list(range(12))
    page.select_option("#sort", name)
    assert numbers(page) == np.argsort(keys, kind="stable").tolist()  # NaN last
    page.click("#order")
    assert page.inner_text("#order") == "Descending"
    assert numbers(page) == np.argsort(-keys, kind="stable").tolist()


def test_rows_are_filtered_by_status_labels_and_text(opened):
    cf = mixed()
    page = opened(cf)
    late = np.flatnonzero(cf.status == "step_budget").tolist()
    page.select_option("#status", label=f"Step budget ({len(late)})")
    assert numbers(page) == late and page.inner_text("#count") == f"{len(late)} of 12 rows" and len(late) > 1
    page.click("form [data-reset]")
    assert numbers(page) == list(range(12)) and page.inner_text("#count") == "12 rows"
    for menu, labels in (("#source", cf.source), ("#target", cf.target)):
        for label in np.unique(labels):
            page.select_option(menu, label=str(label))
            assert numbers(page) == np.flatnonzero(labels == label).tolist()
        page.select_option(menu, "")
    page.select_option("#source", label="smile")
    page.select_option("#target", label="no smile")
    both = (cf.source == "smile") & (cf.target == "no smile")
    assert numbers(page) == np.flatnonzero(both).tolist() or (not both.any() and page.is_visible("#nothing"))
    page.click("form [data-reset]")
    page.fill("#text", "STEPS ran")
    assert numbers(page) == np.flatnonzero(cf.status == "step_budget").tolist()
    page.fill("#text", "no such words")
    assert numbers(page) == [] and page.is_visible("#nothing") and page.inner_text("#count") == "0 of 12 rows"
    page.click("#nothing button")
    assert numbers(page) == list(range(12)) and not page.is_visible("#nothing")


# ----------------------------------------------------------------------------------------------------------------- the path
def test_the_slider_shows_each_point_of_the_path(opened, searched):
    explainer, cf = searched
    page = opened(cf, explainer=explainer, max_frames=50)
    i = int(np.flatnonzero(cf.status != "already_target")[0])
    slider, output = page.locator(f"#row-{i} input[type=range]"), page.locator(f"#row-{i} output")
    last = int(slider.get_attribute("max"))
    path = decode_path(explainer, cf[i])[0]
    wanted = as_pictures(np.concatenate([cf.x[i : i + 1], path.x[: last]]), cf)
    slider.focus()
    for k in range(last, -1, -1):
        assert slider.input_value() == str(k) and slider.get_attribute("aria-valuetext") == output.inner_text()
        shown = page.evaluate("""(row) => {
            const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            copy.drawImage(document.querySelector(`#row-${row} canvas`), 0, 0);
            return [...copy.getImageData(0, 0, 8, 8).data]; }""", i)
        np.testing.assert_allclose(np.reshape(shown, (8, 8, 4))[..., 0] / 255, wanted[k], atol=0.51 / 255)
        page.keyboard.press("ArrowLeft")
    assert output.inner_text().startswith("Original: ")
    page.keyboard.press("End")
    assert output.inner_text().startswith("Counterfactual (step ")
    still = int(np.flatnonzero(cf.status == "already_target")[0])
    assert page.locator(f"#row-{still} input[type=range]").count() == 0


def test_the_slider_of_a_table_shows_its_values(opened, table_explainer, table):
    cf = table_explainer.explain(table[2][:2], record_path=True)
    page = opened(cf, explainer=table_explainer)
    i = int(np.flatnonzero(cf.status != "already_target")[0])
    page.locator(f"#row-{i} input[type=range]").focus()
    page.keyboard.press("Home")
    columns = f"#row-{i} .scroll:first-of-type tbody tr"
    rows = page.eval_on_selector_all(columns, "rows => rows.map(row => [...row.children].map(cell => cell.textContent))")
    assert len(rows) > 3 and all(slot == before for _, before, _, slot, _ in rows)
    page.keyboard.press("End")
    rows = page.eval_on_selector_all(columns, "rows => rows.map(row => [...row.children].map(cell => cell.textContent))")
    assert all(slot == after for _, _, after, slot, _ in rows)


# ------------------------------------------------------------------------------------------------------------ for everybody
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("layout", ["grey", "table", "path"])
def test_contrast_names_and_headings(opened, searched, scheme, layout):
    if layout == "path":
        page = opened(searched[1], scheme=scheme, explainer=searched[0])
    else:
        page = opened(mixed(layout), scheme=scheme)
    assert page.evaluate(PROBLEMS) == []
    page.evaluate("() => document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    found = page.evaluate(CONTRAST)
    assert len(found) > 100
    assert [(name, ratio) for name, ratio in found if ratio < 4.5] == []
    dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(19, 22, 26)"
    assert dark == (scheme == "dark")


def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(opened, searched):
    page = opened(searched[1], explainer=searched[0])
    order = page.evaluate("""() => [...document.querySelectorAll("a, button, select, input, summary")]
        .filter((e) => e.checkVisibility()).length""")
    places = []
    for _ in range(order):
        page.keyboard.press("Tab")
        place, outline = page.evaluate("""() => {
            const all = [...document.querySelectorAll("*")], style = getComputedStyle(document.activeElement);
            return [all.indexOf(document.activeElement), `${style.outlineStyle} ${style.outlineWidth}`]; }""")
        assert outline == "solid 3px"
        places.append(place)
    assert places == sorted(set(places))
    page.evaluate("() => document.activeElement.blur()")
    page.reload()
    page.keyboard.press("Tab")
    assert page.inner_text(":focus") == "Skip to the rows"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "rows"


@pytest.mark.parametrize("width", [320, 390, 800, 1600])
@pytest.mark.parametrize("layout", ["grey", "table", "path"])
def test_no_screen_is_too_narrow(opened, searched, width, layout):
    if layout == "path":
        page = opened(searched[1], width=width, explainer=searched[0])
    else:
        cf = mixed(layout)
        cf.source = np.array(["Donaudampfschifffahrtsgesellschaft" * 4] * 12)
        cf.metadata["feature_names"] = ["a_column_with_a_very_long_name_indeed"] * 4 + ["b"]
        page = opened(cf, width=width)
    page.evaluate("() => document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_on_paper_there_are_the_rows_and_no_controls(opened, searched):
    page = opened(searched[1], explainer=searched[0], scheme="dark")
    page.emulate_media(media="print")
    assert not page.is_visible("form") and not page.is_visible(".path input") and page.is_visible(".film")
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf()[:5] == b"%PDF-"


def test_without_scripts_everything_but_the_controls_is_there(browser, searched, tmp_path):
    searched[1].to_html(tmp_path / "report.html", explainer=searched[0])
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("article").count() == len(searched[1]) and page.locator(".film").first.is_visible()
    assert not page.locator("form").is_visible() and not page.locator(".path input").first.is_visible()
    context.close()


# -------------------------------------------------------------------------------------------------------------------- safe
@pytest.mark.parametrize("layout", ["grey", "table"])
def test_hostile_labels_run_nothing(opened, layout):
    cf = mixed(layout)
    cf.source = cf.target = cf.prediction = np.array([EVIL, "</script><script>window.hacked = 3</script>"] * 6)
    cf.metadata |= {"explainer": EVIL, "feature_names": [f"{EVIL}{i}" for i in range(5)], "parameters": "</pre>" + EVIL}
    cf.conditions = {EVIL: cf.valid}
    page = opened(cf, title=EVIL)
    page.select_option("#source", index=1)
    page.fill("#text", "hacked")
    assert len(numbers(page)) == 6
    assert page.evaluate("() => window.hacked") is None and page.locator("script").count() == 1
    assert EVIL.split(">")[0] in page.inner_text("h1")


def test_even_what_is_not_escaped_does_not_run(browser, tmp_path):
    made(2).to_html(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text().replace("<main>", "<main><script>window.hacked = 1</script><p onclick="
                                                          "'window.hacked = 2' id='bait'>bait</p>", 1)
    (tmp_path / "report.html").write_text(text)
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.click("#bait")
    assert page.evaluate("() => window.hacked") is None
    page.select_option("#sort", "distance")  # the page's own script runs
    assert page.locator("form").is_visible()
    page.close()


@pytest.mark.slow
def test_a_thousand_colour_pictures_open(opened, tmp_path):
    rng = np.random.RandomState(0)
    cf = made(1000, "grey", paths=False)
    rough = rng.rand(3, 1000, 3, 9, 9).repeat(8, 3).repeat(8, 4)[..., :64, :64] + 0.05 * rng.rand(3, 1000, 3, 64, 64)
    cf.x, cf.reconstruction, cf.x_cf = (rough / 1.05).astype(np.float32)
    cf.metadata["net_shape"] = [3, 64, 64]
    page = opened(cf)
    n = page.locator("article").count()
    assert os.path.getsize(tmp_path / "report.html") < 51e6
    assert n == 1000 or f"first {n} of 1000 rows" in page.inner_text("header.page")
    page.select_option("#sort", "percentile")
    assert numbers(page) == np.argsort(cf.density_percentile[:n], kind="stable").tolist()
