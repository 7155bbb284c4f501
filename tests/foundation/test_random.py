"""Seeds reproduce and leave the global generators alone."""

import numpy as np
import pytest
import torch

from cfexplain.foundation.random import draw_seed, seeded_torch


def global_state():
    name, keys, *rest = np.random.get_state()
    return name, keys.tobytes(), tuple(rest), torch.get_rng_state().numpy().tobytes()


def test_seeds_leave_the_global_generators_alone():
    before = global_state()
    assert draw_seed(3) == draw_seed(3) != draw_seed(4)
    generator = np.random.RandomState(3)
    assert draw_seed(generator) == draw_seed(3) and draw_seed(generator) != draw_seed(3)  # it advances
    seeds = {draw_seed(None) for _ in range(20)}
    assert len(seeds) > 15 and all(isinstance(s, int) and 0 <= s < 2**31 for s in seeds)
    with seeded_torch(5):
        one = torch.randn(4)
    with pytest.raises(KeyError), seeded_torch(5):
        assert torch.equal(torch.randn(4), one)
        raise KeyError
    assert global_state() == before
    assert torch.equal(torch.randn(4, generator=torch.Generator().manual_seed(5)), one)
