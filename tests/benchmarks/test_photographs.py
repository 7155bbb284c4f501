"""The photographs' networks are kept by configuration, and nobody is on both sides of a split."""

import dataclasses
import os

import joblib
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.photographs import networks
from benchmarks.photographs.__main__ import draw
from benchmarks.photographs.afterwards import kept, smaller
from benchmarks.photographs.data import SETS, Photographs, goals, read
from benchmarks.photographs.judges import face_chip, penultimate
from cfexplain.datasets import CELEBA_ATTRIBUTES


@pytest.fixture
def faces():
    """Bright pictures have the first label, dark ones the second."""
    rng = np.random.default_rng(0)
    bright = rng.uniform(size=64) > 0.5
    x = (rng.uniform(0, 90, size=(64, 3, 32, 32)) + 150 * bright[:, None, None, None]).astype(np.uint8)
    labels = np.zeros((64, 40), np.uint8)
    labels[:, 31], labels[:, 9] = bright, ~bright
    return Photographs("celeba", torch.from_numpy(x), labels, list(CELEBA_ATTRIBUTES), np.arange(48), np.arange(48, 64))


def test_networks_are_kept_by_configuration(faces, tmp_path, monkeypatch, capsys):
    recipe = networks.Recipe(((16, 2, 3e-3), (32, 0.5, 1e-3)), seed=0, batch=16)
    monkeypatch.setitem(networks.RECIPES, "celeba", {"second": recipe, "oracle": recipe})
    net, facts = networks.network(faces, "second", tmp_path)
    assert facts["kind"] == networks.kind("celeba", "second") and facts["test"] == 16
    assert set(facts["held_out"]["accuracy"]) == set(CELEBA_ATTRIBUTES) and 0 <= facts["held_out"]["mean"] <= 1
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".pth"]  # nothing of a half training is left
    capsys.readouterr()
    again, found = networks.network(faces, "second", tmp_path)
    assert found == facts and not capsys.readouterr().out
    x = faces.images(faces.test)
    with torch.no_grad():
        torch.testing.assert_close(again(x), net(x))
        smile = networks.binary(net, faces, "Smiling")
        torch.testing.assert_close(smile(x).softmax(1)[:, 1], net(x)[:, 31].sigmoid())
    other = dataclasses.replace(recipe, seed=1)
    monkeypatch.setitem(networks.RECIPES["celeba"], "second", other)
    networks.network(faces, "second", tmp_path)
    assert len(list(tmp_path.glob("*.pth"))) == 2


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SETS))
def test_splits_share_nobody(name):
    data = read(name)
    assert not set(data.train) & set(data.test) and len(data.train) + len(data.test) <= len(data.x)
    assert data.x.shape[1:] == (3, SETS[name].side, SETS[name].side) and data.labels.shape == (len(data.x), len(data.names))
    assert set(SETS[name].asked) <= set(data.names)
    assert data.pixels(data.test[:3], 56).shape == (3, 3, 56, 56)


def test_features_are_what_the_last_layer_sees(faces):
    x = faces.images(faces.test)
    for role, name in [("explained", "celeba"), ("explained", "xray"), ("second", "xray")]:
        net = networks.BUILDERS[networks.kind(name, role)](40).eval()
        last = net[-1] if isinstance(net[-1], torch.nn.Linear) else net[-1].fc
        with torch.no_grad():
            torch.testing.assert_close(last(penultimate(net).eval()(x)), net(x))


def test_a_value_is_a_share_of_its_unit(faces):
    ages = dataclasses.replace(faces, name="utkface", labels=faces.labels[:, :2].astype(np.float32), names=["female", "age"])
    net = networks.strided(2).eval()
    years = networks.value(net, ages, "age")
    x = ages.images(ages.test)
    with torch.no_grad():
        torch.testing.assert_close(years(x), 100 * net(x)[:, 1:].sigmoid())
        off = years(x)[:, 0].numpy() - 100 * ages.labels[ages.test, 1]
    assert networks.held_out(net, ages)["mean_absolute_error"]["age"] == pytest.approx(np.abs(off).mean(), rel=1e-5)


def test_pictures_are_whole(tmp_path):
    rows = np.random.default_rng(0).uniform(size=(5, 2, 3, 6, 6))
    draw(tmp_path / "faces.png", [tuple(pair) for pair in rows], across=3, enlarge=1)
    with Image.open(tmp_path / "faces.png") as picture:
        drawn = np.asarray(picture) / 255
    assert drawn.shape == (2 * (12 + 4), 18, 3)
    np.testing.assert_allclose(drawn[6:12, 6:12], rows[1, 1].transpose(1, 2, 0), atol=1 / 255)
    assert (drawn[16:28, 12:] == 1).all()  # no sixth


def test_a_chip_is_where_the_face_is():
    picture = np.arange(100.0).reshape(1, 1, 10, 10)
    np.testing.assert_array_equal(face_chip(picture, (0.0, 0.0, 1.0)), picture)
    chip = face_chip(picture, (0.2, 0.6, 0.6))
    assert chip.shape == (1, 1, 6, 6)
    np.testing.assert_array_equal(chip[0, 0, :, 0], [62, 72, 82, 92, 92, 92])


def test_what_was_kept_is_found_by_method_and_goal(tmp_path):
    for name in ("PLACE-1-0a", "PLACE, as published-1-1b", "PLACE-0-2c", "place-3d", "coordinates-4e"):
        joblib.dump(name, tmp_path / f"photographs-celeba-Smiling-{name}.joblib")
    found = {goal.words: kept(tmp_path, "celeba", "Smiling", goal) for goal in goals("celeba", "Smiling")}
    assert found == {"to Smiling": {"PLACE": "PLACE-1-0a", "PLACE, as published": "PLACE, as published-1-1b"},
                     "to not Smiling": {"PLACE": "PLACE-0-2c"}}
    later = tmp_path / "photographs-celeba-Smiling-PLACE-1-00.joblib"  # earlier in the alphabet
    joblib.dump("later", later)
    os.utime(later, (later.stat().st_mtime + 9,) * 2)
    assert "later" in [kept(tmp_path, "celeba", "Smiling", goal)["PLACE"] for goal in goals("celeba", "Smiling")]


def test_smaller_pictures_are_means_of_their_pixels():
    images = np.random.default_rng(0).random((2, 3, 112, 112))
    np.testing.assert_allclose(smaller(images), images.reshape(2, 3, 56, 2, 56, 2).mean((3, 5)), atol=1e-6)
