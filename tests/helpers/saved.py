"""Small parts to save, and what equal results are."""

import numpy as np
import torch

from cfexplain.coordinates import VAE
from cfexplain.density import ConditionalFlow

TINY = {"training_budget": 0.02, "max_steps": 5, "random_state": 0}
LITTLE = {"training_budget": 0.01}
SMALL = {"coordinates": VAE(hidden=(8,), **LITTLE),
         "density": ConditionalFlow(transforms=1, hidden_features=(8,), **LITTLE)}


def same(found, expected):
    """Every field of two results, bit for bit; metadata but for the clock."""
    for name in expected.row_fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype, name
    assert list(found.conditions) == list(expected.conditions)
    for name, held in expected.conditions.items():
        np.testing.assert_array_equal(found.conditions[name], held)
    left = [{k: v for k, v in cf.metadata.items() if k not in ("seconds", "parameters")} for cf in (found, expected)]
    assert left[0] == left[1]


def net(seed=0, inputs=4, outputs=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(inputs, 8), torch.nn.ReLU(), torch.nn.Linear(8, outputs))
