"""Rules of columns: named, counted, and kept by every row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfexplain.tables.rules import ColumnRules


def test_columns_are_named_counted_and_counted_from_the_end():
    names = np.array(["age", "income", "sex", "job"], dtype=object)
    for immutable in (["sex", "age"], [2, 0], [-2, -4], np.array([0, 2]), {"age", 2}, (c for c in (0, 2))):
        assert ColumnRules(immutable, None, 4, names).held.tolist() == [True, False, True, False]
    for one in ("income", 1):
        assert np.flatnonzero(ColumnRules(one, None, 4, names).held).tolist() == [1]
    rules = ColumnRules(None, {"age": (0, None), -1: (None, 5), 1: (-1.5, 2)}, 4, names)
    assert rules.low.tolist() == [0, -1.5, -np.inf, -np.inf] and rules.high.tolist() == [np.inf, 2, np.inf, 5]
    assert rules and ColumnRules([0], None, 4, None) and not ColumnRules(None, None, 4, None)
    assert not ColumnRules([], {0: (None, None)}, 4, None)


@pytest.mark.parametrize(("immutable", "bounds", "names", "message"), [
    (["age"], None, None, "no column names"), (["age"], None, ["sex"], r"the columns are \['sex'\]"),
    ([3], None, None, "index below 3"), ([-4], None, None, "-4"), ([1.0], None, None, "1.0"),
    ([True, False, True], None, None, "flatnonzero"), (np.array([True, False, True]), None, None, "flatnonzero"),
    (None, {0: (2, 1)}, None, "empty"), (None, {0: (np.nan, 1)}, None, "empty"), (None, {0: 3}, None, "pair"),
    (None, {0: (1, 2, 3)}, None, "pair"), (None, {9: (0, 1)}, None, "bounds names the column 9")])
def test_rules_that_make_no_sense(immutable, bounds, names, message):
    with pytest.raises(ValueError, match=message):
        ColumnRules(immutable, bounds, 3, names)


values = st.floats(-4, 4, width=32)
sides = st.one_of(st.none(), values)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), sides, sides, values, values), min_size=1, max_size=6))
def test_rules_hold_for_every_row(columns):
    held, low, high, original, x = (list(column) for column in zip(*columns, strict=True))
    bounds = {}
    for i, (a, b) in enumerate(zip(low, high, strict=True)):
        a, b = sorted((a, b)) if a is not None and b is not None else (a, b)
        bounds[i] = (a, b)
    rules = ColumnRules([i for i, h in enumerate(held) if h], bounds, len(x), None)
    proposal = torch.tensor([x], requires_grad=True)
    kept = rules.apply(proposal, torch.tensor([original]))
    moves = torch.autograd.grad(kept.sum(), proposal)[0][0].tolist()
    for i, after in enumerate(kept[0].tolist()):
        a = -np.inf if bounds[i][0] is None else bounds[i][0]
        b = np.inf if bounds[i][1] is None else bounds[i][1]
        if held[i]:
            assert after == original[i] and moves[i] == 0
        elif a <= original[i] <= b:
            assert a <= after <= b and (after == x[i] or not a <= x[i] <= b)
        else:  # outside before: anywhere from there to inside, but not further out
            assert min(a, original[i]) <= after <= max(b, original[i])
        if not held[i] and min(a, original[i]) < x[i] < max(b, original[i]):
            assert after == x[i] and moves[i] == 1
