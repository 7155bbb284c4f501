"""Terms by hand."""

import numpy as np
import pytest
import torch

from cfexplain.objective import DecisionHinge, LogOddsHinge, Point, TypicalInk, greyness

pytestmark = pytest.mark.usefixtures("quietly")


def test_the_probability_hinge_is_flat_where_the_logit_hinge_is_not():
    def gradient(term, dtype=torch.float32):
        logits = torch.tensor([[60.0, -60.0]], dtype=dtype, requires_grad=True)
        point = Point(logits, {"target": torch.tensor([1])}, logits, logits)
        return torch.autograd.grad(term.loss(point).sum(), logits)[0].abs().max().item()

    assert gradient(DecisionHinge(1.0, 0.55)) < 1e-30
    assert gradient(LogOddsHinge(1.0, 0.55)) == pytest.approx(1.0)


def test_a_confidence_means_the_same_in_both_hinges():
    logits = torch.linspace(-6, 6, 101, dtype=torch.float64)[:, None] * torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    point = Point(logits, {"target": torch.ones(101).long()}, logits, logits)
    for confidence in (0.5, 0.55, 0.9, 0.99):
        by_p, by_odds = DecisionHinge(1.0, confidence).holds(point), LogOddsHinge(1.0, confidence).holds(point)
        off = by_p != by_odds
        assert (np.abs(point.probability[off] - confidence) < 1e-9).all()


def test_ink_is_as_grey_as_the_formula_says():
    x = torch.rand(5, 1, 6, 6, dtype=torch.float64)
    u = x.numpy().reshape(5, -1)
    np.testing.assert_allclose(greyness(x), (u * (1 - u)).sum(1) / u.sum(1), rtol=1e-6)
    np.testing.assert_allclose(greyness(2 * x - 1, (-1.0, 1.0)), greyness(x), rtol=1e-9)
    point = Point(x, {"target": torch.zeros(5).long(), "ink_limit": greyness(x) * torch.tensor([2, 2, 1, 0.5, 0.5])},
                  x, x)
    assert TypicalInk().holds(point).tolist() == [True, True, True, False, False]
