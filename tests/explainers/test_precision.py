"""A whole search in float32 against the same search in float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.usefixtures("quietly")


def in_float64(thing, seen=None):
    """A copy of a fitted explainer whose every network, tensor and array has float64 in place of float32."""
    thing, seen = (copy.deepcopy(thing), set()) if seen is None else (thing, seen)
    if id(thing) in seen or not hasattr(thing, "__dict__"):
        return thing
    seen.add(id(thing))
    if isinstance(thing, nn.Module):
        thing.double()
    for name, value in list(vars(thing).items()):
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            value = value.double()
        elif isinstance(value, np.ndarray) and value.dtype == np.float32:
            value = value.astype(np.float64)
        elif isinstance(value, np.dtype) and value == np.float32:
            value = np.dtype(np.float64)
        elif isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            for item in value:
                in_float64(item, seen)
            continue
        elif type(value).__module__.startswith(("cfexplain", "torch", "skorch")):
            in_float64(value, seen)
            continue
        else:
            continue
        vars(thing)[name] = value
    return thing


@pytest.mark.parametrize("backend", ["eager", "packed"])
@pytest.mark.parametrize("name", [pytest.param("table_explainer", marks=pytest.mark.slow), "image_explainer"])
def test_float32_takes_as_many_steps_as_float64(name, backend, request, digits, table):
    explainer = request.getfixturevalue(name)
    X = (digits if name == "image_explainer" else table)[2][:100]
    exact = in_float64(explainer)
    assert exact.dtype_ == np.float64
    single, double = explainer.explain(X, backend=backend), exact.explain(X.astype(np.float64), backend=backend)
    assert double.z_cf.dtype == np.float64
    assert (single.n_steps == double.n_steps).mean() >= 0.99
    np.testing.assert_array_equal(single.valid, double.valid)
