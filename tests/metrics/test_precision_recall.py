"""Precision and recall by their definition, and the blobs that win measures of nearness and lose this one."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.neural_network import MLPClassifier

from cfexplain.datasets import load_digits_images
from cfexplain.metrics import precision_recall, precision_recall_f1, realism_percentile


def by_definition(real, found, k):
    def reach(rows):
        return [sorted(np.linalg.norm(row - other) for j, other in enumerate(rows) if j != i)[k - 1]
                for i, row in enumerate(rows)]

    def inside(points, centres, radii):
        return np.mean([any(0 < r >= np.linalg.norm(p - c) for c, r in zip(centres, radii, strict=True)) for p in points])

    return inside(found, real, reach(real)), inside(real, found, reach(found))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_they_are_as_defined(k):
    rng = np.random.default_rng(k)
    real, found = rng.normal(size=(40, 3)), rng.normal(0.5, 0.7, size=(25, 3))
    assert precision_recall(real, found, k=k) == pytest.approx(by_definition(real, found, k))
    in_features = precision_recall(real, found, lambda x: np.asarray(x)[:, :1], k=k)
    assert in_features == pytest.approx(by_definition(real[:, :1], found[:, :1], k))
    f1 = [2 * p * r / (p + r) for p, r in (precision_recall(real, found, k=k), in_features)]
    assert precision_recall_f1(real, found, lambda x: np.asarray(x)[:, :1], k=k) == pytest.approx(min(f1))


@pytest.fixture(scope="module")
def threes():
    """Real threes for reference and held out, others, and the features of a small network."""
    X, y = load_digits_images()
    net = MLPClassifier((64, 32), random_state=0, max_iter=60).fit(X[:1200].reshape(1200, -1), y[:1200])

    def features(images):
        out = np.asarray(images).reshape(len(images), -1)
        for weights, bias in zip(net.coefs_[:-1], net.intercepts_[:-1], strict=True):
            out = np.maximum(out @ weights + bias, 0)
        return out

    return X[:1200], y[:1200], X[1200:], y[1200:], features


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_blobs_win_nearness_and_lose_this(threes):
    X, y, X_real, y_real, features = threes
    reference, held_out = X[y == 3], X_real[y_real == 3][:40]
    mean, rng = reference.mean(0), np.random.default_rng(0)
    near = realism_percentile(reference, 3, features, X, y, X_real, y_real)
    blobs = {"mean image": np.repeat(mean[None], 40, 0),
             "mean image, a little noise": np.clip(mean + rng.normal(0, 0.02, (40, 8, 8)), 0, 1),
             "halfway to the mean": 0.5 * held_out + 0.5 * mean,
             "one prototype": np.repeat(reference[near.argmax()][None], 40, 0)}

    def realism(images):
        return np.median(realism_percentile(images, 3, features, X, y, X_real, y_real))

    real = precision_recall_f1(reference, held_out, features)
    assert real > 0.8 and 30 < realism(held_out) < 70
    for name, images in blobs.items():
        assert realism(images) > 85, name
        assert precision_recall_f1(reference, images, features) < 0.3 * real, name
    others = {"blurred": np.stack([ndimage.gaussian_filter(image, 1.0) for image in held_out]),
              "noisy": np.clip(held_out + rng.normal(0, 0.3, held_out.shape), 0, 1),
              "eights": X_real[y_real == 8][:40]}
    for name, images in others.items():
        assert precision_recall_f1(reference, images, features) < 0.5 * real, name


def test_few_images_are_refused():
    with pytest.raises(ValueError, match="x_cf has 5 images; more than k=5"):
        precision_recall(np.zeros((9, 2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="k="):
        precision_recall(np.zeros((9, 2)), np.zeros((9, 2)), k=0)
