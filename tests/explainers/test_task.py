"""What a target means for classes and for values."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import BaggingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from cfexplain.classifiers import adapt_regressor
from cfexplain.explainers.task import Classification, Regression, make_task, read_values
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.exceptions import TargetError

D = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, D)).astype(np.float32)
Y = X @ np.array([3.0, -2.0, 0.0, 1.0]) + 10
TABLE = Layout((D,), (D,))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def linear(outputs=1, *after, dtype=torch.float32):
    return seeded(lambda: nn.Sequential(nn.Linear(D, outputs), *after)).to(dtype)


def adapt(regressor, x=X, y=Y, layout=TABLE, **options):
    return adapt_regressor(regressor, x, y, layout=layout, **options)


def skorch_net(module, kind=NeuralNetRegressor, **options):
    return kind(module, max_epochs=1, train_split=None, verbose=0, **options)


def test_y_must_hold_numbers():
    for y in (np.array(["low", "high"] * 40), np.array([{}] * 80)):
        with pytest.raises(ValueError, match="y of a regression must hold numbers"):
            adapt(linear(), y=y)


BEFORE = np.array([3.0, 9.0, 7.0])
INF = np.inf


@pytest.mark.parametrize(("target", "low", "high", "asked"), [
    (7, [7, -INF, -INF], [INF, 7, 7], [7, 7, 7]),
    (np.float32(7), [7, -INF, -INF], [INF, 7, 7], [7, 7, 7]),
    (torch.tensor(7.0), [7, -INF, -INF], [INF, 7, 7], [7, 7, 7]),
    ([4, 5, 8.5], [4, -INF, 8.5], [INF, 5, INF], [4, 5, 8.5]),
    (np.array([4, 5, 8]), [4, -INF, 8], [INF, 5, INF], [4, 5, 8]),
    (torch.tensor([4, 5, 8]), [4, -INF, 8], [INF, 5, INF], [4, 5, 8]),
    ((4, 5), [4] * 3, [5] * 3, ["[4, 5]"] * 3),
    ((4, 4), [4] * 3, [4] * 3, ["[4, 4]"] * 3),
    ((4, INF), [4] * 3, [INF] * 3, ["[4, inf]"] * 3),
    ((-INF, 5), [-INF] * 3, [5] * 3, ["[-inf, 5]"] * 3),
    ("maximize", [INF] * 3, [INF] * 3, ["maximize"] * 3),
    ("minimize", [-INF] * 3, [-INF] * 3, ["minimize"] * 3),
], ids=str)
def test_what_a_target_means(target, low, high, asked):
    got = read_values(target, BEFORE)
    for values, wanted in zip(got, (low, high, asked), strict=True):
        assert values.tolist() == wanted
    assert [len(values) for values in read_values(target if np.ndim(target) == 0 else (4, 5), BEFORE[:0])] == [0, 0, 0]


@pytest.mark.parametrize(("target", "words"), [
    (None, "needs a target"), ("max", "'max' is not known for a regression"), ("7", "'7' is not known"),
    ([4, 5], r"shape \(2,\); expected one value, one a row: \(3,\)"), (np.zeros((3, 2)), r"shape \(3, 2\)"),
    ([], r"shape \(0,\)"), (np.nan, "NaN or infinite"), (INF, "'maximize' or 'minimize'"), ([4, np.nan, 5], "NaN"),
    ([4, "a", 5], "is not a number"), ({"low": 4}, "is not a number"), ([[1], [1, 2]], "is not a number"),
    ((5, 4), "low <= high"), ((4, np.nan), "low <= high"), ((-INF, INF), "one of them finite"), ((INF, INF), "finite"),
    ((4,), "an interval"), ((4, 5, 6), "an interval"), (("a", "b"), "an interval"), ((None, 5), "an interval"),
], ids=str)
def test_what_is_no_target(target, words):
    with pytest.raises(TargetError, match=words):
        read_values(target, BEFORE)


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8), st.booleans())
def test_a_value_is_reached_from_where_a_row_starts(pairs, one_a_row):
    before = np.array([pair[0] for pair in pairs])
    target = [pair[1] for pair in pairs] if one_a_row else pairs[0][1]
    low, high, asked = read_values(target, before)
    assert (asked == np.broadcast_to(target, len(pairs))).all()
    assert (low < high).all() and (np.isinf(low) ^ np.isinf(high)).all()
    # the value itself is in the interval, and is the end that the row meets first
    assert ((low <= asked) & (asked <= high)).all()
    assert (np.where(before < asked, low, high) == asked).all()
    inside = (before >= low) & (before <= high)
    assert (inside == (before == asked)).all()


@settings(deadline=None, max_examples=50)
@given(numbers, numbers)
def test_an_interval_is_what_was_asked_or_an_error(a, b):
    if a > b:
        with pytest.raises(TargetError):
            read_values((a, b), BEFORE)
        return
    low, high, asked = read_values((a, b), BEFORE)
    assert (low == a).all() and (high == b).all() and asked[0] == f"[{a:g}, {b:g}]"


class Identical:
    """A regressor whose value is the first column."""

    def predict(self, rows):
        return rows[:, 0]


def test_goal_and_judgement():
    task = Regression(Identical(), Y)
    start = np.array([[3.0], [9.0], [7.0]], dtype=np.float32)
    goal = task.goal(Identical(), start, 7)
    assert goal.already_valid.tolist() == [False, False, True] and goal.target.tolist() == [7, 7, 7]
    assert goal.rows["low"].dtype == np.float32 and goal.rows["before"].tolist() == [3, 9, 7]
    just_short = np.float32(7 - 0.5 * task.slack)
    judged = task.judge(np.array([just_short, 7.1, 7.0], dtype=np.float32), goal)
    assert judged["valid"].tolist() == [True, False, True] and judged["source"].tolist() == [3, 9, 7]
    assert np.isnan(judged["proba_before"]).all() and np.isnan(judged["proba_after"]).all()
    for target, valid in (("maximize", [True, False, False]), ("minimize", [False, True, False])):
        goal = task.goal(Identical(), start, target)
        assert not goal.already_valid.any() and goal.unbounded.all()
        moved = task.answers(Identical(), np.array([[4.0], [8.0], [7.0]], dtype=np.float32))  # up, down, not at all
        assert task.judge(moved, goal)["valid"].tolist() == valid
    assert task.groups.tolist() == [0] * 80 and task.counts.tolist() == [80] and task.metadata() == {"task": "regression"}


LABELS, WORDS, COUNTS = np.arange(80) % 3, np.array(["a", "b"] * 40), np.arange(80)


@pytest.mark.parametrize(("model", "y", "kind"), [
    (None, Y, Regression), (None, LABELS, Classification), (None, WORDS, Classification),
    (None, LABELS.astype(float), Classification), (None, COUNTS, Classification), (None, Y > 10, Classification),
    (None, COUNTS + 0.5, Regression), (linear(), LABELS, Classification), (linear(), Y, Regression),
    (LinearRegression(), COUNTS, Regression), (LogisticRegression(), LABELS, Classification),
    (make_pipeline(StandardScaler(), LinearRegression()), COUNTS, Regression),
    (FrozenEstimator(LinearRegression()), COUNTS, Regression),
    (FrozenEstimator(FrozenEstimator(LinearRegression())), COUNTS, Regression),
    (FrozenEstimator(LogisticRegression()), LABELS, Classification),
    # their `estimator` is a part of them, not themselves
    (BaggingRegressor(), COUNTS, Regression), (BaggingRegressor(LinearRegression()), COUNTS, Regression),
    (skorch_net(linear()), COUNTS, Regression), (FrozenEstimator(skorch_net(linear())), COUNTS, Regression),
    (skorch_net(linear(2), NeuralNetClassifier), LABELS, Classification),
    (SimpleNamespace(predict=len), COUNTS, Classification),
], ids=lambda value: type(value).__name__)
def test_auto_asks_the_model_and_then_y(model, y, kind):
    assert make_task("auto", model, y) is kind


def test_a_named_task_is_taken_at_its_word():
    assert make_task("regression", LogisticRegression(), LABELS) is Regression
    assert make_task("classification", None, COUNTS) is Classification
    with pytest.raises(ValueError, match="task='rank' is not known; choose 'auto', 'classification' or 'regression'"):
        make_task("rank", None, Y)
