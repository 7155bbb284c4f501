"""The path of a search: its points as pictures or columns, with the prediction and the density at each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.labels import label_indices
from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.protocols import DecodedPoints, FittedExplainer, Result
from cfexplain.plotting.axes import facts, figure_and_grid, say_rest, short, title
from cfexplain.plotting.pictures import BLUE, GREY, MARKERS, PALETTE, VERMILLION, as_pictures, layout_of
from cfexplain.tables.frames import largest_changes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["PathDisplay", "as_drawn", "count_bisections", "group_indices", "point_places", "shown_frames"]

# Lines in the panel of a table: the columns that change most
LINES = 5
# Share of an image that is left free around it
MARGIN = 0.05
# A colour that stands out on black and on white
RETURNED = "#E69F00"


class PathDisplay:
    """How a search found its counterfactual (PLACE, figure 2): its points, and two curves beneath them.

    Above: the original and frames of the search, or, for a table, the columns that change most. Below: the probability of
    the target, or the regressor's value (left, solid), and the log density under the target class (right, dashed), with a
    band that holds the middle 90 % of its training rows. A frame stands above its own point of the curves. The returned
    point is framed and marked; it need not be the last. Steps that bisect the way back to the original have a grey
    background.

    Parameters
    ----------
    cf : Counterfactuals
        Made by ``explain(..., record_path=True)``; at least one row.
    explainer : CounterfactualExplainer
        The fitted one that made it; decodes the points.
    n : int, default=4
        Draw at most so many rows.
    frames : int, default=8
        Images of the search for each row. The original is drawn before them if it differs from the first.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    ax_ : ndarray of Axes, shape (rows,)
        Probabilities or values.
    density_ax_ : ndarray of Axes, shape (rows,)
        Log densities, on the same horizontal axis.
    frame_axes_ : ndarray of Axes or None, shape (rows, columns)
        The images, None where a search has fewer points. For a table one column with its changes.
    paths_ : list of DecodedPath

    Raises
    ------
    ValueError
        There is no row or no path to draw, or `cf` was not made by `explainer`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> cf = explainer.explain(X[:3], target=1, record_path=True)
    >>> PathDisplay.from_explanation(cf, explainer, n=2, figure=Figure()).ax_.shape
    (2,)
    """

    def __init__(self, cf: Result, explainer: FittedExplainer, *, n: int = 4, frames: int = 8):
        if len(cf) == 0:
            raise ValueError("There is nothing to draw: this result has no rows.")
        if n < 1 or frames < 2:
            raise ValueError(f"n={n!r} must be at least 1 and frames={frames!r} at least 2.")
        explainer = as_drawn(explainer)
        self.cf, self.explainer, self.n, self.frames = cf, explainer, n, frames
        self.paths_ = explainer.decode_path(cf[:n])

    @classmethod
    def from_explanation(
        cls, cf: Result, explainer: FittedExplainer, n: int = 4, *, frames: int = 8, ax: Axes | None = None,
        figure: Figure | SubFigure | None = None,
    ) -> PathDisplay:
        """Make the display and draw it; see `plot` for `ax` and `figure`."""
        return cls(cf, explainer, n=n, frames=frames).plot(ax, figure=figure)

    def plot(self, ax: Axes | None = None, *, figure: Figure | SubFigure | None = None) -> PathDisplay:
        """Draw.

        Parameters
        ----------
        ax : Axes, optional
            The picture takes its place: it is switched off and its area is divided.
        figure : Figure or SubFigure, optional
            Draw into it. By default a new pyplot figure of a fitting size is made.
        """
        cf, paths = self.cf[: self.n], self.paths_
        image = layout_of(cf).is_image
        shown = [shown_frames(path, self.frames if image else None) for path in paths]
        # as many columns as the longest search has frames, and one for the original if a search begins elsewhere
        first = 0 if image and all(_begins_at(row, path) for row, path in zip(cf, paths, strict=True)) else 1
        columns = first + max(len(frames) for frames in shown) if image else 1
        height = layout_of(cf).net_shape[1] / layout_of(cf).net_shape[2] if image else 1.3
        size = (2.6 + max(columns, 4.0), len(cf) * (height + 1.55)) if image else (8.0, len(cf) * 3.3)
        self.figure_, grid = figure_and_grid(ax, figure, size, 1, 1)
        if ax is None and figure is None:
            self.figure_.get_layout_engine().set(h_pad=0.06)
        inner = grid[0, 0].subgridspec(2 * len(cf), 1, height_ratios=[height, 0.8] * len(cf))
        self.frame_axes_ = np.full((len(cf), columns), None, dtype=object)
        self.ax_, self.density_ax_ = np.full(len(cf), None, dtype=object), np.full(len(cf), None, dtype=object)
        before, bisected = _densities_before(self.explainer, cf), False
        for r, (row, path, frames) in enumerate(zip(cf, paths, shown, strict=True)):
            curve = self.figure_.add_subplot(inner[2 * r + 1, 0])
            self.ax_[r], self.density_ax_[r] = curve, curve.twinx()
            at = point_places(len(path.step), frames) + (first if image else max(1, len(frames) / 9))
            upper = self.figure_.add_subplot(inner[2 * r, 0])
            if image:
                # frames are placed in the units of the curve's axis, so that every layout keeps them above their points
                upper.set(xlim=(-0.5, columns - 0.5), ylim=(0, 1))
                upper.set_axis_off()
                pictures = as_pictures(np.concatenate([row.x, path.x[frames]]), row)[1 - first:]
                for c, picture in enumerate(pictures):
                    frame = self.frame_axes_[r, c] = upper.inset_axes((c - 0.5, 0, 1, 1), transform=upper.transData)
                    _draw_frame(frame, picture, c - first >= 0 and frames[c - first] == path.returned)
                _head(self.frame_axes_[r, 0], row)
            else:
                self.frame_axes_[r, 0] = upper
                _draw_columns(upper, row, path, at)
                upper.set_xlim(-0.5, at[-1] + 0.5)
            original = (row.source[0] if row.is_regression else row.proba_before[0], before[r])
            back = count_bisections(row, self.explainer)
            for panel in [self.density_ax_[r]] if image else [self.density_ax_[r], upper]:
                panel.axvline(at[path.returned], color=RETURNED, linewidth=1.6, zorder=1)
                if back:
                    panel.axvspan(at[-back] - 0.5 * (at[-back] - at[-back - 1]), at[-1] + 0.5 * (at[-1] - at[-2]),
                                  color="#EDEDED", linewidth=0, zorder=0)
            _draw_curves(curve, self.density_ax_[r], path, at, original if first else None)
            self.density_ax_[r].axhspan(*_band(self.explainer, row), color=VERMILLION, alpha=0.12, linewidth=0)
            _label_curves(curve, self.density_ax_[r], row, at, frames, first, path, columns if image else None)
            if not image:
                upper.set_xticks(curve.get_xticks())
            bisected |= back > 0
        of = "training rows" if cf.is_regression else "training rows of the target"
        words = f"band: log density of the middle 90 % of the {of}" + (" · grey: bisecting the way back" if bisected else "")
        say_rest(self.figure_, ax, len(cf), len(self.cf), words=words)
        return self


# ------------------------------------------------------------------------------------------- arrays, without matplotlib
def shown_frames(path: DecodedPoints, most: int | None) -> np.ndarray:
    """Positions in the path that are shown: evenly, with the first, the last where there is room, and the returned one."""
    n = len(path.step)
    if most is None or n <= most:
        return np.arange(n)
    shown = np.linspace(0, n - 1, most).round().astype(int)
    shown[0 if path.returned == 0 else 1 + int(np.abs(shown[1:] - path.returned).argmin())] = path.returned
    return shown


def point_places(n: int, frames: np.ndarray) -> np.ndarray:
    """Horizontal places of n points: a frame in the middle of its column, other points between, later ones close behind."""
    places = np.interp(np.arange(n), frames, np.arange(len(frames), dtype=float))
    after = n - 1 - frames[-1]
    if after:
        places[frames[-1]:] += np.linspace(0, 0.45, after + 1)
    return places


def _begins_at(row: Result, path: DecodedPoints) -> bool:
    """The first point of the search is the original itself, to rounding."""
    return bool(np.allclose(path.x[0], row.x[0], rtol=0, atol=1e-5))


def as_drawn(explainer: Any) -> FittedExplainer:
    """What is asked in place of `explainer`: of a `PipelineExplainer` the explainer within it, in the table's columns."""
    return getattr(explainer, "drawn", explainer)


