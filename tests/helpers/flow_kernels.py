"""Flows for the kernels, on the device that runs them."""

from __future__ import annotations

import torch
from coupling_flows import nice

from cfexplain.density.frozen import pack
from cfexplain.ops.coupling_flow.triton import prepare

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"

FLOWS = {
    "digits": lambda: nice(64, 10, 2, (256, 256)),
    "odd": lambda: nice(7, 3),
    "two features": lambda: nice(2, 2, 4, (8,)),
    "one class": lambda: nice(5, 1, 3, (20, 70)),
    "one layer": lambda: nice(33, 3, 1),
    "many classes": lambda: nice(6, 37, 2, (9,)),
    "attributes": lambda: nice(9, 3, 3, base="attributes"),
}


def on_device(flow, precision="float32"):
    return prepare(pack(flow).to(DEVICE), precision)
