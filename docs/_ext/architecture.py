"""The picture and the table of docs/architecture.md, made from the code: run it as a script after rooms have changed.

A room is a folder or a file directly under cfexplain/. Its sentence is the first of its docstring; an arrow is an import,
those under ``TYPE_CHECKING`` and inside functions included.
"""

import ast
import re
from pathlib import Path

DOCS = Path(__file__).parent.parent
PACKAGE = DOCS.parent / "cfexplain"
# From the top down; the order that import-linter keeps (pyproject.toml) is finer.
FLOORS = [["cli", "bridges"], ["evaluation"], ["explainers"], ["scale"],
          ["result", "density", "objective", "metrics", "geometry"],
          ["plotting", "report", "coordinates", "classifiers", "search", "perceptual"],
          ["tables", "nets", "ops", "persistence", "datasets"], ["foundation"]]
BEGIN, END = "<!-- made by docs/_ext/architecture.py -->", "<!-- end -->"


def rooms():
    """Name -> the files of each room."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            files.setdefault(name, []).append(path)
    return files


def arrows():
    """(room, room that it imports) -> number of imports."""
    found, known = {}, rooms()
    for room, paths in known.items():
        for path in paths:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [
                    node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in names:
                    parts = name.split(".")
                    if len(parts) > 1 and parts[0] == "cfexplain" and parts[1] in known and parts[1] != room:
                        found[room, parts[1]] = found.get((room, parts[1]), 0) + 1
    return found


def sentence(room):
    """The first of the room's docstring."""
    path = PACKAGE / room / "__init__.py" if (PACKAGE / room).is_dir() else PACKAGE / f"{room}.py"
    first = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")[0].replace("\n", " ")
    return re.match(r".*?[.?](?=\s+[A-Z]|$)|.*", first).group().replace("``", "`")


def table():
    """Markdown: floor, room, what it is."""
    lines = ["| floor | room | what it is |", "|---|---|---|"]
    for k, floor in enumerate(FLOORS):
        for room in floor:
            name, file = (f"{room}/", f"{room}/__init__.py") if (PACKAGE / room).is_dir() else (f"{room}.py",) * 2
            lines.append(f"| {len(FLOORS) - k} | [{name}](../cfexplain/{file}) | {sentence(room)} |")
    return "\n".join(lines)


def draw(path):
    """Rooms as boxes on their floors, as wide as they have files, and an arrow for each room that another imports."""
    from matplotlib.figure import Figure

    files, width, gap = rooms(), 24.0, 0.5
    figure = Figure(figsize=(11, 8.5))
    axes, centre = figure.subplots(), {}
    for k, floor in enumerate(FLOORS):
        y = len(FLOORS) - k
        sizes = [max(2.2, 1.6 + 0.35 * len(files[room]) ** 0.75) for room in floor]
        left = (width - sum(sizes) - gap * (len(floor) - 1)) / 2
        axes.text(-0.6, y, str(y), ha="right", va="center", color="#595959", fontsize=11)
        for room, size in zip(floor, sizes, strict=True):
            centre[room] = left + size / 2, y
            axes.add_patch(_box(left, y - 0.22, size, 0.44))
            count = f"{len(files[room])} files" if (PACKAGE / room).is_dir() else "1 file"
            axes.text(left + size / 2, y + 0.05, room, ha="center", va="center", fontsize=10, zorder=4)
            axes.text(left + size / 2, y - 0.13, count, ha="center", va="center", fontsize=7, color="#595959", zorder=4)
            left += size + gap
    for (a, b), count in arrows().items():
        if b == "foundation":  # every room stands on it
            continue
        (x0, y0), (x1, y1) = centre[a], centre[b]
        sideways = y0 == y1
        start, end = ((x0, y0 + 0.22), (x1, y1 + 0.22)) if sideways else ((x0, y0 - 0.22), (x1, y1 + 0.22))
        axes.annotate("", end, start, zorder=1, arrowprops={
            "arrowstyle": "-|>", "color": "#0072B2", "alpha": 0.35, "lw": 0.5 + 0.25 * min(count, 8) ** 0.5,
            "connectionstyle": f"arc3,rad={0.35 if sideways and x1 > x0 else -0.35 if sideways else 0.06}"})
    axes.set(xlim=(-1.5, width + 0.5), ylim=(0.5, len(FLOORS) + 0.6))
    axes.axis("off")
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})


def _box(x, y, width, height):
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.12", fc="#F4F4F0", ec="#595959",
                          lw=0.8, zorder=3)


def main():
    page = DOCS / "architecture.md"
    text = page.read_text("utf-8")
    before, rest = text.split(BEGIN)
    page.write_text(before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1], "utf-8")
    draw(DOCS / "figures" / "architecture.png")


if __name__ == "__main__":
    main()
