"""Does a model that is given agree with y, and with itself?"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from cfexplain.classifiers import adapt_classifier, adapt_regressor
from cfexplain.classifiers.examined import check_agreement, check_direction, check_repeats
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.exceptions import ClassifierOutputError


def noisy(y, right, classes, rng):
    """Predictions that are y on a share `right` of the rows, and anything on the others."""
    return np.where(rng.random(len(y)) < right, y, rng.integers(classes, size=len(y)))


def outcome(predicted, y, classes):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_agreement(predicted, y, np.arange(classes))
        except ClassifierOutputError as error:
            return str(error)
    return str(caught[0].message) if caught else "fine"


@pytest.mark.parametrize(("classes", "n"), [(2, 40), (2, 256), (3, 90), (10, 256), (100, 2000)])
def test_another_order_is_an_error_that_names_it(classes, n):
    rng = np.random.default_rng(0)
    y = rng.integers(classes, size=n)
    order = np.roll(np.arange(classes), 1)
    said = outcome(order[noisy(y, 0.98, classes, rng)], y, classes)
    assert "chance would be" in said and "another order than the sorted labels" in said and "Read in the order" in said


def test_numbers_that_were_sorted_as_text_are_found():
    rng = np.random.default_rng(0)
    labels, place = np.unique([str(k) for k in range(11)], return_inverse=True)  # 0, 1, 10, 2, ...
    number = rng.integers(11, size=256)
    with pytest.raises(ClassifierOutputError, match=r"'0', '1', '10', '2'.*would agree on 9\d%"):
        check_agreement(noisy(number, 0.95, 11, rng), place[number], labels)
    swapped = np.array([0, 1, 2, 8, 4, 5, 6, 7, 3, 9])
    with pytest.warns(UserWarning, match=r"'0', '1', '10', '2'.*would agree on 7\d%"):  # perhaps never trained
        check_agreement(noisy(number, 0.7, 11, rng), place[number], labels)
    y = rng.integers(10, size=256)
    assert "Read in the order [0, 1, 2, 8, 4, 5, 6, 7, 3, 9]" in outcome(swapped[noisy(y, 0.95, 10, rng)], y, 10)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(("classes", "right"), [(2, 0.3), (2, 1.0), (5, 0.4), (20, 0.5)])
def test_weak_models_and_few_rows_pass(classes, right, seed):
    rng = np.random.default_rng(seed)
    for n in (2, 4, 10, 30, 256):
        for weights in (np.ones(classes), np.arange(1, classes + 1) ** 3):
            y = rng.choice(classes, size=n, p=weights / weights.sum())
            assert outcome(noisy(y, right, classes, rng), y, classes) == "fine", n


def test_a_model_that_prefers_a_rare_class_passes_and_noise_is_no_error():
    rng = np.random.default_rng(0)
    for seed in range(30):
        y = (np.random.default_rng(seed).random(256) < 0.05).astype(int)
        dear = np.where((y == 1) | (rng.random(256) < 0.8), 1, 0)  # says the rare class of four rows in five
        assert "order than" not in outcome(dear, y, 2)
        for classes in (2, 3, 10):
            y, said = rng.integers(classes, size=(2, 256))
            assert "order than" not in outcome(said, y, classes)
    y = rng.integers(3, size=256)
    assert "little more than chance" in outcome(rng.integers(3, size=256), y, 3)  # noise
    assert outcome(np.zeros(256, dtype=int), (rng.random(256) < 0.1).astype(int), 2) == "fine"  # always the frequent class


def test_a_regressor_that_falls_where_y_rises():
    x = np.random.default_rng(0).normal(size=80)
    with pytest.warns(UserWarning, match="values fall where y rises"):
        check_direction(-x, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values in (x, 0 * x, np.random.default_rng(1).normal(size=80), np.full(80, np.nan)):
            check_direction(values, x)


X = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


class OfY(nn.Module):
    """Says y, with something that `change` does to its input on the way."""

    def __init__(self, change, outputs=2):
        super().__init__()
        self.change, self.outputs = change, outputs

    def forward(self, x):
        value = 3 * self.change(x)[:, :1]
        return torch.cat([-value, value], 1) if self.outputs == 2 else value


@pytest.mark.parametrize("outputs", [2, 1])
@pytest.mark.parametrize(("change", "words"), [
    (lambda x: nn.functional.dropout(x, 0.2), "asked twice"), (lambda x: x + 0.01 * torch.randn_like(x), "asked twice"),
    (lambda x: nn.functional.batch_norm(x, None, None, training=True), "in other company"),
    (lambda x: x - x.mean(0), "in other company"),
    (lambda x: x, None), (lambda x: x.half().float(), None)])
def test_a_model_that_does_not_repeat_itself_is_named(change, words, outputs):
    net, layout = OfY(change, outputs), Layout((4,), (4,))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if outputs == 2:
            adapt_classifier(net, X, Y, layout=layout, examine=True)
        else:
            adapt_regressor(net, X, X[:, 0], layout=layout, examine=True)
    assert [words in str(warning.message) and "OfY" in str(warning.message) for warning in caught] == [True] * bool(words)


def test_rows_without_an_answer_are_not_compared():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_repeats(lambda x: np.where(x[:, 0] > 0, np.nan, x[:, 0]), X, "model")
        check_repeats(lambda x: np.full(len(x), np.nan), X[:3], "model")
