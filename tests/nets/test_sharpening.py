"""A decoder that learns from a critic draws the texture that errors of pixels leave out."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from cfexplain.coordinates import VAE, vae
from cfexplain.foundation.random import drawing_from
from cfexplain.foundation.sharpness import laplacian_variance
from cfexplain.nets.autoencoders import AutoencoderNet
from cfexplain.nets.sharpening import Sharpening


@pytest.fixture(scope="module")
def textured():
    """Shades that a code can hold, under a texture of stripes whose place it cannot: (200, 1, 12, 12) in [0, 1]."""
    rng = np.random.RandomState(0)
    y, x = np.mgrid[:12, :12] / 12
    slope = rng.uniform(-1, 1, (200, 2, 1, 1))
    stripes = np.sin(2 * np.pi * (4 * x + rng.rand(200, 1, 1)) + rng.normal(0, 0.8, (200, 12, 1)))
    return (0.5 + 0.2 * (slope[:, 0] * x + slope[:, 1] * y) + 0.12 * stripes)[:, None].clip(0, 1).astype(np.float32)


def test_texture_is_drawn_and_codes_stay(textured):
    with_critic, without = (VAE(4, random_state=0, training_budget=0.6, critic=critic).fit(textured)
                            for critic in ("auto", False))
    codes = without.transform(textured)
    np.testing.assert_array_equal(with_critic.transform(textured), codes)
    with_it, without_it = (np.median(laplacian_variance(one.inverse_transform(codes)) / laplacian_variance(textured))
                           for one in (with_critic, without))
    assert without_it < 0.75 * with_it and 0.6 < with_it < 1.3
    # what is drawn is a picture of these still: low frequencies are those of the row
    own, *low = (torch.nn.functional.avg_pool2d(torch.from_numpy(one), 6).flatten(1)
                 for one in (textured, with_critic.inverse_transform(codes), without.inverse_transform(codes)))
    wrong = [float((each - own).abs().mean()) for each in low]
    assert wrong[0] < 0.75 * float((own - own.mean(0)).abs().mean()) and wrong[0] < vae._WORSE**0.5 * wrong[1]


@pytest.mark.parametrize("most", [0.0, 1.05])
def test_what_a_critic_spoils_is_taken_back(textured, monkeypatch, most):
    monkeypatch.setattr(vae, "_WORSE", most)
    with_critic, without = (VAE(4, random_state=0, training_budget=0.02, critic=critic).fit(textured)
                            for critic in (True, False))
    x = textured[with_critic.held_out_]
    drawn = [one.inverse_transform(one.transform(x)) for one in (with_critic, without)]
    wrong, sharp = ([part(one) for one in drawn] for part in (
        lambda one: np.square(one - x).mean(), lambda one: np.median(laplacian_variance(one) / laplacian_variance(x))))
    assert sharp[0] >= (1 - 1e-5) * sharp[1]
    assert wrong[0] <= max(most, 1.0) * wrong[1] * (1 + 1e-4)
    assert (with_critic.sharpened_ > 0) == (most > 0)
    if not most:
        for a, b in zip(with_critic.module_.parameters(), without.module_.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_fit_without_a_critic_forgets_that_of_before(textured):
    vae = VAE(4, random_state=0, training_budget=0.002, critic=True).fit(textured[:40])
    assert 0 <= vae.sharpened_ <= 1
    assert not hasattr(vae.set_params(critic=False).fit(textured[:40]), "sharpened_")


def test_bits_do_not_depend_on_threads(textured):
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        try:
            torch.set_num_threads(threads)
            found.append(VAE(4, random_state=0, training_budget=0.02).fit(textured).module_.state_dict())
        finally:
            torch.set_num_threads(before)
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_each_learns_from_its_own_part_and_the_encoder_from_none():
    u = torch.rand(6, 1, 16, 16)
    net = AutoencoderNet((1, 16, 16), 4, variational=True, width=4).requires_grad_(True)
    sharpening = Sharpening(net, u).train()
    assert not net.training and sharpening.critic.training
    sharpening.eval()  # spectral norms stand still
    names, parameters = zip(*sharpening.named_parameters(), strict=True)
    found = []
    for progress in (0.0, 1.0):
        with drawing_from(torch.Generator().manual_seed(0)):
            loss = sharpening.loss({"u": u}, progress).sum()
        found.append(dict(zip(names, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True)))
    early, late = found
    assert all(early[name].any() for name in early if name.endswith("original"))  # the critic's weights
    for name in early:
        if name.startswith("net.encoder"):
            assert not early[name].any()
        elif name.startswith("critic"):  # what it thinks of the decoder's pictures counts for the decoder alone
            assert torch.equal(early[name], late[name])
    assert any(not torch.equal(early[name], late[name]) for name in early if name.startswith("net.decoder"))


def test_tables_have_no_critic():
    with pytest.raises(ValueError, match="critic= looks at pictures, but X is a table"):
        VAE(critic=True).fit(load_iris(return_X_y=True)[0])
    with pytest.raises(ValueError, match="critic="):
        VAE(critic="yes").fit(load_iris(return_X_y=True)[0])
