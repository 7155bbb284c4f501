"""Rules that keep the package as it is drawn: floors without circles, private names that stay private, light imports."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import cfexplain

ROOT = Path(__file__).parent.parent
PACKAGE = Path(cfexplain.__file__).parent


def dotted(file):
    """The name by which a file of the package is imported."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def is_private(name):
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def test_imports_go_down_only(capfd):
    """The floors of pyproject.toml: every room lies on one, imports of types count, and there is no circle."""
    failed = lint_imports(str(ROOT / "pyproject.toml"), no_cache=True)
    assert not failed, capfd.readouterr().out


def test_no_file_is_private():
    files = [file.relative_to(PACKAGE) for file in PACKAGE.rglob("*") if "__pycache__" not in file.parts]
    assert not [str(file) for file in files if is_private(file.name.split(".")[0])]


def imports_of(tree):
    """Of every import of a name of this package: the line, what is imported, and what it is called here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module if not node.level else "cfexplain._relative"
            names = [(f"{origin}.{alias.name}", alias.asname or alias.name) for alias in node.names]
        else:
            continue
        yield from ((node.lineno, *name) for name in names if name[0].split(".")[0] == "cfexplain")


def breaches(source, module):
    """Lines of `module`, whose code is `source`, that take what other modules of the package do not offer."""
    tree, modules, found = ast.parse(source), {}, []
    for line, name, known_as in imports_of(tree):
        if any(is_private(part) for part in name.split(".")):
            found.append((line, f"imports {name}"))
        elif name == "cfexplain.__version__":  # which loads nothing
            continue
        elif name not in MODULES and name.count(".") < 2 or name == "cfexplain":
            found.append((line, f"imports {name} from the package's top, which imports everything"))
        elif name in MODULES and name != module:
            modules[known_as] = name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in modules:
            found.append((node.lineno, f"reads {modules[ast.unparse(node.value)]}.{node.attr}"))
    return sorted(found)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "cfexplain"])
def test_private_names_stay_in_their_module(module):
    assert not breaches(MODULES[module].read_text(encoding="utf-8"), module)


def test_breaches_are_found():
    source = """
import cfexplain
from cfexplain import search, PLACEExplainer
from cfexplain.foundation import tiles as t
from cfexplain.foundation.tiles import _hidden, TILE
if TYPE_CHECKING:
    from cfexplain._result import Counterfactuals
    from . import sibling
def late():
    import cfexplain.explainers._run
    import cfexplain.search.path
    return t._hidden, cfexplain.search.path._hidden, search.gradient, t.__name__, self._own
"""
    assert [line for line, _ in breaches(source, "cfexplain.some")] == [2, 3, 5, 7, 8, 10, 12, 12]


def test_types_agree():
    """mypy on the whole package, with the settings of pyproject.toml."""
    done = subprocess.run([sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "cfexplain"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


HEAVY = {"skorch", "zuko", "torchvision", "lpips", "captum", "matplotlib", "torchmetrics", "pandas", "dask", "requests",
         "urllib3", "httpx", "aiohttp", "huggingface_hub", "fsspec", "ftplib", "smtplib", "http.server"}
ROOMS = ["cfexplain", "cfexplain.result", "cfexplain.metrics", "cfexplain.plotting", "cfexplain.report", "cfexplain.scale",
         "cfexplain.evaluation.frontier", "cfexplain.bridges", "cfexplain.cli"]


def loaded_by(*modules):
    """Which of the packages above a fresh process has loaded after each of `modules`, one imported after the other."""
    code = (f"import sys, json, importlib\nfor name in {modules}:\n    importlib.import_module(name)\n"
            f"    print(json.dumps([name for name in {sorted(HEAVY)} if name in sys.modules]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(json.loads(line)) for line in done.stdout.splitlines()]


def test_imports_are_light():
    """Nothing heavy and nothing of the network is loaded before it is needed, but what torch and scikit-learn load."""
    others = ["torch", "torch.func", "sklearn"]
    loaded = loaded_by(*others, *ROOMS)
    for module, more in zip(ROOMS, loaded[len(others) :], strict=True):
        assert not more - loaded[len(others) - 1], module


def test_the_command_and_the_package_itself_load_nothing():
    code = ("import sys, cfexplain.cli, cfexplain\nassert not {'torch', 'sklearn', 'numpy'} & set(sys.modules)\n"
            "assert cfexplain.metrics.spread_ratio and cfexplain.PLACEExplainer and 'load' in dir(cfexplain)\n"
            "try:\n    cfexplain.nonsense\nexcept AttributeError as error:\n    assert 'nonsense' in str(error)\n"
            "else:\n    raise AssertionError\nfrom cfexplain import *\nevaluate, load_results")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_on_the_architecture_is_of_this_code():
    """docs/architecture.md shows every room once, and no arrow that goes up; docs/_ext/architecture.py makes it."""
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "_ext" / "architecture.py")
    architecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architecture)
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert architecture.table() in page, "run python docs/_ext/architecture.py"
    rooms = [room for floor in architecture.FLOORS for room in floor]
    assert sorted(rooms) == sorted(architecture.rooms())
    floor = {room: -k for k, rooms in enumerate(architecture.FLOORS) for room in rooms}
    assert not [(a, b) for a, b in architecture.arrows() if floor[a] < floor[b]]
