"""Folders of results: what is in them, what is refused, what is read from them."""

import json
import os
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scale_jobs import BLOCK_SIZE, assert_same_results, contents, job, rows

from cfexplain import load_results
from cfexplain.foundation.exceptions import StoreError

pytestmark = pytest.mark.usefixtures("quietly")


def test_a_store_reads_like_one_result(explainer, whole, tmp_path):
    store = explainer.explain_to(tmp_path, rows(), 1, block_size=40)
    assert len(store) == 150 and [len(block) for block in store.blocks()] == [40, 40, 40, 30]
    assert_same_results(store.concatenate(), whole)
    assert_same_results(load_results(tmp_path).concatenate(), whole)
    np.testing.assert_array_equal(np.asarray(store), whole.x_cf)
    assert np.asarray(store, dtype=np.float32).dtype == np.float32
    random = np.random.RandomState(0)
    for index in (0, -1, 149, slice(30, 50), slice(None, None, -7), [149, 0, 0, 77], whole.valid, random.permutation(150),
                  np.int64(3), [], slice(0, 0)):
        assert_same_results(store[index], whole[index])
    for index in (150, -151, [0, 150], np.zeros((2, 2), int)):
        with pytest.raises(IndexError):
            store[index]
    assert [float(row.distance[0]) for row in store] == whole.distance.tolist()
    pd.testing.assert_frame_equal(store.to_frame(features=True), whole.to_frame(features=True))
    assert [frame.index[0] for frame in store.frames()] == [0, 40, 80, 120]
    assert store.seconds > 0 and "150 rows in 4 blocks" in repr(store)


def test_progress_is_told(explainer, tmp_path, capsys):
    told = []
    explainer.explain_to(tmp_path, rows(), 1, block_size=64, progress=lambda done, of: told.append((done, of)))
    assert told == [(64, 150), (128, 150), (150, 150)]
    explainer.explain_to(tmp_path / "stream", iter(rows()), 1, block_size=64, progress=True)
    assert "150" in capsys.readouterr().err


def test_bytes_do_not_depend_on_workers_source_or_what_was_before(explainer, explainer_file, uninterrupted, tmp_path):
    assert len(uninterrupted) == 1 + -(-150 // BLOCK_SIZE)
    job(explainer_file, tmp_path / "again")
    explainer.set_params(verbose=1)
    explainer.set_params(verbose="auto").explain_to(tmp_path / "here", rows(), 1, block_size=BLOCK_SIZE)
    for name in ("again", "here"):
        assert contents(tmp_path / name) == uninterrupted, name
    for n_jobs in (1, 2):
        job(explainer_file, tmp_path / str(n_jobs), n_jobs=n_jobs, block_size=75)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    streamed = explainer.explain_to(tmp_path / "stream", iter(rows()), 1, block_size=BLOCK_SIZE)
    assert streamed.manifest["x"]["rows"] == 150
    assert {n: b for n, b in contents(streamed.path).items() if n != "manifest.json"} == {
        n: b for n, b in uninterrupted.items() if n != "manifest.json"}


def test_what_is_there_is_not_computed_again(explainer, tmp_path):
    store = explainer.explain_to(tmp_path, rows(), 1, block_size=40)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")}
    explainer.explain_to(tmp_path, rows(), 1, block_size=40)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")} == before
    (tmp_path / "block-00000002.safetensors").unlink()
    with pytest.raises(StoreError, match="block-00000002.safetensors is missing"):
        load_results(tmp_path)
    explainer.explain_to(tmp_path, rows(), 1, block_size=40)
    assert_same_results(load_results(tmp_path).concatenate(), store.concatenate())


def test_another_explainer_or_x_is_refused_and_nothing_is_touched(explainer, tmp_path):
    X = rows()
    explainer.explain_to(tmp_path, X, 1, block_size=40)
    before = contents(tmp_path)
    other = pickle.loads(pickle.dumps(explainer))
    with torch.no_grad():
        next(other.classifier_.module.parameters()).view(-1)[0] += 1e-6
    changed = X.copy()
    changed[0, 0] += 1e-6
    cases = {
        "the explainer": dict(explainer=other), "weights": dict(explainer=pickle.loads(pickle.dumps(explainer)).set_params(
            max_steps=5)), "other values": dict(X=changed), "rows 150 there, 149 here": dict(X=X[:149]),
        "dtype float64 there, float32 here": dict(X=X.astype(np.float32)), "target": dict(target=2),
        r"target \(1 there, \{'per_row'": dict(target=np.ones(150, int)), "block_size": dict(block_size=41),
        "options": dict(record_path=True), "resume=True": dict(resume=False)}
    for match, case in cases.items():
        arguments = {"X": X, "target": 1, "block_size": 40, **case}
        with pytest.raises(StoreError, match=match):
            arguments.pop("explainer", explainer).explain_to(tmp_path, **arguments)
    # a row that the manifest does not remember: the block that holds it is compared
    for row in range(1, 150, 10):
        changed = X.copy()
        changed[row, 0] += 1e-6
        with pytest.raises(StoreError, match="other values|made of other rows"):
            explainer.explain_to(tmp_path, changed, 1, block_size=40)
    for stream in (X[:80], np.concatenate([X, X[:1]]), np.concatenate([X, X]), X[:0]):
        with pytest.raises(StoreError):
            explainer.explain_to(tmp_path, iter(stream), 1, block_size=40)
    assert contents(tmp_path) == before


def test_another_version_is_refused(explainer, tmp_path):
    explainer.explain_to(tmp_path, rows(), 1, block_size=80)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["explainer"]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="torch 1.0"):
        explainer.explain_to(tmp_path, rows(), 1, block_size=80)
    assert len(load_results(tmp_path)) == 150  # reading them is no problem


