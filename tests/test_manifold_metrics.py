"""IM1, IM2 and neighbours against sums written out by hand and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from cfexplain.coordinates import VAE, Autoencoder
from cfexplain.metrics import class_autoencoders, distance_to_class, im1, im2, neighbour_share


@pytest.fixture(scope="module")
def subspaces(digits):
    """PCA of each of two digits, and of all: the linear autoencoders."""
    X, y, _, _ = digits
    X = X.reshape(len(X), -1).astype(np.float64)
    return {name: PCA(6).fit(rows) for name, rows in {4: X[y == 4], 9: X[y == 9], "all": X}.items()}


def reconstruct(pca, x):
    return pca.mean_ + (x - pca.mean_) @ pca.components_.T @ pca.components_


# ----------------------------------------------------------------------- IM1, IM2


@pytest.mark.parametrize("squared", [False, True])
def test_im1_and_im2_by_hand(digits, subspaces, squared):
    x = digits[2].reshape(len(digits[2]), -1)[:50].astype(np.float64)
    to_4, to_9, to_all = (reconstruct(subspaces[name], x) for name in (4, 9, "all"))
    power = 2 if squared else 1
    first, second, full = ((row**2).sum(1) ** (power / 2) for row in (x - to_9, x - to_4, to_9 - to_all))
    np.testing.assert_allclose(
        im1(x, subspaces[4], subspaces[9], squared=squared, epsilon=0.5), first / (second + 0.5), rtol=1e-10)
    np.testing.assert_allclose(
        im2(x, subspaces[9], subspaces["all"], squared=squared, epsilon=0.5), full / (np.abs(x).sum(1) + 0.5), rtol=1e-10)
    by_function = im1(x, lambda v: reconstruct(subspaces[4], v), lambda v: reconstruct(subspaces[9], v), squared=squared)
    np.testing.assert_allclose(by_function, im1(x, subspaces[4], subspaces[9], squared=squared), rtol=1e-10)


def test_coordinates_tensors_and_class_autoencoders(digits):
    X, y, X_test, y_test = digits
    chosen = np.isin(y, (4, 9))
    names = np.where(y == 4, "four", "nine")
    experts = class_autoencoders(
        X[chosen], names[chosen], Autoencoder(latent_dim=6, training_budget=0.05, width=8, random_state=0))
    assert list(experts) == ["four", "nine"]
    alone = Autoencoder(latent_dim=6, training_budget=0.05, width=8, random_state=0).fit(X[y == 4])
    np.testing.assert_array_equal(alone.transform(X_test), experts["four"].transform(X_test))
    values = im1(X_test, experts["four"], experts["nine"])
    parts = [np.linalg.norm((X_test.astype(np.float64) - experts[name].inverse_transform(experts[name].transform(X_test)))
                            .reshape(len(X_test), -1), axis=1) for name in ("nine", "four")]
    np.testing.assert_allclose(values, parts[0] / (parts[1] + 1e-5), rtol=1e-6)
    assert values.dtype == np.float64 and values.shape == (len(X_test),)
    assert np.median(values[y_test == 9]) < 1 < np.median(values[y_test == 4])
    np.testing.assert_array_equal(values, im1(torch.from_numpy(X_test), experts["four"], experts["nine"]))
    twins = class_autoencoders(X[:60], np.arange(60) % 2, VAE(training_budget=0.003, width=8))
    assert {type(twin) for twin in twins.values()} == {VAE}


def test_im_of_bad_input(subspaces):
    x = np.random.default_rng(0).normal(size=(5, 64))
    with pytest.raises(ValueError, match=r"NaN or infinite values in 2 rows, first \[1, 3\]"):
        im1(np.where(np.isin(np.arange(5), (1, 3))[:, None], np.nan, x), subspaces[4], subspaces[9])
    with pytest.raises(ValueError, match="target_autoencoder returned shape"):
        im1(x, subspaces[4], lambda v: v[:, :9])
    with pytest.raises(ValueError, match="full_autoencoder has NaN"):
        im2(x, subspaces[4], lambda v: v * np.inf)
    with pytest.raises(TypeError, match="source_autoencoder must be fitted"):
        im1(x, "four", subspaces[9])
    with pytest.raises(ValueError, match="epsilon"):
        im1(x, subspaces[4], subspaces[9], epsilon=0)
    with pytest.raises(ValueError, match="One sample"):
        im1(x[0], subspaces[4], subspaces[9])
    with pytest.raises(ValueError, match="must be numbers"):
        im1(np.array([["a"]]), subspaces[4], subspaces[9])
    with pytest.raises(ValueError, match="y must be one label or one label a row"):
        class_autoencoders(x, [0, 1])


# --------------------------------------------------------------------- neighbours


def brute_share(x, X, y, target, k):
    near = cdist(x.reshape(len(x), -1).astype(np.float64), X.reshape(len(X), -1).astype(np.float64)).argsort(1)[:, :k]
    return (y[near] == target).mean(1)


def test_share_of_all_neighbours(digits):
    X, y, X_test, _ = digits
    names = np.array([f"digit {label}" for label in y])
    got = neighbour_share(X_test, X, names, "digit 9", balanced=False)
    np.testing.assert_array_equal(got, brute_share(X_test, X, y, 9, 10))
    targets = np.arange(len(X_test)) % 10
    got = neighbour_share(torch.from_numpy(X_test), X, y, targets, k=3, balanced=False)
    expected = np.stack([brute_share(X_test, X, y, t, 3) for t in range(10)])[targets, np.arange(len(X_test))]
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.float64


def test_balanced_classes_are_as_many_of_each():
    rng = np.random.default_rng(0)
    # nothing tells the classes apart but their number: without balance the common one has nine neighbours of ten
    X, y = rng.normal(size=(2000, 5)), np.repeat([0, 1], [1800, 200])
    x = rng.normal(size=(400, 5))
    assert neighbour_share(x, X, y, 1, balanced=False).mean() == pytest.approx(0.1, abs=0.02)
    shares = neighbour_share(x, X, y, 1)
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    np.testing.assert_array_equal(shares, neighbour_share(x, X, y, 1, random_state=0))
    assert (shares != neighbour_share(x, X, y, 1, random_state=1)).any()
    # with k = all that is left after balance, the share is one half exactly; one more cannot be had
    assert (neighbour_share(x, X, y, 1, k=400) == 0.5).all()
    with pytest.raises(ValueError, match="k=401 neighbours wanted, but there are 400"):
        neighbour_share(x, X, y, 1, k=401)


def test_source_and_target_only(digits):
    X, y, X_test, y_test = digits
    sources, targets = y_test, (y_test + np.arange(len(y_test)) % 3 + 1) % 10
    got = neighbour_share(X_test, X, y, targets, source=sources, balanced=False)
    for pair in {(4, 5), (9, 0), (3, 6)}:
        rows = (sources == pair[0]) & (targets == pair[1])
        chosen = np.isin(y, pair)
        np.testing.assert_array_equal(got[rows], brute_share(X_test[rows], X[chosen], y[chosen], pair[1], 10))
    # a row's value does not depend on its company
    one_by_one = [neighbour_share(X_test[i : i + 1], X, y, targets[i], source=sources[i])[0] for i in range(20)]
    np.testing.assert_array_equal(neighbour_share(X_test, X, y, targets, source=sources)[:20], one_by_one)


def test_the_sample_it_came_from_is_left_out(digits):
    X, y, _, _ = digits
    X, y = X[:300], y[:300]
    rows = np.arange(100)
    plain = neighbour_share(X[rows], X, y, y[rows], k=1, balanced=False)
    assert (plain == 1).all()  # each is its own nearest neighbour
    left_out = neighbour_share(X[rows], X, y, y[rows], k=1, balanced=False, exclude=rows)
    expected = [brute_share(X[i : i + 1], np.delete(X, i, 0), np.delete(y, i), y[i], 1)[0] for i in rows]
    np.testing.assert_array_equal(left_out, expected)
    assert left_out.mean() < 1
    np.testing.assert_array_equal(
        plain, neighbour_share(X[rows], X, y, y[rows], k=1, balanced=False, exclude=np.full(100, -1)))


def test_distance_to_a_class_by_brute_force(digits):
    X, y, X_test, _ = digits
    got = distance_to_class(X_test, X[y == 4])
    expected = [np.mean([np.sqrt(((a - b) ** 2).sum()) for b in X[y == 4].astype(np.float64)])
                for a in X_test[:20].astype(np.float64)]
    np.testing.assert_allclose(got[:20], expected, rtol=1e-12)
    assert got.dtype == np.float64 and got.shape == (len(X_test),)
    assert distance_to_class(X[:1], X[:1])[0] == 0
    np.testing.assert_array_equal(got, distance_to_class(torch.from_numpy(X_test), torch.from_numpy(X[y == 4])))


def test_neighbours_of_bad_input(digits):
    X, y, x, _ = digits
    x = x[:5]
    for message, arguments in {
        "X_train has 49 values": (x, X[:, :7, :7], y, 4),
        "y_train must be": (x, X, y[:-1], 4),
        "one label a sample": (x, X, 4, 4),
        r"target must be one label or one label a row, of shape \(5,\)": (x, X, y, [4, 4]),
        "has the label 11": (x, X, y, 11),
        "x_cf has NaN": (np.full_like(x, np.nan), X, y, 4),
        "X_train has NaN": (x, np.full_like(X, np.inf), y, 4),
    }.items():
        with pytest.raises(ValueError, match=message):
            neighbour_share(*arguments)
    for message, options in {"k=0": {"k": 0}, "has the label 12": {"source": 12}, "source must be": {"source": [1, 2]},
                             "exclude must be 5 integers": {"exclude": [0.5] * 5},
                             "one a row": {"exclude": [0, 0, 0, 0, len(X)]}}.items():
        with pytest.raises(ValueError, match=message):
            neighbour_share(x, X, y, 4, **options)
    with pytest.raises(ValueError, match="X_class has 49 values"):
        distance_to_class(x, X[:, :7, :7])
