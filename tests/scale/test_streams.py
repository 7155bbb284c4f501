"""Results in portions have the bits of `explain`, from whatever source, in constant memory."""

import gc
import os
import pickle
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scale_jobs import assert_same_results, joined, rows
from torch.utils.data import DataLoader, TensorDataset

from cfexplain import DiffeomorphicExplainer
from cfexplain.foundation.exceptions import StoreError, TargetError

pytestmark = pytest.mark.usefixtures("quietly")


def sources():
    X = rows()
    samples = TensorDataset(torch.from_numpy(X), torch.zeros(len(X)))
    return {
        "array": lambda: X, "list": lambda: X.tolist(), "frame": lambda: pd.DataFrame(X),
        "tensor": lambda: torch.from_numpy(X),
        "rows": lambda: iter(X), "blocks": lambda: (X[i : i + 13] for i in range(0, len(X), 13)),
        "list of blocks": lambda: [X[:100], X[100:]], "frames": lambda: iter([pd.DataFrame(X[:3]), pd.DataFrame(X[3:])]),
        "dataset": lambda: samples, "loader": lambda: DataLoader(samples, batch_size=40),
    }


@pytest.mark.parametrize("kind", sources())
@pytest.mark.parametrize("block_size", [47, 1024])
def test_streamed_rows_have_the_bits_and_the_order_of_one_call(explainer, whole, kind, block_size):
    blocks = list(explainer.explain_iter(sources()[kind](), 1, block_size=block_size))
    assert [len(block) for block in blocks] == ([47, 47, 47, 9] if block_size == 47 else [150])
    cf = joined(blocks)
    named = {"frame": [*range(150)], "frames": [*range(3), *range(147)]}.get(kind)  # rows of a DataFrame have names
    assert (None if cf.index is None else cf.index.tolist()) == named
    assert_same_results(replace(cf, index=None), whole)
    assert {block.container for block in blocks} == {"torch" if kind in ("tensor", "dataset", "loader") else "numpy"}


def test_a_memory_map_is_read_block_by_block(explainer, whole, tmp_path):
    np.save(tmp_path / "x.npy", rows())
    X = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same_results(joined(explainer.explain_iter(X, 1, block_size=64)), whole)
    assert_same_results(explainer.explain_to(tmp_path / "store", X, 1, block_size=64).concatenate(), whole)


def test_images_in_blocks_that_are_no_multiple_of_a_tile(image_explainer, digits):
    X, y = digits[2], digits[3]
    x, target = X[:40], np.where(y[:40] == 9, 4, 9)
    whole = image_explainer.explain(x, target, record_path=True)
    streamed = joined(image_explainer.explain_iter(iter(x), target, block_size=33, record_path=True))
    assert_same_results(streamed, whole)
    for path, other in zip(streamed.path, whole.path, strict=True):
        np.testing.assert_array_equal(path, other)


def test_regions_go_with_their_rows_and_a_folder_knows_them(image_explainer, digits, tmp_path):
    X = digits[2][:5]
    masks = np.zeros((5, 8, 8), dtype=bool)
    masks[:, :, 2:6] = True
    masks[3, :, 5] = False
    for region in (masks, (0, 2, 8, 6)):
        whole = image_explainer.explain(X, 9, region=region)
        blocks = list(image_explainer.explain_iter(X, 9, region=region, block_size=2))
        np.testing.assert_array_equal(np.concatenate([cf.x_cf for cf in blocks]), whole.x_cf)
        np.testing.assert_array_equal(np.concatenate([cf.region for cf in blocks]), whole.region)
    store = image_explainer.explain_to(tmp_path / "store", X, 9, region=masks, block_size=2)
    np.testing.assert_array_equal(store.concatenate().region[:, 0] if store.concatenate().region.ndim == 4 else
                                  store.concatenate().region, masks)
    with pytest.raises(StoreError, match="options"):
        image_explainer.explain_to(tmp_path / "store", X, 9, region=~masks, block_size=2)
    with pytest.raises(ValueError, match="4 regions for 5 rows"):
        image_explainer.explain_to(tmp_path / "other", X, 9, region=masks[:4], block_size=2)


