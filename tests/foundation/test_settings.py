"""Whatever a caller switched on in torch or NumPy: fit and explain work, with the same bits, and leave it as it was."""

import functools
import random
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from torch import nn

import cfexplain
from cfexplain import DiffeomorphicExplainer, LeapExplainer, PLACEExplainer
from cfexplain.coordinates import Flow
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.settings import own_defaults, own_modes

X, y = load_iris(return_X_y=True)
SMALL = {"training_budget": 0.002, "max_steps": 5, "random_state": 0}
IMAGES = np.random.RandomState(0).rand(40, 8, 8).astype(np.float32)
LABELS = np.arange(40) % 2
FLOW = Flow(steps=1, hidden=8, training_budget=0.002)
METHODS = {"place": (PLACEExplainer, X, y), "leap": (LeapExplainer, X, y),
           "flow of images": (functools.partial(DiffeomorphicExplainer, generator=FLOW), IMAGES, LABELS)}


@contextmanager
def switched(switch, value, before):
    switch(value)
    try:
        yield
    finally:
        switch(before)


SETTINGS = {
    "inference_mode": torch.inference_mode, "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda: torch.device("meta"),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "anomalies": lambda: switched(torch.autograd.set_detect_anomaly, True, False),
    "NumPy raises": lambda: np.errstate(all="raise"),
}


def found(method, path):
    """What is found before and after a way through a file, in bytes."""
    cls, samples, labels = METHODS[method]
    explainer = cls(**SMALL).fit(samples, labels)
    cf = explainer.explain(samples[:2])
    explainer.save(path)
    again = cfexplain.load(path).explain(samples[:2])
    explainer.predict(samples[:2])
    explainer.score_samples(samples[:2])
    return [array.tobytes() for result in (cf, again) for array in (
        result.x_cf, result.z_cf, result.proba_after, result.log_density, result.n_steps)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What each method finds under no setting, by its name."""
    path = tmp_path_factory.mktemp("plain") / "explainer.safetensors"
    return functools.cache(lambda method: found(method, path))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["place", pytest.param("flow of images", marks=pytest.mark.slow), "leap"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_caller_change_no_bit(setting, method, plain, tmp_path):
    with SETTINGS[setting]():
        here = found(method, tmp_path / "explainer.safetensors")
    assert here == plain(method)


@pytest.mark.filterwarnings("ignore")
def test_what_was_fitted_under_inference_mode_is_differentiated_afterwards():
    with torch.inference_mode():
        explainer = PLACEExplainer(**SMALL).fit(IMAGES, LABELS)
        before = explainer.explain(IMAGES[:3])
    after = explainer.explain(IMAGES[:3])
    assert after.x_cf.tobytes() == before.x_cf.tobytes()
    z = torch.from_numpy(after.z).requires_grad_()
    explainer.coordinates_.decode(z).sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore")
def test_settings_are_the_callers_again_afterwards():
    with switched(torch.set_default_dtype, torch.float64, torch.float32), torch.no_grad(), \
            switched(torch.autograd.set_detect_anomaly, True, False), torch.autocast("cpu", torch.bfloat16):
        PLACEExplainer(**SMALL).fit(X, y).explain(X[:2])
        assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled()
        assert torch.is_anomaly_enabled() and torch.is_autocast_enabled("cpu")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS)
def test_no_random_number_is_drawn_from_the_global_generators(method, tmp_path):
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = states()
    found(method, tmp_path / "explainer.safetensors")
    assert states() == before


def test_anomaly_detection_comes_back_when_the_last_one_leaves():
    with switched(torch.autograd.set_detect_anomaly, True, False), ExitStack() as outer:
        with own_modes():
            outer.enter_context(own_modes())  # another thread's, say
        assert not torch.is_anomaly_enabled()
        outer.close()
        assert torch.is_anomaly_enabled()


def test_own_defaults_leave_what_says_its_dtype():
    with switched(torch.set_default_dtype, torch.float64, torch.float32), own_defaults():
        assert torch.zeros(2).dtype == torch.tensor([1.0, 2]).dtype == torch.full((2,), 0.5).dtype == torch.float32
        assert torch.zeros(2, dtype=torch.float64).dtype == torch.tensor(np.zeros(2)).dtype == torch.float64
        assert torch.tensor([1, 2]).dtype == torch.arange(3).dtype == torch.int64


def test_a_network_made_under_inference_mode_is_refused_by_name():
    with torch.inference_mode():
        net = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="'weight' of Linear was made under torch.inference_mode"), frozen(net):
        pass
