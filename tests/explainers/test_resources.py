"""Memory, threads and devices of a run."""

import pytest
import torch
from torch import nn

from cfexplain.explainers.resources import SMALLEST_TILE, halving_tiles, infer_device


def with_smaller_tiles(run, tile):
    for attempt in halving_tiles(tile):
        with attempt as tile:
            result = run(tile)
    return result


@pytest.mark.parametrize(("first", "tried"), [(64, [64, 32, 16]), (40, [40, 20, 10]), (16, [16]), (4, [4])])
def test_tiles_are_halved_until_they_fit(first, tried):
    tiles = []

    def run(tile):
        tiles.append(tile)
        if tile > 16:
            raise torch.OutOfMemoryError("too much")
        return tile

    if len(tried) > 1:
        with pytest.warns(ResourceWarning, match=f"batch_size={tried[-1]}"):
            assert with_smaller_tiles(run, first) == tried[-1]
    else:
        assert with_smaller_tiles(run, first) == first
    assert tiles == tried


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_memory_that_never_suffices_is_an_error():
    tiles = []

    def run(tile):
        tiles.append(tile)
        return torch.empty(2**60, dtype=torch.uint8)  # what a CPU says when it really runs out

    with pytest.raises(MemoryError, match="8 rows"):
        with_smaller_tiles(run, 20)
    assert tiles == [20, 10, SMALLEST_TILE]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    tiles = []

    def run(tile):
        tiles.append(tile)
        return torch.ones(2) @ torch.ones(3)

    with pytest.raises(RuntimeError, match="size"):
        with_smaller_tiles(run, 64)
    assert tiles == [64]


def test_the_device_is_that_of_the_network():
    assert infer_device(None, None) == infer_device(None, nn.Identity()) == torch.device("cpu")
    assert infer_device(None, nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert infer_device("cpu", nn.Linear(2, 2, device="meta")) == torch.device("cpu")
