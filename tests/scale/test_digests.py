"""Digests of content: equal for equal content in any process, different for different content."""

import functools
import pickle
import threading

import numpy as np
import pytest
import torch
from scale_jobs import make_explainer

from cfexplain.foundation.digest import digest

pytestmark = pytest.mark.usefixtures("quietly")

EXPLAINERS = ["image", "table", "flow_image", "flow_table", "vae_image", "gradient_table", "revise_image", "clarity_table",
              "leap_image", "forest_table", "direction_table", "prototype_table"]


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_digest_is_of_the_content_and_work_does_not_change_it(request, name):
    explainer = request.getfixturevalue(f"{name}_explainer")
    X = request.getfixturevalue({"image": "digits", "table": "table"}[name.split("_")[-1]])[2]
    before = digest(explainer)
    explainer.explain(X[:3])
    explainer.predict(X[:3])
    assert digest(explainer) == before == digest(pickle.loads(pickle.dumps(explainer)))
    weights = [t for t in explainer.coordinates_.module_.state_dict().values() if t.is_floating_point()] \
        if isinstance(getattr(explainer.coordinates_, "module_", None), torch.nn.Module) else []
    for tensor in weights[:1] + weights[-1:]:
        kept = tensor.clone()
        tensor.view(-1)[0] += 1
        assert digest(explainer) != before
        tensor.copy_(kept)
    assert digest(explainer) == before


def test_training_again_from_one_seed_gives_one_digest(explainer):
    assert digest(make_explainer()) == digest(explainer)


def test_digests_tell_values_apart():
    one, two = np.zeros(3), [np.zeros(3)]
    different = [None, 0, 0.0, False, "0", b"0", np.float32(0), one, one.astype(np.float32), one[None], two, tuple(two),
                 [two], {"a": 1}, {1: "a"}, {1, 2}, {12}, [1, 2], [12], ["1", "2"], ["1, 2"], torch.zeros(3),
                 torch.zeros(1, 3), np.sum, np.mean, digest, lambda x: x, lambda x: x + 1, torch.float32, torch.nn.ReLU(),
                 torch.nn.GELU(), torch.nn.ReLU, torch.nn.Dropout(0.1), torch.nn.Dropout(0.2), np.random.RandomState(0),
                 np.random.RandomState(1),
                 np.random.default_rng(0), torch.nn.Sequential(torch.nn.ReLU(), torch.nn.GELU()),
                 torch.nn.Sequential(torch.nn.GELU(), torch.nn.ReLU()), functools.partial(digest, 1),
                 functools.partial(digest, 2)]
    assert len({digest(value) for value in different}) == len(different)
    assert digest([one, one]) == digest([one, one.copy()])
    circle = []
    circle.append(circle)
    assert digest(circle) != digest([[]])
    padded = np.zeros(2, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True))
    dirty = padded.copy()
    dirty.view(np.uint8)[1] = 7  # between the fields
    assert digest(padded) == digest(dirty)
    with pytest.raises(TypeError, match=r"dict\.lock"):
        digest({"lock": threading.Lock()})
    with pytest.raises(TypeError, match="generator"):
        digest(i for i in range(3))
