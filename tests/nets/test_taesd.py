"""Tiny pretrained autoencoders: built as their weights say, and nothing else is taken for one."""

import pytest
import torch
from torch import nn

from cfexplain.nets.taesd import TinyDecoder, TinyEncoder, tiny_autoencoder

PLANS = {"encoder": (1, 3, 8, 3, 8, 8, 2, 8, 8, 16, 8, 8, 1, 8, 5),
         "decoder": (1, 5, 8, 16, 8, 8, 2, 8, 8, 3, 8, 8, 1, 8, 3)}


@pytest.fixture
def states():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = {"encoder": TinyEncoder(PLANS["encoder"]), "decoder": TinyDecoder(PLANS["decoder"])}
    return {f"{role}.{name}": weight for role, net in nets.items() for name, weight in net.state_dict().items()}


def published_block(state, x, pooled):
    """A block of TAESD as its authors write it."""
    if pooled:
        y = nn.functional.conv2d(x, state["pool.0.weight"])
        y = nn.functional.group_norm(y, 4, state["pool.1.weight"], state["pool.1.bias"]).relu()
        x = x + nn.functional.conv2d(y, state["pool.3.weight"])
    h = x
    for i in (0, 2, 4):
        h = nn.functional.conv2d(h, state[f"conv.{i}.weight"], state[f"conv.{i}.bias"], padding=1)
        h = h if i == 4 else h.relu()
    return (h + x).relu()


def test_it_computes_what_the_layout_means(states):
    encoder, decoder = tiny_autoencoder(states)
    x = torch.rand(2, 3, 8, 8)
    own = {name.removeprefix("encoder."): weight for name, weight in states.items() if name.startswith("encoder.")}
    h = nn.functional.conv2d(x, own["0.weight"], own["0.bias"], padding=1)
    for i, pooled in ((1, False), (3, True)):
        if i == 3:
            h = nn.functional.conv2d(h, own["2.weight"], stride=2, padding=1)
        part = {name.removeprefix(f"{i}."): weight for name, weight in own.items() if name.startswith(f"{i}.")}
        h = published_block(part, h, pooled)
    latents = nn.functional.conv2d(h, own["4.weight"], own["4.bias"], padding=1)
    assert torch.allclose(encoder(x), latents, atol=1e-6)
    assert decoder(latents).shape == x.shape and encoder.stride == decoder.stride == 2
    # what is far outside is drawn in
    assert torch.isfinite(decoder(1e6 * latents)).all()


def test_diffusers_numbers_the_decoder_without_its_first_layer(states):
    def renamed(name):
        role, number, rest = name.split(".", 2)
        return f"{role}.layers.{int(number) - (role == 'decoder')}.{rest}"

    x = torch.rand(1, 3, 8, 8)
    ours, theirs = tiny_autoencoder(states), tiny_autoencoder({renamed(name): weight for name, weight in states.items()})
    assert torch.equal(ours[1](ours[0](x)), theirs[1](theirs[0](x)))


def test_half_precision_is_read_as_float32(states):
    encoder, _ = tiny_autoencoder({name: weight.half() for name, weight in states.items()})
    assert all(weight.dtype == torch.float32 and not weight.requires_grad for weight in encoder.parameters())


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda s: {k: v for k, v in s.items() if k.startswith("encoder.")}, "hold no decoder"),
    (lambda s: {}, "hold no encoder"),
    (lambda s: {**s, "encoder.7.weight": torch.zeros(3)}, "not of the TAESD family's layout"),
    (lambda s: {**s, "encoder.extra": torch.zeros(3)}, "what differs is extra"),
    (lambda s: {("encoder.conv1.weight" if k == "encoder.0.weight" else k): v for k, v in s.items()}, "layout"),
    (lambda s: {k: (v[:4] if k.startswith("encoder.4.") else v) for k, v in s.items()}, "two autoencoders: .* makes 4"),
])
def test_other_weights_are_told(states, spoil, said):
    with pytest.raises(ValueError, match=said):
        tiny_autoencoder(spoil(states))
