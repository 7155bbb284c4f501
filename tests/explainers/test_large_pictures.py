"""Large pictures: few are a tile, so that one alone is not computed many times over, with the same bits in any company."""

import numpy as np
import pytest
import torch
from torch import nn

from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE, PretrainedAutoencoder, TwoStage

pytestmark = pytest.mark.filterwarnings("ignore")  # so little training reaches few targets
QUICK = dict(training_budget=0.002, random_state=0)
y = np.arange(80) % 2
X = np.random.default_rng(0).random((80, 3, 112, 112)).astype(np.float32)
X[:, :, 40:72] = 0.5 * X[:, :, 40:72] + 0.4 * y[:, None, None, None]


class Counting(nn.Module):
    """How many rows it was asked about, and the most at once."""

    def __init__(self, network):
        super().__init__()
        self.network, self.rows, self.most, self.most_at_fit = network, 0, 0, 0

    def forward(self, x):
        self.rows, self.most = self.rows + len(x), max(self.most, len(x))
        return self.network(x)


@pytest.fixture(scope="module")
def explainer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Counting(nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * 14 * 14, 2)))
        outer = PretrainedAutoencoder(nn.Conv2d(3, 6, 8, 8), nn.ConvTranspose2d(6, 3, 8, 8))
    fitted = PLACEExplainer(classifier, coordinates=TwoStage(outer, VAE(width=8, **QUICK)), max_steps=4, **QUICK).fit(X, y)
    classifier.most_at_fit = classifier.most
    return fitted


def test_fit_asks_about_few_at_a_time(explainer):
    assert explainer.classifier_.module.most_at_fit <= 32


def test_one_alone_is_not_computed_many_times_over(explainer):
    asked = explainer.classifier_.module
    asked.rows = asked.most = 0
    cf = explainer.explain(X[:1], backend="eager")
    first, asked.rows = asked.rows, 0
    assert asked.most <= 4 and first < 32 * (cf.n_steps[0] + 2)
    explainer.explain(X[:1], backend="eager")  # what bits parts of a tile have is known by now
    assert asked.rows <= 4 * (cf.n_steps[0] + 6)
    asked.most = 0
    explainer.predict(X[:2])
    assert asked.most <= 4


def test_same_bits_in_any_company_and_on_any_threads(explainer):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together = explainer.explain(X[:7])
        alone = [explainer.explain(X[i : i + 1]) for i in (0, 3, 6)]
        torch.set_num_threads(2)
        by_two = explainer.explain(X[:11])
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(np.concatenate([cf.x_cf for cf in alone]), together.x_cf[[0, 3, 6]])
    assert np.array_equal(by_two.x_cf[:7], together.x_cf) and np.array_equal(by_two.z[:7], together.z)
    assert np.array_equal(together.z, explainer.coordinates_.transform(X[:7]))
