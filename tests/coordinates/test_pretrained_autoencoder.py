"""Autoencoders that somebody else has trained: from modules, from files, from folders, and what is no such thing."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from torch import nn

import cfexplain
from cfexplain import PLACEExplainer, REVISEExplainer
from cfexplain.coordinates import PretrainedAutoencoder, TwoStage
from cfexplain.foundation.files import read_arrays, write_arrays
from cfexplain.nets.taesd import TinyDecoder, TinyEncoder

DATA = Path(os.environ.get("CFEXPLAIN_DATA", "nowhere"))


def halves(channels=3, codes=6, stride=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(channels, codes, stride, stride), nn.ConvTranspose2d(codes, channels, stride, stride)


def pictures(channels=3, height=16, width=16, n=6):
    return np.random.default_rng(0).random((n, channels, height, width)).astype(np.float32)


@pytest.fixture
def tiny(tmp_path):
    """The same small weights in every form in which they are published."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = TinyEncoder((1, 3, 8, 2, 8, 8, 3, 8, 8, 1, 8, 4))
        decoder = TinyDecoder((1, 4, 8, 3, 8, 8, 2, 8, 8, 1, 8, 3))
    states = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}
    for role, state in states.items():
        save_file(state, tmp_path / f"{role}.safetensors")
        torch.save(state, tmp_path / f"{role}.pth")
    save_file({f"{role}.{name}": weight for role, state in states.items() for name, weight in state.items()},
              tmp_path / "both.safetensors")
    return tmp_path, encoder, decoder


@pytest.mark.parametrize("names", [("encoder.safetensors", "decoder.safetensors"), ("encoder.pth", "decoder.pth"),
                                   ("both.safetensors", None)])
def test_weights_on_disk(tiny, names):
    folder, encoder, decoder = tiny
    X = pictures()
    read = PretrainedAutoencoder(*(None if name is None else folder / name for name in names)).fit(X)
    given = PretrainedAutoencoder(encoder, decoder).fit(X)
    assert np.allclose(read.transform(X), given.transform(X), atol=1e-5) and read.latent_shape_ == (4, 8, 8)
    assert clone(read).fit(X).network is read.network  # read once


def test_what_was_read_from_weights_is_in_the_file_of_an_explainer(tiny):
    folder, y, net = tiny[0], np.arange(24) % 2, nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    X = (0.5 * pictures(n=24) + 0.4 * y[:, None, None, None]).astype(np.float32)
    outer = TwoStage(PretrainedAutoencoder(folder / "encoder.pth", folder / "decoder.pth"), "identity")
    revise = REVISEExplainer(net, coordinates=outer, max_steps=3, random_state=0).fit(X, y)
    revise.save(folder / "explainer.safetensors")
    found = revise.explain(X[:2]).x_cf
    for name in ("encoder.pth", "decoder.pth"):
        (folder / name).unlink()
    again = cfexplain.load(folder / "explainer.safetensors", classifier=net)
    assert np.array_equal(again.explain(X[:2]).x_cf, found)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 22), (13, 9)])
def test_sides_are_padded_and_cropped(height, width):
    encoder, decoder = halves()
    X = pictures(height=height, width=width)
    coordinates = PretrainedAutoencoder(encoder, decoder).fit(X)
    assert coordinates.latent_shape_[1:] == (-(-height // 4), -(-width // 4))
    top, left = (-height % 4) // 2, (-width % 4) // 2
    with torch.no_grad():
        edge = nn.functional.pad(torch.from_numpy(X), (left, -width % 4 - left, top, -height % 4 - top), mode="replicate")
        back = decoder(encoder(edge))[..., top : top + height, left : left + width]
    assert np.allclose(coordinates.inverse_transform(coordinates.transform(X)), back, atol=1e-5)


def test_channels_of_latents_have_unit_scale():
    X = pictures(n=40)
    codes = PretrainedAutoencoder(*halves()).fit(X).transform(X).reshape(40, 6, -1).swapaxes(1, 2).reshape(-1, 6)
    assert np.allclose(codes.mean(0), 0, atol=1e-4) and np.allclose(codes.std(0), 1, atol=1e-4)


def test_ranges_of_pixels():
    X, (encoder, decoder) = pictures(), halves()
    seen = []
    encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    coordinates = PretrainedAutoencoder(encoder, decoder, network_range=(-1, 1)).fit(X)
    coordinates.transform(X)
    assert torch.allclose(seen[-1][:6], torch.from_numpy(2 * X - 1), atol=1e-6)
    with torch.no_grad():
        back = (decoder(encoder(torch.from_numpy(2 * X - 1))) + 1) / 2
    assert np.allclose(coordinates.inverse_transform(coordinates.transform(X)), back, atol=1e-5)


def test_grey_pictures_are_three_equal_colours():
    X, (encoder, decoder) = pictures(1), halves()
    coordinates = PretrainedAutoencoder(encoder, decoder).fit(X)
    with torch.no_grad():
        back = decoder(encoder(torch.from_numpy(X).expand(-1, 3, -1, -1))).mean(1, keepdim=True)
    assert np.allclose(coordinates.inverse_transform(coordinates.transform(X)), back, atol=1e-5)


def test_networks_are_lent_not_taken():
    encoder = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6)).train()
    decoder = halves()[1].train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    PretrainedAutoencoder(encoder, decoder).fit(pictures()).transform(pictures())
    assert encoder.training and encoder[1].training and decoder.training and encoder[0].weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = halves()

    def encode(self, x):
        return (self.down(x),)

    def decode(self, z):
        return {"sample": self.up(z)}["sample"]


