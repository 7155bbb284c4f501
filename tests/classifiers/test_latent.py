"""The latent ensemble is its members side by side."""

import numpy as np
import torch
from sklearn.datasets import make_blobs

from cfexplain.classifiers.latent import LatentEnsemble, train_latent_ensemble
from cfexplain.foundation.random import seeded_torch


def global_state():
    name, keys, *rest = np.random.get_state()
    return name, keys.tobytes(), tuple(rest), torch.get_rng_state().numpy().tobytes()


def test_the_ensemble_is_its_members_side_by_side():
    with seeded_torch(0):
        ensemble = LatentEnsemble(4, 3, members=3, hidden=(8, 5)).double()
        z = torch.randn(3, 6, 4).double()
    for rows in (z, z[0]):
        logits = ensemble(rows).detach()
        for m in range(3):
            h = (rows[m] if rows.ndim == 3 else rows).numpy()
            for i in range(3):
                h = np.maximum(h, 0) if i else h
                h = h @ ensemble.weights[i][m].detach().numpy() + ensemble.biases[i][m].detach().numpy()
            np.testing.assert_allclose(logits[m].numpy(), h, rtol=1e-12, atol=1e-13)
    assert not torch.equal(logits[0], logits[1])


def test_every_member_learns_blobs_even_rare_ones():
    X, y = make_blobs([500, 400, 30], centers=np.array([[0, 0, 0], [3, 0, 0], [0, 3, 0]]), cluster_std=0.7, random_state=0)
    X, X_test, y, y_test = X[::2], X[1::2], y[::2], y[1::2]
    before = global_state()
    ensemble = train_latent_ensemble(X, np.full_like(X, 0.1), y, 3, members=3, seed=0, training_budget=0.15)
    assert global_state() == before and not ensemble.training
    said = ensemble(torch.from_numpy(X_test).float()).argmax(2).numpy()
    for member in said:
        assert all((member[y_test == k] == k).mean() > 0.85 for k in range(3))
    again = train_latent_ensemble(X, np.full_like(X, 0.1), y, 3, members=3, seed=0, training_budget=0.15)
    assert all(torch.equal(a, b) for a, b in zip(ensemble.parameters(), again.parameters(), strict=True))
