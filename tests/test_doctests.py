"""Every example in a docstring of the installed package runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import cfexplain

MODULES = ["cfexplain", *(m.name for m in pkgutil.walk_packages(cfexplain.__path__, "cfexplain."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert failed == 0
