"""Everything that the package imports by itself is declared, with a minimum."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "torch_fidelity": "torch-fidelity", "tomllib": "tomli"}
# what a user's own objects bring, what torch brings, and what its users install
BROUGHT = {"cfexplain", "triton", "pandas", "polars", "dask"}


def imported():
    for path in (ROOT / "cfexplain").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "optional_import":
                yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def test_what_is_imported_is_declared():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["fid"],
                *project["optional-dependencies"]["diffusers"]]
    assert all(">=" in requirement for requirement in declared)
    names = {re.split(r"[>=;\[ ]", requirement)[0].lower() for requirement in declared}
    used = {name.partition(".")[0] for name in imported()} - set(sys.stdlib_module_names) - BROUGHT
    assert {DISTRIBUTIONS.get(name, name) for name in used} <= names
