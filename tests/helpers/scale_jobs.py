"""What the tests of resuming run in processes of their own; as a script, one rank of a job."""

import os
import pickle
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from torch import nn

from cfexplain import REVISEExplainer
from cfexplain.datasets import load_digits_images

BLOCK_SIZE = 15


def rows():
    return load_iris().data


def make_explainer():
    X, y = load_iris(return_X_y=True)
    return REVISEExplainer(training_budget=0.05, max_steps=4, random_state=0).fit(X, y)


class CountsThreads(nn.Module):
    """A classifier that rounds by the number of threads on every machine, as convolutions do on some."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) * (1 + 1e-4 * torch.get_num_threads())


def images():
    return load_digits_images()[0][:60].astype(np.float32)


def make_image_explainer():
    X, y = load_digits_images()
    X, y = X[:300].astype(np.float32), y[:300]
    explainer = REVISEExplainer(training_budget=0.02, max_steps=4, random_state=0).fit(X, y)
    return REVISEExplainer(CountsThreads(explainer.classifier_.module), coordinates=FrozenEstimator(explainer.coordinates_),
                           density=FrozenEstimator(explainer.density_), max_steps=4, random_state=0).fit(X, y)


def job(explainer_file, folder, threads=1, **options):
    """Explain iris, or digits, into `folder`."""
    torch.set_num_threads(threads)
    explainer = pickle.loads(Path(explainer_file).read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explainer.explain_to(folder, images() if explainer.layout_.is_image else rows(), 1,
                                    **{"block_size": BLOCK_SIZE, **options})


def job_killed_at(event, explainer_file, folder, tally=None):
    """The same, killed by itself just before it touches the folder for the `event`-th time; `tally` gets how often."""
    seen = 0

    def watch(name, arguments):
        nonlocal seen
        if name in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and isinstance(arguments[0], (str, Path)) \
                and str(arguments[0]).startswith(str(folder)):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    job(explainer_file, folder)
    if tally is not None:
        tally.put(seen)


def hold(folder, ready):
    """Be a writer of `folder` until killed."""
    from cfexplain.scale.folder import Writer

    with Writer(Path(folder), 0, 1):
        ready.set()
        time.sleep(600)


def joined(blocks):
    blocks = list(blocks)
    return type(blocks[0]).concatenate(blocks)


def contents(folder):
    """Every file of the results and its bytes; the lock and the log of times are no part of them."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name not in (".lock", "seconds.jsonl")}


def assert_same_results(cf, other):
    """Every array of two results is the same to the last bit."""
    for name in cf.row_fields:
        np.testing.assert_array_equal(getattr(cf, name), getattr(other, name), err_msg=name)
    assert cf.conditions.keys() == other.conditions.keys()
    for name, held in cf.conditions.items():
        np.testing.assert_array_equal(held, other.conditions[name], err_msg=name)


if __name__ == "__main__":
    job(*sys.argv[1:])
