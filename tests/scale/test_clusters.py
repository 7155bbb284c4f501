"""Ranks, workers, and Dask: the bits of one process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scale_jobs
from joblib import parallel_config
from scale_jobs import BLOCK_SIZE, assert_same_results, contents, job, joined, rows

import cfexplain
from cfexplain.foundation.exceptions import TargetError

pytestmark = pytest.mark.usefixtures("quietly")


def test_ranks_share_the_work(explainer, explainer_file, uninterrupted, tmp_path, monkeypatch):
    store = job(explainer_file, tmp_path, rank=1, world_size=3)
    assert not store.complete and len(store) == 0
    assert len(contents(tmp_path)) == 1 + 3
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    store = job(explainer_file, tmp_path)
    assert not store.complete and len(store) == 2 * BLOCK_SIZE
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert job(explainer_file, tmp_path).complete  # whoever comes finishes it
    assert contents(tmp_path) == uninterrupted


@pytest.mark.slow
def test_torchrun_gives_the_bytes_of_one_process(explainer_file, uninterrupted, tmp_path):
    script = scale_jobs.__file__
    root = str(Path(cfexplain.__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         script, str(explainer_file), str(tmp_path / "store")],
        env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "store") == uninterrupted
    assert cfexplain.load_results(tmp_path / "store").complete


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib_moves_the_work_without_a_word(explainer, whole, backend):
    with parallel_config(backend, n_jobs=2):
        assert_same_results(explainer.explain(rows(), 1), whole)
        assert_same_results(joined(explainer.explain_iter(rows(), 1, block_size=100)), whole)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("dask.distributed", reason="needs dask: pip install 'cfexplain[dask]'")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, \
            distributed.Client(cluster):
        yield


def test_a_dask_cluster_gives_the_same_bits(cluster, explainer, whole):
    da = pytest.importorskip("dask.array")
    with parallel_config("dask"):
        assert_same_results(explainer.explain(rows(), 1), whole)
    X = da.from_array(rows(), chunks=(40, 2))
    found = explainer.transform(X, 1)
    assert isinstance(found, da.Array) and found.chunks[0] == X.chunks[0] and found.dtype == X.dtype
    np.testing.assert_array_equal(found.compute(), whole.x_cf)


def test_a_dask_dataframe_gives_a_dask_array(explainer, whole):
    dd = pytest.importorskip("dask.dataframe", reason="needs dask: pip install 'cfexplain[dask]'")
    frame = dd.from_pandas(pd.DataFrame(rows()), npartitions=3)
    np.testing.assert_array_equal(explainer.transform(frame, 1).compute(scheduler="threads"), whole.x_cf)
    assert_same_results(joined(explainer.explain_iter(frame, 1, block_size=64)), whole)
    with pytest.raises(TargetError, match="to_dask_array"):
        explainer.transform(frame, [1] * 150)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_dask_collections_are_transformed_lazily_and_streamed(explainer, whole, scheduler, tmp_path):
    dask = pytest.importorskip("dask", reason="needs dask: pip install 'cfexplain[dask]'")
    da = pytest.importorskip("dask.array")
    target = np.arange(150) % 3
    with dask.config.set(scheduler=scheduler):
        X = da.from_array(rows(), chunks=(40, 2))
        one_a_row = explainer.explain(rows(), target).x_cf
        np.testing.assert_array_equal(explainer.transform(X, target).compute(), one_a_row)
        np.testing.assert_array_equal(explainer.transform(X, da.from_array(target, chunks=7)).compute(), one_a_row)
        unknown = X[X[:, 0] > 5]  # chunks of unknown size, some perhaps empty
        kept = (rows()[:, 0] > 5)
        np.testing.assert_array_equal(explainer.transform(unknown, 1).compute(), whole.x_cf[kept])
        np.testing.assert_array_equal(explainer.transform(X[X[:, 0] > 100], 1).compute(), np.empty((0, 4)))
        assert_same_results(joined(explainer.explain_iter(X, 1, block_size=64)), whole)
        assert_same_results(explainer.explain_to(tmp_path, X, 1, block_size=64).concatenate(), whole)
        with pytest.raises(TargetError, match="compute_chunk_sizes"):
            explainer.transform(unknown, target[kept])
        with pytest.raises(TargetError, match="for 150 rows"):
            explainer.transform(X, target[:10])