def group_indices(explainer: FittedExplainer, labels: np.ndarray) -> np.ndarray:
    """Indices of the density's groups: of the classes `labels`, or 0 for a regressor, which has one group."""
    return np.zeros(len(labels), int) if explainer.is_regression else label_indices(labels, explainer.classes_)


def _densities_before(explainer: FittedExplainer, cf: Result) -> np.ndarray:
    """log p(z₀ | target) of each row, (n,)."""
    return explainer.density_.score_samples(cf.z, group_indices(explainer, cf.target))


def _band(explainer: FittedExplainer, row: Result) -> tuple[float, float]:
    """Log densities between which the middle 90 % of the target class's training rows lie."""
    k = group_indices(explainer, row.target)[0]
    low, high = (float(explainer.density_.quantiles_by_index(q)[k]) for q in (0.05, 0.95))
    return low, high


def count_bisections(row: Result, explainer: FittedExplainer) -> int:
    """How many of the last points of the row's search bisect the straight line from the point before them to z₀.

    Of a row of a table that was changed after its search, that last point counts with them.
    """
    points, most = np.asarray((row.path or [])[0], dtype=float), explainer.search_options().refine
    if not most or explainer.stop != "conditions":
        return 0
    return next((most + ended for ended in (0, 1) if _bisects(points[: len(points) - ended], row.z[0], most)), 0)


