"""The ``cfexplain`` command: the public API from a terminal."""

from cfexplain.cli._demo import run_demo
from cfexplain.cli._main import main

__all__ = ["main", "run_demo"]
