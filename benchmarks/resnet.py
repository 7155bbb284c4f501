"""ResNet-34, the network that PLACE explains on faces: torchvision's, for grey images, trained from nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet34

from benchmarks.place_faces import moved
from cfexplain.nets.training import train_network

EPOCHS = 8


def grey_resnet34(n_classes: int = 2) -> nn.Module:
    net = resnet34(num_classes=n_classes)
    net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return net


def train_smile_resnet(X: np.ndarray, y: np.ndarray, seed: int = 0, epochs: float = EPOCHS) -> nn.Module:
    """On faces (n, H, W), mirrored and shifted; bfloat16 in training, which halves its time."""
    torch.manual_seed(seed)
    net, balance = grey_resnet34(), torch.tensor(len(y) / (2 * np.bincount(y)), dtype=torch.float32)

    def loss(module: nn.Module, rows: Any, progress: float) -> Tensor:
        x = moved(rows["x"]) if module.training else rows["x"]
        with torch.autocast("cpu", torch.bfloat16, enabled=module.training):
            scores = module(x)
        return F.cross_entropy(scores.float(), rows["y"], balance, reduction="none", label_smoothing=0.02)

    train_network(net, loss, {"x": torch.from_numpy(X)[:, None], "y": torch.from_numpy(y)}, lr=1e-3, weight_decay=5e-2,
                  updates=round(epochs * len(X) / 64), batch_size=64, seed=seed, strata=y, name="ResNet-34", verbose=1)
    return net