def _bisects(points: np.ndarray, z0: np.ndarray, most: int) -> bool:
    """Whether the last `most` points lie on the line from z₀ to the point before them."""
    if most >= len(points):
        return False
    way = points[-most - 1] - z0
    length = float(way @ way)
    if not 0 < length < np.inf:
        return False
    last = points[-most:] - z0
    share = last @ way / length
    beside = np.linalg.norm(last - share[:, None] * way, axis=1)
    return bool((beside < 1e-3 * length**0.5).all() and (share < 1 + 1e-3).all())


# -------------------------------------------------------------------------------------------------------------- drawing
def _draw_frame(ax: Axes, picture: np.ndarray, returned: bool) -> None:
    patches = optional_import("matplotlib.patches", "plot()")
    height, width = picture.shape[:2]
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.add_patch(patches.Rectangle((-0.5, -0.5), width, height, fill=False, clip_on=False,
                                   edgecolor=RETURNED if returned else "#BBBBBB", linewidth=2.8 if returned else 0.6))
    free = MARGIN * max(height, width)
    ax.set(xlim=(-0.5 - free, width - 0.5 + free), ylim=(height - 0.5 + free, -0.5 - free), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _head(ax: Axes, row: Result) -> None:
    """Beside the images of a row: source, target and what was found."""
    words = facts(row) if row.valid[0] else f"not valid\n{facts(row)}"
    ax.set_ylabel(f"{title(row, 16)}\n{words}", fontsize=9, color=GREY if row.valid[0] else VERMILLION, rotation=0,
                  ha="right", va="center", labelpad=6)


def _draw_columns(ax: Axes, row: Result, path: DecodedPoints, at: np.ndarray) -> None:
    top, left_out = largest_changes(row, LINES)
    scale = dict(zip(row.feature_names, row.metadata.get("feature_scale") or np.ones(row.x_cf.shape[1]), strict=True))
    names = row.feature_names
    for i, (name, *_) in enumerate(top):
        k = names.index(name)
        change = (path.x[:, k].astype(float) - row.x[0, k]) / (scale[name] or 1.0)
        ax.plot(np.append(0, at), np.append(0, change), color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)],
                markersize=3.5, linewidth=1.3, label=short(name, 26), markevery=max(1, len(at) // 12))
    unit = "standard deviations" if row.metadata.get("feature_scale") else "the column's units"
    ax.set_ylabel(f"change in\n{unit}", fontsize=8, color=GREY)
    ax.axhline(0, color=GREY, linewidth=0.6)
    words = facts(row).replace("\n", " · ")
    ax.set_title(f"{title(row, 44)}".replace("\n", " "), fontsize=11, fontweight="bold", loc="left")
    ax.set_title(words if row.valid[0] else f"not valid · {words}", fontsize=8, loc="right",
                 color=GREY if row.valid[0] else VERMILLION)
    if not top:
        ax.text(0.5, 0.5, "nothing changed", transform=ax.transAxes, ha="center", va="center", color=GREY)
    if top:
        more = f"{left_out} smaller not shown" if left_out else None
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), fontsize=8, frameon=False, title=more, title_fontsize=7,
                  labelspacing=0.3)
    ax.tick_params(labelsize=8, labelbottom=False, colors=GREY)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_curves(left: Axes, right: Axes, path: DecodedPoints, at: np.ndarray,
                 original: tuple[float, float] | None) -> None:
    predicted = path.proba if path.value is None else path.value
    look: dict[str, Any] = {"markersize": 3, "linewidth": 1.4, "markevery": max(1, len(at) // 40)}
    left.plot(at, predicted, color=BLUE, marker="o", **look)
    right.plot(at, path.log_density, color=VERMILLION, marker="s", linestyle=(0, (4, 1.5)), **look)
    for ax, values, k, color, marker in ((left, predicted, 0, BLUE, "o"), (right, path.log_density, 1, VERMILLION, "s")):
        if original is not None and np.isfinite(original[k]):
            ax.plot([0, at[0]], [original[k], values[0]], color=color, linestyle=":", linewidth=1)
            ax.plot([0], [original[k]], color=color, marker=marker, markerfacecolor="white", markersize=4.5, linestyle="")
    right.set_zorder(1)
    left.set_zorder(2)  # the prediction's curve is drawn over the band of the density
    left.patch.set_visible(False)


def _label_curves(left: Axes, right: Axes, row: Result, at: np.ndarray, frames: np.ndarray, first: int,
                  path: DecodedPoints, columns: int | None) -> None:
    if row.is_regression:
        left.set_ylabel("value", fontsize=8, color=BLUE)
        if np.issubdtype(row.target.dtype, np.number):
            left.axhline(float(row.target[0]), color=BLUE, linewidth=0.6, linestyle=":")
    else:
        left.set_ylabel(f"p({short(row.target[0], 12)})", fontsize=8, color=BLUE)
        left.set_ylim(-0.04, 1.04)
    right.set_ylabel("log density\n(nats)", fontsize=8, color=VERMILLION)
    if columns is None:
        ticker = optional_import("matplotlib.ticker", "plot()")
        wanted = [k for k in ticker.MaxNLocator(8, integer=True).tick_values(0, max(len(at) - 1, 1)) if 0 <= k < len(at)]
        frames = np.array(wanted, dtype=int)
    places = [*([0] if first else []), *at[frames]]
    names = [*(["original"] if first else []), *(str(path.step[k]) for k in frames)]
    left.set_xticks(places, names)
    left.set_xlim(-0.5, columns - 0.5 if columns is not None else at[-1] + 0.5)
    left.annotate("returned", (at[path.returned], 1), (0, 1), xycoords=left.get_xaxis_transform(),
                  textcoords="offset points", ha="center", va="bottom", fontsize=8)
    left.set_xlabel("step of the search", fontsize=8, color=GREY, labelpad=2)
    left.tick_params(axis="x", labelsize=8, colors=GREY)
    left.tick_params(axis="y", labelsize=8, colors=BLUE)
    right.tick_params(axis="y", labelsize=8, colors=VERMILLION)
    for ax in (left, right):
        ax.spines["top"].set_visible(False)
        ax.locator_params(axis="y", nbins=4)
