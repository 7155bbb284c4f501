"""Latents that are kept: encoded once, wherever they lie."""

import numpy as np
import pytest

from cfexplain.coordinates import kept_latents
from cfexplain.coordinates.kept_latents import KeptLatents

X = np.random.default_rng(0).normal(size=(600, 5)).astype(np.float32)


class Encoder:
    def __init__(self):
        self.asked = 0

    def __call__(self, rows):
        self.asked += len(rows)
        return np.tanh(rows)[:, :4].reshape(-1, 2, 2)


@pytest.mark.parametrize("where", ["memory", "temporary file", "folder"])
def test_rows_are_encoded_once(where, tmp_path, monkeypatch):
    if where == "temporary file":
        monkeypatch.setattr(kept_latents, "IN_MEMORY", 2000)
    encode, kept = Encoder(), KeptLatents((2, 2), tmp_path / "kept" if where == "folder" else None, "net")
    for rows in (X[:10], X, X[::-1], X[[3, 3, 5]], X[:0]):
        found = kept.of(rows, encode)
        assert np.array_equal(found, np.tanh(rows)[:, :4].reshape(-1, 2, 2).astype(np.float16))
    assert encode.asked == len(X)
    assert isinstance(kept.of(X, encode).base, np.memmap) == (where != "memory")


def test_another_process_finds_them(tmp_path):
    first, second = Encoder(), Encoder()
    before = KeptLatents((2, 2), tmp_path, "net").of(X, first)
    assert np.array_equal(KeptLatents((2, 2), tmp_path, "net").of(X, second), before) and second.asked == 0
    KeptLatents((2, 2), tmp_path, "other").of(X[:7], second)
    assert second.asked == 7


def test_a_file_that_was_cut_short_is_gone_on_with(tmp_path):
    KeptLatents((2, 2), tmp_path, "net").of(X, Encoder())
    with open(tmp_path / "net.latents", "r+b") as file:
        file.truncate(401 * 8 + 3)
    encode = Encoder()
    found = KeptLatents((2, 2), tmp_path, "net").of(X, encode)
    assert encode.asked == 199 and np.array_equal(found, np.tanh(X)[:, :4].reshape(-1, 2, 2).astype(np.float16))
