"""The same bits with any number of torch threads and workers, and from fits and searches that run at the same time."""

import copy
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scale_jobs import CountsThreads, assert_same_results, contents
from sklearn.frozen import FrozenEstimator
from torch import nn

from cfexplain import PLACEExplainer, REVISEExplainer
from cfexplain.explainers.run import Run
from cfexplain.foundation.digest import digest

pytestmark = pytest.mark.usefixtures("quietly")


def with_threads(number, call):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        made = call()
        assert torch.get_num_threads() == number
        return made
    finally:
        torch.set_num_threads(before)


def sensitive(explainer, X, y):
    """The explainer around a classifier that shows how many threads it is asked with."""
    module = CountsThreads(copy.deepcopy(explainer.classifier_.module))
    return PLACEExplainer(module, coordinates=FrozenEstimator(explainer.coordinates_), max_steps=12,
                          density=FrozenEstimator(explainer.density_), random_state=0).fit(X, y)


@pytest.mark.parametrize("kind", ["image", pytest.param("table", marks=pytest.mark.slow)])
def test_bits_do_not_depend_on_threads_or_workers(request, digits, table, tmp_path, kind):
    X, y, more, _ = digits if kind == "image" else table
    explainer, x = with_threads(1, lambda: sensitive(request.getfixturevalue(f"{kind}_explainer"), X, y)), more[:70]
    found, again = (with_threads(n, lambda: explainer.explain(x, y[0], record_path=True)) for n in (1, 2))
    for cf in (again, with_threads(2, lambda: explainer.explain(x, y[0], n_jobs=2, record_path=True))):
        assert_same_results(cf, found)
        assert all(np.array_equal(a, b) for a, b in zip(cf.path, found.path, strict=True))
    paths = (with_threads(n, lambda: explainer.decode_path(found[:2], frames=4)) for n in (1, 2))
    for a, b in zip(*paths, strict=True):
        assert np.array_equal(a.x, b.x) and np.array_equal(a.proba, b.proba)
    calls = {
        "proba": lambda: explainer.predict_proba(x),
        "densities": lambda: explainer.score_samples(x), "codes": lambda: explainer.coordinates_.encode_dataset(x.reshape(
            len(x), *explainer.layout_.net_shape))[0], "score": lambda: explainer.score(x[:8])}
    for name, call in calls.items():
        np.testing.assert_array_equal(with_threads(1, call), with_threads(2, call), err_msg=name)

    def stored(folder, threads):
        with_threads(threads, lambda: explainer.explain_to(tmp_path / folder, x[:40], y[0], block_size=20))
        return contents(tmp_path / folder)

    expected = stored("one", 1)
    assert stored("two", 2) == expected
    (tmp_path / "two" / "block-00000001.safetensors").unlink()
    assert stored("two", 1) == expected  # resumed


def test_blocks_side_by_side_are_what_they_are_alone(image_explainer, digits):
    x = digits[2][:75]
    one = with_threads(1, lambda: image_explainer.explain(x, k=2))
    for threads in (2, 3):
        assert_same_results(with_threads(threads, lambda: image_explainer.explain(x, k=2)), one)


def test_a_fit_of_a_table_does_not_depend_on_threads(table):
    X, y, _, _ = table
    one, two = (with_threads(n, lambda: PLACEExplainer(random_state=0, training_budget=0.02).fit(X, y)) for n in (1, 2))
    assert digest(one) == digest(two)


def test_fits_and_searches_side_by_side_are_what_they_are_alone(table):
    """Two networks share their body; explainers of both, and fits, run in eight threads at the same time."""
    X, x = table[0][:200], table[2][:24]
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.5))
    nets = [nn.Sequential(body, nn.Linear(16, 2)) for _ in range(2)]
    labels = []
    with torch.no_grad():
        for net in nets:  # as often one class as the other
            scores = net.eval()(torch.from_numpy(X))
            net[1].bias[1] -= (scores[:, 1] - scores[:, 0]).median()
            labels.append(net(torch.from_numpy(X)).argmax(1).numpy())
            net.train()
    body[0].bias.requires_grad_(False)
    flags = [[part.training for part in net.modules()] + [p.requires_grad for p in net.parameters()] for net in nets]

    def make(k):
        return REVISEExplainer(nets[k % 2], training_budget=0.02, max_steps=8, random_state=k).fit(X, labels[k % 2])

    def run(k):
        warnings.simplefilter("ignore")
        return digest(make(k)) if k < 4 else fitted[k].explain(x)

    state = torch.get_rng_state()
    fitted = {k: make(k) for k in range(4, 8)}
    alone = [run(k) for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, range(8)))
    assert together[:4] == alone[:4]
    for cf, expected in zip(together[4:], alone[4:], strict=True):
        assert_same_results(cf, expected)
    assert [[part.training for part in net.modules()] + [p.requires_grad for p in net.parameters()] for net in nets] == flags
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_of_a_table_are_not_torn_apart_before_threads_pay(table):
    """Of 512 rows half of the time is Python's, which two threads would only fight for; images share from fewer on."""
    X, y, *_ = table
    explainer = PLACEExplainer(training_budget=0.01, max_steps=3, sparse=False, random_state=0).fit(X, y)
    run = Run(explainer)
    assert [len(run._blocks(n, 2)) for n in (1, 512, 1024)] == [1, 1, 1] and len(run._blocks(4096, 2)) > 1
    for n in (1, 512, 4096, 5000):
        np.testing.assert_array_equal(np.sort(np.concatenate(run._blocks(n, 2))), np.arange(n))
