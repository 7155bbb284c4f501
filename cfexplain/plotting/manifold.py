"""Where a counterfactual lies among the training rows, and the path to it: in the latent space, or in the data's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils.validation import check_is_fitted

from cfexplain.foundation.arrays import to_numpy
from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.protocols import FittedExplainer, Result
from cfexplain.plotting.axes import figure_and_grid, say_rest, short
from cfexplain.plotting.path import as_drawn, count_bisections
from cfexplain.plotting.pictures import GREY, MARKERS, PALETTE, VERMILLION, as_pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["ManifoldDisplay"]

PROJECTIONS = ("auto", "pca", "lda", "data")
# At most so many training rows are drawn, chosen at random: more would hide each other
POINTS = 3000
# Points along each side of the grid on which a probability is drawn
GRID = 120
# So many rows of images have a picture beside both ends
PICTURED = 4


class ManifoldDisplay:
    """Training rows by class, and the paths from x (hollow) to x′ (filled) among them.

    The codes of the latent space are projected to a plane, or rows of two or three columns are drawn as they are. Behind two
    columns is the predicted probability (of the target that all rows share, or of the second of two classes; dark is 1);
    three columns are drawn in space. Paths are those of the search where they were recorded, without the steps that bisect
    the way back, else straight dashed lines. Only the source and target classes of the drawn rows are coloured.

    Parameters
    ----------
    cf : Counterfactuals
        At least one row; ``explain(..., record_path=True)`` records the paths.
    explainer : CounterfactualExplainer
        The fitted one that made it.
    X : array-like or tensor
        Training rows, in the layout of `fit`; at most 3,000 of them are drawn.
    y : array-like of shape (n_samples,), optional
        Their labels, or their values for a regressor. Default: the explained model's predictions.
    n : int, default=12
        Draw at most so many rows of `cf`.
    projection : {"auto", "pca", "lda", "data"}, default="auto"
        "pca": the codes' two main directions. "lda": the directions that tell the coloured classes apart best
        (scikit-learn's `LinearDiscriminantAnalysis`); of two classes, their one direction and what varies most beside it.
        "data": the rows themselves, of 2 or 3 columns. "auto": "data" for those, "lda" for other classes, "pca" for a
        regressor.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    ax_ : matplotlib Axes
        An ``Axes3D`` for rows of three columns.
    training_ : ndarray of shape (m, 2) or (m, 3)
        Where the training rows are drawn.
    paths_ : list of ndarray of shape (steps, 2) or (steps, 3)
        The points of each drawn path, from x to x′.

    Raises
    ------
    ValueError
        There is no row to draw, or the projection is unknown or does not suit these rows.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> cf = explainer.explain(X[:3], target=1, record_path=True)
    >>> display = ManifoldDisplay.from_explanation(cf, explainer, X, y, figure=Figure())
    >>> display.training_.shape, len(display.paths_)
    ((150, 2), 3)
    """

    ax_: Any  # an Axes, or an Axes3D

    def __init__(self, cf: Result, explainer: FittedExplainer, X: Any, y: Any = None, *, n: int = 12,
                 projection: str = "auto"):
        if len(cf) == 0:
            raise ValueError("There is nothing to draw: this result has no rows.")
        if n < 1:
            raise ValueError(f"n={n!r} must be at least 1.")
        check_is_fitted(explainer)
        explainer = as_drawn(explainer)
        self.cf, self.explainer, self.n = cf, explainer, n
        coded = getattr(explainer, "reads_codes", False)
        columns = None if explainer.layout_.is_image or coded else explainer.n_features_in_
        if projection not in PROJECTIONS:
            raise ValueError(f"projection={projection!r} is not known; choose one of {PROJECTIONS}.")
        if projection == "auto":
            projection = "data" if columns in (2, 3) else "pca" if cf.is_regression else "lda"
        if projection == "data" and columns not in (2, 3):
            what = "codes of a table" if coded else "images" if columns is None else f"{columns} columns"
            raise ValueError(f"projection='data' draws rows of 2 or 3 columns as they are, but these are {what}. Use "
                             "'pca' or 'lda', which draw the codes of the latent space.")
        if projection == "lda" and cf.is_regression:
            raise ValueError("projection='lda' tells classes apart, but a regressor has none. Use projection='pca'.")
        self.projection = projection
        X = explainer.read_samples(X)
        y = explainer.predict(explainer.layout_.to_user(X)) if y is None else np.asarray(to_numpy(y))
        if y.shape != (len(X),):
            raise ValueError(f"y has the shape {y.shape}; expected one label for each of the {len(X)} rows of X.")
        rows = np.random.RandomState(0).permutation(len(X))[:POINTS]
        self.y_ = y[rows]
        self._place_points(X[rows])

    def _place_points(self, X: np.ndarray) -> None:
        cf, explainer = self.cf[: self.n], self.explainer
        self.recorded = cf.path is not None
        if self.projection == "data":
            self.training_, self.axis_names = X, cf.feature_names
            middle = [row.x[:0] for row in cf]
            if self.recorded:
                middle = [path.x[:n] for path, n in zip(explainer.decode_path(cf), _descents(cf, explainer), strict=True)]
            paths = [np.concatenate([row.x, points, row.x_cf]) for row, points in zip(cf, middle, strict=True)]
        else:
            codes = explainer.coordinates_.encode_dataset(X)[0]
            if codes.shape[1] < 2:
                raise ValueError("The codes have one dimension, of which no plane can be drawn.")
            project = _plane(codes, self.y_, self._coloured() if self.projection == "lda" else None)
            self.training_, self.axis_names = project(codes), project.names
            middle = [cf.z[:0]] * len(cf)
            if cf.path is not None:
                middle = [path[:n] for path, n in zip(cf.path, _descents(cf, explainer), strict=True)]
            paths = [project(np.concatenate([z0[None], path, z[None]]))
                    for z0, path, z in zip(cf.z, middle, cf.z_cf, strict=True)]
        self.paths_ = [path[np.isfinite(path).all(1)] for path in paths]

    def _coloured(self) -> list[Any]:
        """The source and target classes of the drawn rows, in the order of ``classes_``."""
        cf = self.cf[: self.n]
        ends = set(cf.source.tolist()) | set(cf.target.tolist())
        return [label for label in self.explainer.classes_.tolist() if label in ends]

    @classmethod
    def from_explanation(
        cls, cf: Result, explainer: FittedExplainer, X: Any, y: Any = None, *, n: int = 12,
        projection: str = "auto", ax: Axes | None = None, figure: Figure | SubFigure | None = None,
    ) -> ManifoldDisplay:
        """Make the display and draw it; see `plot` for `ax` and `figure`."""
        return cls(cf, explainer, X, y, n=n, projection=projection).plot(ax, figure=figure)

    def plot(self, ax: Axes | None = None, *, figure: Figure | SubFigure | None = None) -> ManifoldDisplay:
        """Draw.

        Parameters
        ----------
        ax : Axes, optional
            Draw into it; for rows of three columns, in its place, if it is no ``Axes3D``.
        figure : Figure or SubFigure, optional
            Draw into it. By default a new pyplot figure of a fitting size is made.
        """
        deep = self.training_.shape[1] == 3
        if ax is not None and figure is not None:
            raise ValueError("Pass ax or figure, not both.")
        made = ax is None
        if ax is None or (deep and ax.name != "3d"):
            self.figure_, grid = figure_and_grid(ax, figure, (7.4, 5.6), 1, 1)
            ax = self.figure_.add_subplot(grid[0, 0], projection="3d" if deep else None)
        self.figure_, self.ax_ = ax.figure, ax
        cf = self.cf[: self.n]
        handles = self._draw_training(cf)
        if self.projection == "data" and not deep:
            self._draw_probability(cf)
        for row, path in zip(cf, self.paths_, strict=True):
            self._draw_path(row, path)
        self._draw_words(cf, handles, deep)
        say_rest(self.figure_, None if made else ax, len(cf), len(self.cf))
        if self.explainer.layout_.is_image and not deep:
            self._draw_pictures(cf)
        return self

    def _draw_training(self, cf: Result) -> list[Any]:
        look: dict[str, Any] = {"s": 14, "linewidths": 0, "zorder": 1}
        if cf.is_regression:
            drawn = self.ax_.scatter(*self.training_.T, c=self.y_.astype(float), cmap="cividis", alpha=0.6, **look)
            self.figure_.colorbar(drawn, ax=self.ax_, shrink=0.7, label="value")
            return []
        coloured = self._coloured()
        rest = ~np.isin(self.y_, coloured)
        handles = []
        if rest.any():
            handles.append(self.ax_.scatter(
                *self.training_[rest].T, color="#D0D0D0", alpha=0.6, label="other classes", **look))
        for i, label in enumerate(coloured):
            own = self.training_[self.y_ == label]
            handles.append(self.ax_.scatter(*own.T, color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)],
                                            alpha=0.6, label=short(label, 24), **look))
        return handles

    def _draw_probability(self, cf: Result) -> None:
        """The model's prediction at each point of the plane, behind the rows."""
        targets = set(cf.target.tolist())
        k = 0
        if not cf.is_regression:
            classes = self.explainer.classes_.tolist()
            if len(targets) > 1 and len(classes) > 2:
                return
            k = classes.index(targets.pop()) if len(targets) == 1 else 1
        ends = np.concatenate([self.training_, *self.paths_])
        low, high = ends.min(0), ends.max(0)
        low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
        sides = [np.linspace(a, b, GRID) for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2).astype(self.explainer.dtype_)
        colors = optional_import("matplotlib.colors", "plot()")
        if cf.is_regression:
            predicted, cmap = self.explainer.classifier_.predict(points), "cividis"
        else:
            said, proba = self.explainer.classifier_.answers(points)
            predicted = proba[:, k]
            cmap = colors.LinearSegmentedColormap.from_list("cfexplain_probability", ["white", "#9A9A9A"])
        predicted = predicted.reshape(GRID, GRID)
        levels = 12 if cf.is_regression else np.linspace(0, 1, 11)
        drawn = self.ax_.contourf(*sides, predicted, levels=levels, cmap=cmap, alpha=0.6, zorder=0)
        if not cf.is_regression:
            said, place = (said == k).astype(float).reshape(GRID, GRID), "at 0.5"
            if len(classes) == 2 and (said != (predicted > 0.5)).any():  # it decides at another threshold
                line, place = said, "where it decides"
            else:
                line = predicted
            self.ax_.contour(*sides, line, levels=[0.5], colors="black", linewidths=0.9, zorder=0)
            self.figure_.colorbar(drawn, ax=self.ax_, shrink=0.7, label=f"p({short(classes[k], 16)}), line {place}")
        self.ax_.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))

    def _draw_path(self, row: Result, path: np.ndarray) -> None:
        color = "black" if row.valid[0] else VERMILLION
        style: dict[str, Any] = {"color": color, "linewidth": 1.3, "zorder": 3}
        if self.recorded:
            self.ax_.plot(*path.T, marker=".", markersize=3, **style)
        else:
            self.ax_.plot(*path[[0, -1]].T, linestyle=(0, (4, 2)), **style)
        self.ax_.plot(*path[:1].T, marker="o", markersize=6, markerfacecolor="white", linestyle="", **style | {"zorder": 4})
        self.ax_.plot(*path[-1:].T, marker="o" if row.valid[0] else "X", markersize=6, linestyle="", **style | {"zorder": 4})

    def _draw_pictures(self, cf: Result) -> None:
        """Pictures of x and x′ beside the ends of the first paths, where they cover no end of any path."""
        offsetbox = optional_import("matplotlib.offsetbox", "plot()")
        ends = [(picture, place) for row, path in zip(cf[:PICTURED], self.paths_, strict=False) for picture, place in (
            (as_pictures(row.x, row)[0], path[0]), (as_pictures(row.x_cf, row)[0], path[-1]))]
        self.ax_.figure.figure.draw_without_rendering()  # the layout decides how far apart points are
        # in points, as the offsets are
        points, taken = ([self.ax_.transData.transform(place) * 72 / self.ax_.figure.figure.dpi for place in places] for
                         places in ([place for _, place in ends], [path[k] for path in self.paths_ for k in (0, -1)]))
        centre = np.mean(points, 0)
        for (picture, place), point in zip(ends, points, strict=True):
            offset = _free_offset(point, centre, taken)
            taken.append(point + offset)
            image = offsetbox.OffsetImage(picture, cmap="gray", zoom=28 / max(picture.shape[:2]), interpolation="nearest")
            image.image.set_clim(0, 1)  # fixed limits, so that faint pictures look faint
            self.ax_.add_artist(offsetbox.AnnotationBbox(
                image, place, xybox=tuple(offset), boxcoords="offset points", pad=0.12, zorder=5,
                arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": GREY}, bboxprops={"edgecolor": "#BBBBBB"}))

    def _draw_words(self, cf: Result, handles: list[Any], deep: bool) -> None:
        lines = optional_import("matplotlib.lines", "plot()")
        kinds = [("x", {"marker": "o", "markerfacecolor": "white"}), ("x′", {"marker": "o"})]
        if not cf.valid.all():
            kinds.append(("not valid", {"marker": "X", "color": VERMILLION}))
        handles = [*handles, *(lines.Line2D([], [], **{"color": "black", "linestyle": "", "label": label} | look)
                               for label, look in kinds)]
        legend = self.ax_.legend(handles=handles, fontsize=8, frameon=False, loc="upper left",
                                 bbox_to_anchor=(0.0, 1.0) if deep else (0.0, -0.1), ncols=1 if deep else 6)
        for handle in filter(None, legend.legend_handles):
            handle.set_alpha(1)
        names = [short(name, 30) for name in self.axis_names] if self.projection == "data" else self.axis_names
        for axis, name in zip("xyz", names, strict=False):
            getattr(self.ax_, f"set_{axis}label")(name, fontsize=8, color=GREY)
        self.ax_.tick_params(labelsize=7, colors=GREY)
        if not deep:
            self.ax_.spines[["top", "right"]].set_visible(False)


# ------------------------------------------------------------------------------------------- arrays, without matplotlib
def _descents(cf: Result, explainer: FittedExplainer) -> list[int]:
    """How many of each row's points lead to the returned one, without the steps that bisect the way back."""
    ends = []
    for row in cf:
        path, back = (row.path or [])[0], count_bisections(row, explainer)
        distance = np.nan_to_num(((path - row.z_cf[0]) ** 2).sum(1), nan=np.inf)
        ends.append(min(int(distance.argmin()) + 1, len(path) - back))
    return ends


def _free_offset(point: np.ndarray, centre: np.ndarray, taken: list[np.ndarray]) -> np.ndarray:
    """Where a picture beside `point` covers none of the places `taken`: outwards first; all in points."""
    outwards = np.arctan2(*(point - centre)[::-1])
    turns = outwards + np.pi / 6 * np.array([0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6])
    offsets = [radius * np.array([np.cos(turn), np.sin(turn)]) for radius in (30, 48, 66, 84, 110, 140) for turn in turns]
    room = [min(np.abs(point + offset - other).max() for other in taken) for offset in offsets]
    return next((offset for offset, free in zip(offsets, room, strict=True) if free > 31), offsets[int(np.argmax(room))])


class _Linear:
    """A linear map of codes to a plane, with names for its two axes."""

    def __init__(self, mean: np.ndarray, directions: np.ndarray, names: list[str]):
        self.mean, self.directions, self.names = mean, directions, names

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        return (codes - self.mean) @ self.directions


def _plane(codes: np.ndarray, y: np.ndarray, classes: list[Any] | None) -> _Linear:
    """Two directions in the space of codes: of most variance, or, where `classes` are given, those that tell them apart."""
    mean = codes.mean(0)
    if classes is None or len(classes) < 2:
        fitted = PCA(2, random_state=0).fit(codes)
        names = [f"component {k + 1} of the codes ({100 * share:.0f} % of the variance)" for k, share in enumerate(
            fitted.explained_variance_ratio_)]
        return _Linear(mean, fitted.components_.T, names)
    coloured = np.isin(y, classes)
    present = len(np.unique(y[coloured]))
    if present < 2:
        raise ValueError(f"projection='lda' tells {classes} apart, but X holds rows of {present} of them. Pass training "
                         "rows of each, or use projection='pca'.")
    fitted = LinearDiscriminantAnalysis(n_components=min(2, present - 1)).fit(codes[coloured], y[coloured])
    directions = fitted.scalings_[:, : min(2, present - 1)]
    if directions.shape[1] == 2:
        return _Linear(mean, directions, ["discriminant 1 of the codes", "discriminant 2 of the codes"])
    unit = directions / np.linalg.norm(directions)
    beside = (codes - mean) - (codes - mean) @ unit @ unit.T
    second = PCA(1, random_state=0).fit(beside[coloured]).components_.T
    return _Linear(mean, np.concatenate([directions, second], 1), ["discriminant of the codes", "main direction beside it"])
