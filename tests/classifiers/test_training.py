"""The default classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import train_test_split

from cfexplain.classifiers import adapt_classifier
from cfexplain.foundation.arrays import Layout

D = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, D)).astype(np.float32)
Y3 = np.array(["ant", "bee", "cat"])[np.arange(90) % 3]
TABLE = Layout((D,), (D,))
GREY = Layout((8, 8), (1, 8, 8))


def adapt(module, y=Y3, x=X, layout=TABLE, **options):
    return adapt_classifier(module, x, y, layout=layout, **options)


def test_default_for_tables():
    x, y = load_wine(return_X_y=True)
    x[:, 0] += 1e6  # far from zero: standardised before the cast to float32
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    adapter = adapt(None, y, x, Layout((13,), (13,)), training_budget=0.3)
    assert next(adapter.module.parameters()).dtype == torch.float64
    assert (adapter.predict(x_test) == y_test).mean() >= 0.95
    again = adapt(None, y, x, Layout((13,), (13,)), training_budget=0.3)
    assert (again.predict_proba(x_test) == adapter.predict_proba(x_test)).all()


def test_default_for_images():
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    adapter = adapt(None, y, x, GREY, training_budget=0.1)
    assert (adapter.predict(x_test) == y_test).mean() >= 0.95


def test_default_needs_two_classes():
    with pytest.raises(ValueError, match="one class only"):
        adapt(None, np.zeros(90, int))
