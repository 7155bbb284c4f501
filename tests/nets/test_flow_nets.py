"""Flows of tables: columns of any unit, densities that integrate to 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from perturbed import perturbed, seeded
from scipy import stats

from cfexplain.coordinates import Flow
from cfexplain.nets.flow_nets import VectorFlowNet


def slogdet(push, x):
    """log |det ∂z/∂x| of one row by automatic differentiation and LU."""
    x = x.detach()
    jacobian = torch.autograd.functional.jacobian(lambda row: push(row[None])[0][0], x[0], vectorize=True)
    return torch.linalg.slogdet(jacobian.reshape(x[0].numel(), -1))[1]


@pytest.mark.parametrize("architecture", ["coupling", "spline"])
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_columns_of_any_unit(architecture, columns):
    rng = np.random.default_rng(0)
    X = np.column_stack([1e9 + rng.normal(size=80), *rng.normal(size=(max(0, columns - 1), 80)), np.full(80, 7.25)])
    net = VectorFlowNet(columns + 1, architecture=architecture, steps=2, hidden=(8,)).double()
    seeded(lambda: net.set_columns(X))
    perturbed(net)
    x = torch.from_numpy(X)
    z, ladj = net.push(x)
    assert z.shape == x.shape and (z[:, 0].std() > 0.1) and (z[:, -1] == 0).all()
    back = (net.pull(z) - x).abs()
    assert back[:, 0].max() <= 4 * np.spacing(1e9) and (columns == 1 or back[:, 1:].max() <= 1e-10)
    torch.testing.assert_close(ladj[0], slogdet(net.push, x[:1]))
    torch.testing.assert_close(net.log_prob(x), torch.from_numpy(
        stats.norm.logpdf(z.detach().numpy()).sum(1)) + ladj)
    assert torch.autograd.gradcheck(net.push, (x[:2].clone().requires_grad_(),), eps=1e-3, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("columns", "architecture"), [(1, "coupling"), (2, "coupling"), (2, "spline")])
def test_densities_of_tables_integrate_to_1(columns, architecture):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, columns)) * 20 + 40 * rng.integers(0, 2, size=(300, 1)) + 500
    flow = Flow(architecture, steps=2, hidden=(16,), training_budget=0.01, random_state=0).fit(X)
    axis = np.linspace(-7, 7, 281 if columns == 1 else 141)
    grid = X.mean(0) + X.std(0) * np.stack(np.meshgrid(*[axis] * columns), -1).reshape(-1, columns)
    log_p = flow.score_samples(grid) if columns == 1 else flow.log_prob(torch.from_numpy(grid)).numpy()
    np.testing.assert_allclose(np.exp(log_p).sum() * np.prod(X.std(0) * (axis[1] - axis[0])), 1, atol=0.01)
    np.testing.assert_allclose(flow.score_samples(grid[:50]), flow.log_prob(torch.from_numpy(grid[:50])), rtol=1e-10)
