"""Where bfloat16 is used: where it is faster, and not where a processor merely has it."""

import pytest
import torch
from torch import nn

from cfexplain.coordinates import PretrainedAutoencoder
from cfexplain.foundation import precision
from cfexplain.foundation.precision import computes_in_bfloat16, faster_in_bfloat16


def test_without_instructions_nothing_is_tried(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(precision, "_tried", lambda: pytest.fail("tried"))
    assert not computes_in_bfloat16("cpu") and not faster_in_bfloat16("cpu")


@pytest.mark.skipif(not computes_in_bfloat16("cpu"), reason="this processor emulates bfloat16")
@pytest.mark.parametrize(("times_as_fast", "precisions"), [(0.5, "float32"), (2.0, "bfloat16")])
def test_auto_takes_what_is_faster(monkeypatch, times_as_fast, precisions):
    monkeypatch.setattr(precision, "_tried", lambda: times_as_fast)
    outer = PretrainedAutoencoder(nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 3, 4, 4)).fit(torch.rand(10, 3, 16, 16))
    assert outer.computes_in == precisions
    for asked in ("float32", "bfloat16"):  # what is asked for is done
        assert outer.set_params(precision=asked).computes_in == asked


@pytest.mark.skipif(not computes_in_bfloat16("cpu"), reason="this processor emulates bfloat16")
def test_the_trial_comes_out_the_same_and_leaves_the_threads():
    before, state = torch.get_num_threads(), torch.get_rng_state()
    said = set()
    for _ in range(3):
        precision._tried.cache_clear()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):  # the caller's modes do not count
            said.add(faster_in_bfloat16("cpu"))
    assert len(said) == 1
    assert torch.get_num_threads() == before and torch.equal(torch.get_rng_state(), state)
