"""Neighbours against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from cfexplain.metrics import distance_to_class, neighbour_share


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
