"""Labels of any kind become class indices; targets that are no classes say so."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfexplain.foundation.exceptions import TargetError
from cfexplain.foundation.labels import label_indices, resolve_target

KINDS = {"int": st.integers(-9, 99), "str": st.text("abü <", max_size=4), "bool": st.booleans(),
         "float": st.floats(-9, 9, width=16)}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
def test_labels_of_any_kind_are_found(data, kind):
    classes = np.unique(data.draw(st.lists(KINDS[kind], min_size=1, max_size=6)))
    index = np.array(data.draw(st.lists(st.integers(0, len(classes) - 1), max_size=5)), dtype=int)
    proba = np.full((len(index), len(classes)), 1 / len(classes))
    for these in (classes, classes.astype(object)):
        for labels in (these[index], these[index].tolist(), pd.Series(these[index])):
            if len(index):
                assert label_indices(labels, these).tolist() == index.tolist()
                assert resolve_target(labels, these, proba).tolist() == index.tolist()
        for i, label in enumerate(these):
            assert label_indices(label, these) == i
            assert resolve_target(label, these, proba).tolist() == [i] * len(index)


def test_no_target_is_the_runner_up():
    proba = np.random.RandomState(0).dirichlet(np.ones(5), size=50).astype(np.float32)
    before = proba.copy()
    assert resolve_target(None, np.arange(5), proba).tolist() == proba.argsort(1)[:, -2].tolist()
    assert resolve_target(None, np.array(["n", "y"]), np.array([[0.9, 0.1], [0, 1], [0.5, 0.5]])).tolist() == [1, 0, 1]
    np.testing.assert_array_equal(proba, before)
    assert resolve_target(torch.tensor([3, 1]), np.array([1, 3]), np.ones((2, 2))).tolist() == [1, 0]
    one = resolve_target(1, np.arange(2), np.ones((3, 2)))
    one[0] = 0  # a copy of its own, not a view of one number
    assert one.tolist() == [0, 1, 1]


@pytest.mark.parametrize(("target", "message"), [
    ("frown", r"'frown' is not a class.*\['no smile', 'smile'\]"), (1, "1 is not a class.*labels, not indices"),
    (["smile", "frown"], "'frown'"), (["smile"], "1 labels for 2 rows"), ([["smile"], ["smile"]], r"shape \(2, 1\)"),
    (np.nan, "nan is not")])
def test_targets_that_are_no_classes(target, message):
    with pytest.raises(TargetError, match=message):
        resolve_target(target, np.array(["no smile", "smile"]), np.full((2, 2), 0.5))
    with pytest.raises(TargetError):
        resolve_target("0", np.arange(2), np.full((2, 2), 0.5))
