"""Where a counterfactual lies among the training rows, and the way to it: in the latent space, or in the data's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils.validation import check_is_fitted

from cfexplain.foundation.arrays import to_numpy
from cfexplain.foundation.optional import optional_import
from cfexplain.plotting.counterfactual import GREY, VERMILLION, _place, _short, as_pictures
from cfexplain.plotting.evaluation import MARKERS, PALETTE
from cfexplain.plotting.path import _bisections
from cfexplain.plotting.words import is_regression

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from cfexplain.explainers import CounterfactualExplainer
    from cfexplain.result import Counterfactuals

__all__ = ["ManifoldDisplay"]

PROJECTIONS = ("auto", "pca", "lda", "data")
# Training rows that are drawn, at most, drawn at random: more hide each other
POINTS = 3000
# Points a side of the grid on which a probability is drawn
GRID = 120
# Rows of images with their picture beside both ends
PICTURED = 4


class ManifoldDisplay:
    """Training rows by class, and the ways from x (hollow) to x′ (filled) among them.

    The codes of the latent space are projected to a plane, or rows of two or three columns are drawn as they are: in two,
    with the probability behind them (of the target that all rows share, or of the second of two classes; dark is 1); in
    three, in space. Ways are those of the search where they were recorded, without the steps that bisect the way back, else
    straight dashed lines. Only classes that rows come from or go to are coloured.

    Parameters
    ----------
    cf : Counterfactuals
        At least one row; ``explain(..., record_path=True)`` records the ways.
    explainer : CounterfactualExplainer
        The fitted one that made it.
    X : array-like or tensor
        Training rows, in the layout of `fit`; at most 3,000 of them are drawn.
    y : array-like of shape (n_samples,), optional
        Their labels, or their values for a regressor. Default: what the explained model says of them.
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
        Where the ways go, from x to x′.

    Raises
    ------
    ValueError
        There is no row to draw, an unknown projection, or one that these rows do not have.

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

    def __init__(self, cf: Counterfactuals, explainer: CounterfactualExplainer, X: Any, y: Any = None, *, n: int = 12,
                 projection: str = "auto"):
        if len(cf) == 0:
            raise ValueError("There is nothing to draw: this result has no rows.")
        if n < 1:
            raise ValueError(f"n={n!r} must be at least 1.")
        check_is_fitted(explainer)
        self.cf, self.explainer, self.n = cf, explainer, n
        columns = None if explainer.layout_.is_image else explainer.n_features_in_
        if projection not in PROJECTIONS:
            raise ValueError(f"projection={projection!r} is not known; choose one of {PROJECTIONS}.")
        if projection == "auto":
            projection = "data" if columns in (2, 3) else "pca" if is_regression(cf) else "lda"
        if projection == "data" and columns not in (2, 3):
            what = "images" if columns is None else f"{columns} columns"
            raise ValueError(f"projection='data' draws rows of 2 or 3 columns as they are, but these are {what}. Use "
                             "'pca' or 'lda', which draw the codes of the latent space.")
        if projection == "lda" and is_regression(cf):
            raise ValueError("projection='lda' tells classes apart, but a regressor has none. Use projection='pca'.")
        self.projection = projection
        X = explainer.read_samples(X)
        y = explainer.predict(X.reshape(len(X), *explainer.layout_.user_shape)) if y is None else np.asarray(to_numpy(y))
        if y.shape != (len(X),):
            raise ValueError(f"y has the shape {y.shape}; expected one label for each of the {len(X)} rows of X.")
        rows = np.random.RandomState(0).permutation(len(X))[:POINTS]
        self.y_ = y[rows]
        self._place_points(X[rows])

    def _place_points(self, X: np.ndarray) -> None:
        cf, explainer = self.cf[: self.n], self.explainer
        self.recorded = cf.path is not None
        if self.projection == "data":
            self.training_ = X
            middle = [row.x[:0] for row in cf]
            if self.recorded:
                from cfexplain.explainers import decode_path  # here, since a result knows how to draw itself

                middle = [path.x[:n] for path, n in zip(decode_path(explainer, cf), _descents(cf, explainer), strict=True)]
            ways = [np.concatenate([row.x, some, row.x_cf]) for row, some in zip(cf, middle, strict=True)]
            self._project = None
        else:
            codes = explainer.coordinates_.encode_dataset(X)[0]
            if codes.shape[1] < 2:
                raise ValueError("The codes have one dimension, of which no plane can be drawn.")
            self._project = _plane(codes, self.y_, self._coloured() if self.projection == "lda" else None)
            self.training_ = self._project(codes)
            middle = [cf.z[:0]] * len(cf)
            if self.recorded:
                middle = [path[:n] for path, n in zip(cf.path, _descents(cf, explainer), strict=True)]
            ways = [self._project(np.concatenate([z0[None], path, z[None]]))
                    for z0, path, z in zip(cf.z, middle, cf.z_cf, strict=True)]
        self.paths_ = [way[np.isfinite(way).all(1)] for way in ways]

    def _coloured(self) -> list[Any]:
        """The classes that rows come from or go to, in the order of ``classes_``."""
        cf = self.cf[: self.n]
        ends = set(cf.source.tolist()) | set(cf.target.tolist())
        return [label for label in self.explainer.classes_.tolist() if label in ends]

    @classmethod
    def from_explanation(
        cls, cf: Counterfactuals, explainer: CounterfactualExplainer, X: Any, y: Any = None, *, n: int = 12,
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
        if ax is None or (deep and ax.name != "3d"):
            self.figure_, grid = _place(ax, figure, (7.4, 5.6), 1, 1)
            ax = self.figure_.add_subplot(grid[0, 0], projection="3d" if deep else None)
        self.figure_, self.ax_ = ax.figure, ax
        cf = self.cf[: self.n]
        handles = self._draw_training(cf)
        if self.projection == "data" and not deep:
            self._draw_probability(cf)
        for row, way in zip(cf, self.paths_, strict=True):
            self._draw_way(row, way)
        if self.explainer.layout_.is_image and not deep:
            self._draw_pictures(cf)
        self._draw_words(cf, handles, deep)
        return self

    def _draw_training(self, cf: Counterfactuals) -> list[Any]:
        few = {"s": 14, "linewidths": 0, "zorder": 1}
        if is_regression(cf):
            drawn = self.ax_.scatter(*self.training_.T, c=self.y_.astype(float), cmap="cividis", alpha=0.6, **few)
            self.figure_.colorbar(drawn, ax=self.ax_, shrink=0.7, label="value")
            return []
        coloured = self._coloured()
        rest = ~np.isin(self.y_, coloured)
        handles = []
        if rest.any():
            handles.append(self.ax_.scatter(
                *self.training_[rest].T, color="#D0D0D0", alpha=0.6, label="other classes", **few))
        for i, label in enumerate(coloured):
            own = self.training_[self.y_ == label]
            handles.append(self.ax_.scatter(*own.T, color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)],
                                            alpha=0.6, label=_short(label, 24), **few))
        return handles

    def _draw_probability(self, cf: Counterfactuals) -> None:
        """Behind a plane of data: what the model says there."""
        targets = set(cf.target.tolist())
        k = 0
        if not is_regression(cf):
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
        if is_regression(cf):
            said, levels, cmap = self.explainer.classifier_.predict(points), 12, "cividis"
        else:
            said, levels = self.explainer.classifier_.predict_proba(points)[:, k], np.linspace(0, 1, 11)
            cmap = colors.LinearSegmentedColormap.from_list("cfexplain_probability", ["white", "#9A9A9A"])
        said = said.reshape(GRID, GRID)
        drawn = self.ax_.contourf(*sides, said, levels=levels, cmap=cmap, alpha=0.6, zorder=0)
        if not is_regression(cf):
            self.ax_.contour(*sides, said, levels=[0.5], colors="black", linewidths=0.9, zorder=0)
            self.figure_.colorbar(drawn, ax=self.ax_, shrink=0.7, label=f"p({_short(classes[k], 16)}), line at 0.5")
        self.ax_.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))

    def _draw_way(self, row: Counterfactuals, way: np.ndarray) -> None:
        color = "black" if row.valid[0] else VERMILLION
        style = {"color": color, "linewidth": 1.3, "zorder": 3}
        if self.recorded:
            self.ax_.plot(*way.T, marker=".", markersize=3, **style)
        else:
            self.ax_.plot(*way[[0, -1]].T, linestyle=(0, (4, 2)), **style)
        self.ax_.plot(*way[:1].T, marker="o", markersize=6, markerfacecolor="white", linestyle="", **style | {"zorder": 4})
        self.ax_.plot(*way[-1:].T, marker="o" if row.valid[0] else "X", markersize=6, linestyle="", **style | {"zorder": 4})

    def _draw_pictures(self, cf: Counterfactuals) -> None:
        """Beside both ends of the first rows: what they look like, where there is room."""
        offsetbox = optional_import("matplotlib.offsetbox", "plot()")
        ends = [(picture, place) for row, way in zip(cf[:PICTURED], self.paths_, strict=False) for picture, place in (
            (as_pictures(row.x, row)[0], way[0]), (as_pictures(row.x_cf, row)[0], way[-1]))]
        # in points, as the offsets are
        points = [self.ax_.transData.transform(place) * 72 / self.ax_.figure.dpi for _, place in ends]
        taken = list(points)
        centre = np.mean(points, 0)
        for (picture, place), point in zip(ends, points, strict=True):
            offset = _free_offset(point, centre, taken)
            taken.append(point + offset)
            image = offsetbox.OffsetImage(picture, cmap="gray", zoom=28 / max(picture.shape[:2]), interpolation="nearest")
            image.image.set_clim(0, 1)  # a faint picture must not look strong
            self.ax_.add_artist(offsetbox.AnnotationBbox(
                image, place, xybox=tuple(offset), boxcoords="offset points", pad=0.12, zorder=5,
                arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": GREY}, bboxprops={"edgecolor": "#BBBBBB"}))

    def _draw_words(self, cf: Counterfactuals, handles: list[Any], deep: bool) -> None:
        lines = optional_import("matplotlib.lines", "plot()")
        kinds = [("x", {"marker": "o", "markerfacecolor": "white"}), ("x′", {"marker": "o"})]
        if not cf.valid.all():
            kinds.append(("not valid", {"marker": "X", "color": VERMILLION}))
        handles = [*handles, *(lines.Line2D([], [], **{"color": "black", "linestyle": "", "label": label} | look)
                               for label, look in kinds)]
        legend = self.ax_.legend(handles=handles, fontsize=8, frameon=False, loc="upper left",
                                 bbox_to_anchor=(0.0, 1.0) if deep else (0.0, -0.1), ncols=1 if deep else 6)
        for handle in legend.legend_handles:
            handle.set_alpha(1)
        if self.projection == "data":
            names = [_short(name, 30) for name in cf.feature_names]
        else:
            names = self._project.names
        for axis, name in zip("xyz", names, strict=False):
            getattr(self.ax_, f"set_{axis}label")(name, fontsize=8, color=GREY)
        self.ax_.tick_params(labelsize=7, colors=GREY)
        if not deep:
            self.ax_.spines[["top", "right"]].set_visible(False)


# ------------------------------------------------------------------------------------------- arrays, without matplotlib
def _descents(cf: Counterfactuals, explainer: CounterfactualExplainer) -> list[int]:
    """How many of each row's points lead to the returned one, without the steps that bisect the way back."""
    ends = []
    for row in cf:
        path, back = row.path[0], _bisections(row, explainer)
        distance = np.nan_to_num(((path - row.z_cf[0]) ** 2).sum(1), nan=np.inf)
        ends.append(min(int(distance.argmin()) + 1, len(path) - back))
    return ends


def _free_offset(point: np.ndarray, centre: np.ndarray, taken: list[np.ndarray]) -> np.ndarray:
    """Where a picture beside `point` covers none of the places `taken`: outwards first; all in points."""
    outwards = np.arctan2(*(point - centre)[::-1])
    turns = outwards + np.pi / 6 * np.array([0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6])
    offsets = [radius * np.array([np.cos(turn), np.sin(turn)]) for radius in (30, 48, 66, 84) for turn in turns]
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
    some = np.isin(y, classes)
    present = len(np.unique(y[some]))
    if present < 2:
        raise ValueError(f"projection='lda' tells {classes} apart, but X holds rows of {present} of them. Pass training "
                         "rows of each, or use projection='pca'.")
    fitted = LinearDiscriminantAnalysis(n_components=min(2, present - 1)).fit(codes[some], y[some])
    ways = fitted.scalings_[:, : min(2, present - 1)]
    if ways.shape[1] == 2:
        return _Linear(mean, ways, ["discriminant 1 of the codes", "discriminant 2 of the codes"])
    unit = ways / np.linalg.norm(ways)
    beside = (codes - mean) - (codes - mean) @ unit @ unit.T
    second = PCA(1, random_state=0).fit(beside[some]).components_.T
    return _Linear(mean, np.concatenate([ways, second], 1), ["discriminant of the codes", "main direction beside it"])
