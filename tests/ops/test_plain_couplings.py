"""The couplings of a training against zuko's: the same values, and the same gradients in every weight."""

from functools import partial

import pytest
import torch
import zuko
from zuko.transforms import MonotonicAffineTransform

from cfexplain.foundation.random import seeded_torch
from cfexplain.ops.coupling_flow import NotPackable
from cfexplain.ops.coupling_flow.plain import PlainCouplings


@pytest.mark.parametrize("features, context, slope", [(2, 0, 1e-3), (5, 3, 1e-3), (8, 2, 0.1)])
def test_values_and_gradients_are_zukos(features, context, slope):
    with seeded_torch(0):
        flow = zuko.flows.NICE(features, context, transforms=3, hidden_features=(16, 16)).double()
        z = torch.randn(40, features, dtype=torch.float64)
    for layer in flow.transform.transforms:
        layer.univariate = partial(MonotonicAffineTransform, slope=slope)
    c = torch.eye(context, dtype=torch.float64)[torch.arange(40) % context] if context else None
    wanted = flow(c).transform.call_and_ladj(z)
    found = PlainCouplings(flow.transform, features)(z, c)
    torch.testing.assert_close(found, wanted)
    of_found, of_wanted = (torch.autograd.grad(u.square().sum() - ladj.sum(), list(flow.parameters()))
                           for u, ladj in (found, wanted))
    torch.testing.assert_close(of_found, of_wanted)


@pytest.mark.parametrize("flow", [zuko.flows.NICE(6, transforms=4, randmask=True), zuko.flows.MAF(4), zuko.flows.NSF(3)],
                         ids=lambda flow: type(flow).__name__)
def test_other_flows_are_refused(flow):
    features = 6 if isinstance(flow, zuko.flows.NICE) else flow.base().event_shape[0]
    with pytest.raises(NotPackable):
        PlainCouplings(flow.transform, features)
