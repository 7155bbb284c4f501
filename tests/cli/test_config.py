"""A config file: only a real true lets a pickle run, and each entry is of its kind."""

import pickle

import numpy as np
import pytest

from cfexplain.cli import main
from cfexplain.cli.config import read_config
from cfexplain.cli.models import load_classifier


class Marks:
    """A pickle that leaves a mark where it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.fixture
def hostile(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Marks(tmp_path / "mark")))
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "train.npz", X=rng.normal(size=(20, 3)), y=np.arange(20) % 2)
    return tmp_path


TRUST = ['"false"', '"true"', '"no"', "1", "0", "[]", "[true]", '""', "{}", "1.0"]


@pytest.mark.parametrize("trust", TRUST)
def test_only_a_real_true_lets_a_pickle_run(hostile, trust, capsys):
    config = hostile / "config.toml"
    command = ["fit", str(config), "--out", str(hostile / "out.safetensors"), "--quiet"]
    text = '[data]\npath = "train.npz"\n[classifier]\nfile = "model.pkl"\n'
    config.write_text(text + f"trust = {trust}\n")
    assert main(command) == 1 and "trust" in capsys.readouterr().err
    config.write_text(text)
    for given in (trust, "True", "yes", "false", "FALSE"):
        assert main([*command, "--set", f"classifier.trust={given}"]) == 1
        assert "trust" in capsys.readouterr().err
    for given in ("false", 1, None, "True"):
        with pytest.raises(ValueError, match="trust"):
            load_classifier(str(hostile / "model.pkl"), trust=given)
    assert not (hostile / "mark").exists()


def test_a_real_true_does(hostile):
    config = hostile / "config.toml"
    config.write_text('[data]\npath = "train.npz"\n[classifier]\nfile = "model.pkl"\ntrust = true\n')
    assert main(["fit", str(config), "--out", str(hostile / "out.safetensors"), "--quiet"]) == 1  # it is no model
    assert (hostile / "mark").exists()


@pytest.mark.parametrize("entry", [
    "size = 64", "size = [64]", "size = [0, 64]", 'size = ["a", 64]', "size = [64.5, 64]", "size = [true, 64]",
    "size = [1000000000000, 64]", "channels = 2", 'channels = "3"', "channels = true", "path = 3", 'path = ""',
    'path = "a\\u0000"', "label = 3", 'ignore = "a"', "ignore = [3]"])
def test_entries_of_another_kind_are_named(tmp_path, entry, capsys):
    data = entry if entry.startswith("path") else f'path = "x"\n{entry}'
    (tmp_path / "config.toml").write_text(f"[data]\n{data}\n")
    assert main(["fit", str(tmp_path / "config.toml"), "--out", str(tmp_path / "o.safetensors")]) == 1
    said = capsys.readouterr().err
    assert entry.split()[0] in said and "expected" in said


@pytest.mark.parametrize("text", [
    "data = 3", "[data]\npath = ", "a" * 5000, "x = " + "[" * 100_000, "\ufeff[data]", "[[data]]",
    *(f'[data]\npath="x"\n[explainer]\n{entry}' for entry in (
        'method = ["place"]', 'classifier = "a"', "data_range = 3", "preset = 4"))])
def test_no_config_shows_a_traceback(tmp_path, text, capsys):
    (tmp_path / "config.toml").write_text(text)
    for overrides in ([], ["--set", "data.path=x"]):
        assert main(["fit", str(tmp_path / "config.toml"), "--out", str(tmp_path / "o.safetensors"), *overrides]) == 1
        assert capsys.readouterr().err.startswith("cfexplain fit: ")
    assert main(["fit", str(tmp_path), "--out", str(tmp_path / "o.safetensors")]) == 1


def test_an_entry_is_set_whether_or_not_its_section_is_there(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('[data]\npath = "x"\n')
    config = read_config(file, ["explainer.method=leap", "explainer.random_state=3", "data.size=[8, 9]", "data.label=kind"])
    assert config["explainer"] == {"method": "leap", "random_state": 3}
    assert config["data"]["size"] == [8, 9] and config["data"]["label"] == "kind"
    file.write_text("")
    assert read_config(file, ["data.path=x"])["data"] == {"path": str(tmp_path / "x")}
    for wrong in ("data", "data=3", "data.=3", "=", ""):
        with pytest.raises(ValueError, match="SECTION.KEY=VALUE"):
            read_config(file, [wrong])
    with pytest.raises(ValueError, match="no section"):
        read_config(file, [".path=3"])


@pytest.mark.parametrize("name", ["m.pt2", "m.pt", "m.PKL", "m.joblib", "m.safetensors", "m", "m.bin"])
def test_no_model_file_shows_a_traceback(hostile, name, capsys):
    rng, file = np.random.default_rng(0), hostile / name
    for data in (b"", b"\x80\x04.", rng.bytes(300), b"PK\x03\x04" + rng.bytes(60)):
        file.write_bytes(data)
        for trust in ("true", "false"):
            (hostile / "config.toml").write_text(
                f'[data]\npath = "train.npz"\n[classifier]\nfile = "{name}"\ntrust = {trust}\n')
            assert main(["fit", str(hostile / "config.toml"), "--out", str(hostile / "o.safetensors")]) == 1
            said = capsys.readouterr().err
            assert said.startswith("cfexplain fit: ") and name in said and "Traceback" not in said
