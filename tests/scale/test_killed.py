"""Processes that are killed, interrupted, or two at once: the folder ends with the same bytes."""

import multiprocessing
import os
import time

import numpy as np
import pytest
import torch
from scale_jobs import contents, hold, job, job_killed_at
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from cfexplain import REVISEExplainer, load_results
from cfexplain.foundation.exceptions import StoreError
from cfexplain.scale import folder as result_folder

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.fixture(scope="module")
def processes():
    """Processes that start fast, since their parent has imported everything; not forked from this one, which has threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scale_jobs", "cfexplain"])
    return context


def finish(explainer_file, folder, expected, threads=1):
    before = torch.get_num_threads()
    try:
        job(explainer_file, folder, threads)
    finally:
        torch.set_num_threads(before)
    assert contents(folder) == expected
    assert sorted(os.listdir(folder)) == sorted([*expected, ".lock", "seconds.jsonl"])  # no drafts


def kill_at_times(processes, explainer_file, tmp_path, expected, kills, seed):
    random, killed, trial, duration = np.random.RandomState(seed), 0, 0, 0.0
    for name in ("first", "timed"):  # the first one has to import
        started = time.perf_counter()
        process = processes.Process(target=job, args=(explainer_file, tmp_path / name))
        process.start()
        process.join()
        duration = time.perf_counter() - started
    while killed < kills:
        folder, trial = tmp_path / str(trial), trial + 1
        for _ in range(random.randint(1, 4)):  # some are killed again when they resume
            process = processes.Process(target=job, args=(explainer_file, folder, random.randint(1, 4)))
            process.start()
            time.sleep(random.uniform(0, 0.9 * duration))
            process.kill()
            process.join()
            killed += process.exitcode == -9
        finish(explainer_file, folder, expected, threads=random.randint(1, 4))
    return killed


def kill_at_events(processes, explainer_file, tmp_path, expected, events):
    tally = processes.Queue()
    process = processes.Process(target=job_killed_at, args=(0, explainer_file, tmp_path / "counted", tally))
    process.start()
    total = tally.get(timeout=300)
    process.join()
    assert total > 4 * len(expected)
    for event in events(total):
        folder = tmp_path / f"event{event}"
        process = processes.Process(target=job_killed_at, args=(event, explainer_file, folder))
        process.start()
        process.join()
        assert process.exitcode == -9
        finish(explainer_file, folder, expected)


def test_killed_at_any_time_it_finishes_with_the_same_bytes(processes, explainer_file, uninterrupted, tmp_path):
    assert kill_at_times(processes, explainer_file, tmp_path, uninterrupted, 2, seed=0) >= 2


def test_killed_between_any_two_touches_of_the_folder(processes, explainer_file, uninterrupted, tmp_path):
    kill_at_events(processes, explainer_file, tmp_path, uninterrupted, lambda total: [1, total // 2, total - 2])


def test_images_go_on_with_another_number_of_threads(processes, image_file, uninterrupted_images, tmp_path):
    assert kill_at_times(processes, image_file, tmp_path, uninterrupted_images, 1, seed=2) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", "image"])
def test_killed_a_hundred_times(request, processes, tmp_path, kind):
    names = ("explainer_file", "uninterrupted") if kind == "table" else ("image_file", "uninterrupted_images")
    explainer_file, expected = map(request.getfixturevalue, names)
    assert kill_at_times(processes, explainer_file, tmp_path, expected, 100, seed=1) >= 100


@pytest.mark.slow
def test_killed_at_every_touch_of_the_first_blocks_and_the_last(processes, explainer_file, uninterrupted, tmp_path):
    kill_at_events(processes, explainer_file, tmp_path, uninterrupted,
                   lambda total: [*range(1, 45), *range(total - 14, total)])


def test_two_processes_at_once_are_refused_and_a_dead_one_is_forgotten(
        processes, explainer, explainer_file, uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(result_folder, "PATIENCE", 0.3)
    folder, ready = tmp_path / "store", processes.Event()
    process = processes.Process(target=hold, args=(folder, ready))
    process.start()
    assert ready.wait(120)
    for ranks in ({}, {"rank": 0, "world_size": 2}):
        with pytest.raises(StoreError, match=f"written by process {process.pid}"):
            job(explainer_file, folder, **ranks)
    job(explainer_file, tmp_path / "other")  # another folder is free
    process.kill()
    process.join()
    finish(explainer_file, folder, uninterrupted)


CALLS = []


class Interrupting(torch.nn.Linear):
    """Ctrl-C, pressed while a search is under way."""

    def forward(self, x):
        CALLS.append(x.requires_grad)
        if CALLS.count(True) == 12:
            CALLS.append(True)
            raise KeyboardInterrupt
        return super().forward(x)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ctrl_c_writes_no_unfinished_row(tmp_path):
    X, y = load_iris(return_X_y=True)
    model, learned = Interrupting(4, 3).double(), LogisticRegression(max_iter=500).fit(X, y)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(learned.coef_))
        model.bias.copy_(torch.from_numpy(learned.intercept_))
    explainer = REVISEExplainer(model, training_budget=0.02, max_steps=5, random_state=0).fit(X, y)
    CALLS[:] = [True] * 100
    expected = explainer.explain_to(tmp_path / "expected", X, 1, block_size=40, backend="eager")
    CALLS.clear()
    with pytest.raises(KeyboardInterrupt):
        explainer.explain_to(tmp_path / "store", X, 1, block_size=40, backend="eager")
    assert len(load_results(tmp_path / "store", incomplete=True)) in (0, 40, 80)
    explainer.explain_to(tmp_path / "store", X, 1, block_size=40, backend="eager")
    assert contents(tmp_path / "store") == contents(expected.path)
    CALLS.clear()
    blocks = explainer.explain_iter(X, 1, block_size=40, backend="eager")
    with pytest.raises(KeyboardInterrupt):
        *_, last = iter(lambda: next(blocks), None)
