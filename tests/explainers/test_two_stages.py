"""Explainers that search a model of a pretrained autoencoder's latents."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import cfexplain
from cfexplain import DiffeomorphicExplainer, PLACEExplainer
from cfexplain.coordinates import VAE, Flow, PretrainedAutoencoder, TwoStage
from cfexplain.coordinates.detail import ALONG_TAU, INK_TAU, LATENT_SIGMA, LATENT_TAU
from cfexplain.explainers.run import Run
from cfexplain.foundation.blur import gaussian_blur
from cfexplain.foundation.tiles import in_tiles

pytestmark = pytest.mark.filterwarnings("ignore")  # so little training reaches few targets
QUICK = dict(training_budget=0.002, random_state=0)
rng = np.random.default_rng(0)
y = np.arange(48) % 2
X = (0.3 * rng.random((48, 3, 14, 16)) + 0.2 + 0.4 * y[:, None, None, None] * (np.arange(16) < 8)).astype(np.float32)


def networks(precision=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 7, 2))
        encoder = nn.Conv2d(3, 8, 2, 2)
        return classifier, encoder, nn.ConvTranspose2d(8, 3, 2, 2)


@pytest.fixture(scope="module", params=["vae", "flow"])
def explainer(request):
    classifier, encoder, decoder = networks()
    outer = PretrainedAutoencoder(encoder, decoder, precision="float32")
    if request.param == "vae":
        inner = TwoStage(outer, VAE(width=8, **QUICK), augment="mirror", random_state=0)
        return PLACEExplainer(classifier, coordinates=inner, max_steps=5, **QUICK).fit(X, y)
    inner = TwoStage(outer, Flow(steps=1, levels=1, hidden=8, **QUICK), random_state=0)
    return DiffeomorphicExplainer(classifier, generator=inner, max_steps=5, detail="auto", **QUICK).fit(X, y)


def test_it_chooses_the_inner_model_by_itself():
    _, encoder, decoder = networks()
    for method, parameter, inner in ((PLACEExplainer, "coordinates", VAE), (DiffeomorphicExplainer, "generator", Flow)):
        explainer = method(**{parameter: PretrainedAutoencoder(encoder, decoder)}, training_budget=0.0005, random_state=0)
        found = explainer.fit(X[:16], y[:16]).coordinates_
        assert isinstance(found, TwoStage) and isinstance(found.inner_, inner)


def test_the_code_of_x_gives_x_back(explainer):
    run = Run(explainer)
    rows, _ = run.prepare(X[:5], explainer.goal(X[:5], None))
    with torch.no_grad():
        x = in_tiles(lambda z, *values: run.judge.decode(z, dict(zip(rows, values, strict=True))), rows["z0"],
                     *rows.values(), tile=run.options.tile)
    assert torch.equal(x, rows["x"])
    assert not torch.equal(rows["reconstruction"], rows["x"])


def test_detail_is_put_back_among_the_latents(explainer):
    """At another code, what is drawn is what the outer decoder draws of latents that keep what the inner model lost."""
    explainer = copy.copy(explainer).set_params(start="latent")
    outer, inner = explainer.coordinates_.outer_, explainer.coordinates_.inner_
    run = Run(explainer)
    rows, _ = run.prepare(X[:3], explainer.goal(X[:3], None))
    with torch.no_grad():
        z = rows["z0"] + 0.1 * torch.randn(rows["z0"].shape, generator=torch.Generator().manual_seed(0))
        x = run.judge.decode(z, rows)
        latents = outer.encode(rows["x"]).reshape(3, *outer.latent_shape_)
        change = inner.decode(z) - inner.decode(rows["z0"])
        if "blend" in run.judge.details[:1]:
            mask = 1 - torch.exp(-gaussian_blur(change.square().mean(1, keepdim=True) / LATENT_TAU**2, LATENT_SIGMA))
            change = change - mask * (latents - inner.decode(rows["z0"]))
        drawn, kept = (outer.decode(part.flatten(1)).clamp(0, 1) for part in (latents + change, latents))
        mask = 1 - torch.exp(-gaussian_blur_of_pixels((drawn - kept).abs().amax(1, keepdim=True) / INK_TAU))
    assert torch.allclose(x, (drawn + (1 - mask) * (rows["x"] - kept)).clamp(0, 1), atol=1e-4)


def gaussian_blur_of_pixels(change):
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(np.stack([gaussian_filter(row[0].double().numpy() ** 2, 2.0 * 16 / 64, mode="mirror", truncate=3)
                                      for row in change])[:, None]).float()


def test_same_bits_in_any_company(explainer):
    together = explainer.explain(X[:11])
    assert np.array_equal(np.concatenate([explainer.explain(X[i : i + 1]).x_cf for i in (0, 7)]), together.x_cf[[0, 7]])
    assert np.array_equal(explainer.explain(X[10::-1]).x_cf[::-1], together.x_cf)


def test_backends_agree(explainer):
    packed, eager = (explainer.explain(X[:4], backend=backend) for backend in ("packed", "eager"))
    assert packed.backend.startswith("packed") and np.abs(packed.x_cf - eager.x_cf).mean() < 0.02


def test_paths_are_decoded_as_they_were_searched(explainer):
    cf = explainer.explain(X[:3], record_path=True)
    for path, found in zip(explainer.decode_path(cf), cf.x_cf, strict=True):
        assert np.array_equal(path.x[path.returned], found)


def test_files_and_pickles(explainer, tmp_path):
    _, encoder, decoder = networks()
    found = explainer.explain(X[:4]).x_cf
    explainer.save(tmp_path / "explainer.safetensors")
    place = "coordinates" if isinstance(explainer, PLACEExplainer) else "generator"
    given = {"classifier": networks()[0], f"{place}__outer__encoder": encoder, f"{place}__outer__decoder": decoder}
    assert np.array_equal(cfexplain.load(tmp_path / "explainer.safetensors", **given).explain(X[:4]).x_cf, found)
    assert np.array_equal(pickle.loads(pickle.dumps(explainer)).explain(X[:4]).x_cf, found)


def test_a_search_may_round_where_the_judge_does_not():
    classifier, encoder, decoder = networks()
    outer = PretrainedAutoencoder(encoder, decoder, precision="bfloat16")
    coordinates = TwoStage(outer, VAE(width=8, **QUICK))
    explainer = PLACEExplainer(classifier, coordinates=coordinates, max_steps=3, **QUICK).fit(X, y)
    run = Run(explainer)
    with explainer.classifier_.frozen():
        engine = run.engine(X[:2])
    assert engine.rounds and not run.judge.engine.rounds
    assert engine.backend == "packed (PretrainedAutoencoder's decoder in bfloat16)"
    with torch.no_grad():
        z = torch.randn(8, explainer.coordinates_.outer_.latent_dim_)
        exact, rounded = (e.decoders[1](z) for e in (run.judge.engine, engine))
    assert 0 < (exact - rounded).abs().max() < 0.05
    cf = explainer.explain(X[:3])
    assert np.array_equal(cf.proba_after, explainer.predict_proba(cf.x_cf)[np.arange(3), cf.target])


def test_weights_that_it_has_read_go_into_the_file(tmp_path):
    from safetensors.torch import save_file

    from cfexplain.nets.taesd import TinyDecoder, TinyEncoder

    encoder, decoder = TinyEncoder((1, 3, 8, 2, 8, 8, 1, 8, 4)), TinyDecoder((1, 4, 8, 2, 8, 8, 1, 8, 3))
    for role, net in (("encoder", encoder), ("decoder", decoder)):
        save_file(net.state_dict(), tmp_path / f"{role}.safetensors")
    outer = PretrainedAutoencoder(str(tmp_path / "encoder.safetensors"), str(tmp_path / "decoder.safetensors"))
    coordinates = TwoStage(outer, VAE(width=8, **QUICK))
    explainer = PLACEExplainer(networks()[0], coordinates=coordinates, max_steps=2, **QUICK).fit(X, y)
    found = explainer.explain(X[:2]).x_cf
    explainer.save(tmp_path / "explainer.safetensors")
    (tmp_path / "encoder.safetensors").unlink()
    again = cfexplain.load(tmp_path / "explainer.safetensors", classifier=networks()[0])
    assert np.array_equal(again.explain(X[:2]).x_cf, found)


@pytest.mark.parametrize("explainer", ["vae"], indirect=True)
def test_it_goes_along_what_tells_classes_apart(explainer):
    """What the classes do not differ in stays, bit for bit among latents; what they differ in is the regression's."""
    run = Run(explainer)
    rows, _ = run.prepare(X[:5], explainer.goal(X[:5], None))
    difference = explainer.difference_
    with torch.no_grad():
        latents, moving = rows["latents 1"], rows["z0"] + 2 * rows["along"]
        expected, own = difference(latents, rows["source"], rows["target"])
        assert torch.allclose(rows["difference"], expected, atol=1e-6) and torch.allclose(rows["own"], own, atol=1e-6)
        there = difference.places > 0
        assert there.any() and not there.all() and not (expected * ~there).any()
        assert torch.allclose(expected, -difference(latents, rows["target"], rows["source"])[0], atol=1e-6)
        seen = []
        run.judge.engine.decoders[1:] = [lambda z: seen.append(z) or explainer.coordinates_.outer_.decode(z)]
        run.judge.decode(moving, rows)
    drawn = seen[0].reshape(latents.shape)
    kept = (~there).expand(drawn.shape[1:])
    assert torch.equal(drawn[:, kept], latents[:, kept])
    gone = -torch.expm1(-gaussian_blur((2 * expected).square().mean(1, keepdim=True) / ALONG_TAU**2, LATENT_SIGMA))
    assert torch.allclose(drawn, latents + 2 * expected - gone * own, atol=1e-4)


