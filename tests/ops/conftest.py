"""Memory that shows what a kernel did not write."""

import pytest
import torch


@pytest.fixture
def poisoned():
    """Memory that nobody wrote is NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.zeros(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
