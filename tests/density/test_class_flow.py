"""Flows that users bring."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import zuko
from sklearn.base import clone

from cfexplain.density import ConditionalFlow


def rows(n=120, d=4, k=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    Z = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 2 * rng.normal(size=(k, d))[y] + 5
    return Z, np.array(["cat", "dog", "emu", "fox"])[y]


@pytest.fixture(scope="module")
def data():
    return rows()


def _coupling_spline(features, context):
    return zuko.flows.NSF(features, context, passes=2, transforms=2, hidden_features=(8,))


def test_a_flow_instance_stays_as_it_was(data):
    Z, y = data
    flow = zuko.flows.MAF(4, 3, transforms=2, hidden_features=(8,))
    before = copy.deepcopy(flow.state_dict())
    density = ConditionalFlow(flow, training_budget=0.02, random_state=0).fit(Z, y)
    assert density.flow is flow and density.flow_name_ == "MAF"
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in flow.state_dict().items())
    assert all(p.requires_grad for p in flow.parameters())
    twin = pickle.loads(pickle.dumps(density))
    np.testing.assert_array_equal(twin.score_samples(Z), density.score_samples(Z))


def test_a_callable_gets_the_sizes(data):
    density = ConditionalFlow(_coupling_spline, training_budget=0.02, random_state=0).fit(*data)
    assert np.isfinite(density.score_samples(data[0])).all()
    attributes = clone(density).set_params(base="attributes").fit(*data)
    assert np.isfinite(attributes.score_samples(data[0])).all()


@pytest.mark.parametrize("sizes", [(5, 3), (4, 2), (4, 0), (1, 3)])
def test_a_flow_of_other_sizes_is_refused(sizes, data):
    with pytest.raises(ValueError, match="expected 4 features and a context of 3"):
        ConditionalFlow(zuko.flows.NICE(*sizes)).fit(*data)
