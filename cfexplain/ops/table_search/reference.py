"""The search of a table in plain torch, by autograd and in any precision: the truth that the kernel is tested against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cfexplain.foundation.numbers import log_odds, row_norm
from cfexplain.ops.coupling_flow import differentiable
from cfexplain.ops.coupling_flow import reference as coupling_flow
from cfexplain.ops.search_step import SearchState, StepOptions, step
from cfexplain.ops.table_search.packing import NUMBERS, Dense, TableSearch, activated

__all__ = ["Result", "evaluate", "table_search"]


@dataclass(frozen=True)
class Result:
    """What a search found, a row each: best point (N, d), steps, whether every condition holds, whether the classifier says
    the target, and whether it stopped before its steps ran out (N,)."""

    z: Tensor
    n_steps: Tensor
    done: Tensor
    valid: Tensor
    finished: Tensor


def evaluate(search: TableSearch, z: Tensor, rows: Mapping[str, Tensor]
             ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradient (B, d), loss, score, done and valid (B,) of points, as a step of the search takes them.

    Parameters
    ----------
    search : TableSearch
    z : Tensor of shape (B, dim)
    rows : mapping
        ``target`` (B,), ``z0`` (B, dim), ``x`` and, for the residual, ``reconstruction`` (B, features), ``numbers`` (B, 8).
    """
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        loss, score, done, valid = _judged(search, z, rows)
        (gradient,) = torch.autograd.grad(loss.sum(), z)
    return gradient, loss.detach(), score.detach(), done, valid


def _judged(search: TableSearch, z: Tensor, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    number, target = dict(zip(NUMBERS, rows["numbers"].to(z).unbind(1), strict=True)), rows["target"]
    x0 = rows["x"].to(z)
    x = z if search.decoder is None else _through(search.decoder, z)
    if search.residual:
        x = x0 + (x - rows["reconstruction"].to(z))
    if search.held is not None:
        high, low = (torch.as_tensor(side).to(z) for side in (search.high, search.low))
        x = torch.maximum(torch.minimum(x, torch.maximum(high, x0)), torch.minimum(low, x0))
        x = torch.where(search.held.to(z.device), x0, x)
    network = search.classifier
    logits = _through(network.layers, (x - network.loc.to(z)) * network.inverse_scale.to(z))
    odds = log_odds(logits, target)
    probability = logits.softmax(1).gather(1, target[:, None])[:, 0]
    valid = logits.argmax(1) == target
    done = valid.clone() if search.needs_valid else torch.ones_like(valid)

    loss = 0 * z.sum(1)
    if search.decision != "none":
        term, held = _decision(search, odds, probability, number["needed"])
        loss, done = loss + number["decision"] * term, done & held
    if search.distance:
        loss = loss + number["distance"] * row_norm(z - rows["z0"].to(z))
    if search.input_norm:
        change = x - x0
        loss = loss + number["input"] * (change.abs() if search.input_norm == 1 else change.square()).sum(1)
    if search.flow is not None and search.density != "none":
        flow = search.flow.to(z.device, z.dtype)
        logp = differentiable.with_gradient(lambda z, c, _: coupling_flow.logp_and_grad(flow, z, c), z, target)
        if search.density == "likelihood":
            loss = loss - number["density"] * logp
        else:
            loss = loss + number["density"] * torch.relu(number["typical"] + search.density_slack - logp)
            done = done & (logp >= number["typical"])
    if search.opinion:
        least = torch.stack([log_odds(_through(member, z), target) for member in search.opinions]).amin(0)
        loss = loss + number["opinion"] * torch.relu(number["opinion_needed"] + search.log_odds_slack - least)
        done = done & (least >= number["opinion_needed"])
    return loss, probability, done.detach(), valid


def _decision(search: TableSearch, odds: Tensor, probability: Tensor, needed: Tensor) -> tuple[Tensor, Tensor]:
    if search.decision == "log_odds_hinge":
        return torch.relu(needed + search.log_odds_slack - odds), odds >= needed
    if search.decision == "probability_hinge":
        return torch.relu(needed - probability), probability >= needed
    if search.decision == "probability":
        return -probability, odds > needed
    unconditional = search.decision == "cross_entropy"
    return torch.nn.functional.softplus(-odds), torch.ones_like(odds, dtype=torch.bool) if unconditional else odds > needed


def _through(layers: tuple[Dense, ...], h: Tensor) -> Tensor:
    for layer in layers:
        h = activated(h @ layer.weight.to(h) + layer.bias.to(h), layer.activation)
    return h


def table_search(search: TableSearch, start: Tensor, reference: Tensor, rows: Mapping[str, Tensor],
                 options: StepOptions) -> Result:
    """Search from `start`, every row for itself, all unfinished rows at every step.

    Parameters
    ----------
    search : TableSearch
    start, reference : Tensor of shape (N, dim)
        Where rows begin, and what distance is measured from.
    rows : mapping
        ``target``, ``x``, and what the terms need of each row; see `TableSearch.numbers`.
    options : StepOptions
    """
    some = {"x": rows["x"], "target": rows["target"], "z0": reference, "numbers": search.numbers(rows, start)}
    if search.residual:
        some["reconstruction"] = rows["reconstruction"]
    state, active = SearchState.begin(start.detach().clone(), reference), torch.arange(len(start), device=start.device)
    while len(active):
        before = state[active]
        state.put(active, step(before, *evaluate(search, before.z, {k: v[active] for k, v in some.items()}), options))
        active = active[~state.finished[active]]
    return Result(state.best_z, state.n_steps, state.best_rank == 2, state.best_rank >= 1,
                  state.finished & ~state.out_of_steps(options))
