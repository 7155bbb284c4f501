"""An explainer on a table, read into what the one-launch search takes; what that does not cover is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from cfexplain.classifiers import ClassifierAdapter
from cfexplain.coordinates import Identity
from cfexplain.coordinates.base import DecodeModule
from cfexplain.coordinates.detail import detail_mode
from cfexplain.density import ConditionalFlow
from cfexplain.density.frozen import pack
from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.foundation.numbers import log_odds_of
from cfexplain.foundation.weight_cache import cached_by_weights
from cfexplain.objective.point import Point
from cfexplain.objective.terms import (
    LOG_DENSITY_SLACK,
    LOG_ODDS_SLACK,
    CrossEntropy,
    DecisionHinge,
    InputDistance,
    LatentDistance,
    LogDensity,
    LogOddsHinge,
    Objective,
    SecondOpinion,
    TargetLogProbability,
    TargetProbability,
    Term,
    TypicalDensity,
)
from cfexplain.ops.coupling_flow import NotPackable
from cfexplain.ops.freezing import freeze_for_search
from cfexplain.ops.table_search import Dense, Network, NotCovered, TableSearch, read_network
from cfexplain.search import SearchResult
from cfexplain.tables.rules import ColumnRules

if TYPE_CHECKING:
    from cfexplain.classifiers.latent import LatentEnsemble

__all__ = ["pack_table", "search_in_one_launch"]

_DECISIONS = {LogOddsHinge: "log_odds_hinge", DecisionHinge: "probability_hinge", TargetLogProbability: "log_probability",
              TargetProbability: "probability", CrossEntropy: "cross_entropy"}
_NAMES = {**dict.fromkeys(_DECISIONS, "decision"), LatentDistance: "distance", TypicalDensity: "density",
          LogDensity: "density", SecondOpinion: "opinion", InputDistance: "input"}


def search_in_one_launch(explainer: ExplainerParameters, precision: str, example: Tensor) -> Callable[..., SearchResult]:
    """A function like `cfexplain.search.search` that takes one launch of a kernel.

    It has no use for what it is given to evaluate: the kernel evaluates by itself.

    Raises
    ------
    NotCovered
        Naming what the kernel does not know.
    """
    from cfexplain.ops.table_search.triton import TritonTableSearch

    if precision == "bfloat16":
        raise NotCovered(f"precision={precision!r}")
    kernel = TritonTableSearch(pack_table(explainer, example), example.device)

    def search(evaluate: Callable, start: Tensor, reference: Tensor, rows: Any, options: Any,
               report: Callable | None = None) -> SearchResult:
        if options.record_path:
            raise ValueError("A search in one launch keeps no path. Use record_path=False, or backend='packed'.")
        found = kernel(start, reference, rows, options)
        if report is not None:
            report(len(start), int(found.n_steps.max()) if len(start) else 0)
        return SearchResult(z=found.z, n_steps=found.n_steps, done=found.done, valid=found.valid, finished=found.finished)

    return search


def pack_table(explainer: ExplainerParameters, example: Tensor) -> TableSearch:
    """The networks, terms and rules of a fitted explainer.

    Parameters
    ----------
    explainer : CounterfactualExplainer
        Fitted on a table.
    example : Tensor of shape (B, d)
        A few rows, on which networks are compared with what was read of them.

    Raises
    ------
    NotCovered
        Naming the first part that is not covered.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.01, random_state=0).fit(X.astype("float32"), y)
    >>> search = pack_table(explainer, torch.tensor(X[:5], dtype=torch.float32))
    >>> search.dim, search.decision, search.density, len(search.opinions)
    (4, 'log_odds_hinge', 'typical', 3)
    """
    ex, rules = explainer, explainer.column_rules_
    if ex.layout_.is_image:
        raise NotCovered("images")
    if example.dtype != torch.float32:
        raise NotCovered(f"rows of {str(example.dtype).removeprefix('torch.')}; the kernel computes in float32")
    if ex.task_.point is not Point:
        raise NotCovered("a regression")
    if not ex.searches_by_gradient:
        raise NotCovered(f"{type(ex).__name__}, which searches in its own way")
    if rules is not None and (type(rules) is not ColumnRules or not rules.plain):
        raise NotCovered(f"{type(rules).__name__} of columns")
    named = _named(Objective(ex.terms(), ex.needs_valid).terms)
    density, opinion = named.get("density"), named.get("opinion")
    with torch.no_grad():
        code = ex.coordinates_.encode(example)
    decision = named.get("decision")
    needed, hinge = {}, None if decision is None else decision[1]
    if isinstance(hinge, LogOddsHinge) and hinge.confidence is not None:
        needed["needed"] = log_odds_of(hinge.confidence)
    elif isinstance(hinge, DecisionHinge):
        if hinge.confidence is None:
            raise NotCovered("a hinge on the probability with a confidence of each class's own")
        needed["needed"] = hinge.confidence
    second = None if opinion is None else opinion[1]
    if isinstance(second, SecondOpinion) and second.confidence is not None:
        needed["opinion_needed"] = log_odds_of(second.confidence)
    distance = named["input"][1] if "input" in named else None
    limits = {} if rules is None else {
        "held": torch.from_numpy(rules.held), "low": torch.from_numpy(rules.low), "high": torch.from_numpy(rules.high)}
    return TableSearch(
        features=example.shape[1], dim=code.shape[1], classes=len(ex.classes_),
        classifier=_classifier(ex.classifier_, example), decoder=_decoder(ex.coordinates_, code),
        residual=detail_mode(ex.detail, ex.layout_.is_image, ex.coordinates_.exact) == "residual", **limits,
        opinions=() if opinion is None or ex.opinions_ is None else _members(ex.opinions_),
        flow=None if density is None else _flow(ex.density_),
        decision="none" if decision is None else _DECISIONS[type(decision[1])],
        density="none" if density is None else {TypicalDensity: "typical", LogDensity: "likelihood"}[type(density[1])],
        distance="distance" in named, opinion=opinion is not None,
        input_norm=distance.norm if isinstance(distance, InputDistance) else 0,
        log_odds_slack=LOG_ODDS_SLACK, density_slack=LOG_DENSITY_SLACK, needs_valid=ex.needs_valid,
        weights={name: float(term.weight) for name, (_, term) in named.items()}, needed=needed,
        own_weights={name: f"weight:{k}" for name, (k, _) in named.items()})


def _named(terms: Sequence[Term]) -> dict[str, tuple[int, Term]]:
    """The terms that count, by their names in the kernel, each with its place among them."""
    named: dict[str, tuple[int, Term]] = {}
    for k, term in enumerate(terms):
        name = _NAMES.get(type(term))
        if name is None:
            raise NotCovered(f"the term {type(term).__name__}")
        if name in named:
            raise NotCovered(f"two terms of one kind, {type(named[name][1]).__name__} and {type(term).__name__}")
        named[name] = k, term
    return named


def _classifier(adapter: Any, example: Tensor) -> Network:
    if type(adapter) is not ClassifierAdapter:
        raise NotCovered(f"a classifier behind a {type(adapter).__name__}")
    scores = adapter._scores
    if adapter.bias is not None:
        raise NotCovered("a classifier that does not decide for its most probable class")
    if scores.kind != "logits" or scores.nonlinearity is not None:
        raise NotCovered("a classifier that returns probabilities")
    if tuple(scores.sample_shape) != tuple(example.shape[1:]):
        raise NotCovered(f"a classifier of samples of shape {tuple(scores.sample_shape)}")
    network = _read(adapter.module, adapter.module, example, "the classifier")
    last = network.layers[-1]
    if last.weight.shape[1] > 1:
        return network
    # one column is the logit of the second class; the first has 0
    weight, bias = (torch.cat([torch.zeros_like(part), part], -1) for part in (last.weight, last.bias))
    return Network(network.loc, network.inverse_scale, (*network.layers[:-1], Dense(weight, bias)))


def _decoder(coordinates: Any, code: Tensor) -> tuple[Dense, ...] | None:
    if type(coordinates) is Identity:
        return None
    return _read(coordinates.module_, DecodeModule(coordinates.module_), code, "the decoder").folded()


def _read(module: nn.Module, function: nn.Module, example: Tensor, what: str) -> Network:
    """The layers of `function`, which is `module` or calls it; read again when the weights have changed."""
    def read() -> Network:
        try:
            net = freeze_for_search(function, precision="float32", example=example)
        except TypeError as error:
            raise NotCovered(f"{what}, which cannot be copied") from error
        if net.report is None or not net.report.traced or not isinstance(net.net.graph, fx.GraphModule):
            raise NotCovered(f"{what}, whose forward cannot be read")
        try:
            return read_network(net.net.graph, example)
        except NotCovered as error:
            raise NotCovered(f"{what}: {error}") from None

    return cached_by_weights(module, ("table", type(function)), read,
                             lambda network: network.agrees(example, function(example)))


def _members(ensemble: LatentEnsemble) -> tuple[tuple[Dense, ...], ...]:
    last = len(ensemble.weights) - 1
    layers = [(weight.detach().double().cpu(), bias.detach().double().cpu())
              for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True)]
    return tuple(
        tuple(Dense(weight[m], bias[m, 0], "identity" if i == last else "relu") for i, (weight, bias) in enumerate(layers))
        for m in range(ensemble.members))


def _flow(density: Any) -> Any:
    if not isinstance(density, ConditionalFlow):
        raise NotCovered(f"the density {type(density).__name__}")
    try:
        return cached_by_weights(density.flow_, "table", lambda: pack(density.flow_))
    except NotPackable as error:
        raise NotCovered(f"the flow: {error}") from error
