"""Density and second opinion side by side: the bits of one after the other, and the first error counts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cfexplain.density import ConditionalFlow
from cfexplain.explainers.from_codes import learn_from_codes

BUDGET = {"training_budget": 0.1, "verbose": 0, "device": "cpu"}


def learned(threads, groups, budget=BUDGET):
    codes = np.random.RandomState(0).randn(len(groups), 4).astype(np.float32) + groups[:, None]
    explainer = SimpleNamespace(
        density_=ConditionalFlow(random_state=0, training_budget=0.1), device_=torch.device("cpu"),
        classes_=np.unique(groups), second_opinion=2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        learn_from_codes(explainer, True, codes, np.full_like(codes, 0.1), groups, 5, budget)
    finally:
        torch.set_num_threads(before)
    with torch.no_grad():
        return explainer.density_.score_samples(codes), explainer.opinions_(torch.from_numpy(codes)).numpy()


def test_bits_do_not_depend_on_what_runs_beside():
    groups = np.repeat([0, 1], 80)
    for one, two in zip(learned(1, groups), learned(2, groups), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_ends_both(threads):
    with pytest.raises(ValueError, match="has only 1 sample"):
        learned(threads, np.r_[np.repeat(0, 80), 1], {**BUDGET, "training_budget": 50.0})
