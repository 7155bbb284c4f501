"""One call of ``explain``: from rows to found points, block by block, here or in workers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from torch import Tensor

from cfexplain.coordinates.clip import clipped
from cfexplain.coordinates.detail import render
from cfexplain.explainers.backends import Engine, check_backend, eager_engine, make_engine
from cfexplain.explainers.running import one_thread, progress_bar, with_smaller_tiles
from cfexplain.foundation.partial_tiles import FewRows, TileRows
from cfexplain.foundation.tiles import TILE, TileSizes, in_tiles
from cfexplain.objective.point import Point
from cfexplain.objective.terms import Objective, Term, TypicalFeatures
from cfexplain.search import Found, SearchOptions

if TYPE_CHECKING:
    from cfexplain.explainers.base import CounterfactualExplainer
    from cfexplain.explainers.task import Goal

__all__ = ["Run"]

# Rows searched together: bounds memory, and is large enough that few tiles run half empty.
BLOCK = 2048

# By explainer: the parts that it had, and what was found out of its computations, by what decides which kernels they run
_tried: WeakKeyDictionary[Any, tuple[list[Any], dict[tuple, tuple[TileSizes, FewRows]]]] = WeakKeyDictionary()


class Run:
    """A fitted explainer's parts, objective and options, put to work on rows.

    Parameters
    ----------
    explainer : CounterfactualExplainer
        Fitted.
    record_path : bool
    backend, precision : str
        See `check_backend`.
    """

    def __init__(self, explainer: CounterfactualExplainer, record_path: bool, backend: str = "auto",
                 precision: str = "auto"):
        self.explainer = explainer
        self.objective = Objective(explainer._terms(), explainer.needs_valid)
        self.detail = detail_mode(explainer)
        self.options = search_options(explainer, record_path)
        self.backend, self.precision = check_backend(backend, precision, explainer.device_), precision
        # what is found is judged by the explainer's own parts, whatever it is found with
        self.judge = eager_engine(explainer)
        self.in_worker = False

    def rows(self, X: np.ndarray, goal: Goal, n_jobs: int | None) -> dict[str, Any]:
        """Arrays a row, on the CPU: ``x_cf``, ``z0``, ``z``, ``reconstruction``, ``log_density``, ``held`` (by
        condition), … of `X` (n, ...)."""
        wanted = {**goal.rows, "still": goal.still}
        workers = effective_n_jobs(n_jobs)  # None: what joblib.parallel_config says, else one
        if workers == 1:
            return self._blocks(X, wanted)
        cuts = np.array_split(np.arange(len(X)), max(1, min(len(X) // TILE, 4 * workers)))
        return _joined(Parallel(n_jobs=n_jobs)(
            delayed(_in_worker)(self, X[cut], {name: rows[cut] for name, rows in wanted.items()}) for cut in cuts))

    def _blocks(self, X: np.ndarray, wanted: dict[str, np.ndarray]) -> dict[str, Any]:
        blocks, options = [], self.options
        engine = self.engine(X)
        with progress_bar(len(X), bool(self.explainer.verbose)) as bar, self.explainer.classifier_.frozen():
            for first in range(0, len(X), BLOCK):
                cut = slice(first, first + BLOCK)
                some = (X[cut], {name: rows[cut] for name, rows in wanted.items()})
                report = None if bar is None else (lambda done, step, first=first: bar(first + done, step))
                block = with_smaller_tiles(
                    lambda tile, some=some, report=report, options=options:
                    self._block(*some, engine, replace(options, tile=tile), report), options.tile)
                if block["interrupted"].any():  # what is left still gets an honest row: its starting point
                    options = replace(options, max_steps=0, refine=0)
                blocks.append(block)
        return {**_joined(blocks), "backend": engine.backend}

    def engine(self, X: np.ndarray) -> Engine:
        """What the search of rows like `X` computes with."""
        if not self.explainer.differentiable or not len(X):
            return self.judge  # nothing is differentiated, so that there is nothing to gain
        some = torch.from_numpy(np.ascontiguousarray(X[:2])).to(self.explainer.device_)
        with self.explainer.classifier_.frozen():
            return make_engine(self.explainer, self.backend, self.precision, some)

    def prepare(self, X: np.ndarray, wanted: dict[str, np.ndarray]) -> tuple[dict[str, Tensor], Tensor]:
        """What the search knows of each row, on the device, and where it starts."""
        ex = self.explainer
        x = torch.from_numpy(X).to(ex.device_)
        rows = {"x": x, **{name: torch.from_numpy(values).to(ex.device_) for name, values in wanted.items()}}
        with torch.no_grad():
            rows["z0"] = self._tiled("encode", lambda x: self._few("encode", ex.coordinates_.encode, x, len(X)), x)
            rows["reconstruction"] = self._tiled(
                "decode", lambda z: self._few("decode", ex.coordinates_.decode, z, len(X)), rows["z0"])
            limits = {"typical": ex.density_.quantiles_by_index(ex._typical_quantile())}
            if ex.class_features_ is not None:
                limits["feature_limit"] = ex.class_features_.quantiles(ex.feature_quantile)
            if ex.greyness_ is not None:
                limits["ink_limit"] = np.array([np.quantile(own, ex.ink_quantile) for own in ex.greyness_])
            rows |= {name: torch.as_tensor(limit).to(rows["z0"])[rows["target"]] for name, limit in limits.items()}
            rows |= self.objective.reference(x, self.options.tile)
            return rows, self._start(rows)

    def _block(self, X: np.ndarray, wanted: dict[str, np.ndarray], engine: Engine, options: SearchOptions,
               report: Callable | None) -> dict[str, Any]:
        rows, start = self.prepare(X, wanted)
        x = rows["x"]
        moving, options = np.flatnonzero(~wanted["still"]), replace(options, sizes=self._tried(options.tile)[0])
        searched = {name: values[moving] for name, values in rows.items()}
        if self.precision != "auto" and self.detail != "decoder" and len(moving):
            with torch.no_grad():  # rounded like the points of the search: what is put back must not undo rounding
                searched["reconstruction"] = in_tiles(engine.decode, searched["z0"], tile=options.tile)
        found = self.explainer._find(
            lambda z, some: self.objective.evaluate(self.point(z, some, engine)), start[moving], searched, options,
            report, engine.search)
        z = rows["z0"].clone()
        z[moving] = found.z
        names = list(rows)
        with torch.no_grad():
            x_cf, log_density, valid, opinion, *held = self._tiled(
                "judge", lambda z, *values: self._judged(z, TileRows(zip(names, values, strict=True), live=len(X))), z,
                *rows.values(), tile=options.tile)
        still = rows["still"].view(-1, *[1] * (x.ndim - 1))
        block: dict[str, Any] = {
            "x_cf": torch.where(still, x, x_cf), "z0": rows["z0"], "z": z, "reconstruction": rows["reconstruction"],
            "log_density": log_density, "search_valid": valid, "opinion": opinion,
            **{name: _scattered(getattr(found, name), moving, len(X)) for name in ("n_steps", "finished", "done")}}
        block = {name: values.cpu().numpy() for name, values in block.items()}
        block["held"] = {name: h.cpu().numpy() for name, h in zip(self._conditions(), held, strict=True)}
        block["path"] = _paths(found, moving, block["z0"]) if options.record_path else None
        block["interrupted"] = np.full(len(X), found.interrupted)
        return block

    def _judged(self, z: Tensor, rows: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """What a tile of found points is: x′, log density, valid in the search, second opinion, and each condition."""
        point = self.point(z, rows)
        opinion = torch.zeros_like(point.log_density) if self.explainer.opinions_ is None else point.opinion
        held = self.objective.conditions(point)
        return (point.x, point.log_density, point.valid, opinion > 0, *(held[name] for name in self._conditions()))

    def _tiled(self, name: str, function: Callable, *rows: Tensor, tile: int = TILE) -> Any:
        """``function(*rows)`` in tiles; rows of a table in larger ones, where the bits allow it."""
        sizes = None if self.explainer.layout_.is_image or not len(rows[0]) else self._tried(tile)[0]
        return in_tiles(function, *rows, tile=tile,
                        places=None if sizes is None else sizes.choice(name, function, *rows))

    def _few(self, name: Hashable, function: Callable, x: Tensor, live: int) -> Any:
        """``function(x)``, of which the first `live` rows are needed: networks of images leave out the rest if they may."""
        if live == len(x) or not self.explainer.layout_.is_image:
            return function(x)
        few = self._tried(len(x))[1]
        return function(x) if few is None else few(name, function, x, live)

    def _tried(self, tile: int) -> tuple[TileSizes | None, FewRows | None]:
        """What is known of these computations in other numbers of rows than `tile`. On a GPU, and in a worker, which would
        have to find out anew for every few rows, nothing."""
        ex = self.explainer
        if ex.device_.type != "cpu" or self.in_worker:
            return None, None
        parts = [ex.coordinates_, ex.classifier_, ex.density_, ex.opinions_, ex.class_features_]
        before, known = _tried.get(ex, (None, {}))
        if before is None or any(a is not b for a, b in zip(before, parts, strict=True)):
            known = {}
            _tried[ex] = parts, known
        key = (*self._kernels, tile, torch.get_num_threads())
        if key not in known:
            known[key] = TileSizes(tile, int(np.prod(ex.layout_.net_shape))), FewRows()
        sizes, few = known[key]
        return sizes if ex.batch_size == "auto" and tile == self.options.tile else None, few

    @functools.cached_property
    def _kernels(self) -> tuple[Any, ...]:
        """What decides which kernels run; once a run, since it is asked for at every tile that is not full."""
        return self.backend, self.precision, repr(self.objective.terms), self.detail, self.options

    def _conditions(self) -> list[str]:
        return [term.name for term in self.objective.terms if type(term).holds is not Term.holds]

    def _start(self, rows: dict[str, Tensor]) -> Tensor:
        """z₀, or the row's base code under the other class, z = f⁻¹(f(z₀|y)|ỹ), or a share of the way there."""
        share = {"latent": 0.0, "swap": 1.0}.get(self.explainer.start, self.explainer.start)
        if share == 0:
            return rows["z0"]
        swapped = self._tiled("swap", self.explainer.density_.swap_codes, rows["z0"], rows["source"], rows["target"])
        # a code far from all data can leave the flow's numeric range: such a row starts where it is
        swapped = torch.where(torch.isfinite(swapped).all(1, keepdim=True), swapped, rows["z0"])
        return swapped if share == 1 else rows["z0"] + share * (swapped - rows["z0"])

    def point(self, z: Tensor, rows: dict[str, Tensor], engine: Engine | None = None) -> Point:
        """Points of the search, as `engine` computes them; by default as the explainer itself does."""
        ex, parts = self.explainer, engine or self.judge
        classify = functools.partial(self._classify, parts, getattr(rows, "live", len(z)))
        return ex.task_.point(z, rows, functools.partial(self._decode, parts), classify, parts.log_density,
                              ex.opinions_, ex.class_features_)

    def _wants_features(self) -> bool:
        return any(isinstance(term, TypicalFeatures) for term in self.objective.terms)

    def _classify(self, engine: Engine, live: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._wants_features():
            return self._few(("features", engine is self.judge), engine.classifier.logits_and_features, x, live)
        return self._few(("logits", engine is self.judge), engine.classifier.logits, x, live), None

    def _decode(self, engine: Engine, z: Tensor, rows: dict[str, Tensor]) -> Tensor:
        """x′: decoded, with the detail that the coordinates lost put back, within the rules for columns."""
        ex = self.explainer
        x = self._few(("decode", engine is self.judge), engine.decode, z, getattr(rows, "live", len(z)))
        if ex.layout_.is_image:
            x = clipped(x, ex.clip, ex.data_range)
        if self.detail != "decoder":
            x = render(x, rows["x"], rows["reconstruction"], self.detail, tau=ex.tau,
                       data_range=ex.data_range if ex.layout_.is_image else None)
        if ex.region is not None:
            x = torch.where(ex.region_.to(x.device), x, rows["x"])
        return x if ex.column_rules_ is None else ex.column_rules_.apply(x, rows["x"])


def detail_mode(explainer: CounterfactualExplainer) -> str:
    """What ``detail=`` means for these coordinates and this kind of data."""
    mode, is_image = explainer.detail, explainer.layout_.is_image
    if mode == "auto":
        return "decoder" if explainer.coordinates_.exact else "blend" if is_image else "residual"
    if mode not in ("decoder", "residual", "blend"):
        raise ValueError(f"detail={mode!r} is not known; choose 'auto', 'decoder', 'residual' or 'blend'.")
    if mode == "blend" and not is_image:
        raise ValueError("detail='blend' fades the residual across an image; for a table use 'residual'.")
    return mode


def search_options(explainer: CounterfactualExplainer, record_path: bool) -> SearchOptions:
    """The search's options from the explainer's parameters."""
    update = explainer._update()
    for name, value, known in (("update", update, ("adam", "normalized")),
                               ("stop", explainer.stop, ("conditions", "converged"))):
        if value not in known:
            raise ValueError(f"{name}={value!r} is not known; choose {known[0]!r} or {known[1]!r}.")
    start = explainer.start
    if start not in ("latent", "swap") and not (isinstance(start, (int, float)) and 0 <= start <= 1):
        raise ValueError(f"start={start!r} is not known; choose 'latent', 'swap', or a share of the way in [0, 1].")
    step, tile = explainer.step_size, explainer.batch_size
    if step is None:
        step = explainer.step_sizes[update]
    if tile == "auto":
        tile = TILE if explainer.device_.type == "cpu" else 512
    return SearchOptions(
        update=update, step_size=float(step), stall=explainer.stall,
        max_steps=int(explainer.max_steps), stop=explainer.stop, patience=int(explainer.patience),
        refine=explainer._refine(), tile=int(tile), record_path=record_path)


def _paths(found: Found, moving: np.ndarray, z0: np.ndarray) -> list[np.ndarray]:
    paths = [z0[i : i + 1] for i in range(len(z0))]
    for i, path in zip(moving, found.path or [], strict=True):
        paths[i] = path.cpu().numpy()
    return paths


def _scattered(values: Tensor, rows: np.ndarray, n: int) -> Tensor:
    """`values` at `rows` of a tensor of length `n`; rows that were not searched get 0 (False)."""
    out = torch.zeros(n, dtype=values.dtype, device=values.device)
    out[rows] = values
    return out


def _joined(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """One dict of arrays from one a block."""
    joined = {name: np.concatenate([block[name] for block in blocks])
              for name in blocks[0] if name not in ("held", "path", "backend")}
    if "backend" in blocks[0]:
        joined["backend"] = blocks[0]["backend"]
    joined["held"] = {name: np.concatenate([block["held"][name] for block in blocks]) for name in blocks[0]["held"]}
    joined["path"] = None if blocks[0]["path"] is None else sum((block["path"] for block in blocks), [])
    return joined


def _in_worker(run: Run, X: np.ndarray, wanted: dict[str, np.ndarray]) -> dict[str, Any]:
    run.in_worker = True
    with one_thread():
        return run._blocks(X, wanted)
