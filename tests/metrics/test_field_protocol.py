"""The field's measures against their definitions, written out with plain loops."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn

from cfexplain.foundation.random import seeded_torch
from cfexplain.metrics import (
    attributes_changed,
    correlation_difference,
    cout,
    feature_cosine,
    lpips_diversity,
    sfid,
    verified,
)

N, SIDE, ATTRIBUTES = 37, 12, 6  # more than one tile of rows


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(N, 3, SIDE, SIDE)).astype(np.float32)
    return x, (x + rng.normal(scale=0.3, size=x.shape)).clip(0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    """Features of an image, in double precision, so that an independent computation gives the same."""
    with seeded_torch(0):
        net = nn.Sequential(nn.Conv2d(3, 5, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(125, ATTRIBUTES))
    return net.double()


@pytest.fixture(scope="module")
def oracle(network):
    """Attributes that change now and then."""
    return nn.Sequential(network, nn.BatchNorm1d(ATTRIBUTES, momentum=None).double(), nn.Sigmoid())


def seen(net, image):
    with torch.no_grad():
        return net.eval()(torch.from_numpy(image[None]).double())[0].numpy()


def test_cosines_are_those_of_the_definition(images, network):
    expected = []
    for a, b in zip(*images, strict=True):
        u, v = seen(network, a), seen(network, b)
        expected.append(sum(u * v) / (sum(u * u) * sum(v * v)) ** 0.5)
    np.testing.assert_allclose(feature_cosine(*images, network), expected, atol=1e-6, rtol=0)
    np.testing.assert_array_equal(verified(*images, network, 0.9), np.array(expected) > 0.9)
    assert verified(images[0], images[0], network).all()
    assert verified(*images, lambda x: np.ones((len(x), 2)))[0] == 1.0  # cos 1 > .5


def test_attributes_are_counted_one_by_one(images, oracle):
    expected = [sum((p > 0.5) != (q > 0.5) for p, q in zip(seen(oracle, a), seen(oracle, b), strict=True))
                for a, b in zip(*images, strict=True)]
    found = attributes_changed(*images, oracle)
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.mean() < ATTRIBUTES


def test_correlation_difference_is_that_of_the_definition(images, oracle):
    rng, query = np.random.default_rng(1), 2
    y_train = rng.integers(0, 2, size=(50, ATTRIBUTES))
    y_train[:, 4] = 1  # never varies: counts with 0
    deltas = np.array([[int(q > 0.5) - int(p > 0.5) for p, q in zip(seen(oracle, a), seen(oracle, b), strict=True)]
                       for a, b in zip(*images, strict=True)])
    expected = 0.0
    for a in range(ATTRIBUTES):
        with np.errstate(invalid="ignore", divide="ignore"):
            of_changes = np.corrcoef(deltas[:, a], deltas[:, query])[0, 1]
            of_labels = np.corrcoef(y_train[:, a], y_train[:, query])[0, 1]
        expected += abs((0 if np.isnan(of_changes) else of_changes) - (0 if np.isnan(of_labels) else of_labels))
    assert len(np.unique(deltas[:, query])) == 3
    assert correlation_difference(*images, oracle, query, y_train) == pytest.approx(expected, abs=1e-6)
    assert correlation_difference(*images, oracle, query, 2 * y_train - 1) == pytest.approx(expected, abs=1e-6)
    # of one direction, all of it flipped, nothing but the training labels is left
    still = [lambda x: np.stack([x[:, 0], np.zeros(len(x))], 1), [[0, 1], [1, 0], [1, 0]]]
    assert correlation_difference(np.zeros((4, 1)), np.ones((4, 1)), still[0], 0, still[1]) == pytest.approx(2.0)


@pytest.mark.parametrize(("layout", "steps"), [("first", 50), ("last", 50), ("grey", 10), ("first", 144)])
def test_cout_replaces_pixels_one_after_the_other(images, network, layout, steps):
    source, target = np.arange(N) % 3, (np.arange(N) + 1) % 3
    to_user = {"first": lambda x: x, "last": lambda x: np.moveaxis(x, 1, -1), "grey": lambda x: x[:, 0]}[layout]
    to_net = {"first": lambda x: x, "last": lambda x: np.moveaxis(x, -1, 1),
              "grey": lambda x: np.repeat(x[:, None], 3, 1)}[layout]
    x, x_cf = (to_user(X) for X in images)

    def probabilities(batch):
        with torch.no_grad():
            return network(torch.from_numpy(np.ascontiguousarray(to_net(batch))).double()).softmax(1).numpy()

    expected = []
    for i in range(N):
        a, b = to_net(x[[i]])[0].copy(), to_net(x_cf[[i]])[0]
        change = np.abs(b.astype(float) - a)[: 1 if layout == "grey" else 3].sum(0)
        order = sorted(((h, w) for h in range(SIDE) for w in range(SIDE)), key=lambda place: -change[place])
        at_once, gaps = SIDE * SIDE // steps, []
        while True:
            p = probabilities(to_user(a[None]))[0]
            gaps.append(p[target[i]] - p[source[i]])
            if not order:
                break
            for h, w in order[:at_once]:
                a[:, h, w] = b[:, h, w]
            order = order[at_once:]
        expected.append(sum((g + h) / 2 for g, h in zip(gaps, gaps[1:], strict=False)) / (len(gaps) - 1))
    before = x.copy()
    np.testing.assert_allclose(cout(x, x_cf, probabilities, source, target, steps=steps), expected, atol=1e-6, rtol=0)
    np.testing.assert_array_equal(x, before)


@pytest.mark.filterwarnings("ignore:.*are few:UserWarning")
def test_sfid_never_compares_a_counterfactual_with_its_own_original(images):
    x, x_cf = (X.reshape(N, -1)[:, :3].astype(float) for X in images)
    asked = []

    def features(rows):
        asked.append(np.asarray(rows))
        return rows

    found = sfid(x, x_cf, features, random_state=3)
    real, other = ([{tuple(row) for row in rows} for rows in asked[k::2]] for k in (0, 1))
    where = [[{i for i in range(N) if tuple(X[i]) in rows} for rows in sets] for X, sets in ((x, real), (x_cf, other))]
    assert all(not a & b and len(a | b) == N for a, b in zip(*where, strict=True))
    assert where[0][0] == where[1][1] and len(where[0][0]) == N // 2

    def frechet(a, b):
        s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * linalg.sqrtm(s @ t).real)

    assert found == pytest.approx((frechet(asked[0], asked[1]) + frechet(asked[2], asked[3])) / 2, abs=1e-6)
    assert found == sfid(x, x_cf, features, random_state=3) != sfid(x, x_cf, features, random_state=4)


def test_lpips_diversity_is_the_mean_of_all_pairs(images):
    many = np.stack([X[:6] for X in (*images, images[0][::-1])], 1)
    expected = [np.mean([np.abs(many[i, a] - many[i, b]).mean() for a in range(3) for b in range(a)]) for i in range(6)]
    found = lpips_diversity(many, distance=lambda a, b: (a - b).abs().mean((1, 2, 3)))
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="k=2"):
        lpips_diversity(many[:, :1])


def test_what_does_not_fit_is_said(images, network, oracle):
    x, x_cf = images
    with pytest.raises(ValueError, match="expected probabilities.*Sigmoid"):
        attributes_changed(x, x_cf, network)
    with pytest.raises(ValueError, match="all zero for x in the rows"):
        feature_cosine(x, x_cf, lambda X: np.zeros((len(X), 2)))
    with pytest.raises(ValueError, match="no cosine|must be a cosine"):
        verified(x, x_cf, network, 60)
    with pytest.raises(ValueError, match="y_train has 2 attributes"):
        correlation_difference(x, x_cf, oracle, 0, np.zeros((5, 2)))
    with pytest.raises(ValueError, match="query=9"):
        correlation_difference(x, x_cf, oracle, 9, np.zeros((5, ATTRIBUTES)))
    with pytest.raises(ValueError, match="steps=145"):
        cout(x, x_cf, lambda X: np.ones((N, 2)) / 2, 0, 1, steps=145)
    with pytest.raises(ValueError, match="target must be columns of the 2"):
        cout(x, x_cf, lambda X: np.ones((N, 2)) / 2, 0, 2)
    with pytest.raises(ValueError, match="expected probabilities"):
        cout(x, x_cf, lambda X: np.full((N, 2), 3.0), 0, 1)
    with pytest.raises(ValueError, match="at least 4"):
        sfid(x[:3], x_cf[:3], network)
