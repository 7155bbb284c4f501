"""Lays test digits beside the trained networks, for a GPU machine without the data: ``python -m benchmarks.gpu.rows``."""

import numpy as np

from benchmarks._common import CACHE
from cfexplain.datasets import load_mnist

if __name__ == "__main__":
    _, _, X, y = load_mnist()
    np.savez_compressed(CACHE / "gpu-rows.npz", X=X, y=y)
    print(f"[{CACHE.name}/gpu-rows.npz: {len(X)} rows]")
