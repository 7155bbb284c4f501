"""The documentation: links lead somewhere, code is code, every public name is in the reference, and Sphinx is content."""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cfexplain

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GENERATED = ("_build", "gallery", "generated")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md",
         *(page for page in sorted(DOCS.rglob("*.md")) if page.relative_to(DOCS).parts[0] not in GENERATED)]
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
FENCE = re.compile(r"^(`{3,}|~{3,})(\{?[\w-]*\}?)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
# what these modules list is how the package works; what users may rely on, `cfexplain` and `cfexplain.Counterfactuals` offer
INTERNAL = ("cfexplain.bridges.captum_rows", "cfexplain.bridges.saliency_", "cfexplain.cli", "cfexplain.foundation",
            "cfexplain.nets", "cfexplain.ops", "cfexplain.persistence", "cfexplain.report", "cfexplain.scale",
            "cfexplain.tables")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def prose(text):
    """Markdown without its code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def slug(heading):
    """The anchor that GitHub makes of a heading."""
    words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def anchors(page):
    seen, found = {}, set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE):
        anchor = slug(heading)
        found.add(anchor if anchor not in seen else f"{anchor}-{seen[anchor]}")
        seen[anchor] = seen.get(anchor, 0) + 1
    return found


def links(page):
    """Relative targets of links and images, with their anchors."""
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", prose(page.read_text("utf-8")))
    return [target for target in targets if not re.match(r"[a-z][a-z+.-]*:", target)]


def broken_links(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title, here\n\n[good](#a-title-here) [bad](#a-title) ![bad](no.png) `[code](no.md)` [web](https://x.y)"
                    "\n\n```text\n# no heading\n[code](no.md)\n```\n[bad](#no-heading)\n", "utf-8")
    assert broken_links(page) == ["#a-title", "no.png", "#no-heading"]


def test_links_to_examples_lead_to_the_gallery_on_the_site():
    spec = importlib.util.spec_from_file_location("site_parts", DOCS / "_ext" / "site_parts.py")
    parts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parts)
    source = ["[a](examples/helix.py) [b](../examples/tables.py) [all](examples/) [file](howto/gpu.md) `examples/helix.py`"]
    parts.to_the_gallery(None, "page", source)
    assert source == ["[a](gallery/helix.rst) [b](../gallery/tables.rst) [all](gallery/index.rst) [file](howto/gpu.md) "
                      "`examples/helix.py`"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_compiles(page):
    for _, language, code in FENCE.findall(page.read_text("utf-8")):
        if language in ("python", "py", "{code-block} python"):
            ast.parse(code.replace(">>> ", "").replace("... ", "") if code.lstrip().startswith(">>>") else code)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_in_code_exist(page):
    """What a page imports from the package is there."""
    for _, language, code in FENCE.findall(page.read_text("utf-8")):
        if language != "python" or code.lstrip().startswith(">>>"):
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cfexplain":
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert missing == [], f"{node.module} has no {missing}"


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_examples_are_gallery_pages(example):
    """A title, underlined, and code whose imports from the package exist."""
    tree = ast.parse(example.read_text("utf-8"))
    title, line, *_ = ast.get_docstring(tree).splitlines()
    assert set(line) == {"="} and len(line) >= len(title)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cfexplain":
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_times_of_fit_are_those_that_were_measured():
    page = (DOCS / "performance.md").read_text("utf-8")
    page = page.split("## How long `fit` takes")[1].split("##")[0]
    lines = re.findall(r"^\| (.+?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    stored = json.loads((ROOT / "benchmarks" / "results" / "fit_time.json").read_text("utf-8"))["fits"].values()
    assert {(words, rows.replace(",", ""), seconds, said) for words, rows, seconds, said in lines} == {
        (fit["words"], str(fit["rows"]), f"{fit['seconds']:g}", f"{fit['said']:g}") for fit in stored}
    assert all(0.5 <= fit["said"] / fit["seconds"] <= 2 for fit in stored)


def test_readme_has_the_times_that_were_measured():
    fits = json.loads((ROOT / "benchmarks" / "results" / "fit_time.json").read_text("utf-8"))["fits"]
    readme = (ROOT / "README.md").read_text("utf-8")
    for words, fit in (("digits, 8×8", "digits"), ("MNIST, 28×28, with an own network", "mnist"), (
            "table of 13 columns (wine)", "wine"), ("table of 11 columns of mixed types (COMPAS)", "compas")):
        seconds = re.search(rf"^\| {re.escape(words)} \| [\d,]+ \| (\d+)\b", readme, re.MULTILINE)[1]
        assert int(seconds) == round(fits[fit]["seconds"]), words


def documented():
    """Objects that the API page names, and names on it that there are not."""
    objects, missing, module, listing = set(), [], None, False
    for line in (DOCS / "api.rst").read_text("utf-8").splitlines():
        if match := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = importlib.import_module(match[1])
        if line and not line.startswith(" "):
            listing = line.startswith(".. autosummary::")
        elif listing and (match := re.match(r"   (\w+)$", line)):
            if hasattr(module, match[1]):
                objects.add(id(getattr(module, match[1])))
            else:
                missing.append(f"{module.__name__}.{match[1]}")
    return objects, missing


def public_names():
    """(qualified name, object) of every class and function in ``__all__`` of the package and of what lies directly in it."""
    names = ["cfexplain", *(m.name for m in pkgutil.iter_modules(cfexplain.__path__, "cfexplain."))]
    names += [m.name for m in pkgutil.iter_modules(importlib.import_module("cfexplain.bridges").__path__,
                                                   "cfexplain.bridges.")] if "cfexplain.bridges" in names else []
    for name in names:
        if any(part.startswith("_") for part in name.split(".")) or name.startswith(INTERNAL):
            continue
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            value = getattr(module, public)
            ours = getattr(value, "__module__", "").split(".")[0] == "cfexplain"
            if (inspect.isclass(value) or inspect.isfunction(value)) and ours:
                yield f"{name}.{public}", value


def test_every_public_name_is_in_the_reference():
    objects, missing = documented()
    assert missing == [], "docs/api.rst lists what is not there"
    left_out = [name for name, value in public_names() if id(value) not in objects]
    assert left_out == [], "add these to docs/api.rst, or take them out of __all__"


def test_every_page_is_in_a_table_of_contents():
    """A page that no toctree names cannot be found from the index."""
    listed = {(DOCS / "index").resolve()}
    for page in [page for page in PAGES if DOCS in page.parents]:
        for _, directive, body in FENCE.findall(page.read_text("utf-8")):
            if directive == "{toctree}":
                entries = [line.strip() for line in body.splitlines() if line.strip() and not line.startswith(":")]
                listed |= {(DOCS / entry.lstrip("/") if entry.startswith("/") else page.parent / entry).resolve()
                           for entry in entries}
    lost = [name_of(page) for page in PAGES if DOCS in page.parents and page.with_suffix("").resolve() not in listed]
    assert lost == [], "add these to the toctree of docs/howto/index.md or docs/background.md"


@pytest.mark.slow
def test_the_helix_page_shows_what_it_says():
    """It trains a flow: in the base space searches end on the curve, in space itself they do not."""
    done = subprocess.run([sys.executable, str(DOCS / "examples" / "helix.py")], capture_output=True, text=True,
                          env={**os.environ, "MPLBACKEND": "Agg"})
    assert done.returncode == 0, done.stderr[-2000:]
    found = {space: (int(valid), float(distance)) for space, valid, distance in re.findall(
        r"in (x|z): (\d+)% valid, median distance to the helix ([\d.]+)", done.stdout)}
    assert found["x"][0] == found["z"][0] == 100 and found["x"][1] > 0.5 and found["z"][1] < 0.05


@pytest.mark.slow
def test_sphinx_builds_without_a_warning(tmp_path):
    """The whole site but for running the gallery's examples, with warnings as errors."""
    for needed in ("sphinx", "sphinx_gallery", "myst_parser", "numpydoc", "pydata_sphinx_theme"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"needs {needed}: pip install 'cfexplain[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-D", "plot_gallery=0", "-d", str(tmp_path / "trees"),
         str(DOCS), str(tmp_path / "html")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    for page in ("index", "api", "explanation", "gallery/index", "gallery/digits", "generated/cfexplain.PLACEExplainer"):
        assert (tmp_path / "html" / f"{page}.html").is_file(), page
