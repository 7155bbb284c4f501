"""Every example in a docstring of the installed package runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import cfexplain
from cfexplain import CounterfactualExplainer

MODULES = ["cfexplain", *(m.name for m in pkgutil.walk_packages(cfexplain.__path__, "cfexplain."))]


@pytest.fixture(autouse=True)
def trained_once(fitted_once, monkeypatch):
    """Many examples train the same explainer on the same rows: the first of them does."""
    fit = CounterfactualExplainer.fit

    def fit_once(explainer, X, y):
        if explainer.classifier is not None:  # the user's own must stay the very object, not a copy of it
            return fit(explainer, X, y)
        vars(explainer).update(vars(fitted_once(explainer, X, y, fit)))
        return explainer

    monkeypatch.setattr(CounterfactualExplainer, "fit", fit_once)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert failed == 0
