"""The ``cfexplain`` command: the public API from a terminal."""

from cfexplain.cli.main import main

__all__ = ["main"]
