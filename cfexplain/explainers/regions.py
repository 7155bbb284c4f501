"""Which pixels may change: a mask, a box, an outline or a drawing, one for all rows or one a row; or what is enough.

Pixels outside keep their bits. Inside, a change fades in from the edge, so that no seam shows in photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfexplain.explainers.found import Found
from cfexplain.explainers.run import Run
from cfexplain.explainers.task import Classification, Goal
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.blur import gaussian_blur
from cfexplain.foundation.deadline import Deadline
from cfexplain.foundation.numbers import log_odds
from cfexplain.foundation.tiles import in_tiles

__all__ = ["asked_regions", "auto_regions", "faded", "read_fixed_region", "read_regions"]

# Smoothing of where the change counts, and of the edge of a region, as shares of the longer side
_SMOOTH, _EDGE = 1 / 24, 1 / 64
_STEPS = 8  # of the way from x to x′ along which gradients are summed
_SHARES = (0.02, 0.03, 0.045, 0.06, 0.08, 0.105, 0.135, 0.17, 0.22, 0.3, 0.4, 0.55, 0.75, 1.0)  # of the pixels
_ROUNDS = 5
_WIDEST = 7  # of them, up to which every condition is asked for
_TABLE = "region= marks pixels of an image, but X holds a table; name its fixed columns in immutable=."


def asked_regions(explainer: Any, region: Any, X: np.ndarray, goal: Goal, deadline: Deadline,
                  search: Callable[[np.ndarray, Goal], Found]) -> np.ndarray:
    """Which pixels of each row may change by ``explain(region=)``, bool (n, 1, H, W); `goal` is told.

    `search` is asked where the smallest region that is enough is looked for.
    """
    if not explainer.layout_.is_image:
        raise ValueError(_TABLE)
    if isinstance(region, str) and region == "auto":
        regions, _ = auto_regions(Run(explainer, deadline=deadline), X, goal, search(X, goal), search)
    else:
        regions = read_regions(region, explainer.layout_, len(X))
    goal.rows["region"] = faded(regions, bool(getattr(explainer, "ink_", 0)), X.dtype)
    return regions


def read_fixed_region(region: Any, layout: Layout) -> Tensor | None:
    """The constructor's `region`, the same pixels of all images, as a tensor that fits (B, C, H, W)."""
    if region is None:
        return None
    if not layout.is_image:
        raise ValueError(_TABLE)
    region, shape = np.asarray(region), layout.net_shape
    if region.shape == layout.user_shape:
        region = layout.to_net(region[None])[0]
    if region.dtype != bool or region.shape not in (shape, shape[1:]) or not region.any():
        raise ValueError(f"region must hold one bool a pixel, some of them True, in the shape {shape[1:]} or {shape}; "
                         f"got {region.dtype} of shape {region.shape} with {int(np.count_nonzero(region))} marked.")
    return torch.from_numpy(np.broadcast_to(region, shape).copy())


