"""The attribute base by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from cfexplain.density import ConditionalFlow
from cfexplain.density.attributes import AttributeBase

QUICK = {"transforms": 4, "hidden_features": (16,), "training_budget": 0.05, "random_state": 0}


def rows(n=120, d=4, k=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    Z = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 2 * rng.normal(size=(k, d))[y] + 5
    return Z, np.array(["cat", "dog", "emu", "fox"])[y]


def test_attribute_base_by_hand():
    u = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for k, attributes in ((1, 0), (2, 1), (3, 3), (5, 5)):
        base = AttributeBase(6, k, 0.4).double()
        for c in range(k):
            own = {1: [], 2: [[-1.0], [1.0]][c] if k == 2 else []}.get(k, [1.0 if j == c else -1.0 for j in range(k)])
            expected = stats.norm.logpdf(u[:, :attributes], own, float(np.float32(0.4))).sum(1)
            expected = expected + stats.norm.logpdf(u[:, attributes:]).sum(1)
            np.testing.assert_allclose(base(torch.full((5,), c)).log_prob(u), expected, rtol=1e-9)


def test_attribute_base_needs_a_dimension_to_keep():
    for k, d in ((2, 1), (3, 3), (4, 2)):
        with pytest.raises(ValueError, match="base='gaussian'"):
            ConditionalFlow(base="attributes", **QUICK).fit(*rows(d=d, k=k))
