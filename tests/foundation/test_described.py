"""What a result keeps of its explainer's parameters."""

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE
from cfexplain.foundation.described import described


def some_distance(x, y):
    return (x - y).abs().flatten(1).sum(1)


def test_what_is_not_the_default_is_named():
    explainer = PLACEExplainer(nn.Sequential(nn.Linear(2, 2)), coordinates=VAE(latent_dim=3), max_steps=np.int64(5),
                               random_state=0)
    assert described(explainer) == (
        "PLACEExplainer(classifier=Sequential, max_steps=np.int64(5), random_state=0, coordinates=VAE(latent_dim=3))")
    assert described(PLACEExplainer()) == "PLACEExplainer()"


def test_no_address_and_nothing_endless():
    class Own:
        pass

    text = described(VAE(perceptual=some_distance, random_state=np.random.RandomState(0)))
    assert "some_distance" in text and "0x" not in text
    assert "0x" not in described(FrozenEstimator(Own())) and described(FrozenEstimator(Own())).endswith("Own object>)")
    assert len(described(FrozenEstimator(list(range(10_000))))) < 400


def test_it_draws_no_random_numbers():
    from zuko.flows import MAF

    flow, state = FrozenEstimator(MAF(2)), torch.get_rng_state()
    assert described(flow) == "FrozenEstimator(estimator=MAF)"
    assert torch.equal(torch.get_rng_state(), state)
