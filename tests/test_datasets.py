"""Loaders read small files as they are published and say what is missing; downloads are whole and checked, or not kept."""

import gzip
import hashlib
import http.server
import os
import threading

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from cfexplain import datasets
from cfexplain.datasets import get_data_home, load_celeba, load_chexpert, load_mall, load_mnist, load_pneumonia, small
from cfexplain.datasets._files import fetch, resized, shorter_to

RNG = np.random.RandomState(0)
DATA = os.environ.get("CFEXPLAIN_DATA", "")  # before the fixture below hides it


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("CFEXPLAIN_DATA", raising=False)


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


# ---------------------------------------------------------------------------------------------------------------- MNIST
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


# ------------------------------------------------------------------------------------------------------------ downloads
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


# ------------------------------------------------------------------------------------------------------------- pictures
@pytest.mark.parametrize("sides", [(178, 218), (218, 178), (64, 64), (320, 390), (65, 64)])
def test_cropping_is_torchvisions(sides):
    transforms = pytest.importorskip("torchvision.transforms")
    picture = Image.fromarray(RNG.randint(0, 256, (sides[1], sides[0], 3)).astype(np.uint8))
    expected = transforms.Compose([transforms.Resize(48), transforms.CenterCrop(48)])(picture)
    np.testing.assert_array_equal(np.asarray(resized(picture, 48, True)), np.asarray(expected))
    assert resized(picture, 48, False).size == (48, 48) and min(shorter_to(sides, 48)) == 48


def celeba_rows():
    """File name, smiling, split: 0 train, 1 validation, 2 test."""
    return [(f"{k + 1:06d}.jpg", k % 3 == 0, "001122"[k]) for k in range(6)]


@pytest.fixture(params=["flat", "published"])
def celeba(request, tmp_path):
    root = tmp_path / "celeba"
    images, attributes, parts = ((root, root, root) if request.param == "flat" else
                                 (root / "Img", root / "Anno", root / "Eval"))
    for folder in (images / "img_align_celeba", attributes, parts):
        folder.mkdir(parents=True, exist_ok=True)
    lines = ["6", "Bald Smiling Young"]
    for k, (name, smiling, _) in enumerate(celeba_rows()):
        lines.append(f"{name}  1 {'1' if smiling else '-1':>2} -1")
        flat = np.full((218, 178, 3), (40 * k, 255 - 40 * k, 100), np.uint8)
        Image.fromarray(flat).save(images / "img_align_celeba" / name, quality=95)
    (attributes / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    (parts / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, _, part in celeba_rows()))
    return root


def test_celeba(celeba, monkeypatch):
    for split, code in (("train", "0"), ("valid", "1"), ("test", "2")):
        X, y = load_celeba(celeba, "Smiling", size=16, split=split)
        rows = [k for k, row in enumerate(celeba_rows()) if row[2] == code]
        assert X.shape == (len(rows), 3, 16, 16) and X.dtype == np.float32
        assert y.tolist() == ["Smiling" if celeba_rows()[k][1] else "not Smiling" for k in rows]
        for x, k in zip(X, rows, strict=True):  # JPEG is off by a little
            np.testing.assert_allclose(x.mean((1, 2)), np.array([40 * k, 255 - 40 * k, 100]) / 255, atol=0.02)
    X, y = load_celeba(celeba.parent, "Bald", size=16, max_rows=1)  # the folder above it
    assert len(X) == 1 and y.tolist() == ["Bald"]
    monkeypatch.setenv("CFEXPLAIN_DATA", str(celeba.parent))
    assert load_celeba(size=8, crop=False)[0].shape == (2, 3, 8, 8)


