"""What all explainers share: fit · explain · transform · predict · score.

A paper's class chooses coordinates, terms and stopping (`_terms`); everything else is here.
"""

from __future__ import annotations

import copy
import time
import warnings
from typing import Any

import numpy as np
import sklearn
import torch
import zuko
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain._arrays import read_samples, restore_samples, to_numpy
from cfexplain._columns import ColumnRules
from cfexplain._random import draw_seed
from cfexplain._tiles import in_tiles
from cfexplain.classifiers import adapt_classifier
from cfexplain.classifiers.features import ClassFeatures
from cfexplain.classifiers.latent import train_latent_ensemble
from cfexplain.exceptions import ClassifierOutputError
from cfexplain.explainers._parts import make_coordinates, make_density
from cfexplain.explainers._run import Run
from cfexplain.explainers._running import infer_device
from cfexplain.explainers._targets import label_indices, resolve_target
from cfexplain.objective import Term, greyness
from cfexplain.result import Counterfactuals

__all__ = ["CounterfactualExplainer"]


class CounterfactualExplainer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base of all explainers; see `PLACEExplainer` for what the parameters mean."""

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
        check_classification_targets(y)
        self.dtype_ = X.dtype
        self.device_ = infer_device(self.device, self.classifier)
        labels = _check_classes(y)
        seed = draw_seed(self.random_state)
        self.column_rules_ = self._read_column_rules()
        budget = {"training_budget": self.training_budget, "verbose": self.verbose, "device": str(self.device_)}
        self.classifier_ = adapt_classifier(
            self.classifier, X, y, labels, layout=self.layout_, outputs=self.classifier_output,
            seed=seed, **budget)
        self.classes_ = self.classifier_.classes_
        index = label_indices(y, self.classes_)
        self.class_counts_ = np.bincount(index, minlength=len(self.classes_))
        if self.class_counts_.min() < 2:
            scarce = self.classes_[self.class_counts_.argmin()]
            raise ValueError(f"The classifier knows the class {scarce!r}, of which y has {self.class_counts_.min()} "
                             "rows; at least 2 are needed to learn what it looks like.")

        self.coordinates_, unfitted = make_coordinates(
            self.coordinates, {"random_state": seed + 1, "data_range": self.data_range, **budget})
        if unfitted:
            self.coordinates_.fit(X)
        mean, std = self.coordinates_.encode_dataset(X)
        self.density_, unfitted = make_density(self.density, {"random_state": seed + 2, **budget})
        if unfitted:
            self.density_.fit(mean, index, std=std)
        self.opinions_ = None
        if self._opinion_members():
            self.opinions_ = train_latent_ensemble(
                mean, std, index, len(self.classes_), members=self._opinion_members(), seed=seed + 3, **budget)
            self.opinions_.to(dtype=torch.from_numpy(mean).dtype)
        self.class_features_ = self._fit_features(X, index)
        self.greyness_ = None
        if self.layout_.is_image:
            grey = greyness(torch.from_numpy(X), self.data_range).numpy()
            self.greyness_ = [np.sort(grey[index == k]) for k in range(len(self.classes_))]
        self.scale_ = X.std(0)
        return self

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

    def _read_column_rules(self) -> ColumnRules | None:
        if self.immutable is None and self.bounds is None:
            return None
        if self.layout_.is_image:
            raise ValueError("immutable= and bounds= name columns of a table, but X holds images.")
        return ColumnRules(self.immutable, self.bounds, self.n_features_in_, getattr(self, "feature_names_in_", None))

    # -------------------------------------------------------------- explain
    def explain(self, X: Any, target: Any = None, *, record_path: bool = False,
                n_jobs: int | None = None) -> Counterfactuals:
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
            Processes (joblib). The result has the same bits however many there are.

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
        run = Run(self, record_path)
        proba = self.classifier_.predict_proba(X)
        source = proba.argmax(1)
        target = resolve_target(self.target if target is None else target, self.classes_, proba)
        found = run.rows(X, source, target, n_jobs)
        return self._result(found, X, container, proba, source, target, time.perf_counter() - started)

    def _typical_quantile(self) -> float:
        return 0.5

    def _result(self, found: dict[str, Any], X: np.ndarray, container: str, proba: np.ndarray, source: np.ndarray,
                target: np.ndarray, seconds: float) -> Counterfactuals:
        """Judge what was found, on the very array that is returned."""
        x_cf = np.ascontiguousarray(found["x_cf"])
        proba_after = self.classifier_.predict_proba(x_cf)
        prediction, rows = proba_after.argmax(1), np.arange(len(X))
        valid, still = prediction == target, source == target
        reached = found["finished"] & (found["done"] if self.stop == "conditions" else True)
        status = np.select([still, valid & reached, valid], ["already_target", "converged", "step_budget"], "not_found")
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
            source=self.classes_[source], target=self.classes_[target], prediction=self.classes_[prediction],
            proba_before=proba[rows, target], proba_after=proba_after[rows, target], valid=valid, status=status,
            n_steps=found["n_steps"], z=found["z0"], z_cf=found["z"],
            distance=np.linalg.norm(found["z"] - found["z0"], axis=1),
            distance_x=np.linalg.norm(flat(x_cf - X), axis=1),
            log_density=found["log_density"],
            density_percentile=self.density_.percentile(found["log_density"], target),
            reconstruction_error=np.linalg.norm(flat(found["reconstruction"] - X), axis=1),
            conditions=found["held"],
            surrogate_valid=found["search_valid"] if self.classifier_.is_surrogate else None,
            second_opinion=found["opinion"] if self.opinions_ is not None else None,
            path=found["path"], metadata=self._metadata(seconds))

    def _metadata(self, seconds: float) -> dict[str, Any]:
        return {
            "explainer": type(self).__name__, "parameters": repr(self), "classes": self.classes_.tolist(),
            "class_counts": self.class_counts_.tolist(), "n_train": int(self.class_counts_.sum()),
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

        Ends a `Pipeline`: ``pipe.inverse_transform(pipe.transform(X))`` is in original units.
        """
        check_is_fitted(self)
        found = self.explain(X, target)
        return restore_samples(np.asarray(found), self.layout_, like=X)

    def inverse_transform(self, X: Any) -> Any:
        """`X` as it is: counterfactuals live where the data live."""
        check_is_fitted(self)
        return X

    def predict(self, X: Any) -> np.ndarray:
        """The explained classifier's labels, shape (n,)."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The explained classifier's probabilities, shape (n, K), columns as in ``classes_``."""
        check_is_fitted(self)
        return self.classifier_.predict_proba(self._read(X))

    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """log p(z|y) of each row's code in nats, shape (n,); without `y`, log p(z) over all classes."""
        check_is_fitted(self)
        Z, _ = self.coordinates_.encode_dataset(self._read(X))
        return self.density_.score_samples(Z, None if y is None else label_indices(y, self.classes_))

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


def _check_classes(y: np.ndarray) -> np.ndarray:
    labels, counts = np.unique(y, return_counts=True)
    if len(labels) < 2:
        raise ValueError(f"y has 1 class ({labels[0]!r}); a counterfactual needs at least 2 to choose from.")
    if counts.min() < 2:
        raise ValueError(f"The class {labels[counts.argmin()]!r} has 1 row in y; at least 2 rows a class are needed. "
                         "Add rows of it, or leave the class out.")
    return labels