def test_one_module_with_encode_and_decode():
    whole, X = Whole(), pictures()
    two = PretrainedAutoencoder(whole.down, whole.up).fit(X)
    assert np.allclose(PretrainedAutoencoder(whole).fit(X).transform(X), two.transform(X), atol=1e-6)


@pytest.mark.parametrize(("make", "X", "error", "said"), [
    (lambda _: PretrainedAutoencoder(*halves()), pictures(4), ValueError, "4 channels, but the encoder takes 3"),
    (lambda _: PretrainedAutoencoder(*halves()), pictures(height=3), ValueError, "3×16 pixels, but one latent"),
    (lambda _: PretrainedAutoencoder(*halves()), np.random.rand(9, 5), ValueError, "table of 5 columns"),
    (lambda _: PretrainedAutoencoder(halves()[0]), pictures(), TypeError, "no method encode"),
    (lambda _: PretrainedAutoencoder(halves()[0], "decoder.pth"), pictures(), TypeError, "the decoder is a path"),
    (lambda _: PretrainedAutoencoder(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)), halves()[1]), pictures(),
     ValueError, "makes latents of shape"),
    (lambda f: PretrainedAutoencoder(f / "encoder.pth"), pictures(), ValueError, "hold no encoder"),
    (lambda f: PretrainedAutoencoder(f / "encoder.pth", f / "none.pth"), pictures(), FileNotFoundError, "no file"),
    (lambda f: PretrainedAutoencoder(f / "encoder.pth", f / "encoder.pth"), pictures(), ValueError, "layout"),
    (lambda f: PretrainedAutoencoder(f / "module.pth", f / "decoder.pth"), pictures(), ValueError, "without running code"),
    (lambda f: PretrainedAutoencoder("nothing here"), pictures(), FileNotFoundError, "There is nothing at"),
    (lambda f: PretrainedAutoencoder("no name/of a hub"), pictures(), FileNotFoundError, "There is nothing at"),
    (lambda f: PretrainedAutoencoder(f / "decoder.pth", f / "encoder.pth"), pictures(), ValueError, "the other way round"),
    (lambda f: PretrainedAutoencoder(None, f / "decoder.pth"), pictures(), TypeError, "half a pair"),
    (lambda f: PretrainedAutoencoder(f, f / "decoder.pth"), pictures(), ValueError, "is a folder"),
    (lambda f: PretrainedAutoencoder(f / "noise.safetensors"), pictures(), ValueError, "no state dict"),
    (lambda f: PretrainedAutoencoder(f / "nested.pth"), pictures(), ValueError, "dict of weights; expected a state dict"),
    (lambda _: PretrainedAutoencoder(*halves(), subfolder="vae"), pictures(), ValueError, "but modules were given"),
    (lambda _: PretrainedAutoencoder(nn.Conv3d(3, 4, 3), halves()[1]), pictures(), ValueError, "cannot take a picture"),
    (lambda _: PretrainedAutoencoder(*halves(), network_range=(1, 0)), pictures(), ValueError, "low < high"),
    (lambda _: PretrainedAutoencoder(*halves(), precision="float16"), pictures(), ValueError, "precision"),
])
def test_bad_input_is_told(tiny, make, X, error, said):
    folder, encoder, _ = tiny
    torch.save(encoder, folder / "module.pth")
    torch.save({"weights": encoder.state_dict()}, folder / "nested.pth")
    (folder / "noise.safetensors").write_bytes(b"noise" * 20)
    with pytest.raises(error, match=said):
        make(folder).fit(X)


