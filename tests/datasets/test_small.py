"""Loaders read small files as they are published and say what is missing; downloads are whole and checked, or not kept."""

import gzip
import hashlib
import http.server
import os
import threading
import urllib.request

import numpy as np
import pytest

from cfexplain import datasets
from cfexplain.datasets import get_data_home, load_mnist, load_pneumonia, load_smiles, small
from cfexplain.datasets.files import fetch


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """An empty home and no CFEXPLAIN_DATA."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("CFEXPLAIN_DATA", raising=False)
    return tmp_path / "home" / ".cache" / "cfexplain"


@pytest.mark.parametrize(("load", "file"), [(load_mnist, "mnist.npz"), (load_smiles, "smiles_64.npz")])
def test_a_missing_file_gets_a_place_to_put_it(load, file, no_data, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"{file}.*CFEXPLAIN_DATA") as error:
        load()
    assert str(no_data) in str(error.value)
    monkeypatch.setenv("CFEXPLAIN_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=file) as error:
        load()
    assert str(tmp_path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_files_in_the_published_layout_are_read(no_data, tmp_path, monkeypatch):
    rng = np.random.RandomState(0)
    raw = {"x_train": rng.randint(0, 256, (6, 28, 28), dtype=np.uint8), "y_train": np.arange(6, dtype=np.uint8),
           "x_test": rng.randint(0, 256, (2, 28, 28), dtype=np.uint8), "y_test": np.array([9, 0], dtype=np.uint8)}
    np.savez(tmp_path / "mnist.npz", **raw)
    for size, inside in ((28, slice(None)), (32, slice(2, 30))):
        X, y, X_test, y_test = load_mnist(tmp_path, size=size)
        for read, stored in ((X, raw["x_train"]), (X_test, raw["x_test"])):
            assert read.dtype == np.float32 and read.shape == (len(stored), size, size)
            np.testing.assert_allclose(read[:, inside, inside], stored / 255, atol=1e-7)
            outside = np.ones((size, size), bool)
            outside[inside, inside] = False
            assert not read[:, outside].any() and read.min() >= 0 and read.max() <= 1
        assert y.dtype.kind == y_test.dtype.kind == "i" and y.tolist() == list(range(6)) and y_test.tolist() == [9, 0]
    with pytest.raises(ValueError, match="28 or 32"):
        load_mnist(tmp_path, size=30)

    faces = rng.randint(0, 256, (3, 64, 64), dtype=np.uint8)
    no_data.mkdir(parents=True)
    np.savez(no_data / "smiles_64.npz", x=faces, y=np.array([1, 0, 1]))
    monkeypatch.setenv("CFEXPLAIN_DATA", str(tmp_path))
    for path in (None, no_data, str(no_data / "smiles_64.npz")):  # not in CFEXPLAIN_DATA: the cache is next
        X, y = load_smiles(path)
        assert X.dtype == np.float32 and y.tolist() == ["smile", "no smile", "smile"]
        np.testing.assert_allclose(X, faces / 255, atol=1e-7)
    assert len(load_mnist()[0]) == 6


RNG = np.random.RandomState(0)
DATA = os.environ.get("CFEXPLAIN_DATA", "")  # before the fixture below hides it


def idx(array):
    """MNIST's format: two zeros, 8 for bytes, the number of axes, big-endian lengths, the bytes."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def digits_idx():
    arrays = [RNG.randint(0, 256, (5, 28, 28)), RNG.randint(0, 10, 5), RNG.randint(0, 256, (3, 28, 28)),
              RNG.randint(0, 10, 3)]
    return {name: idx(array.astype(np.uint8)) for name, array in zip(small.MNIST_FILES, arrays, strict=True)}, arrays


def same_digits(loaded, arrays):
    for got, expected in zip(loaded, arrays, strict=True):
        if expected.ndim == 3:
            assert got.dtype == np.float32 and got.shape == (len(expected), 32, 32)
            np.testing.assert_allclose(got[:, 2:30, 2:30], expected / 255, atol=1e-7)
            assert got[:, :2].max() == got[:, 30:].max() == got[:, :, :2].max() == got[:, :, 30:].max() == 0
        else:
            assert got.dtype.kind == "i" and got.tolist() == expected.tolist()


