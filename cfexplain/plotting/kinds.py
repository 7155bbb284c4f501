"""Every picture of a result by its name: ``cf.plot("density", explainer=explainer)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cfexplain.foundation.names import check_known
from cfexplain.foundation.protocols import FittedExplainer, Result
from cfexplain.plotting.answers import AnswersDisplay
from cfexplain.plotting.counterfactual import CounterfactualDisplay
from cfexplain.plotting.density import DensityDisplay
from cfexplain.plotting.group import GroupDisplay
from cfexplain.plotting.manifold import ManifoldDisplay
from cfexplain.plotting.path import PathDisplay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["KINDS", "draw"]

KINDS: dict[str, Any] = {
    "pixels": CounterfactualDisplay, "columns": CounterfactualDisplay, "answers": AnswersDisplay, "group": GroupDisplay,
    "path": PathDisplay, "density": DensityDisplay, "manifold": ManifoldDisplay}
_ELSEWHERE = {  # pictures of other things than one result
    "bar": "evaluate(...).plot('bar')", "radar": "evaluate(...).plot('radar')", "frontier": "compare_frontier(...).plot()",
    "maps": "compare_saliency(...).plot('maps')", "flips": "compare_saliency(...).plot('flips')",
    "shared": "summarize_group(...).plot()"}


def draw(cf: Result, kind: str | None, n: int | None, explainer: FittedExplainer | None, X: Any, y: Any,
         ax: Axes | None, figure: Figure | SubFigure | None) -> Any:
    """The display of that kind, drawn. None is "answers" where rows have several, else "pixels" or "columns"."""
    own = "pixels" if cf.is_image else "columns"
    if kind is None:
        kind = "answers" if cf.k > 1 else own
    if kind in _ELSEWHERE:
        raise ValueError(f"kind={kind!r} is no picture of one result; it is drawn by {_ELSEWHERE[kind]}.")
    check_known(kind, KINDS, "kind of picture")
    if kind in ("pixels", "columns") and kind != own:
        raise ValueError(f"kind={kind!r} draws {'images' if kind == 'pixels' else 'rows of a table'}, but these are "
                         f"{'images' if cf.is_image else 'rows of a table'}: use kind={own!r}.")
    needs = {"path": ("explainer",), "density": ("explainer",), "manifold": ("explainer", "X")}.get(kind, ())
    missing = [name for name in needs if {"explainer": explainer, "X": X}[name] is None]
    if missing:
        what = {"explainer": "the fitted explainer that made this result", "X": "training rows"}
        raise ValueError(f"kind={kind!r} needs {' and '.join(what[name] for name in missing)}: cf.plot({kind!r}, "
                         f"{', '.join(f'{name}={name}' for name in needs)}).")
    options = {"ax": ax, "figure": figure, **({} if n is None else {"n": n})}
    if kind == "manifold":
        return ManifoldDisplay.from_explanation(cf, explainer, X, y, **options)  # type: ignore[arg-type]
    return KINDS[kind].from_explanation(cf, *([explainer] if needs else []), **options)