def test_a_folder_without_configuration_is_told(tmp_path):
    with pytest.raises(ValueError, match="config.json"):
        PretrainedAutoencoder(tmp_path).fit(pictures())


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small model of each kind, and the folder that diffusers writes of it."""
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = [
            diffusers.AutoencoderTiny(
                encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
                num_decoder_blocks=(1, 1), latent_channels=4),
            diffusers.AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                                    up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4)]
    for model in models:
        model.save_pretrained(tmp_path / type(model).__name__ / "vae")
    return tmp_path, [model.eval() for model in models]


def test_models_of_diffusers(published):
    folder, models = published
    X = pictures(height=16, width=20)
    for model in models:
        given = PretrainedAutoencoder(model).fit(X)
        read = PretrainedAutoencoder(folder / type(model).__name__, subfolder="vae").fit(X)
        assert np.allclose(given.transform(X), read.transform(X), atol=1e-5)
        assert clone(read).fit(X).network is read.network  # read once
        with torch.no_grad():
            out = model.encode(torch.from_numpy(2 * X - 1))
            latents = out.latents if hasattr(out, "latents") else out.latent_dist.mean
            back = (model.decode(latents).sample + 1) / 2
        assert np.allclose(read.inverse_transform(read.transform(X)), back, atol=1e-4)


def test_explainers_in_models_of_diffusers_are_kept_in_files(published, monkeypatch):
    folder, models = published
    y = np.arange(40) % 2
    X = (0.5 * pictures(n=40) + 0.4 * y[:, None, None, None]).astype(np.float32)
    for model in models:
        place = PLACEExplainer(coordinates=PretrainedAutoencoder(folder / type(model).__name__ / "vae"), random_state=0,
                               training_budget=0.01).fit(X, y)
        file = folder / "explainer.safetensors"
        place.save(file)
        found = place.explain(X[:3]).x_cf
        assert np.array_equal(cfexplain.load(file).explain(X[:3]).x_cf, found)
    arrays, meta = read_arrays(file)

    def changed(name, value):
        text = re.sub(rf'\["{name}", [^\[\]]*(\[[^\]]*\])?\]', f'["{name}", {json.dumps(value)}]', json.dumps(meta))
        assert text != json.dumps(meta)
        write_arrays(folder / "changed.safetensors", arrays, json.loads(text))
        return folder / "changed.safetensors"

    for name, value, said in [("class", "UNet2DModel", "no autoencoder"), ("layers_per_block", 10**9, "tensors"),
                              ("latent_channels", 5, "of which the file holds")]:
        with pytest.raises(ValueError, match=said):
            cfexplain.load(changed(name, value))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match="AutoencoderKL needs the package 'diffusers'"):
        cfexplain.load(file)


def test_bad_models_of_diffusers_are_told(published):
    folder, _ = published
    X, good = pictures(), folder / "AutoencoderTiny" / "vae"
    config, weights = good / "config.json", good / "diffusion_pytorch_model.safetensors"
    written, state = json.loads(config.read_text()), load_file(weights)
    with pytest.raises(FileNotFoundError, match="nothing is downloaded unasked"):
        PretrainedAutoencoder("nobody/has-this-model").fit(X)
    with pytest.raises(ConnectionError, match="The hub did not give"):
        PretrainedAutoencoder("nobody/has-this-model", download=True).fit(X)
    config.write_text(json.dumps({**written, "_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match="expected an autoencoder"):
        PretrainedAutoencoder(good).fit(X)
    config.write_text(json.dumps({**written, "latent_channels": 8}))
    with pytest.raises(ValueError, match="size mismatch"):
        PretrainedAutoencoder(good).fit(X)
    config.write_text(json.dumps(written))
    save_file({k: v for k, v in state.items() if k != "decoder.layers.0.bias"}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 of the weights"):
        PretrainedAutoencoder(good).fit(X)
    torch.save(state, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match="is a pickle, which is not read"):
        PretrainedAutoencoder(good).fit(X)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "taef2_encoder.pth").exists(), reason="needs TAEF2 in CFEXPLAIN_DATA")
def test_a_published_autoencoder_draws_a_photograph():
    from skimage.data import astronaut

    face = astronaut()[0:104, 160:288].astype(np.float32)[None] / 255
    coordinates = PretrainedAutoencoder(DATA / "taef2_encoder.pth", DATA / "taef2_decoder.pth").fit(face)
    back = coordinates.inverse_transform(coordinates.transform(face))
    assert back.shape == face.shape and -10 * np.log10(np.square(back - face).mean()) > 28