def test_damaged_stores_say_so(explainer, tmp_path):
    explainer.explain_to(tmp_path, rows(), 1, block_size=80)
    path, block = tmp_path / "manifest.json", tmp_path / "block-00000001.safetensors"
    manifest, data = path.read_text(), block.read_bytes()
    for damage in ("", "[]", "null", "{", manifest[:-20], manifest.replace('"rows": 150', '"rows": -1'), "[" * 100_000,
                   manifest.replace('"block_size": 80', '"block_size": 0'), manifest.replace("cfexplain results", "other"),
                   manifest.replace('"block_size": 80', '"block_size": true')):
        path.write_text(damage)
        for use in (lambda: load_results(tmp_path), lambda: explainer.explain_to(tmp_path, rows(), 1, block_size=80)):
            with pytest.raises(StoreError, match="damaged"):
                use()
    path.write_text(manifest.replace('"version": 1', '"version": 2'))
    with pytest.raises(StoreError, match="newer cfexplain"):
        load_results(tmp_path)
    path.write_text(manifest)
    block.write_bytes(data[:100])
    with pytest.raises(ValueError, match="damaged"):
        load_results(tmp_path).concatenate()
    block.write_bytes((tmp_path / "block-00000000.safetensors").read_bytes())
    with pytest.raises(StoreError, match="80 rows instead of 70"):
        load_results(tmp_path).concatenate()
    with pytest.raises(FileNotFoundError, match="no results"):
        load_results(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"Counterfactuals.load\(\)"):
        load_results(block)


def test_errors_in_the_middle_keep_what_was_before(explainer, whole, tmp_path):
    X = rows()
    bad = X.copy()
    bad[100, 2] = np.inf
    stream = [X[:40], X[40:80], bad[80:120], X[120:]]
    with pytest.raises(ValueError, match="infinity") as error:
        explainer.explain_to(tmp_path, iter(stream), 1, block_size=40)
    if sys.version_info >= (3, 11):
        assert "rows 80–119" in error.value.__notes__[0]
    with pytest.raises(StoreError, match="not finished: 2 blocks"):
        load_results(tmp_path)
    some = load_results(tmp_path, incomplete=True)
    assert len(some) == 80 and not some.complete
    assert_same_results(some.concatenate(), whole[:80])
    assert_same_results(explainer.explain_to(tmp_path, iter(X), 1, block_size=40).concatenate(), whole)


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: data[:-3] + b"\xff\x00\xff"])
def test_a_damaged_block_is_computed_again(explainer, tmp_path, damage):
    explainer.explain_to(tmp_path, rows(), 1, block_size=80)
    expected, block = contents(tmp_path), tmp_path / "block-00000001.safetensors"
    block.write_bytes(damage(block.read_bytes()))
    with pytest.warns(RuntimeWarning, match="block-00000001.*computed again"):
        explainer.explain_to(tmp_path, rows(), 1, block_size=80)
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("name", ["manifest.json", "seconds.jsonl", ".lock", "block-00000000.safetensors", ".writer-0-of-1",
                                  ".writer-0-of-1.lock"])
def test_nothing_is_written_through_a_link(explainer, tmp_path, name):
    folder, outside = tmp_path / "store", tmp_path / "outside"
    explainer.explain_to(folder, rows(), 1, block_size=80)
    (folder / name).unlink(missing_ok=True)
    outside.write_bytes(b"precious")
    (folder / name).symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        explainer.explain_to(folder, rows(), 1, block_size=80)
    assert outside.read_bytes() == b"precious"
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(StoreError, match="no regular file"):
        explainer.explain_to(folder, rows(), 1, block_size=80)


def test_strange_manifests_and_logs(explainer, tmp_path):
    store, path = explainer.explain_to(tmp_path, rows(), 1, block_size=80), tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, values in (("explainer", ([], None, {}, {"versions": []})), ("x", ([], {"rows": 150.0}))):
        for value in values:
            path.write_text(json.dumps({**manifest, name: value}))
            with pytest.raises(StoreError, match="damaged"):
                load_results(tmp_path)
    (tmp_path / "seconds.jsonl").write_bytes(b'\xff\n[1]\n{"block": 1e999, "seconds": 1}\n{"block": 0, "seconds": 2.5}\n')
    assert store.seconds == 2.5
