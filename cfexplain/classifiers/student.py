"""A smoother copy of a classifier, distilled from it: a counterfactual that flips both changed more than a weak spot."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from cfexplain.foundation.arrays import channels_first, to_numpy
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.parameters import Number, check_options
from cfexplain.foundation.random import draw_seed
from cfexplain.foundation.tiles import in_tiles
from cfexplain.nets.losses import Rows

__all__ = ["LeakySoftplus", "smooth_student"]

_KINKED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU)
_RULES = {"training_budget": Number(0, math.inf, between=True), "lr": Number(0, math.inf, between=True)}


class LeakySoftplus(nn.Module):
    """slope · x + (1 − slope) · log(1 + exp(βx)) / β: a ReLU without a kink, whose gradient never vanishes.

    Examples
    --------
    >>> LeakySoftplus()(torch.tensor([-100.0, 0.0, 100.0], dtype=torch.float64)).round(decimals=3).tolist()
    [-1.0, 0.137, 100.0]
    """

    def __init__(self, slope: float = 0.01, beta: float = 5.0):
        super().__init__()
        self.slope, self.beta = slope, beta

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x + (1 - self.slope) * F.softplus(x, self.beta)


def smooth_student(
    net: nn.Module,
    X: ArrayLike | Tensor,
    *,
    lr: float = 3e-4,
    training_budget: float = 1.0,
    random_state: int | None = 0,
    device: str | torch.device = "cpu",
    verbose: int = 0,
) -> nn.Module:
    """A copy of `net` whose ReLUs are leaky softplus, trained to give what `net` gives for `X`: what NAFR asks.

    Adversarial examples live on the kinks of a network; a counterfactual that shows the class flips the student as well.

    Parameters
    ----------
    net : nn.Module
        Logits (B, K). Its weights are where the student begins; it is left as it was.
    X : array-like or tensor of shape (n, ...)
        Training samples, as `net` takes them; labels are not needed.
    lr : float, default=3e-4
    training_budget : float, default=1
        Times the usual updates: 150 for a few rows, 1000 for 60,000.
    random_state : int or None, default=0
    device : str or torch.device, default="cpu"
    verbose : int, default=0

    Returns
    -------
    nn.Module
        Logits; in evaluation mode, without parameter gradients. For ``protocol_metrics(student=...)``.

    Raises
    ------
    ValueError
        `net` has no ReLU among its modules (one that is called as a function cannot be replaced), or answers that are not
        logits (n, K) of at least two classes.
    FloatingPointError
        The training diverged.

    References
    ----------
    Bender et al., *Towards desiderata-driven design of visual counterfactual explainers*, 2025 (PEAL's SCE), where the
    student is distilled so; Dombrowski et al., *Explanations can be manipulated and geometry is to blame*, NeurIPS 2019.

    Examples
    --------
    >>> from cfexplain.foundation.random import seeded_torch
    >>> with seeded_torch(0):
    ...     net, X = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(200, 4)
    >>> student = smooth_student(net, X, training_budget=0.2)
    >>> bool((student(X).argmax(1) == net(X).argmax(1)).float().mean() > 0.9)
    True
    """
    from cfexplain.nets.training import train_network, updates_for  # skorch is loaded when something is trained

    check_options({"training_budget": training_budget, "lr": lr}, _RULES)
    student = copy.deepcopy(net)
    if not _smoothed(student):
        raise ValueError(f"{type(net).__name__} has no ReLU among its modules, so that nothing can be smoothed. ReLUs that "
                         "forward calls as functions must be modules: torch.nn.ReLU().")
    rows = torch.from_numpy(np.array(to_numpy(X)))
    rows = channels_first(rows).to(next(net.parameters()).dtype)
    home = next(net.parameters()).device
    with frozen(net), torch.no_grad():
        logits = in_tiles(lambda part: net(part.to(home)).cpu(), rows)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"net returned shape {tuple(logits.shape)} for {len(rows)} samples; expected logits (n, K), K ≥ 2.")
    train_network(
        student, _divergence, {"x": rows, "target": logits.softmax(1)}, lr=lr,
        updates=updates_for(len(rows), 1000, training_budget), seed=draw_seed(random_state), strata=logits.argmax(1).numpy(),
        device=device, verbose=verbose, name="student")
    return student.to(home)


def _smoothed(module: nn.Module) -> int:
    """Replace every ReLU below `module`, and say how many there were."""
    count = 0
    for name, child in module.named_children():
        if isinstance(child, _KINKED):
            setattr(module, name, LeakySoftplus())
            count += 1
        else:
            count += _smoothed(child)
    return count


def _divergence(module: nn.Module, rows: Rows, _: float) -> Tensor:
    """Kullback and Leibler's, but for a constant: the cross-entropy with the teacher's probabilities."""
    return -(rows["target"] * module(rows["x"]).log_softmax(1)).sum(1)
