"""The search along a path."""

import pytest
import torch

from cfexplain.search import SearchOptions, search_path
from cfexplain.search.gradient import Evaluation

pytestmark = pytest.mark.usefixtures("quietly")


def test_search_path_finds_the_first_of_several_intervals_to_the_bisections_width():
    """Against the roots of a function that is met, lost and met again."""
    first = torch.tensor([0.31, 0.72, 1.9, 5.0], dtype=torch.float64)
    rows = {"z0": torch.zeros(4, 1, dtype=torch.float64), "first": first}

    def evaluate(z, some):
        a = z[:, 0]
        done = (a >= some["first"]) & ~((a > some["first"] + 1) & (a < some["first"] + 1.5))
        return Evaluation(loss=a, done=done, valid=done, score=a)

    options = SearchOptions(max_steps=20, refine=10, tile=4, record_path=True)
    found = search_path(lambda a, some: some["z0"] + a[:, None], evaluate, rows, 2.0, options)
    assert found.done.tolist() == [True, True, True, False]
    gap = found.z[:3, 0] - first[:3]
    assert (gap >= 0).all() and (gap <= 0.1 / 2**10 + 1e-12).all()
    assert found.z[3, 0] == 2.0 and not found.finished[3]  # best effort: the point nearest to its target
    assert [len(p) - 1 for p in found.path] == found.n_steps.tolist() == [14, 18, 29, 20]