def read_regions(region: Any, layout: Layout, n: int) -> np.ndarray:
    """`region` as bools, (n, 1, H, W).

    Parameters
    ----------
    region : array of bool, image, box or outline
        A mask of shape (H, W), of a sample's shape, or with a first axis of n of them. An image of Pillow, of which what is
        not black is marked. A box (top, left, bottom, right) in pixels, the last two not included, or n of them, (n, 4). An
        outline, three or more points (row, column), of shape (points, 2).

    Raises
    ------
    ValueError
        It is none of these, or marks nothing.

    Examples
    --------
    >>> layout = Layout.of((1, 4, 4), None)
    >>> read_regions((0, 0, 2, 2), layout, 3).shape, int(read_regions([[0, 0], [0, 4], [4, 0]], layout, 1).sum())
    ((3, 1, 4, 4), 6)
    """
    channels, height, width = shape = layout.net_shape
    if hasattr(region, "convert"):  # a drawing
        region = np.asarray(region.convert("L").resize((width, height), 0)) > 0
    given = np.asarray(region)
    if given.dtype != bool and given.dtype.kind in "iuf":
        if given.shape in ((4,), (n, 4)):
            given = np.stack([_box(box, height, width) for box in given.reshape(-1, 4)])
            given = given[0] if len(given) == 1 else given
        elif given.ndim == 2 and given.shape[1] == 2 and len(given) > 2:
            given = _outlined(given.astype(float), height, width)
    places = [(height, width), shape, layout.user_shape]
    if given.dtype == bool and given.any() and given.shape in [*places, *((n, *place) for place in places)]:
        many = given.shape[0] == n and given.shape[1:] in places
        given = given if many else np.broadcast_to(given, (n, *given.shape))
        if given.shape[1:] == layout.user_shape:
            given = layout.to_net(given)
        given = given.reshape(n, -1, height, width)
        if given.reshape(n, -1).any(1).all():
            return np.ascontiguousarray(given.any(1, keepdims=True))
    raise ValueError(
        f"region must mark some pixels of every row: bools of shape {(height, width)}, or one such a row, "
        f"{(n, height, width)}; a box (top, left, bottom, right); an outline of three or more points (row, column); an "
        "image of Pillow; or 'auto'. "
        f"Got {given.dtype} of shape {given.shape} with {int(np.count_nonzero(given)) if given.dtype.kind in 'biuf' else 0} "
        "marked.")


