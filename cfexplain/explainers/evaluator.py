"""Points of the search: codes decoded to x′, classified, and weighed by the objective."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from cfexplain.coordinates.detail import (
    ALONG_TAU,
    INK_SIGMA,
    INK_TAU,
    LATENT_SIGMA,
    LATENT_TAU,
    SIGMA,
    TAU,
    clipped,
    detail_modes,
    faded,
    painted,
    render,
)
from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.explainers.backends import Engine
from cfexplain.foundation.partial_tiles import PartialTiles
from cfexplain.foundation.tiles import TileSizes, in_tiles, tile_for
from cfexplain.objective import Objective, PerceptualDistance, Point, Term, TypicalFeatures
from cfexplain.search import Evaluation

__all__ = ["Evaluator"]

# What is known of the computations of an explainer in other numbers of rows: by explainer, and then by what decides which
# kernels run. It holds as long as the fitted parts, which come first, stay the same objects.
_tile_sizes: WeakKeyDictionary[Any, tuple[list[Any], dict[tuple, tuple[TileSizes, PartialTiles]]]] = WeakKeyDictionary()


class Evaluator:
    """Evaluates points for one explainer, with the networks of one engine.

    Parameters
    ----------
    explainer : CounterfactualExplainer
        Fitted.
    objective : Objective
    engine : Engine
        The explainer's own networks, or frozen copies of them.
    kernels : tuple
        What decides, beside the explainer, which kernels run.
    tile : int, optional
        The tile of the search. Without it nothing is tried in other numbers of rows.
    """

    def __init__(self, explainer: ExplainerParameters, objective: Objective, engine: Engine, kernels: tuple = (),
                 tile: int | None = None):
        self.explainer, self.objective, self.engine = explainer, objective, engine
        self.kernels, self.tile = kernels, tile
        stages = explainer.coordinates_.stages
        self.details = detail_modes(explainer.detail, explainer.layout_.is_image, stages)
        # what the last stage makes of what it knows of x: of one stage alone, the reconstruction
        self._drawn = "drawn" if len(stages) > 1 else "reconstruction"
        self.conditions = [term.name for term in objective.terms if type(term).holds is not Term.holds]
        # whether nothing in an evaluation has to be told to treat every row alike: all networks are known
        self.aligned = engine.aligned and all(type(term).__module__.startswith("cfexplain.objective") and not isinstance(
            term, PerceptualDistance) for term in objective.terms)
        self._needs_features = any(isinstance(term, TypicalFeatures) for term in objective.terms)

    def evaluate(self, z: Tensor, rows: Mapping[str, Tensor]) -> Evaluation:
        """Objective and conditions of a tile of points, as `cfexplain.search.search` asks for them."""
        return self.objective.evaluate(self.point(z, rows))

    def point(self, z: Tensor, rows: Mapping[str, Tensor], x: Tensor | None = None) -> Point:
        """A tile of points, of which terms and conditions can be asked; `x` in place of what `z` decodes to."""
        explainer = self.explainer
        x = self.decode(z, rows) if x is None else x
        logits, features = self._classify(x, getattr(rows, "live", len(z)))
        verdict = None if explainer.is_regression else self.engine.classifier.verdict(x, logits)
        return explainer.task_.point(z, rows, x, logits, features, self.engine.log_density, explainer.opinions_,
                                     explainer.class_features_, verdict)

    def decode(self, z: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """x′: decoded, with the detail that each stage of the coordinates lost put back, within the rules for columns."""
        explainer, is_image, live = self.explainer, self.explainer.layout_.is_image, getattr(rows, "live", len(z))
        first, *others = self.engine.decoders
        share = None
        if "along" in rows:  # the part of the way that goes along the difference of the classes is drawn as it is
            along = rows["along"]
            share = ((z - rows["z0"]) * along).sum(1, keepdim=True) / along.square().sum(1, keepdim=True).clamp_min(1e-12)
            z = z - share * along
        x = self.partial(("decode", 0), first, z, live)
        for i, decode in enumerate(others, 1):
            latents, drawn, mode = rows[f"latents {i}"], rows[f"drawn {i}"], self.details[i - 1]
            if mode == "learned":
                x = painted(x, latents, drawn, self._painter(live), None)
            elif mode != "decoder":
                x = render(x, latents, drawn, mode, tau=LATENT_TAU, sigma=LATENT_SIGMA, of_latents=True)
            if share is not None and i == len(others):  # and the rest of the way changes no other places than it
                moved = share[:, :, None, None] * rows["difference"]
                gone = faded(moved, ALONG_TAU, LATENT_SIGMA, of_latents=True)  # as much of what was there
                x = latents + (rows["places"] * (x - latents) + moved - gone * rows["own"])
            x = self.partial(("decode", i), decode, x.flatten(1), live)
        if is_image:
            x = clipped(x, explainer.clip, explainer.data_range)
        if self.details[-1] != "decoder":
            drawn = rows[self._drawn]
            drawn = clipped(drawn, explainer.clip, explainer.data_range) if is_image else drawn
        if self.details[-1] == "learned":
            x = painted(x, rows["x"], drawn, self._painter(live), explainer.data_range)
        elif self.details[-1] != "decoder":
            ink = bool(getattr(explainer, "ink_", 0))
            tau: Any = (INK_TAU if ink or others else TAU) if explainer.tau == "auto" else explainer.tau
            x = render(x, rows["x"], drawn, self.details[-1], tau=tau, sigma=INK_SIGMA if ink else SIGMA,
                       data_range=explainer.data_range if is_image else None, clears=is_image and not ink)
        if explainer.region is not None and explainer.region_ is not None:
            x = torch.where(explainer.region_.to(x.device), x, rows["x"])
        if "region" in rows:
            share = rows["region"]
            x = torch.where(share > 0, rows["x"] + share * (x - rows["x"]), rows["x"])
        return x if explainer.column_rules_ is None else explainer.column_rules_.apply(x, rows["x"])

    def _painter(self, live: int) -> Callable[[Tensor], Tensor]:
        painter = getattr(self.explainer, "painter_", None)
        if painter is None:
            raise ValueError("detail='learned' is learned at fit, and this explainer was fitted with another. Fit it again, "
                             "or use detail='blend'.")
        return lambda given: self.partial("paint", painter, given, live)

    def known(self, x: Tensor, codes: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What is known of the codes of `x` (n, ...): ``z0``; ``reconstruction``, what it decodes to; and what `decode` puts
        detail back by: the latents of each stage, what the stage before draws of them (``drawn 1``, …), and what the last
        one draws of its own latents (``drawn``).

        Parameters
        ----------
        codes : mapping, optional
            ``z0`` and the latents, where they are known.
        """
        stages, known = self.explainer.coordinates_.stages, dict(codes or {})
        names = ["z0", *(f"latents {i}" for i in range(1, len(stages)))]
        if not codes:
            above = x
            for i in reversed(range(len(stages))):
                z = self._in_parts(("encode", i), stages[i].encode, above)
                known[names[i]] = above = z if i == 0 else z.reshape(len(z), *stages[i - 1].layout_.net_shape)
        drawn = [self._draw(i, known[name]) for i, name in enumerate(names)]
        known |= {self._drawn if i == len(stages) else f"drawn {i}": values for i, values in enumerate(drawn, 1)}
        if len(stages) > 1:
            known["reconstruction"] = drawn[0]
            for i in range(1, len(stages)):
                known["reconstruction"] = self._draw(i, known["reconstruction"])
        return known

    def directed(self, known: Mapping[str, Tensor], source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What like pictures of the classes `source` and `target` (n,) differ by: the ``difference`` of latents, the
        ``places`` where they may, what each picture has of its ``own`` there, and the way ``along`` the difference among
        codes; nothing where the explainer has not learned it, or starts in another way.
        """
        difference, (*inner, _) = getattr(self.explainer, "difference_", None), self.explainer.coordinates_.stages
        if difference is None or self.explainer.start not in ("auto", "learned"):
            return {}
        latents = known[f"latents {len(inner)}"]
        found, own = self.in_tiles("difference", difference, latents, source, target)
        codes = latents + found
        for i in reversed(range(len(inner))):
            codes = self._in_parts(("encode", i), inner[i].encode, codes)
            codes = codes if i == 0 else codes.reshape(len(codes), *inner[i - 1].layout_.net_shape)
        places = difference.places.expand(len(latents), *difference.places.shape)
        return {"difference": found, "own": own, "places": places, "along": codes - known["z0"]}

    def _draw(self, stage: int, codes: Tensor) -> Tensor:
        return self._in_parts(("decode", stage), self.engine.decoders[stage], codes.flatten(1))

    def _in_parts(self, name: Hashable, function: Callable, rows: Tensor) -> Tensor:
        return self.in_tiles(str(name), function, rows)

    def judged(self, z: Tensor, rows: Mapping[str, Tensor], x: Tensor | None = None) -> tuple[Tensor, ...]:
        """x′, log density, valid, second opinion, and each of `conditions`, of a tile of found points."""
        point = self.point(z, rows, x)
        opinion = torch.zeros_like(point.log_density) if self.explainer.opinions_ is None else point.opinion
        met = self.objective.conditions(point)
        return (point.x, point.log_density, point.valid, opinion > 0, *(met[name] for name in self.conditions))

    def _classify(self, x: Tensor, live: int) -> tuple[Tensor, Tensor | None]:
        classifier = self.engine.classifier
        if self._needs_features:
            return self.partial("features", classifier.logits_and_features, x, live)
        return self.partial("logits", classifier.logits, x, live), None

    # ------------------------------------------------------------- other numbers of rows, with the same bits
    def in_tiles(self, name: Hashable, function: Callable, *rows: Tensor, tile: int | None = None) -> Any:
        """``function(*rows)`` in tiles, by default those of samples of this size, and in other numbers of rows where the
        bits allow it: that is tried, for which a model that is only asked, and may be slow, would be asked for nothing.
        """
        tile = tile_for(self.explainer.layout_.net_shape) if tile is None else tile
        sizes = self.sizes(tile) if self.explainer.differentiable and len(rows[0]) else None
        return in_tiles(function, *rows, tile=tile, places=None if sizes is None else sizes.choice(name, function, *rows))

    def partial(self, name: Hashable, function: Callable, x: Tensor, live: int) -> Any:
        """``function(x)``, of which the first `live` rows are needed: networks of images leave out the rest if they may."""
        known = self._known(len(x)) if len(x) == self.tile and live < len(x) and self.explainer.layout_.is_image else None
        return function(x) if known is None else known[1]((name, self.engine.backend), function, x, live)

    def sizes(self, tile: int) -> TileSizes | None:
        """The numbers of rows in which `tile` rows at a time have the same bits; None where only `tile` will do."""
        known = self._known(tile)
        return None if known is None or self.explainer.batch_size != "auto" or tile != self.tile else known[0]

    def _known(self, tile: int) -> tuple[TileSizes, PartialTiles] | None:
        """Nothing on a GPU, nor without the search's tile: a worker would have to find out anew for every few rows."""
        explainer = self.explainer
        if explainer.device_.type != "cpu" or self.tile is None:
            return None
        parts = [explainer.coordinates_, explainer.classifier_, explainer.density_, explainer.opinions_,
                 explainer.class_features_]
        before, known = _tile_sizes.get(explainer, (None, {}))
        if before is None or any(a is not b for a, b in zip(before, parts, strict=True)):
            known = {}
            _tile_sizes[explainer] = parts, known
        key = (*self.kernels, tile)
        if key not in known:
            known[key] = TileSizes(tile, int(np.prod(explainer.layout_.net_shape))), PartialTiles()
        return known[key]
