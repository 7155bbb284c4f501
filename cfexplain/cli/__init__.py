"""The ``cfexplain`` command: the public API from a terminal."""

from cfexplain.cli.commands import run_demo
from cfexplain.cli.main import main

__all__ = ["main", "run_demo"]
