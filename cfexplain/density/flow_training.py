"""How a flow learns log p(z | y): noise on standardised codes, and the likelihood by the fastest way through it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cfexplain.density.class_flow import ClassFlow
from cfexplain.foundation.random import stream
from cfexplain.nets.losses import Rows
from cfexplain.ops.coupling_flow import NotPackable

if TYPE_CHECKING:
    from cfexplain.ops.coupling_flow.plain import PlainCouplings

__all__ = ["standards", "train_flow"]


def train_flow(flow: ClassFlow, u: np.ndarray, noise: np.ndarray, codes: np.ndarray, seed: int, *, named: bool,
               **options: Any) -> list[dict[str, Any]]:
    """Train `flow` on standardised samples `u` (n, d) of classes `codes` (n,); losses, an entry an epoch.

    `noise` is added to them, in standard deviations, and `options` go to `cfexplain.nets.training.train_network`. A flow
    that is not `named` is the user's, and may draw from torch's own random generator.
    """
    from cfexplain.nets.training import train_network  # it loads skorch

    rows = {
        "z": torch.from_numpy(u).float(), "noise": torch.from_numpy(np.broadcast_to(noise, u.shape).copy()).float(),
        "c": torch.from_numpy(codes).long(),
        # one draw for validation, so that epochs are compared on the same rows and not on the luck of the noise
        "fixed": torch.from_numpy(np.random.RandomState(seed).standard_normal(u.shape)).float()}
    loss = partial(_negative_log_likelihood, _plain(flow) if named else None)
    return train_network(flow, loss, rows, apart=named, seed=seed, strata=codes, name="flow", **options)


def _plain(module: ClassFlow) -> PlainCouplings | None:
    """A faster way through the flow, if there is one."""
    from cfexplain.ops.coupling_flow.plain import PlainCouplings  # zuko is loaded where a flow is

    try:
        return PlainCouplings(module.flow.transform, len(module.loc))
    except NotPackable:
        return None


def _negative_log_likelihood(plain: PlainCouplings | None, module: ClassFlow, rows: Rows, progress: float) -> Tensor:
    """Of codes that are standardised already."""
    z, c = rows["z"], rows["c"]
    z = z + rows["noise"] * (torch.randn(z.shape, generator=stream(), device=z.device) if module.training else rows["fixed"])
    if plain is None:
        return -module.log_prob(z, c)
    u, ladj = plain(z, module.shares(c) if module.has_context else None)
    return -(module.base(c).log_prob(u) + ladj)


def standards(Z: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and deviation of the samples Z + spread * noise (float64), and which columns are constant."""
    eps, Z = np.finfo(Z.dtype).eps, Z.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        loc = Z.mean(0)
        scale = np.sqrt(Z.var(0) + (np.atleast_2d(spread) ** 2).mean(0))
    if not np.isfinite(scale).all():
        raise ValueError("Z or std is too large for its variance to be a float64. Rescale, say by StandardScaler.")
    constant = scale <= 4 * eps * np.abs(loc)
    return loc, np.where(constant, 1.0, scale), constant