@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw", "raw"])
@pytest.mark.parametrize("kind", ["gz", "plain", "dotted"])
def test_mnist_is_read_as_published(kind, folder, digits_idx, tmp_path):
    files, arrays = digits_idx
    (tmp_path / "data" / folder).mkdir(parents=True)
    for name, content in files.items():
        file = tmp_path / "data" / folder / (name if kind == "gz" else name.removesuffix(".gz").replace(
            "-idx", ".idx" if kind == "dotted" else "-idx"))
        file.write_bytes(gzip.compress(content) if kind == "gz" else content)
    same_digits(load_mnist(tmp_path / "data"), arrays)
    same_digits(load_mnist(data_home=tmp_path / "data"), arrays)


@pytest.mark.parametrize(("damage", "said"), [
    (lambda b: b[:-1], "damaged"), (lambda b: b + b"x", "damaged"), (lambda b: b"\0\0\x0d\3" + b[4:], "begins with"),
    (lambda b: b[:7], "begins with"), (lambda b: b"", "begins with")])
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_mnist_says_which_file(damage, said, packed, digits_idx, tmp_path):
    files, _ = digits_idx
    for k, (name, content) in enumerate(files.items()):
        content = damage(content) if k == 2 else content
        (tmp_path / (name if packed else name.removesuffix(".gz"))).write_bytes(
            gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=f"t10k-images.*{said}"):
        load_mnist(tmp_path)


def test_a_truncated_gzip_a_strange_npz_and_labels_of_another_length_are_errors(digits_idx, tmp_path):
    files, _ = digits_idx
    for name, content in files.items():
        (tmp_path / name).write_bytes(gzip.compress(content))
    first = tmp_path / next(iter(files))
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="train-images.*damaged"):
        load_mnist(tmp_path)
    first.write_bytes(gzip.compress(idx(np.zeros((4, 28, 28), np.uint8))))
    with pytest.raises(ValueError, match=r"\(4, 28, 28\)"):
        load_mnist(tmp_path)
    (tmp_path / "mnist.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="mnist.npz is damaged"):
        load_mnist(tmp_path)
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros(1))
    with pytest.raises(ValueError, match="y_train"):
        load_mnist(tmp_path)
    np.savez(tmp_path / "mnist.npz", **dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.array([print])))
    with pytest.raises(ValueError, match="damaged"):  # nothing is unpickled
        load_mnist(tmp_path)


def test_three_of_four_files_are_not_mnist(digits_idx, tmp_path):
    files, _ = digits_idx
    for name in list(files)[:3]:
        (tmp_path / name).write_bytes(gzip.compress(files[name]))
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte.*download=True"):
        load_mnist(tmp_path)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `cut` of them are sent short; counts what is asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.asked = {}, set(), []
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.lstrip("/").partition("?")[0]
        self.server.asked.append(name)
        if name not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if name in self.server.cut else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # which keeps the proxies of its first call
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def mnist_server(server, digits_idx, monkeypatch):
    server.files = {name: gzip.compress(content) for name, content in digits_idx[0].items()}
    monkeypatch.setattr(small, "MNIST_URL", server.url)
    monkeypatch.setattr(small, "MNIST_FILES", {name: hashlib.md5(b).hexdigest() for name, b in server.files.items()})
    return server


def test_mnist_is_downloaded_once_and_only_when_asked(mnist_server, digits_idx, tmp_path):
    with pytest.raises(FileNotFoundError, match="download=True"):
        load_mnist()
    assert mnist_server.asked == []
    home = tmp_path / "chosen"
    same_digits(load_mnist(download=True, data_home=home), digits_idx[1])
    assert sorted(file.name for file in (home / "mnist").iterdir()) == sorted(mnist_server.files)
    assert sorted(mnist_server.asked) == sorted(mnist_server.files)
    for again in ({"download": True, "data_home": home}, {"data_home": home}, {"path": home}, {"path": home / "mnist"}):
        same_digits(load_mnist(**again), digits_idx[1])
    assert len(mnist_server.asked) == 4
    same_digits(load_mnist(download=True), digits_idx[1])
    assert (get_data_home() / "mnist").is_dir() and str(get_data_home()).startswith(str(tmp_path))