def test_celeba_says_what_is_wrong(celeba, tmp_path):
    with pytest.raises(ValueError, match="Hat.*Bald, Smiling, Young"):
        load_celeba(celeba, "Hat")
    with pytest.raises(ValueError, match="split='all'"):
        load_celeba(celeba, split="all")
    with pytest.raises(FileNotFoundError, match="img_align_celeba.*list_attr_celeba.txt.*CFEXPLAIN_DATA"):
        load_celeba(tmp_path / "nowhere")
    images = next(celeba.rglob("img_align_celeba"))
    (images / "000001.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="000001.jpg cannot be read"):
        load_celeba(celeba)
    (images / "000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="000001.jpg is missing"):
        load_celeba(celeba)
    lists = next(celeba.rglob("list_attr_celeba.txt"))
    text = lists.read_text()
    lists.write_text(text.replace("000002.jpg  1 -1 -1", "000002.jpg  1 7 -1"))
    with pytest.raises(ValueError, match="line 4"):
        load_celeba(celeba)
    lists.write_text(text.replace("000002.jpg  1 -1 -1\n", ""))
    with pytest.raises(ValueError, match="no line for 000002.jpg"):
        load_celeba(celeba)
    next(celeba.rglob("list_eval_partition.txt")).write_text("000001.jpg\n")
    with pytest.raises(ValueError, match="list_eval_partition.txt is damaged"):
        load_celeba(celeba)


# patient, view, "No Finding", "Cardiomegaly"; published lists write 1.0, 0.0, -1.0 and nothing
CHESTS = [(1, "Frontal", "", "1.0"), (1, "Lateral", "", "1.0"), (6500, "Frontal", "1.0", ""),
          (6501, "Frontal", "", "1.0"), (6502, "Frontal", "", "0.0"), (6503, "Frontal", "", "-1.0"),
          (6504, "Frontal", "1.0", ""), (6505, "Frontal", "", "")]


@pytest.fixture
def chexpert(tmp_path):
    root = tmp_path / "CheXpert-v1.0-small"
    head = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly\n"
    lines = {"train": [head], "valid": [head]}
    for k, (part, (patient, view, none, label)) in enumerate([
            *(("train", chest) for chest in CHESTS), ("valid", (64541, "Frontal", "0.0", "1.0"))]):
        place = f"{part}/patient{patient:05d}/study1/view{k}_{view.lower()}.jpg"
        lines[part].append(f"CheXpert-v1.0-small/{place},Female,68,{view},AP,{none},{label}\n")
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((320, 390), 20 * k, np.uint8)).save(root / place)
    for part, rows in lines.items():
        (root / f"{part}.csv").write_text("".join(rows))
    return root


YES, NO = "Cardiomegaly", "no Cardiomegaly"


@pytest.mark.parametrize(("options", "expected"), [
    ({}, {6501: YES, 6502: NO, 6504: NO}),
    ({"uncertain": "positive"}, {6501: YES, 6502: NO, 6503: YES, 6504: NO}),
    ({"uncertain": "negative"}, {6501: YES, 6502: NO, 6503: NO, 6504: NO}),
    ({"blank": "negative"}, {6501: YES, 6502: NO, 6504: NO, 6505: NO}),
    ({"split": "test"}, {1: YES, 6500: NO}),
    ({"split": "valid"}, {64541: YES}),
    ({"max_rows": 2}, {6501: YES, 6502: NO})])
def test_chexpert(options, expected, chexpert):
    for path in (chexpert, chexpert.parent):
        X, y, patient = load_chexpert(path, size=32, **options)
        assert X.shape == (len(expected), 32, 32) and X.dtype == np.float32
        assert dict(zip(patient.tolist(), y.tolist(), strict=True)) == {f"patient{k:05d}": v for k, v in expected.items()}
    if options == {}:
        np.testing.assert_allclose(X.mean((1, 2)), np.array([60, 80, 120]) / 255, atol=0.01)


def test_no_finding_is_a_finding(chexpert):
    y = load_chexpert(chexpert, "No Finding", size=8)[1]
    assert (y == "No Finding").tolist() == [False, False, False, True, False]


def test_chexpert_says_what_is_wrong(chexpert, tmp_path):
    for options, said in (({"uncertain": "maybe"}, "uncertain='maybe'"), ({"split": "all"}, "split='all'"),
                          ({"finding": "Cough"}, "Cough"), ({"blank": "x"}, "blank='x'")):
        with pytest.raises(ValueError, match=said):
            load_chexpert(chexpert, **options)
    with pytest.raises(FileNotFoundError, match="train.csv.*patient00001.*CFEXPLAIN_DATA"):
        load_chexpert(tmp_path / "nowhere")
    lists = chexpert / "train.csv"
    text = lists.read_text()
    lists.write_text(text.replace(",0.0\n", ",yes\n"))
    with pytest.raises(ValueError, match="'yes'"):
        load_chexpert(chexpert)
    lists.write_text(text.replace("CheXpert-v1.0-small/train", "../../etc"))
    with pytest.raises(ValueError, match="expected paths like"):
        load_chexpert(chexpert)
    lists.write_text(text.splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="No frontal row"):
        load_chexpert(chexpert)
    lists.write_text(text)
    next(chexpert.rglob("patient06501/*/*.jpg")).unlink()
    with pytest.raises(FileNotFoundError, match="patient06501"):
        load_chexpert(chexpert)


# ----------------------------------------------------------------------------------------------------------------- Mall
@pytest.fixture(params=["cell", "struct"])
def mall(request, tmp_path):
    """Three frames of 640×480 with a white square around one head inside the cut-out; other heads are outside."""
    folder = tmp_path / "mall_dataset"
    (folder / "frames").mkdir(parents=True)
    heads = [np.array([[450.0, 300.0], [5.0, 5.0]]), np.array([[500.0, 400.0]]), np.zeros((0, 2))]
    for i, places in enumerate(heads):
        frame = np.zeros((480, 640, 3), np.uint8)
        for x, y in places.astype(int):
            frame[y - 4 : y + 5, x - 4 : x + 5] = 255
        Image.fromarray(frame).save(folder / "frames" / f"seq_{i + 1:06d}.jpg", quality=95)
    if request.param == "cell":
        frames = np.empty((1, 3), dtype=object)
        frames[0] = [{"loc": places} for places in heads]
    else:
        frames = np.array([[(places,) for places in heads]], dtype=[("loc", object)])
    savemat(folder / "mall_gt.mat", {"frame": frames, "count": np.array([[2], [1], [0]])})
    return folder


def test_mall_cuts_out_what_the_paper_does(mall):
    for path in (mall, mall.parent):
        X, count, heads = load_mall(path)
        assert X.shape == (3, 3, 64, 64) and X.dtype == np.float32 and count.tolist() == [1, 1, 0]
        assert [len(one) for one in heads] == [1, 1, 0] and all(one.dtype == np.float32 for one in heads)
    # a frame becomes 170 × 128 pixels, of which those from column 100 and row 64 are kept
    np.testing.assert_allclose(heads[0], [[450 * 170 / 640 - 100, 300 * 128 / 480 - 64]], rtol=1e-5)
    for i in (0, 1):  # the brightest pixel is the head's
        y, x = np.unravel_index(X[i].mean(0).argmax(), (64, 64))
        assert np.abs(heads[i][0] - (x, y)).max() < 1.5
    assert X[2].max() < 0.05


def test_mall_says_what_is_wrong(mall, tmp_path):
    (mall / "frames" / "seq_000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="seq_000002.jpg is missing"):
        load_mall(mall)
    Image.new("RGB", (64, 48)).resize((160, 120)).crop((0, 0, 100, 120)).save(mall / "frames" / "seq_000002.jpg")
    with pytest.raises(ValueError, match="640×480"):
        load_mall(mall)
    (mall / "mall_gt.mat").write_bytes(b"no MATLAB")
    with pytest.raises(ValueError, match="mall_gt.mat is damaged"):
        load_mall(mall)
    with pytest.raises(FileNotFoundError, match="seq_000001.jpg.*CFEXPLAIN_DATA"):
        load_mall(tmp_path / "nowhere")


def test_all_that_is_public_is_there():
    assert all(callable(getattr(datasets, name)) for name in datasets.__all__)
    assert get_data_home("x").name == "x" and get_data_home().parts[-2:] == (".cache", "cfexplain")