def test_a_target_for_every_row(explainer):
    target = np.arange(150) % 3
    whole = explainer.explain(rows(), target)
    assert_same_results(joined(explainer.explain_iter(iter(rows()), target.tolist(), block_size=40)), whole)
    for wrong in (target[:149], np.append(target, 0)):
        with pytest.raises(TargetError, match=f"{len(wrong)} labels"):
            list(explainer.explain_iter(rows(), wrong))
        with pytest.raises(TargetError, match=f"{len(wrong)} labels"):
            list(explainer.explain_iter(iter(rows()), wrong, block_size=40))
    runner_up = explainer.explain(rows())
    assert_same_results(joined(explainer.explain_iter(rows(), block_size=40)), runner_up)


def test_intervals_are_one_target_for_all_rows(table):
    X = table[0][:, :4]
    regressor = DiffeomorphicExplainer(generator="flow", task="regression", max_steps=5, training_budget=0.02,
                                       random_state=0).fit(X, X[:, 0] + X[:, 1])
    whole = regressor.explain(X[:20], (0.5, 1.0))
    assert_same_results(joined(regressor.explain_iter(X[:20], (0.5, 1.0), block_size=9)), whole)


def test_no_rows_are_no_blocks(explainer, tmp_path):
    assert list(explainer.explain_iter(np.empty((0, 4)), 1)) == list(explainer.explain_iter([], 1)) == []
    store = explainer.explain_to(tmp_path, np.empty((0, 4)), 1)
    assert len(store) == 0 and store.complete and list(store) == []
    for read in (store.concatenate, store.to_frame, lambda: np.asarray(store), lambda: store[0:0]):
        with pytest.raises(StoreError, match="no rows"):
            read()


@pytest.mark.parametrize("X, error, match", [
    (7, TypeError, "expected an array"), ("rows.npy", TypeError, "expected an array"), ({"x": 1}, TypeError, "is a dict"),
    (np.zeros(4), ValueError, r"X\[None\]"), (iter([np.zeros((2, 3, 4))]), ValueError, "blocks of rows"),
    (iter([np.zeros((2, 5))]), ValueError, "5 features"), (np.full((3, 4), np.nan), ValueError, "NaN"),
    (DataLoader([{"image": 1}]), TypeError, r"keys \['image'\]"),
])
def test_what_is_no_source_of_rows_is_refused(explainer, X, error, match):
    with pytest.raises(error, match=match):
        list(explainer.explain_iter(X, 1))


def test_bad_arguments(explainer, tmp_path):
    for size in (0, 2.5, True, None):
        with pytest.raises(ValueError, match="block_size"):
            explainer.explain_iter(rows(), 1, block_size=size)
    for ranks in ({"rank": 2, "world_size": 2}, {"rank": 0}, {"rank": -1, "world_size": 1}, {"rank": "a", "world_size": 1}):
        with pytest.raises(ValueError, match="world_size|WORLD_SIZE"):
            explainer.explain_to(tmp_path, rows(), 1, **ranks)
    shuffled = DataLoader(TensorDataset(torch.from_numpy(rows())), batch_size=10, shuffle=True)
    with pytest.raises(ValueError, match="shuffle=False"):
        explainer.explain_to(tmp_path, shuffled, 1)
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(StoreError, match="new or empty folder"):
        explainer.explain_to(tmp_path, rows(), 1)
    assert os.listdir(tmp_path) == ["diary.txt"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows(explainer, tmp_path):
    explainer, X = pickle.loads(pickle.dumps(explainer)).set_params(max_steps=0), rows()

    def some(n):
        for i in range(n):
            if i % 128 == 0:
                gc.collect()  # what waits for the collector is bounded, too, but by more than these rows take
            yield X[i % len(X)]

    def peak(blocks, consume):
        tracemalloc.start()
        consume(some(128 * blocks))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    def stream(X):
        for cf in explainer.explain_iter(X, 1, block_size=128):
            assert len(cf) == 128

    def store(X):
        explainer.explain_to(tmp_path / str(time.perf_counter_ns()), X, 1, block_size=128)

    def keep(X):
        assert len(list(explainer.explain_iter(X, 1, block_size=128))) > 1

    for consume in (stream, store):
        peak(2, consume)  # what is made once, and kept
    # bytes a row
    growth = {consume: (peak(11, consume) - peak(2, consume)) / (9 * 128) for consume in (stream, store, keep)}
    assert growth[keep] > 5 * X[0].nbytes  # what `growth` is when it does grow: x, x', reconstruction, two codes, and more
    assert max(growth[stream], growth[store]) < 0.25 * growth[keep]