@pytest.mark.parametrize(("how", "error", "said"), [
    ("tampered", ValueError, "checksum"), ("cut", OSError, "could not be downloaded"), ("gone", OSError, "404")])
def test_a_download_is_whole_or_leaves_nothing(how, error, said, mnist_server, digits_idx, tmp_path):
    name = list(mnist_server.files)[1]
    good = dict(mnist_server.files)
    if how == "tampered":
        body = bytearray(good[name])
        body[-1] ^= 1
        mnist_server.files[name] = bytes(body)
    elif how == "cut":
        mnist_server.cut.add(name)
    else:
        del mnist_server.files[name]
    with pytest.raises(error, match=said) as raised:
        load_mnist(download=True, data_home=tmp_path)
    assert name in str(raised.value)
    assert [file.name for file in (tmp_path / "mnist").iterdir()] == [list(good)[0]]  # no draft, and nothing of the bad one
    mnist_server.files, mnist_server.cut, before = good, set(), len(mnist_server.asked)
    same_digits(load_mnist(download=True, data_home=tmp_path), digits_idx[1])
    assert len(mnist_server.asked) == before + 3  # what was whole is not asked for again


def test_a_failed_download_leaves_the_old_file(server, tmp_path):
    file = tmp_path / "some"
    file.write_bytes(b"old")
    server.files["some"] = b"new"
    with pytest.raises(ValueError, match="checksum"):
        fetch(server.url + "some", file, hashlib.md5(b"other").hexdigest())
    assert file.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    fetch(server.url + "some", file, hashlib.md5(b"new").hexdigest())
    assert file.read_bytes() == b"new"
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match="could not be downloaded"):
        fetch(server.url + "some", file, hashlib.md5(b"new").hexdigest())


def test_pneumonia_is_downloaded(server, tmp_path, monkeypatch):
    arrays = {f"{part}_images": RNG.randint(0, 256, (n, 28, 28)).astype(np.uint8) for part, n in (
        ("train", 3), ("val", 2), ("test", 1))}
    arrays |= {name.replace("images", "labels"): RNG.randint(0, 2, (len(x), 1)) for name, x in arrays.items()}
    np.savez(tmp_path / "made.npz", **arrays)
    server.files["pneumoniamnist.npz"] = body = (tmp_path / "made.npz").read_bytes()
    monkeypatch.setattr(small, "PNEUMONIA_URL", f"{server.url}pneumoniamnist.npz?download=1")
    with pytest.raises(ValueError, match=small.PNEUMONIA_MD5):
        load_pneumonia(download=True, data_home=tmp_path)
    monkeypatch.setattr(small, "PNEUMONIA_MD5", hashlib.md5(body).hexdigest())
    X, y, X_test, y_test = load_pneumonia(download=True, data_home=tmp_path)
    np.testing.assert_allclose(X, np.concatenate([arrays["train_images"], arrays["val_images"]]) / 255, atol=1e-7)
    assert y.tolist() == np.concatenate([arrays["train_labels"], arrays["val_labels"]]).ravel().tolist()
    assert X_test.shape == (1, 28, 28) and y_test.shape == (1,)


@pytest.mark.data
def test_the_published_checksum_is_that_of_the_published_file():
    file = os.path.join(DATA, "pneumoniamnist.npz")
    if not os.path.isfile(file):
        pytest.skip("no pneumoniamnist.npz in $CFEXPLAIN_DATA")
    with open(file, "rb") as opened:
        assert hashlib.md5(opened.read()).hexdigest() == small.PNEUMONIA_MD5


def test_all_that_is_public_is_there():
    assert all(hasattr(datasets, name) for name in datasets.__all__)
    assert get_data_home("x").name == "x" and get_data_home().parts[-2:] == (".cache", "cfexplain")
