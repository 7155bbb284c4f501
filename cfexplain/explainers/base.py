"""What all explainers share: fit · explain · transform · predict · score.

A paper's class chooses coordinates, terms and stopping (`_terms`); everything else is here.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sklearn
import torch
import zuko
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.classifiers.features import ClassFeatures
from cfexplain.classifiers.latent import train_latent_ensemble
from cfexplain.density import ClassDensity
from cfexplain.explainers.parts import make_coordinates, make_density
from cfexplain.explainers.run import Run
from cfexplain.explainers.running import infer_device
from cfexplain.explainers.task import Classification, Goal, make_task
from cfexplain.foundation.arrays import read_samples, restore_samples, to_numpy
from cfexplain.foundation.exceptions import ClassifierOutputError
from cfexplain.foundation.labels import label_indices
from cfexplain.foundation.random import draw_seed
from cfexplain.foundation.tiles import TILE, in_tiles
from cfexplain.objective.terms import Term, greyness
from cfexplain.persistence.persistent import Persistent
from cfexplain.result import Counterfactuals
from cfexplain.scale import ScaleMixin, is_dask, transform_dask
from cfexplain.search import Found, SearchOptions
from cfexplain.tables.rules import ColumnRules

__all__ = ["CounterfactualExplainer"]

# Share of X's range by which exact coordinates may fail to return x: float32 flows are a hundred times better.
NOT_INVERTIBLE = 1e-2


class CounterfactualExplainer(Persistent, ScaleMixin, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base of all explainers; see `PLACEExplainer` for what the parameters mean."""

    # What an explainer does not offer as a parameter, at its usual value.
    clip = "straight_through"
    density = None
    region = None
    # False: the classifier is only asked, never differentiated, and no surrogate stands in for it
    differentiable = True
    ink_quantile: float | None = None
    needs_valid = True
    step_sizes = {"normalized": 0.1, "adam": 0.05}
    stall: int | None = None

    def _terms(self) -> list[Term]:
        """The objective of the paper: terms with weights."""
        raise TypeError(f"{type(self).__name__} must say what its objective is")

    # ------------------------------------------------------------------ fit
    def fit(self, X: Any, y: Any) -> CounterfactualExplainer:
        """Train what the method needs: coordinates, density, and a classifier where none was given.

        Parameters
        ----------
        X : array-like or tensor of shape (n, d), (n, H, W) or (n, C, H, W)
            Images are floats in ``data_range``.
        y : array-like of shape (n,)
            Class labels, strings or numbers.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            X or y cannot be used: NaN, wrong shape, fewer than two classes, a class with fewer than two rows.
        DataRangeError
            Images outside ``data_range``, or of integers.
        ClassifierOutputError
            The classifier's outputs do not fit the classes.
        """
        self._check_parameters()
        X, y = read_samples(self, X, to_numpy(y), reset=True, image_shape=self.image_shape, data_range=self.data_range)
        self.dtype_ = X.dtype
        self.device_ = infer_device(self.device, self.classifier)
        seed = draw_seed(self.random_state)
        self.column_rules_, self.region_ = self._read_column_rules(), self._read_region()
        budget = {"training_budget": self.training_budget, "verbose": self.verbose, "device": str(self.device_)}
        kind = make_task(self._task_name(), self.classifier, y)
        self.classifier_ = kind.adapt(
            self.classifier, X, y, layout=self.layout_, outputs=self.classifier_output, seed=seed,
            differentiable=self.differentiable, **budget)
        self.task_ = kind(self.classifier_, y)
        if kind is Classification:
            self.classes_, self.class_counts_ = self.task_.classes, self.task_.counts
        else:  # fitted before, on labels
            for name in ("classes_", "class_counts_"):
                vars(self).pop(name, None)
        index = self.task_.groups

        self.coordinates_, unfitted = make_coordinates(
            self._coordinates(), {"random_state": seed + 1, "data_range": self.data_range, **budget})
        if unfitted:
            self.coordinates_.fit(X)
        self._check_coordinates(X)
        rows = self._rows_to_encode(index, seed)
        mean, std = self.coordinates_.encode_dataset(X[rows])
        self.density_, unfitted = self._make_density({"random_state": seed + 2, **budget})
        if unfitted:
            self.density_.fit(mean, index[rows], std=std)
        self.opinions_ = None
        if self._opinion_members():
            self.opinions_ = train_latent_ensemble(
                mean, std, index[rows], len(self.classes_), members=self._opinion_members(), seed=seed + 3, **budget)
            self.opinions_.to(dtype=torch.from_numpy(mean).dtype)
        self.class_features_ = self._fit_features(X, index)
        self.greyness_ = None
        if self.layout_.is_image and self.ink_quantile is not None:
            grey = greyness(torch.from_numpy(X), self.data_range).numpy()
            self.greyness_ = [np.sort(grey[index == k]) for k in range(len(self.task_.counts))]
        self.scale_ = X.std(0)
        self._learn(X, index, mean, index[rows], {"random_state": seed + 4, "data_range": self.data_range, **budget})
        return self

    def _learn(self, X: np.ndarray, groups: np.ndarray, codes: np.ndarray, code_groups: np.ndarray,
               defaults: dict[str, Any]) -> None:
        """What one method learns beside the rest, from X and from codes, with the class index of each row."""

    def _find(self, evaluate: Callable, start: Tensor, rows: Mapping[str, Tensor], options: SearchOptions,
              report: Callable | None, search: Callable) -> Found:
        """The search itself: by gradients, as the backend's `search` goes, unless a method knows another way."""
        return search(evaluate, start, rows["z0"], rows, options, report)

    def _task_name(self) -> str:
        return "classification"

    def _coordinates(self) -> Any:
        """What `make_coordinates` is asked for."""
        return self.coordinates

    def _make_density(self, defaults: dict[str, Any]) -> tuple[ClassDensity, bool]:
        """The density of codes, and whether it still has to be fitted."""
        return make_density(self.density, defaults)

    def _rows_to_encode(self, groups: np.ndarray, seed: int) -> np.ndarray:
        """Training rows whose codes the density is fitted on: all of them."""
        return np.arange(len(groups))

    def _check_coordinates(self, X: np.ndarray) -> None:
        """Fitted coordinates of the user's own must be of samples like X, and exact ones must return them."""
        layout = self.coordinates_.layout_
        if layout.net_shape != self.layout_.net_shape:
            raise ValueError(
                f"The coordinates were fitted on samples of shape {layout.net_shape}, but X has {self.layout_.net_shape}. "
                "Pass X in that shape, or coordinates that are not fitted yet.")
        if self.coordinates_.exact:
            some = X[:TILE]
            back = self.coordinates_._tiled(self.coordinates_.decode, self.coordinates_.encode_dataset(some)[0])
            error = np.abs(back - some).max() / max(float(np.abs(some - some.mean(0)).max()), 1e-12)
            if not error < NOT_INVERTIBLE:
                raise ValueError(
                    f"The {type(self.coordinates_).__name__} is not invertible on X: decode(encode(x)) differs from x by up "
                    f"to {error:.2g} of X's range. Its weights are damaged or were trained on other data; fit it again, or "
                    "pass X as float64.")

    def _opinion_members(self) -> int:
        return 0

    def _wants_features(self) -> bool:
        return False

    def _fit_features(self, X: np.ndarray, index: np.ndarray) -> ClassFeatures | None:
        """Where each class lies in the classifier's own features, if the objective asks for it."""
        if not self._wants_features():
            return None
        try:
            with torch.no_grad(), self.classifier_.frozen():
                _, features = in_tiles(
                    lambda x: tuple(out.cpu() for out in self.classifier_.logits_and_features(x.to(self.device_))),
                    torch.from_numpy(X))
        except ClassifierOutputError:
            if self.feature_weight == "auto":  # a last layer that is not linear: there is nothing to compare
                return None
            raise
        return ClassFeatures(features.numpy(), index, len(self.classes_)).to(self.device_)

    def _check_parameters(self) -> None:
        low, high = self.data_range
        if not low < high:
            raise ValueError(f"data_range={self.data_range!r} must be (low, high) with low < high.")
        if self.training_budget <= 0:
            raise ValueError(f"training_budget={self.training_budget!r} must be positive.")
        if self.max_steps < 0:
            raise ValueError(f"max_steps={self.max_steps!r} must not be negative.")

    def _check_confidence(self) -> None:
        """For explainers with that parameter; read when they explain, so that ``set_params`` needs no new fit."""
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence={self.confidence!r} must lie strictly between 0 and 1.")

    def _read_column_rules(self) -> ColumnRules | None:
        if self.immutable is None and self.bounds is None:
            return None
        if self.layout_.is_image:
            raise ValueError("immutable= and bounds= name columns of a table, but X holds images.")
        return ColumnRules(self.immutable, self.bounds, self.n_features_in_, getattr(self, "feature_names_in_", None))

    def _read_region(self) -> Tensor | None:
        """Which pixels may change, as a tensor that fits (B, C, H, W)."""
        if self.region is None:
            return None
        if not self.layout_.is_image:
            raise ValueError("region= marks pixels of an image, but X holds a table; name its fixed columns in immutable=.")
        region, shape = np.asarray(self.region), self.layout_.net_shape
        if region.dtype != bool or region.shape not in (shape, shape[1:]) or not region.any():
            raise ValueError(f"region must hold one bool a pixel, some of them True, in the shape {shape[1:]} or {shape}; "
                             f"got {region.dtype} of shape {region.shape} with {int(np.count_nonzero(region))} marked.")
        return torch.from_numpy(np.broadcast_to(region, shape).copy())

    # -------------------------------------------------------------- explain
    def explain(self, X: Any, target: Any = None, *, record_path: bool = False, n_jobs: int | None = None,
                backend: str = "auto", precision: str = "auto") -> Counterfactuals:
        """Counterfactuals of `X`: what would have to change for the classifier to say `target`.

        Parameters
        ----------
        X : array-like or tensor, in the layout of `fit`
        target : label, array-like of shape (n,), or None
            One label for all rows or one a row. None: the constructor's `target`, else each row's runner-up class (in
            a binary problem, the other class).
        record_path : bool, default=False
            Keep every point of the search (PLACE, figure 2) in ``path``.
        n_jobs : int, optional
            Processes (joblib); None is what ``joblib.parallel_config`` says, else 1. The same bits however many there are.
        backend : {"auto", "eager", "packed", "graph", "triton"}, default="auto"
            How the search computes; what it finds is the same but for float rounding, and is judged by the networks as
            they are. "eager": with those. "packed": with frozen copies (`cfexplain.ops.freezing.freeze_for_search`) and the
            flow's density and gradient in closed form. "graph", "triton": the same in one captured CUDA graph, the latter
            with Triton kernels. "auto": packed. The one that ran is ``cf.backend``.
        precision : {"auto", "bfloat16"}, default="auto"
            Of the frozen copies: as the networks are, or bfloat16 for float32 networks, which is faster and rounds to
            three digits.

        Returns
        -------
        Counterfactuals
            One row for each row of X. A row without success carries its best effort and says so in ``status``.

        Warns
        -----
        ConvergenceWarning
            Some rows did not reach their target.
        """
        check_is_fitted(self)
        started, container = time.perf_counter(), "torch" if isinstance(X, Tensor) else "numpy"
        X = self._read(X)
        goal = self._goal(X, self.target if target is None else target)
        found = Run(self, record_path, backend, precision).rows(X, goal, n_jobs)
        return self._result(found, X, container, goal, time.perf_counter() - started)

    def _refine(self) -> int:
        return int(self.refine)

    def _update(self) -> str:
        return self.update

    def _goal(self, X: np.ndarray, target: Any) -> Goal:
        """What is wanted of each row."""
        return self.task_.goal(self.classifier_, X, target)

    def _typical_quantile(self) -> float:
        return 0.5

    def _result(self, found: dict[str, Any], X: np.ndarray, container: str, goal: Goal, seconds: float) -> Counterfactuals:
        """Judge what was found, on the very array that is returned."""
        x_cf = np.ascontiguousarray(found["x_cf"])
        judged = self.task_.judge(self.classifier_, x_cf, goal)
        judged["valid"] = valid = judged["valid"] | goal.still
        found["held"] = {name: held | (goal.endless & valid) for name, held in found["held"].items()}
        reached = goal.endless | (found["finished"] & (found["done"] if self.stop == "conditions" else True))
        status = np.select([goal.still, valid & reached, valid], ["already_target", "converged", "step_budget"], "not_found")
        if (status == "not_found").any() or (status == "step_budget").any():
            warnings.warn(
                f"{(status == 'not_found').sum()} of {len(X)} rows did not reach their target and "
                f"{(status == 'step_budget').sum()} reached it without meeting every condition within "
                f"max_steps={self.max_steps}. Their best effort is returned; see `status`.",
                ConvergenceWarning, stacklevel=3)
        layout, flat = self.layout_, lambda a: a.reshape(len(a), -1)
        return Counterfactuals(
            x=restore_samples(X, layout), x_cf=restore_samples(x_cf, layout),
            reconstruction=restore_samples(found["reconstruction"], layout), container=container,
            target=goal.asked, status=status, **judged,
            n_steps=found["n_steps"], z=found["z0"], z_cf=found["z"],
            distance=np.linalg.norm(found["z"] - found["z0"], axis=1),
            distance_x=np.linalg.norm(flat(x_cf - X), axis=1),
            log_density=found["log_density"],
            density_percentile=self.density_.percentile(found["log_density"], goal.rows["target"]),
            reconstruction_error=np.linalg.norm(flat(found["reconstruction"] - X), axis=1),
            conditions=found["held"],
            surrogate_valid=found["search_valid"] if self.classifier_.is_surrogate else None,
            second_opinion=found["opinion"] if self.opinions_ is not None else None,
            path=found["path"], metadata={**self._metadata(seconds), "backend": found["backend"],
                                          **({"interrupted": True} if found["interrupted"].any() else {})})

    def _metadata(self, seconds: float) -> dict[str, Any]:
        return {
            "explainer": type(self).__name__, "parameters": repr(self), "n_train": int(self.task_.counts.sum()),
            **self.task_.metadata(),
            "data_range": list(self.data_range), "is_image": self.layout_.is_image,
            "user_shape": list(self.layout_.user_shape), "net_shape": list(self.layout_.net_shape),
            "feature_names": [str(name) for name in getattr(self, "feature_names_in_", ())] or None,
            "feature_scale": None if self.layout_.is_image else self.scale_.tolist(),
            "seconds": seconds, "device": str(self.device_),
            "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "zuko": zuko.__version__},
        }

    def _read(self, X: Any) -> np.ndarray:
        return read_samples(self, X, reset=False, data_range=self.data_range).astype(self.dtype_, copy=False)

    # --------------------------------------------------- scikit-learn's side
    def transform(self, X: Any, target: Any = None) -> Any:
        """The counterfactuals themselves, in the layout and container of `X`.

        Ends a `Pipeline`: ``pipe.inverse_transform(pipe.transform(X))`` is in original units. A Dask array or DataFrame
        gives a Dask array, computed chunk by chunk when it is asked for.
        """
        check_is_fitted(self)
        if is_dask(X):
            return transform_dask(self, X, target)
        found = self.explain(X, target)
        return restore_samples(np.asarray(found), self.layout_, like=X)

    def inverse_transform(self, X: Any) -> Any:
        """`X` as it is: counterfactuals live where the data live."""
        check_is_fitted(self)
        return X

    def predict(self, X: Any) -> np.ndarray:
        """The explained model's labels, or values, shape (n,)."""
        check_is_fitted(self)
        if not hasattr(self, "classes_"):
            return self.classifier_.predict(self._read(X))
        return self.classes_[self.predict_proba(X).argmax(1)]

    @available_if(lambda self: getattr(self, "task_", None) is None or hasattr(self, "classes_"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """The explained classifier's probabilities, shape (n, K), columns as in ``classes_``."""
        check_is_fitted(self)
        return self.classifier_.predict_proba(self._read(X))

    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """log p(z|y) of each row's code in nats, shape (n,); without `y`, log p(z) over all classes."""
        check_is_fitted(self)
        Z, _ = self.coordinates_.encode_dataset(self._read(X))
        return self.density_.score_samples(
            Z, None if y is None or not hasattr(self, "classes_") else label_indices(y, self.classes_))

    def score(self, X: Any, y: Any = None) -> float:
        """How good the counterfactuals of `X` are, in [0, 1]; larger is better. What `GridSearchCV` maximises.

        The mean over rows of *valid · plausible · near*: valid is 0 or 1, plausible is min(1, density percentile / 50),
        near is exp(−‖x − x′‖ / s) with s the root mean square distance of the training rows from their mean.

        Parameters
        ----------
        X : array-like
        y : ignored
            Present for scikit-learn; targets are the constructor's.
        """
        check_is_fitted(self)
        found = self.explain(X)
        plausible = np.minimum(found.density_percentile / 50, 1)
        return float(np.mean(found.valid * plausible * np.exp(-found.distance_x / np.linalg.norm(self.scale_))))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def __sklearn_clone__(self) -> CounterfactualExplainer:
        """A clone explains the same classifier: a network that the user trained is neither copied nor un-fitted."""
        bare = copy.copy(self)
        bare.classifier = None
        twin = BaseEstimator.__sklearn_clone__(bare)
        twin.classifier = self.classifier
        return twin

