"""Networks of the default classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfexplain.nets.classifiers import ClassifierNet, cnn

D = 4
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 28, 28), (3, 33, 65), (1, 2, 40), (2, 256, 256)])
def test_cnn_takes_any_size(shape):
    assert cnn(shape, 3).eval()(torch.zeros(2, *shape)).shape == (2, 3)


def test_classifier_net_standardises_and_rebuilds():
    table = RNG.normal(5, 3, (50, D))
    table[:, 1] = 1e8 + 0.1
    net = ClassifierNet((D,), 2).set_scale(table)
    z = net.standardise(torch.from_numpy(table)).numpy()
    np.testing.assert_allclose(z[:, [0, 2, 3]].std(0), 1)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-6)
    other = ClassifierNet((D,), 2)
    other.load_state_dict(net.state_dict())
    x = torch.from_numpy(table.astype(np.float32))
    assert (net(x) == other(x)).all()
