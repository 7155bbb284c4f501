"""Train the package's own classifier: on labels (the default classifier), or on a teacher's probabilities."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from cfexplain.foundation.random import seeded_torch
from cfexplain.nets.classifiers import ClassifierNet
from cfexplain.nets.losses import Rows

__all__ = ["train_classifier"]


def train_classifier(
    X: np.ndarray,
    targets: np.ndarray,
    *,
    updates: int | None = None,
    lr: float = 3e-3,
    weight_decay: float = 1e-2,
    seed: int,
    training_budget: float = 1.0,
    device: str | torch.device = "cpu",
    verbose: int | str = 0,
    name: str = "classifier",
) -> ClassifierNet:
    """A :class:`~cfexplain.nets.classifiers.ClassifierNet` that gives `targets` for `X`, in float32.

    Cross-entropy with soft targets, AdamW. Classes are not re-weighted: the probabilities keep the data's own class
    shares, as a calibrated classifier's do.

    Parameters
    ----------
    X : ndarray of shape (n, C, H, W) or (n, d)
    updates : int, optional
        Times `training_budget`. Default: what the number of rows needs, 1000 for 60,000.
    targets : ndarray of shape (n, K)
        Class probabilities; one-hot rows for labels.

    Returns
    -------
    net : ClassifierNet
        In evaluation mode, without parameter gradients, on `device`.
    """
    from cfexplain.nets.training import train_network, updates_for  # skorch is loaded when something is trained

    with seeded_torch(seed):
        net = ClassifierNet(X.shape[1:], targets.shape[1]).set_scale(X)
    # standardised before the cast: a column of large values and little spread keeps its digits
    rows = {
        "x": net.standardise(torch.from_numpy(X)).float(),
        "target": torch.from_numpy(np.ascontiguousarray(targets)).float(),
    }
    train_network(
        net.body, _soft_cross_entropy, rows, lr=lr,
        updates=updates_for(len(X), 1000, training_budget) if updates is None else math.ceil(updates * training_budget),
        weight_decay=weight_decay, strata=targets.argmax(1), seed=seed, apart=True, device=device, verbose=verbose,
        name=name)
    return net.to(device).eval().requires_grad_(False)


def _soft_cross_entropy(module: nn.Module, rows: Rows, _: float) -> Tensor:
    return -(rows["target"] * module(rows["x"]).float().log_softmax(1)).sum(1)
