"""Whether saliency maps point at what would change the decision: Captum's maps against counterfactuals, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from cfexplain.bridges import saliency_words
from cfexplain.bridges.saliency_maps import EXPLAINS, draw_maps, given_maps, read_methods, score_of
from cfexplain.bridges.saliency_measures import Judge
from cfexplain.classifiers import adapt_classifier
from cfexplain.evaluation.bootstrap import PairedDifference, Resampling, Statistic, paired, statistic
from cfexplain.explainers.resources import infer_device
from cfexplain.foundation.exceptions import warn_caller
from cfexplain.foundation.labels import label_indices
from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.random import draw_seed
from cfexplain.plotting.pictures import layout_of
from cfexplain.plotting.saliency import SaliencyDisplay
from cfexplain.result import Counterfactuals

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["SaliencyComparison", "compare_saliency"]

METHODS = ("Saliency", "IntegratedGradients", "GradientShap", "Occlusion", "LRP")
_BACKGROUND_ROWS = 50


def compare_saliency(cf: Counterfactuals, methods: Any = METHODS, explainer: Any = None, *, classifier: Any = None,
                     classifier_output: str = "auto", explains: str = "contrast", shares: Sequence[float] = (0.05, 0.1, 0.2),
                     options: Mapping[str, Mapping[str, Any]] | None = None, baseline: Any = None, background: Any = None,
                     n_random: int = 10, batch_size: int = 32, random_state: Any = 0, n_bootstrap: int = 1000,
                     confidence_level: float = 0.95) -> SaliencyComparison:
    """Compare what the counterfactuals change with what saliency maps of the same classifier mark.

    For each row and method, with |x′ − x| and |map| summed over channels:

    - ``spearman``: rank correlation of the two over pixels, or columns of a table, −1 to 1.
    - ``overlap@s``: share of the map's strongest pixels that are among the most changed ones, 0 to 1; both are the top share
      s of all pixels, at least one. A random map has s.
    - ``pointing``: 1 if the map's strongest pixel is among the most changed tenth, else 0 (Zhang et al., *Top-down Neural
      Attention by Excitation Backprop*, 2018).
    - ``flip@s``: 1 if x with the map's top share s replaced by the pixels of x′ gets the target from the classifier.

    Two controls are measured alike: ``counterfactual``, whose map is |x′ − x| itself, and ``random``, the mean over
    `n_random` random orders of pixels.

    Parameters
    ----------
    cf : Counterfactuals
        Of a classifier. Only rows that reached their target, and did not have it before, are compared.
    methods : sequence of str, or dict of str to str, array or callable
        Classes of ``captum.attr`` that explain inputs; attributions, an array of the shape of ``cf.x``; or a function
        ``(score, x, plus, minus) -> attributions like x``, where ``score(x, plus, minus)``, an ``nn.Module``, is the
        explained number: the logit of each row's class `plus` minus that of `minus`; a negative index stands for no class.
    explainer : CounterfactualExplainer, optional
        The one that made `cf`: its classifier is the one that the maps explain.
    classifier : nn.Module, skorch net or fitted estimator, optional
        In place of `explainer`.
    classifier_output : {"auto", "logits", "probabilities"}, default="auto"
        What a `classifier` that is a module returns.
    explains : {"contrast", "source", "target"}, default="contrast"
        The number that the maps explain: the target's logit minus that of the class before, which is the question that a
        counterfactual answers; the logit of the class before, as most maps do; or the target's logit.
    shares : sequence of float in (0, 1], default=(0.05, 0.1, 0.2)
    options : dict of method to dict, optional
        Further arguments of a method's ``attribute``.
    baseline : float or array of the shape of a sample, optional
        For methods that need one. Default: the low end of the data range for images, the mean of `background` for tables.
    background : array of shape (m, …), optional
        For methods that take a distribution of baselines. Default: up to 50 rows of ``cf.x``.
    n_random : int, default=10
    batch_size : int, default=32
        Rows given to Captum at once.
    random_state : int, RandomState or None, default=0
    n_bootstrap, confidence_level
        Of the intervals; see `evaluate`.

    Returns
    -------
    SaliencyComparison
        Methods that failed have their error message in ``failures``.

    Raises
    ------
    ValueError
        No row to compare, a regression, a method or a parameter that is not known, attributions of another shape, or
        neither or both of `explainer` and `classifier`.
    TypeError
        The network cannot be copied. Captum works on a copy whose in-place activations are replaced by ordinary ones, which
        changes no number; layers that only reshape get LRP's epsilon rule.

    Warns
    -----
    RuntimeWarning
        A method failed.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> cf = explainer.explain(X[:8], target=1)
    >>> found = compare_saliency(cf, ("Saliency", "Occlusion"), explainer, shares=(0.5,))
    >>> list(found.table), found.table["counterfactual"]["overlap@0.5"].mean
    (['counterfactual', 'Saliency', 'Occlusion', 'random'], 1.0)
    """
    named, shares = read_methods(methods), _read_shares(shares)
    for name, value in (("n_random", n_random), ("batch_size", batch_size), ("n_bootstrap", n_bootstrap)):
        if value < 1:
            raise ValueError(f"{name}={value!r} must be at least 1.")
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level={confidence_level!r} must lie strictly between 0 and 1.")
    if explains not in EXPLAINS:
        raise ValueError(f"explains={explains!r} is not known; choose one of {EXPLAINS}.")
    strange = sorted(set(options or {}) - set(named))
    if strange:
        raise ValueError(f"options= names {strange}, which are not among the methods {list(named)}.")
    adapter = _adapter(cf, explainer, classifier, classifier_output)
    layout, seed = layout_of(cf), draw_seed(random_state)
    x, x_cf = (np.ascontiguousarray(layout.to_net(a)) for a in (cf.x, cf.x_cf))
    source, target = (label_indices(labels, adapter.classes_) for labels in (cf.source, cf.target))
    agrees = (adapter.answers(x)[0] == source) & (adapter.answers(x_cf)[0] == target)
    wanted = cf.valid & (cf.status != "already_target")
    used = np.flatnonzero(wanted & agrees)
    if not len(used):
        raise ValueError(f"There is no row to compare: {int(wanted.sum())} of {len(cf)} reached a target that they did not "
                         f"have, and of these the classifier given says the same of {int((wanted & agrees).sum())}.")
    x, x_cf, source, target = x[used], x_cf[used], source[used], target[used]
    low = (cf.metadata.get("data_range") or (0.0, 1.0))[0] if layout.is_image else None
    rows = _ground(x, layout.net_shape, baseline, background, low)
    none = np.full(len(used), -1)
    plus, minus = {"contrast": (target, source), "source": (source, none), "target": (target, none)}[explains]
    tensors = [torch.from_numpy(np.ascontiguousarray(a)).to(adapter.device) for a in (x, plus, minus, *rows)]
    maps = {label: given_maps(label, given, cf, used, layout) for label, given in named.items()
            if isinstance(given, np.ndarray)}
    score, gaps, failures = score_of(adapter), {}, {}
    for label, method in named.items():
        if isinstance(method, np.ndarray):
            continue
        try:
            maps[label], gaps[label] = draw_maps(
                score, method, *tensors[:3], baseline=tensors[3], background=tensors[4],
                options=(options or {}).get(label, {}), batch_size=batch_size, seed=seed)
        except Exception as error:  # Captum refuses some networks, with errors of many types
            failures[label] = f"{type(error).__name__}: {str(error).strip() or 'without a message'}"
            warn_caller(f"{label} failed and is left out ({failures[label]}).", RuntimeWarning)
            score = score_of(adapter)  # a method that failed may leave its hooks on the copy
    maps = {label: maps[label] for label in named if label in maps}
    change = np.abs(x_cf.astype(float) - x)
    change = change.sum(1) if layout.is_image else change
    judge = Judge(adapter, x, x_cf, target, change, shares, seed)
    values = {"counterfactual": judge.flips(change), **{label: judge.all(drawn) for label, drawn in maps.items()},
              "random": judge.random(n_random)}
    values["counterfactual"] |= {name: np.ones(len(used)) for name in values["random"] if name.startswith("overlap")}
    return SaliencyComparison(
        cf=cf[used], maps={"counterfactual": change, **maps}, values=values, failures=failures, gaps=gaps, used=used,
        left_out={"did not reach a new target": int((~wanted).sum()),
                  "are judged otherwise by the classifier given": int((wanted & ~agrees).sum())},
        shares=shares, explains=explains, surrogate=adapter.is_surrogate, n_random=n_random,
        resampling=Resampling(len(used), n_bootstrap, confidence_level, seed))


@dataclass(kw_only=True, repr=False, eq=False)
class SaliencyComparison:
    """Saliency maps measured against counterfactuals; made by `compare_saliency`.

    Attributes
    ----------
    cf : Counterfactuals
        The rows that were compared.
    maps : dict of method to ndarray of shape (n, H, W) or (n, d)
        |attribution| summed over channels; of ``counterfactual`` it is |x′ − x|.
    values : dict of method to dict of metric to ndarray (n,)
    table : dict of method to dict of metric to Statistic
        Means with their bootstrap intervals; ``missing`` counts rows whose map is constant and has no rank correlation.
    failures : dict of method to str
        Error messages of methods that failed.
    gaps : dict of method to float
        For methods whose attributions should sum to the explained number: the median relative error of the sum; else NaN.
    used : ndarray of int
        Positions of the compared rows in the result that was given.
    left_out : dict of str to int
        Rows that were not compared, by reason.
    shares : tuple of float
    explains : str
    surrogate : bool
        The maps explain a surrogate, since the model has no gradient. Flips are judged by the model itself.
    n_random : int
    """

    cf: Counterfactuals
    maps: dict[str, np.ndarray]
    values: dict[str, dict[str, np.ndarray]]
    failures: dict[str, str]
    gaps: dict[str, float]
    used: np.ndarray
    left_out: dict[str, int]
    shares: tuple[float, ...]
    explains: str
    surrogate: bool
    n_random: int
    resampling: Resampling

    def __post_init__(self) -> None:
        everything = np.ones(len(self), bool)
        self.table: dict[str, dict[str, Statistic]] = {}
        for method, columns in self.values.items():
            intervals = self.resampling.intervals(np.stack(list(columns.values()), 1))
            self.table[method] = {name: statistic(value, everything, interval) for (name, value), interval in zip(
                columns.items(), intervals, strict=True)}

    @property
    def metrics(self) -> list[str]:
        return list(self.values["random"])

    def __len__(self) -> int:
        """Number of rows that were compared."""
        return len(self.cf)

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<SaliencyComparison: {len(self.maps) - 1} methods on {len(self)} row{'s' * (len(self) != 1)}{failed}>"

    def __getitem__(self, index: Any) -> SaliencyComparison:
        """The same comparison on some of its rows: an int, a slice, or a NumPy index of one dimension."""
        rows = np.atleast_1d(np.arange(len(self))[index])
        return replace(
            self, cf=self.cf[rows], used=self.used[rows], resampling=replace(self.resampling, n=len(rows)),
            maps={method: maps[rows] for method, maps in self.maps.items()},
            values={method: {name: value[rows] for name, value in columns.items()}
                    for method, columns in self.values.items()})

    def compare(self, a: str, b: str) -> list[PairedDifference]:
        """Paired differences of two methods or controls on the same rows, one for each metric that both have.

        Raises
        ------
        ValueError
            A method that is not known or failed.
        """
        if a == b or not {a, b} <= set(self.values):
            raise ValueError(f"compare({a!r}, {b!r}): pass two different methods of {list(self.values)}.")
        names = [name for name in self.metrics if name in self.values[a] and name in self.values[b]]
        differences = [self.values[a][name] - self.values[b][name] for name in names]
        intervals = self.resampling.intervals(np.stack(differences, 1))
        return [paired(name, a, b, difference, interval, 1, True)
                for name, difference, interval in zip(names, differences, intervals, strict=True)]

    def to_frame(self, *, rows: bool = False) -> DataFrame:
        """One row for each method, columns (metric, statistic); with ``rows=True``, one line for each method and row.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        pandas = optional_import("pandas", "to_frame()")
        if rows:
            return pandas.concat([pandas.DataFrame({"method": method, "row": self.used, **columns})
                                  for method, columns in self.values.items()], ignore_index=True)
        return pandas.DataFrame.from_dict({method: {(name, key): value for name, entry in entries.items()
                                                    for key, value in asdict(entry).items()}
                                           for method, entries in self.table.items()}, orient="index")

    def to_markdown(self) -> str:
        """One line for each method, one column for each metric: mean [interval]; failures below."""
        return saliency_words.markdown(self)

    def summary(self) -> str:
        """What was found, and what failed, in words."""
        return saliency_words.summary(self)

    def plot(self, kind: str = "maps", n: int = 6, *, figure: Any = None) -> SaliencyDisplay:
        """Draw maps of the first `n` rows, or with ``kind="flips"`` how many decisions flip; see `SaliencyDisplay`."""
        return SaliencyDisplay.from_comparison(self, kind, n, figure=figure)


