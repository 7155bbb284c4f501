"""A model of the latents of a pretrained autoencoder."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn

from cfexplain.coordinates import VAE, Flow, Identity, PretrainedAutoencoder, PretrainedCoordinates, TwoStage


class Counting(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.rows = network, 0

    def forward(self, x):
        self.rows += len(x)
        return self.network(x)


def halves():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(3, 4, 4, 4), nn.ConvTranspose2d(4, 3, 4, 4)


X = np.random.default_rng(0).random((24, 3, 18, 16)).astype(np.float32)
QUICK = dict(training_budget=0.001, random_state=0)


@pytest.mark.parametrize("inner", [
    VAE(width=8, **QUICK), Flow(steps=1, levels=1, hidden=8, **QUICK), Identity(), "autoencoder"])
def test_codes_are_those_of_the_latents(inner):
    coordinates = TwoStage(PretrainedAutoencoder(*halves()), inner, **QUICK).fit(X)
    assert coordinates.latent_shape_ == (4, 5, 4) and coordinates.stages == [coordinates.inner_, coordinates.outer_]
    latents = coordinates.outer_.transform(X).reshape(24, 4, 5, 4)
    codes = coordinates.transform(X)
    assert np.array_equal(codes, coordinates.inner_.transform(latents)) and codes.shape == (24, coordinates.latent_dim_)
    assert np.allclose(coordinates.inverse_transform(codes), coordinates.outer_.inverse_transform(
        coordinates.inner_.inverse_transform(codes).reshape(24, -1)), atol=1e-6)
    if coordinates.inner_.exact:
        assert np.allclose(coordinates.inner_.inverse_transform(codes).reshape(latents.shape), latents, atol=1e-3)
    assert not coordinates.exact and np.array_equal(coordinates.transform(X[5:6]), codes[5:6])


@pytest.mark.parametrize(("sides", "levels"), [((8, 12), 2), ((6, 6), 1), ((5, 4), 1)])
def test_a_flow_of_latents_pads_no_more_than_it_must(sides, levels):
    latents = np.random.default_rng(0).normal(size=(200, 4, *sides)).astype(np.float32)
    flow = Flow(steps=2, hidden=8, ema=0, training_budget=0.01, random_state=0, data_range=None).fit_latents(latents)
    assert flow.levels_ == levels and flow.latent_dim_ == 4 * (sides[0] + sides[0] % 2) * sides[1]
    bits = flow.bits_per_dim(latents, random_state=0)
    if not sides[0] % 2:  # the noise of training is too little to matter
        assert np.allclose(bits, -flow.score_samples(latents) / (np.log(2) * latents[0].size), atol=0.02)
    # noise on the padding bounds the density there: it would fall without end
    assert 2.5 > bits.mean() > (2.05 if not sides[0] % 2 else (5 * 2.05 + np.log2(0.03) + 2.05) / 6) - 0.1


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_inner_model_has_the_same_bits_whatever_the_threads(mirrored):
    rng, before = np.random.default_rng(0), torch.get_num_threads()
    latents = rng.normal(size=(2, 150, 4, 9, 10)).astype(np.float16)
    try:
        weights = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            vae = VAE(width=8, training_budget=0.002, random_state=0, data_range=None, batch_size=64)
            vae.fit_latents(latents[0], latents[1] if mirrored else None)
            weights.append(torch.cat([w.flatten() for w in vae.module_.parameters()]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*weights)


def test_pictures_are_encoded_once():
    encoder, decoder = halves()
    encoder = Counting(encoder)
    outer = PretrainedAutoencoder(encoder, decoder)
    first = TwoStage(outer, VAE(width=8, **QUICK), augment="mirror", random_state=0).fit(X)
    encoder.rows = 0
    codes, std = first.training_codes(X)
    assert encoder.rows == 0 and np.allclose(codes, first.transform(X), atol=0.02) and (std > 0).all()
    encoder.rows = 0
    TwoStage(clone(outer), Flow(steps=1, levels=1, hidden=8, **QUICK), augment="mirror", random_state=0).fit(X)
    looked_at = encoder.rows
    encoder.rows = 0
    clone(outer).fit(X)  # looks at shapes and at the scale
    assert looked_at == encoder.rows


def test_latents_may_be_kept_in_a_folder(tmp_path):
    for again in (False, True):
        encoder = Counting(halves()[0])
        TwoStage(PretrainedAutoencoder(encoder, halves()[1], cache=tmp_path), VAE(width=8, **QUICK), random_state=0).fit(X)
        looked_at, encoder.rows = encoder.rows, 0
        PretrainedAutoencoder(encoder, halves()[1]).fit(X)
        assert (looked_at == encoder.rows) == again


def test_a_seed_reproduces_and_the_global_generator_is_left_alone():
    def fit():
        return TwoStage(PretrainedAutoencoder(*halves()), **QUICK).fit(X).transform(X)

    torch.manual_seed(3)
    before, first = torch.rand(1), fit()
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), before) and np.array_equal(fit(), first)


def test_any_coordinates_may_be_outside():
    table = np.random.default_rng(1).normal(size=(40, 6))
    outer = PretrainedCoordinates(nn.Linear(6, 3).double(), nn.Linear(3, 6).double())
    coordinates = TwoStage(outer, VAE(training_budget=0.01, hidden=(8,)), random_state=0).fit(table)
    assert coordinates.latent_shape_ == (3,) and coordinates.transform(table).dtype == np.float64
    fitted = FrozenEstimator(PretrainedAutoencoder(*halves()).fit(X))
    assert TwoStage(fitted, "identity").fit(X).outer_ is fitted.estimator


@pytest.mark.parametrize(("make", "rows", "error", "said"), [
    (lambda: TwoStage("vae"), X, TypeError, "outer must be coordinates"),
    (lambda: TwoStage(PretrainedAutoencoder(*halves()), "glow"), X, ValueError, "inner='glow' is not known"),
    (lambda: TwoStage(PretrainedAutoencoder(*halves()), 3), X, TypeError, "inner must be coordinates"),
    (lambda: TwoStage(PretrainedAutoencoder(*halves()), augment="turn"), X, ValueError, "augment"),
    (lambda: TwoStage(PretrainedAutoencoder(*halves()), VAE(latent_dim=5)), X, ValueError, "multiple of 6"),
    (lambda: TwoStage(Identity(), augment="mirror"), X.reshape(24, -1), ValueError, "X is a table"),
])
def test_bad_input_is_told(make, rows, error, said):
    with pytest.raises(error, match=said):
        make().fit(rows)


def test_what_is_learned_of_latents_is_not_drawn_with_more_contrast():
    """Training ends in the network that it kept: of latents there is no ink that could be too grey."""
    inner = TwoStage(PretrainedAutoencoder(*halves()), VAE(width=8, **QUICK), random_state=0).fit(X).inner_
    assert inner.likelihood_ == "gaussian" and inner.contrast_ == 1
