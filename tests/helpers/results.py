"""Results of which every row is recognisable, and files of them that nobody should have written."""

import json
import os
import struct

import numpy as np

from cfexplain.result import STATUSES, Counterfactuals

LAYOUTS = {"table": ((5,), (5,)), "grey": ((4, 6), (1, 4, 6)), "colour": ((3, 4, 6), (3, 4, 6)),
           "flat image": ((24,), (1, 4, 6))}
LABELS = {
    "int": np.array([4, 9, 7]), "int32": np.array([4, 9, 7], dtype=np.int32), "float": np.array([0.5, 1.0, -2.0]),
    "float32": np.array([0.5, 1.0, -2.0], dtype=np.float32), "bool": np.array([True, False]),
    "str": np.array(["no smile", "smile", "“ü” <&>"]), "object": np.array(["a", "bc", 3, True, None], dtype=object)}
FLOATS = ("proba_before", "proba_after", "distance", "distance_x", "log_density", "density_percentile",
          "reconstruction_error")
OPTIONAL = ("surrogate_valid", "second_opinion")
COLUMNS = ("x", "x_cf", "reconstruction", "source", "target", "prediction", *FLOATS, "valid", "status", "n_steps", "z",
           "z_cf", *OPTIONAL)


def made(n=7, layout="table", labels="int", seed=0, paths=True, optional=True, container="numpy", **metadata):
    """A result of which every row is recognisable in every column."""
    rng = np.random.RandomState(seed)
    user, net = LAYOUTS[layout]
    names = LABELS[labels]
    columns = {name: rng.rand(n, *user).astype(np.float32) for name in ("x", "x_cf", "reconstruction")}
    columns.update({name: names[rng.randint(len(names), size=n)] for name in ("source", "target", "prediction")})
    columns.update({name: rng.rand(n) for name in FLOATS})
    columns["density_percentile"] *= 100
    columns.update({name: rng.rand(n) < 0.5 for name in ("valid", *(OPTIONAL if optional else ()))})
    columns.update(z=rng.randn(n, 3), z_cf=rng.randn(n, 3), n_steps=rng.randint(0, 5, n),
                   status=np.array(STATUSES)[rng.randint(len(STATUSES), size=n)])
    return Counterfactuals(
        **columns, conditions={"decision": rng.rand(n) < 0.5, "density": rng.rand(n) < 0.5}, container=container,
        path=[rng.randn(k + 1, 3) for k in columns["n_steps"]] if paths else None,
        metadata={"explainer": "PLACEExplainer", "is_image": len(net) == 3, "net_shape": list(net), **metadata})


def same(a, b):
    for name in COLUMNS:
        one, other = getattr(a, name), getattr(b, name)
        if one is None or other is None:
            assert one is other
        else:
            assert one.dtype == other.dtype, name
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert list(a.conditions) == list(b.conditions)
    for name, held in a.conditions.items():
        np.testing.assert_array_equal(held, b.conditions[name])
    assert (a.path is None) == (b.path is None)
    for one, other in zip(a.path or [], b.path or [], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (a.container, a.metadata) == (b.container, b.metadata)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def with_header(data, change):
    """The bytes of a safetensors file with ``change(header)`` made to its JSON header."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]
