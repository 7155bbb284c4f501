"""Seeds that reproduce without touching the global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.utils import check_random_state

from cfexplain.foundation.settings import own_defaults

__all__ = ["draw_seed", "seeded_torch"]


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """A 31-bit seed from anything that scikit-learn takes as ``random_state``.

    An int gives the same seed every time; a ``RandomState`` advances; ``None`` draws fresh entropy, so that NumPy's
    global generator is left alone.
    """
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    return int(check_random_state(random_state).randint(2**31 - 1))


@contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """Run a block under ``torch.manual_seed(seed)`` and give the global generators back as they were.

    What is drawn has the same bits whatever the caller's default dtype and device are.
    """
    with own_defaults(), torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
