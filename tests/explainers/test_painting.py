"""``detail="learned"``: nothing is painted where nothing changed, and hidden parts are painted better than drawn."""

import numpy as np
import pytest
import torch
from torch import nn

import cfexplain
from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE, PretrainedAutoencoder, TwoStage
from cfexplain.coordinates.detail import change_mask, painted
from cfexplain.explainers.run import Run
from cfexplain.foundation.tiles import in_tiles
from cfexplain.nets.painter import Painter, train_painter

pytestmark = pytest.mark.filterwarnings("ignore")  # so little training reaches few targets
QUICK = dict(training_budget=0.005, random_state=0)
rng = np.random.default_rng(0)
y = np.arange(40) % 2
X = (0.3 * rng.random((40, 3, 16, 16)) + 0.2 + 0.4 * y[:, None, None, None] * (np.arange(16) < 8)).astype(np.float32)


def networks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return (nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 2)), nn.Conv2d(3, 8, 2, 2),
                nn.ConvTranspose2d(8, 3, 2, 2))


@pytest.fixture(scope="module", params=["latents", "pixels"])
def explainer(request):
    classifier, encoder, decoder = networks()
    coordinates = VAE(width=8, training_budget=0.02, random_state=0) if request.param == "pixels" else TwoStage(
        PretrainedAutoencoder(encoder, decoder, precision="float32"), VAE(width=8, **QUICK), random_state=0)
    return PLACEExplainer(classifier, coordinates=coordinates, detail="learned", max_steps=3, **QUICK).fit(X, y)


def test_the_code_of_x_gives_x_back(explainer):
    run = Run(explainer)
    rows, _ = run.prepare(X[:5], explainer.goal(X[:5], None))
    with torch.no_grad():
        x, moved = (in_tiles(lambda z, *values: run.judge.decode(z, dict(zip(rows, values, strict=True))), z, *rows.values(),
                             tile=run.options.tile) for z in (rows["z0"], rows["z0"] + 1))
    assert torch.equal(x, rows["x"]) and not torch.equal(moved, rows["x"])


def test_same_bits_in_any_company_and_from_a_file(explainer, tmp_path):
    found = explainer.explain(X[:9]).x_cf
    assert np.array_equal(explainer.explain(X[7:8]).x_cf, found[7:8])
    _, encoder, decoder = networks()
    explainer.save(tmp_path / "explainer.safetensors")
    given = {"coordinates__outer__encoder": encoder, "coordinates__outer__decoder": decoder}
    given = given if isinstance(explainer.coordinates_, TwoStage) else {}
    again = cfexplain.load(tmp_path / "explainer.safetensors", classifier=networks()[0], **given)
    assert np.array_equal(again.explain(X[:9]).x_cf, found)


def test_it_is_learned_at_fit(explainer):
    other = PLACEExplainer(networks()[0], coordinates=VAE(width=8, training_budget=0.01), max_steps=1, **QUICK).fit(X, y)
    with pytest.raises(ValueError, match="learned at fit"):
        other.set_params(detail="learned").explain(X[:1])
    with pytest.raises(ValueError, match="for a table"):
        PLACEExplainer(detail="learned", training_budget=0.01).fit(rng.normal(size=(20, 3)), np.arange(20) % 2)


def test_only_what_changed_is_painted():
    painter = Painter(2, width=8)
    with torch.no_grad():
        painter.last[-1].bias.fill_(5.0)
    x, drawn = torch.rand(1, 2, 16, 16), torch.rand(1, 2, 16, 16)
    moved = drawn.clone()
    moved[..., :2, :2] += 1.0
    out = painted(moved, x, drawn, painter, None)
    mask = change_mask(moved - drawn, (0, 1), True)
    assert torch.equal(out[..., 8:, 8:], x[..., 8:, 8:]) and mask[..., 0, 0] > 0.5
    assert torch.allclose(out, moved + (1 - mask) * (x - drawn) + mask * painter.paint(moved, mask, x), atol=1e-5)
    # of the original it sees what the mask leaves
    hidden = torch.full((1, 1, 16, 16), 0.4)
    assert torch.equal(painter.paint(moved, hidden, x), painter.paint(moved, hidden, torch.zeros_like(x)))


@pytest.mark.slow
def test_it_learns_what_is_missing():
    """Pictures of one colour each, drawn without it: what surrounds a hole tells what is missing."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randn(64, 2, 1, 1, generator=generator).expand(-1, -1, 8, 8)
    hole = torch.zeros(1, 1, 8, 8)
    hole[..., 2:5, 3:6] = 1

    def batch(rows, generator):
        original, mask = colours[rows], hole.expand(len(rows), -1, -1, -1)
        return torch.zeros_like(original), torch.zeros_like(original), original, mask, mask

    with torch.random.fork_rng():
        torch.manual_seed(0)
        painter = Painter(2, width=16)
    before = torch.get_rng_state()
    history = train_painter(painter, batch, 64, updates=120, batch_size=16, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert history[-1]["error"] < 0.5 < history[0]["error"]
    assert not painter.training and not any(part.requires_grad for part in painter.parameters())
