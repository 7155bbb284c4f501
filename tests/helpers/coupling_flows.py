"""Coupling flows with weights as training leaves them, and their densities by zuko's autograd."""

from __future__ import annotations

import copy

import torch
import zuko
from torch import nn

from cfexplain.density import ClassFlow
from cfexplain.density.attributes import AttributeBase


def perturbed(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights away from where they start, as training leaves them; standards that are not 0 and 1; frozen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.5 / p.shape[-1] ** 0.5 * torch.randn(p.shape, generator=generator)
        if isinstance(module, ClassFlow):
            module.loc.copy_(torch.randn(module.loc.shape, generator=generator))
            module.scale.copy_(0.5 + torch.rand(module.scale.shape, generator=generator))
    return module.requires_grad_(False)


def nice(d: int, k: int = 1, layers: int = 3, hidden: tuple[int, ...] = (20, 12), base: str = "gaussian", seed: int = 0,
         **options) -> ClassFlow:
    context = k if base == "gaussian" and k > 1 else 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = zuko.flows.NICE(d, context, transforms=layers, hidden_features=hidden, **options)
        return perturbed(ClassFlow(flow, d, k, AttributeBase(d, k, 0.7) if base == "attributes" else None), seed)


def codes(flow: ClassFlow, n: int = 9, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(n, len(flow.loc), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (z * flow.scale + flow.loc).to(flow.loc), torch.arange(n) % flow.n_classes


def by_autograd(flow: ClassFlow, z: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log p and its gradient from zuko, in float64."""
    flow, z = copy.deepcopy(flow).double(), z.double().requires_grad_()
    logp = flow.log_prob(z, c)
    return logp.detach(), torch.autograd.grad(logp.sum(), z)[0]