def _box(box: np.ndarray, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    top, left, bottom, right = (max(0, int(edge)) for edge in box)
    mask[top:bottom, left:right] = True
    return mask


def _outlined(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels whose centres lie within an outline, by the even-odd rule."""
    row, column = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), dtype=bool)
    for (r0, c0), (r1, c1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if r0 == r1:
            continue
        crosses = ((r0 > row) != (r1 > row)) & (column < (c1 - c0) * (row - r0) / (r1 - r0) + c0)
        inside ^= crosses
    return inside


def faded(region: np.ndarray, ink: bool, dtype: Any) -> np.ndarray:
    """How much of a change each pixel takes, (n, 1, H, W): 0 outside, 1 inside; in photographs less at the edge."""
    side = max(region.shape[-2:])
    if ink or side * _EDGE < 0.5:
        return region.astype(dtype)
    soft = gaussian_blur(torch.from_numpy(region.astype(dtype)), side * _EDGE).numpy()
    return np.where(region, np.clip(2 * soft - 1, 0.1, 1), 0).astype(dtype)


def auto_regions(run: Any, X: np.ndarray, goal: Goal, full: Found, search: Callable[[np.ndarray, Goal], Found],
                 ) -> tuple[np.ndarray, Found]:
    """The smallest regions in which rows reach their target, and what was found in them.

    Pixels are ranked by what the change of the whole image does to the model's score in them. Regions grow by that until the
    model accepts the change in them alone, are searched, and made smaller where that succeeds, larger where it does not.

    Parameters
    ----------
    run : Run
    X, goal
    full : Found
        Without a region.
    search : callable ``(rows, goal) -> Found``
        With ``goal.rows["region"]``.

    Returns
    -------
    region : ndarray of bool, shape (n, 1, H, W)
    found : Found
    """
    explainer = run.explainer
    rank, count = _ranked(run, X, goal, full.x_cf), X.shape[-2] * X.shape[-1]
    sizes = np.array([max(1, round(share * count)) for share in _SHARES])
    moving = np.flatnonzero(goal.moving)
    level = np.full(len(X), len(sizes) - 1)
    for i in reversed(range(len(sizes))):  # down to the smallest in which the change as it is will do
        asked = moving[level[moving] == min(i + 1, len(sizes) - 1)]
        if len(asked):
            inside = (rank[asked] < sizes[i])[:, None]
            answers = explainer.task_.answers(explainer.classifier_, np.where(inside, full.x_cf[asked], X[asked]))
            level[asked[explainer.task_.judge(answers, goal[asked])["valid"]]] = i
    ink = bool(getattr(explainer, "ink_", 0))
    best, best_level, best_worth = full, np.full(len(X), len(sizes) - 1), np.full(len(X), -1)
    turned, rows = np.zeros(len(X), dtype=int), moving  # 1: grew, −1: shrank
    level[rows] = np.minimum(level[rows] + 1, len(sizes) - 1)
    for _ in range(_ROUNDS):
        if not len(rows) or run.deadline.passed:
            break
        wanted, now = goal[rows], level[rows]
        wanted.rows = {**wanted.rows, "region": faded((rank[rows] < sizes[now][:, None, None])[:, None], ink, X.dtype)}
        part = search(X[rows], wanted)
        worth = _worth(run, wanted, part)
        better = (worth > best_worth[rows]) | ((worth == best_worth[rows]) & (now < best_level[rows]))
        best.put(rows[better], part[np.flatnonzero(better)])
        best_level[rows[better]], best_worth[rows[better]] = now[better], worth[better]
        # on as long as there is something to win: a smaller one, or, up to a limit, one that meets every condition
        step = np.select([worth == 3, now < _WIDEST, worth == 0], [-1, np.minimum(2, _WIDEST - now), 2], 0)
        on = (step != 0) & (turned[rows] * step >= 0) & (now + step >= 0) & ((now < len(sizes) - 1) | (step < 0))
        turned[rows] = np.sign(step)
        rows, step = rows[on], step[on]
        level[rows] = np.minimum(level[rows] + step, len(sizes) - 1)
    region = (rank < sizes[best_level][:, None, None])[:, None]
    region[~goal.moving] = True
    return region, best


def _worth(run: Any, goal: Goal, found: Found) -> np.ndarray:
    """3: every condition holds, 2: the model is as sure as it has to be, 1: it says the target, 0: none of these; (n,)."""
    explainer = run.explainer
    answers = explainer.task_.answers(explainer.classifier_, np.ascontiguousarray(found.x_cf))
    valid = explainer.task_.judge(answers, goal)["valid"]
    sure = np.logical_and.reduce([valid, *(met for name, met in found.conditions.items() if name in ("decision", "value"))])
    return valid.astype(int) + sure + (sure & found.done)


def _ranked(run: Any, X: np.ndarray, goal: Goal, x_cf: np.ndarray) -> np.ndarray:
    """The place of each pixel, (n, H, W), 0 first, by how much the change in it brings the model nearer to the target."""
    explainer, classifier = run.explainer, run.judge.engine.classifier
    is_class = isinstance(explainer.task_, Classification)

    def counted(x: Tensor, end: Tensor, target: Tensor) -> Tensor:
        change = end - x
        moved = change.abs().sum(1, keepdim=True)
        if explainer.differentiable:
            total = torch.zeros_like(x)
            for step in range(_STEPS):
                point = (x + (step + 0.5) / _STEPS * change).detach().requires_grad_(True)
                with torch.enable_grad():
                    logits = classifier.logits(point)
                    score = log_odds(logits, target) if is_class else logits[:, 0]
                    total += torch.autograd.grad(score.sum(), point)[0] / _STEPS
            brought = (total * change).sum(1, keepdim=True)
            brought = torch.relu(brought) if is_class else brought.abs()
            largest = brought.flatten(1).amax(1).clamp(min=1e-12)[:, None, None, None]
            moved = brought / largest + 0.2 * moved / moved.flatten(1).amax(1).clamp(min=1e-12)[:, None, None, None]
        return gaussian_blur(moved, _SMOOTH * max(x.shape[-2:]))

    with torch.no_grad():
        device = explainer.device_
        score = in_tiles(counted, *(torch.from_numpy(np.ascontiguousarray(values)).to(device) for values in (
            X, x_cf.astype(X.dtype), goal.rows["target"])), tile=run.options.tile).cpu().numpy()
    flat = score.reshape(len(X), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(flat.shape[1])[None].repeat(len(X), 0), axis=1)
    return rank.reshape(len(X), *X.shape[-2:])
