"""Numbers in words: nothing is said of 1 rows, and no probability is rounded to certainty."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfexplain.foundation.exceptions import warn_of_statuses
from cfexplain.foundation.in_words import count_rows, probability


@given(st.floats(0, 1))
@settings(max_examples=50, derandomize=True)
def test_a_probability_is_never_certain_and_two_ways_of_writing_it_never_meet(p):
    words = probability(p)
    assert words not in ("0.00", "1.00")
    if words[0] in "<>":
        assert (p < 0.005) if words == "< 0.01" else (p >= 0.995)
    else:
        assert abs(float(words) - p) <= 0.005 + 1e-12


@pytest.mark.parametrize("status", ["not_found", "step_budget", "model_failed", "time_limit", "implausible"])
@pytest.mark.parametrize("n", [1, 2])
def test_one_row_is_told_as_one(status, n):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_of_statuses({status: n}, 10)
    assert "1 rows" not in str(told[0].message) and "Of 1" not in str(told[0].message)
    assert count_rows(n) in str(told[0].message) or n == 1