def test_the_other_starts_are_as_they_were(explainer):
    """What was fitted before there was a difference of classes, and what is asked to start in another way, knows of none."""
    before = copy.copy(explainer)
    before.__dict__.pop("difference_", None)
    after = copy.copy(explainer).set_params(start="latent")
    for one in (before.set_params(start="latent"), after):
        rows, _ = Run(one).prepare(X[:3], one.goal(X[:3], None))
        assert "along" not in rows
    assert np.array_equal(before.explain(X[:3]).x_cf, after.explain(X[:3]).x_cf)


@pytest.mark.parametrize("explainer", ["vae"], indirect=True)
def test_several_answers_begin_with_that_of_one(explainer):
    one, two = explainer.explain(X[:3]), explainer.explain(X[:3], k=2)
    assert np.array_equal(two.x_cf[::2], one.x_cf)


def test_a_row_goes_no_further_along_than_it_has_to():
    """Of what meets every condition along the way, the search returns the nearest, to an eighth; every point is a step."""
    _, encoder, decoder = networks()
    left = nn.Linear(3 * 14 * 16, 2)  # looks at what the classes differ in, as a model does that was trained
    with torch.no_grad():
        left.weight.copy_(torch.tensor(np.broadcast_to(0.05 * (np.arange(16) < 8), (3, 14, 16)).reshape(1, -1).copy())
                          * torch.tensor([[-1.0], [1.0]]))
        left.bias.copy_(torch.tensor([1.0, -1.0]) * 0.05 * 3 * 14 * 8 * 0.55)
    coordinates = TwoStage(PretrainedAutoencoder(encoder, decoder, precision="float32"), VAE(width=8, **QUICK))
    explainer = PLACEExplainer(nn.Sequential(nn.Flatten(), left), coordinates=coordinates, max_steps=5, second_opinion=0,
                               feature_weight=0.0, plausibility_weight=0.0, **QUICK).fit(X, y)
    cf = explainer.explain(X[:6], record_path=True)
    run = Run(explainer)
    rows, _ = run.prepare(X[:6], explainer.goal(X[:6], None))
    shares = ((torch.from_numpy(cf.z_cf) - rows["z0"]) * rows["along"]).sum(1) / rows["along"].square().sum(1)
    beside = (torch.from_numpy(cf.z_cf) - rows["z0"] - shares[:, None] * rows["along"]).norm(dim=1)
    went = (beside < 1e-4) & (shares > 0.1)
    assert went.any()
    for i, path in enumerate(cf.path):
        assert len(path) == cf.n_steps[i] + 1
        if went[i]:
            assert 8 * shares[i] == pytest.approx(round(8 * shares[i].item()), abs=1e-3) and cf.valid[i]
            tile = {name: values[[i]].expand(run.options.tile, *values.shape[1:]) for name, values in rows.items()}
            with torch.no_grad():
                assert not run.judge.evaluate(tile["z0"] + (shares[i] - 0.125) * tile["along"], tile).done[0]


def test_a_search_that_rounds_asks_for_a_little_more_than_is_needed(explainer):
    """What it finds is judged without rounding, and must not fail there by a last digit."""
    run = Run(explainer)
    rows, _ = run.prepare(X[:4], explainer.goal(X[:4], None))
    exact = run.evaluator(replace(run.judge.engine, rounds=False))
    rounding = run.evaluator(replace(run.judge.engine, rounds=True))
    every = np.arange(4)
    plain, careful = (run.searched(rows, every, searching) for searching in (exact, rounding))
    for name, stricter in (("needed", torch.gt), ("feature_limit", torch.lt)):
        assert (name in plain) == (name in careful) == (name in rows)
        if name in rows:
            assert torch.equal(plain[name], rows[name]) and stricter(careful[name], plain[name]).all()