def _read_shares(shares: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(float(share) for share in np.atleast_1d(np.asarray(shares, dtype=float)))
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares={shares!r} must be shares of the pixels in (0, 1], such as (0.05, 0.1, 0.2).")
    return tuple(sorted(set(shares)))


def _adapter(cf: Counterfactuals, explainer: Any, classifier: Any, output: str) -> Any:
    """The classifier that the maps explain."""
    if cf.is_regression:
        raise ValueError("These are counterfactuals of a regressor: there is no decision to flip. Compare by hand, with "
                         "CounterfactualPathGradients.")
    if (explainer is None) == (classifier is None):
        raise ValueError("Pass the explainer that made cf as explainer=, or the explained model as classifier=; "
                         f"{'neither was' if explainer is None else 'both were'} given.")
    layout = layout_of(cf)
    if explainer is not None:
        if not hasattr(explainer, "explain"):
            raise TypeError(f"explainer is a {type(explainer).__name__}, which has no explain(); pass a model as "
                            "classifier=.")
        check_is_fitted(explainer)
        if explainer.layout_.user_shape != cf.x_cf.shape[1:]:
            raise ValueError(f"cf has samples of shape {cf.x_cf.shape[1:]}, but the explainer was fitted on samples of "
                             f"shape {explainer.layout_.user_shape}. Pass the explainer that made cf.")
        return explainer.classifier_
    classes = cf.metadata.get("classes")
    if classes is None:
        raise ValueError("The result does not say which classes its classifier has (metadata['classes']); pass explainer=.")
    X = layout.to_net(cf.x)
    return adapt_classifier(classifier, X, cf.source, np.asarray(classes), layout=layout, outputs=output,
                            device=infer_device(None, classifier), differentiable=False)


def _ground(x: np.ndarray, shape: tuple[int, ...], baseline: Any, background: Any, low: float | None
            ) -> tuple[np.ndarray, np.ndarray]:
    """The baseline (1, …) and the background (m, …), in the layout of networks."""
    if background is None:
        background = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), _BACKGROUND_ROWS)).astype(int))]
    background = np.asarray(background, dtype=x.dtype)
    if background.ndim < 2 or not len(background) or background[0].size != np.prod(shape):
        raise ValueError(f"background has the shape {background.shape}; expected rows like those of cf.")
    background = background.reshape(len(background), *shape)
    if baseline is None:
        baseline = background.mean(0) if low is None else low
    baseline = np.asarray(baseline, dtype=x.dtype)
    if baseline.size not in (1, np.prod(shape)):
        raise ValueError(f"baseline has the shape {baseline.shape}; expected a number or one sample like those of cf.")
    baseline = np.full((1, *shape), baseline.item(), x.dtype) if baseline.size == 1 else baseline.reshape(1, *shape)
    return np.ascontiguousarray(baseline), np.ascontiguousarray(background)
