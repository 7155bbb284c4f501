"""What all explainers share: fit · explain · transform · predict · score.

A paper's class chooses coordinates, density, terms and stopping, as parameters, class attributes or by the methods of
`ExplainerAttributes`; everything else is here. `docs/howto/new_method.md` writes one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.explainers.binding import binding_of_explainer
from cfexplain.explainers.column_rules import column_names_of, warn_of_broken_rules
from cfexplain.explainers.columns import Columns
from cfexplain.explainers.confidence import confidence_limits, warn_of_rare_confidence
from cfexplain.explainers.decoded_path import DecodedPath, decode_path
from cfexplain.explainers.fitting import learn_parts
from cfexplain.explainers.forecast import announce
from cfexplain.explainers.found import Found
from cfexplain.explainers.judged import as_given, metadata_of, result_of
from cfexplain.explainers.learned_start import check_can_learn, fit_start
from cfexplain.explainers.plans import MOST, ORDERS, plans_of
from cfexplain.explainers.reconstruction import warn_of_flat_pictures
from cfexplain.explainers.regions import asked_regions
from cfexplain.explainers.resources import infer_device
from cfexplain.explainers.run import Run
from cfexplain.explainers.table import Table
from cfexplain.explainers.task import Goal, stated_target
from cfexplain.foundation.arrays import in_container, read_samples, to_numpy
from cfexplain.foundation.deadline import Deadline, read_limits
from cfexplain.foundation.labels import label_indices
from cfexplain.foundation.one_sample import as_batch
from cfexplain.foundation.parameters import Choice, Number, check_options, check_parameters
from cfexplain.foundation.random import draw_seed
from cfexplain.foundation.settings import own_modes, with_own_modes
from cfexplain.foundation.tiles import tile_for
from cfexplain.persistence import Persistent
from cfexplain.result import Counterfactuals
from cfexplain.scale import ScaleMixin, is_dask, transform_dask
from cfexplain.search import SearchOptions, SearchResult
from cfexplain.tables.plan import Plan

__all__ = ["CounterfactualExplainer"]



@dataclass(eq=False, repr=False)
class CounterfactualExplainer(ExplainerParameters, Persistent, ScaleMixin, OneToOneFeatureMixin, TransformerMixin,
                              BaseEstimator):
    """Base of all explainers; see `PLACEExplainer` for what the parameters mean, `ExplainerAttributes` for what it reads."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.searches_by_gradient = cls.find is CounterfactualExplainer.find

    # ------------------------------------------------------------------ fit
    @with_own_modes
    def fit(self, X: Any, y: Any = None) -> CounterfactualExplainer:
        """Train what the method needs: coordinates, density, and a classifier where none was given.

        A ``random_state`` makes it reproducible. The default networks of images are trained with all threads that torch may
        use (``torch.set_num_threads``), in bfloat16 where that is faster, and in bits that do not depend on how many these
        are; the last bits of a Glow, a GAN, or an autoencoder with a perceptual distance may. Tables are trained with one
        thread. What a fitted explainer finds does not depend on threads.

        Parameters
        ----------
        X : array-like or tensor of shape (n, d), (n, H, W), (n, C, H, W) or (n, H, W, C)
            Images are floats in ``data_range``; `channels` says where they have their channels.
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
            The classifier's outputs do not fit the classes, or are in another order than the sorted labels.

        Warns
        -----
        UserWarning
            A model of the user's agrees with y hardly more than by chance, or answers differently when it is asked twice;
            the coordinates cannot draw the data (``reconstruction_`` has the figures).
        """
        self.check_parameters()
        X, y = read_samples(self, X, to_numpy(y), reset=True, image_shape=self.image_shape, data_range=self.data_range,
                            channels=self.channels)
        self.dtype_ = X.dtype
        self.device_ = infer_device(self.device, self.classifier)
        warn_of_flat_pictures(self, X)
        with own_modes(self.device_):
            announce(self, X, y)
            return self._fit(X, y)

    def _fit(self, X: np.ndarray, y: np.ndarray) -> CounterfactualExplainer:
        """`fit` of samples that were read."""
        seed = draw_seed(self.random_state)
        learn_parts(self, X, y, seed)
        self.start_ = None
        if self.start == "learned":
            self._distil(X, seed + 6)
        return self

    @with_own_modes
    def distil(self, X: Any) -> CounterfactualExplainer:
        """Learn what ``start="learned"`` searches on; `fit` does it by itself where that is asked for.

        A small network learns what the explained model says of what a code decodes to, from codes between the classes and
        from where searches end, with the parameters as they are now. The explainer is otherwise left as it is. It takes
        about as long as explaining one or two thousand rows.

        Parameters
        ----------
        X : array-like or tensor, in the layout of `fit`
            Rows like those that will be explained, such as the training rows; at most 10,000 are used.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            A method that does not search by gradients.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from cfexplain import REVISEExplainer
        >>> X, y = load_iris(return_X_y=True)
        >>> explainer = REVISEExplainer(training_budget=0.1, random_state=0).fit(X, y).distil(X)
        >>> explainer.set_params(start="learned").explain(X[:3], target=1).valid.tolist()
        [True, True, True]
        """
        check_is_fitted(self)
        self.check_parameters()
        self._distil(self.read_samples(X), draw_seed(self.random_state) + 6)
        return self

    def _distil(self, X: np.ndarray, seed: int) -> None:
        """`distil` with rows that were read."""
        searched = copy.copy(self)
        searched.start = type(self).start
        self.start_ = fit_start(Run(searched), X, seed, self.training_budget, self.verbose)

    def class_limits(self) -> dict[str, np.ndarray]:
        """What terms and conditions ask of each class, by the name under which a row finds it: arrays of shape (K,)."""
        return confidence_limits(self)

    def ink_range(self) -> tuple[float, float]:
        """The value of the background and that of the ink; of images that are no ink, ``data_range``."""
        low, high = self.data_range
        return (high, low) if getattr(self, "ink_", 0) < 0 else (low, high)

    # -------------------------------------------------------------- explain
    @with_own_modes
    def explain(self, X: Any, target: Any = None, *, k: int = 1, time_limit: float | None = None, region: Any = None,
                record_path: bool = False, n_jobs: int | None = None, backend: str = "auto", precision: str = "auto",
                ) -> Counterfactuals:
        """Counterfactuals of `X`: what would have to change for the classifier to say `target`.

        Parameters
        ----------
        X : array-like or tensor, in the layout of `fit`
            A single sample, such as one image (28, 28), one row (d,), a Series ``frame.loc[7]`` or a dict of its cells, is
            taken as one row, and comes back as one.
        target : label, array-like of shape (n,), or None
            One label for all rows or one a row. None: the constructor's `target`, else each row's runner-up class (in
            a binary problem, the other class).
        k : int, default=1
            Answers for each row, which differ: they lie in other directions in latent space from x, the nearest first; of
            tables the first is the one that the row gets alone, and the others change other columns where they can. What
            lies in many directions does not lie in the nearest, which is what ``k=1`` gives. The result has k rows for each
            row of X, one after the other; see `Counterfactuals.group`, `best` and `by_row`. What only repeats an answer
            before it has the status ``repeated``, and is not valid.
        time_limit : float, optional
            Seconds that the whole call may take. What is not finished by then keeps its best effort, with the status
            ``time_limit``; rows that were not begun come back as they are.
        region : array of bool, image, box, outline, or "auto", optional
            Pixels of images that may change; all others keep their bits. Bools of shape (H, W), or one such a row; an image
            of Pillow, of which what is not black is marked; a box (top, left, bottom, right), or one a row; an outline of
            points (row, column). "auto" looks for the smallest that is enough: it grows from where the change counts for the
            classifier, and is searched several times. ``cf.region`` has it, and `summary` says whether it is enough.
        record_path : bool, default=False
            Keep every point of the search (PLACE, figure 2) in ``path``.
        n_jobs : int, optional
            Processes (joblib); None is what ``joblib.parallel_config`` says, else 1. Within one process, rows are searched
            side by side in as many threads as ``torch.get_num_threads()`` says, all cores by default; but in one where that
            would run code of yours that may keep something between two calls (a network that cannot be read, a distance or
            a term of your own), or where a table is scanned: to use several cores there, pass -1. The same bits however
            many processes and threads there are.
        backend : {"auto", "eager", "packed", "graph", "triton"}, default="auto"
            How the search computes; what it finds is the same but for float rounding, and is judged by the networks as
            they are. "eager": with those. "packed": with frozen copies (`cfexplain.ops.freezing.freeze_for_search`) and the
            flow's density and gradient in closed form. "graph", "triton": the same in one captured CUDA graph, the latter
            with Triton kernels. "auto": packed. The one that ran is ``cf.backend``.
        precision : {"auto", "float32", "bfloat16"}, default="auto"
            Of the frozen copies: "float32" is as the networks are; "bfloat16", of float32 networks, rounds to three digits.
            "auto" rounds where the processor has matrix units for it (AMX, which is tried once a process), pictures have
            64×64 numbers or more and networks convolve, and a pretrained autoencoder wherever that is faster; ``cf.backend``
            says so. What is found is judged as the networks are.

        Returns
        -------
        Counterfactuals
            One row for each row of X, or `k`. A row without success carries its best effort and says so in ``status``.

        Warns
        -----
        ConvergenceWarning
            Some rows did not reach their target, or the model gives NaN or infinity for some: status ``model_failed``.
        """
        check_is_fitted(self)
        self.check_parameters()
        deadline, k = read_limits(k, time_limit)
        started, container = time.perf_counter(), "torch" if isinstance(X, Tensor) else "numpy"
        X, single = as_batch(X, self.layout_.user_shape, getattr(self, "feature_names_in_", None))
        given, X = X, self.read_samples(X)
        goal = self.goal(X, self.target if target is None else target)
        regions = None if region is None else asked_regions(
            self, region, X, goal, deadline, lambda X, goal: self.search(
                X, goal, n_jobs=n_jobs, backend=backend, precision=precision, deadline=deadline))
        deadline.reserve(k * (time.perf_counter() - started))  # the model is asked about that many rows again, in the end
        found = self.search(X, goal, record_path=record_path, n_jobs=n_jobs, backend=backend, precision=precision, k=k,
                            deadline=deadline)
        if regions is not None:
            regions = np.repeat(regions[:, 0], k, axis=0)
        X, goal = np.repeat(X, k, axis=0), goal.each(k)
        cf = self.result(X, goal, found, container=container, seconds=time.perf_counter() - started, k=k)
        cf.region = regions
        if not self.layout_.is_image and not deadline.passed:
            cf.plans = self._plans(X, np.ascontiguousarray(found.x_cf), goal)
        missed = cf.status == "not_found"
        if missed.any() and not deadline.passed and (binding := binding_of_explainer(self, X, goal, missed)):
            cf.metadata["binding"] = binding
        if single:
            cf.metadata["single"] = True
        return as_given(cf, given)

    @with_own_modes
    def plan(self, cf: Counterfactuals, i: int = 0, *, order: str = "cheapest") -> Plan:
        """The changes of row `i` of a result in order, with what the explained model says after each.

        Parameters
        ----------
        cf : Counterfactuals
            Of a table.
        i : int, default=0
        order : {"cheapest", "effective"}, default="cheapest"
            The cheapest change first, as `Counterfactuals.plan` has it; or that which brings the model furthest, after those
            before it.

        Raises
        ------
        ValueError
            Images, or an unknown order.
        """
        check_is_fitted(self)
        check_options({"order": order}, {"order": Choice(ORDERS)})
        if self.layout_.is_image:
            raise ValueError("A plan is of the columns of a table, but this explainer explains images.")
        row = cf[i]
        X, x_cf = self.read_samples(row.x), self.read_samples(row.x_cf)
        return cf.plan_of(i, self._plans(X, x_cf, self.goal(X, stated_target(row.target)), order, X.shape[1])[0])

    def _plans(self, X: np.ndarray, x_cf: np.ndarray, goal: Goal, order: str = "cheapest", most: int = MOST,
               ) -> list[np.ndarray]:
        """See `plans_of`."""
        columns = Columns.of_numbers(X[:0], self.scale_, self.column_rules_)
        return plans_of(
            columns, X, x_cf, goal, lambda codes, which: self.task_.answers(self.classifier_, codes), order, most)

    def read_samples(self, X: Any) -> np.ndarray:
        """`X` as the networks take it, (n, C, H, W) or (n, d) in ``dtype_``; checked against what was fitted."""
        return read_samples(self, X, reset=False, data_range=self.data_range).astype(self.dtype_, copy=False)

    @with_own_modes
    def search(self, X: np.ndarray, goal: Goal, *, record_path: bool = False, n_jobs: int | None = None,
               backend: str = "auto", precision: str = "auto", table: Table | None = None, k: int = 1,
               deadline: Deadline | None = None) -> Found:
        """What the search finds for the rows of `X`, which `read_samples` gave; see `explain` for the parameters.

        There are `k` answers for the first row, then as many for the second, …; `deadline` is when to stop. `table` says how
        rows of a table are scanned and end; None: as `Table.of` has it.
        """
        check_options({"n_jobs": n_jobs}, {"n_jobs": Number(-4096, 4096, whole=True, none=True)})
        warn_of_rare_confidence(self, goal)
        n_jobs = None if n_jobs is None else int(n_jobs)
        if table is None:
            relations = getattr(self.column_rules_, "relations", None)
            if relations is not None:
                warn_of_broken_rules(relations, dict(zip(column_names_of(self), X.T, strict=True)))
            table = Table.of(self)
        run = Run(self, record_path, backend, precision, table=table, k=k, deadline=deadline)
        workers = effective_n_jobs(n_jobs)
        return run.search(X, goal) if workers == 1 else run.search_in_workers(X, goal, n_jobs, workers)

    @with_own_modes
    def result(self, X: np.ndarray, goal: Goal, found: Found, *, answers: Any = None, container: str = "numpy",
               seconds: float | None = None, k: int = 1) -> Counterfactuals:
        """What was found for the rows of `X`, judged by the explained model on the very array that is returned.

        Parameters
        ----------
        X : ndarray
            As `read_samples` gave it.
        goal : Goal
        found : Found
        answers : optional
            What the model says of ``found.x_cf``, as ``task_.answers`` gives it; by default it is asked.
        container : {"numpy", "torch"}
        seconds : float, optional
            For the metadata.
        k : int, default=1
            Answers for each row: `X`, `goal` and `found` have them one after the other.

        Warns
        -----
        ConvergenceWarning
            Some rows did not reach their target.
        """
        return result_of(self, X, goal, found, answers, container, seconds, k)

    def decode_path(self, cf: Counterfactuals, *, frames: int | None = None) -> list[DecodedPath]:
        """What each point of the recorded searches of `cf` looks like; see `cfexplain.explainers.decode_path`."""
        return decode_path(self, cf, frames=frames)

    def metadata(self) -> dict[str, Any]:
        """What a result keeps of its explainer: JSON-able."""
        return metadata_of(self)

    # ------------------------------------------------------------------ what a method may write anew
    def learn(self, X: np.ndarray, groups: np.ndarray, codes: np.ndarray, code_groups: np.ndarray,
              defaults: dict[str, Any]) -> None:
        """What a method learns at the end of `fit`, beside coordinates and density. By default nothing.

        Parameters
        ----------
        X : ndarray of shape (n, C, H, W) or (n, d)
        groups : ndarray of int, shape (n,)
            Class indices; 0 for a regression.
        codes, code_groups : ndarray of shape (m, latent_dim) and (m,)
            Codes of the training rows, and their groups; m = n unless encoding is a search of its own.
        defaults : dict
            ``random_state``, ``training_budget``, ``device``, … for what is trained.
        """

    def goal(self, X: np.ndarray, target: Any) -> Goal:
        """What is wanted of each row of `X`; a method may add arrays to ``rows``, which its terms and `find` are given."""
        return self.task_.goal(self.classifier_, X, target)

    def find(self, evaluate: Callable, start: Tensor, rows: Mapping[str, Tensor], options: SearchOptions,
             report: Callable | None, search: Callable) -> SearchResult:
        """The search of a block of rows: by gradients, unless a method knows another way.

        Parameters
        ----------
        evaluate : callable ``(z, rows) -> Evaluation``
            Of a tile of at most ``options.tile`` rows.
        start : Tensor of shape (n, latent_dim)
        rows : mapping of str to Tensor of shape (n, ...)
            ``x``, ``z0``, ``reconstruction``, ``source``, ``target``, ``typical``, and what `goal` added.
        options : SearchOptions
        report : callable ``(finished rows, step) -> None``, or None
        search : callable
            The search by gradients as the backend computes it; see `cfexplain.search.search`.
        """
        return search(evaluate, start, rows["z0"], rows, options, report)

    def check_parameters(self) -> None:
        """Raise ValueError or TypeError for parameters that cannot be used, before anything is trained or searched.

        Each is held to its rule in ``parameter_rules``, of this class or of a base.
        """
        check_parameters(self)
        if self.start == "learned":
            check_can_learn(self)

    def search_options(self, record_path: bool = False, *, update: str | None = None,
                       refine: int | None = None) -> SearchOptions:
        """How the search steps and when it stops, from the parameters; `update` and `refine` in place of the explainer's."""
        self.check_parameters()
        update, refine = self.update if update is None else update, self.refine if refine is None else refine
        step, tile = self.step_size, self.batch_size
        if step is None:
            step = self.step_sizes[update]
        if tile == "auto":
            tile = tile_for(self.layout_.net_shape) if self.device_.type == "cpu" else self.coordinates_.together
        return SearchOptions(
            update=update, step_size=float(step), stall=self.stall, max_steps=int(self.max_steps), stop=self.stop,
            patience=int(self.patience), refine=int(refine or 0), tile=int(tile),
            record_path=record_path)

    # --------------------------------------------------- scikit-learn's side
    def transform(self, X: Any, target: Any = None) -> Any:
        """The counterfactuals themselves, in the layout and container of `X`.

        Ends a `Pipeline`: ``pipe.inverse_transform(pipe.transform(X))`` is in original units. A Dask array or DataFrame
        gives a Dask array, computed chunk by chunk when it is asked for.
        """
        check_is_fitted(self)
        if is_dask(X):
            return transform_dask(self, X, target)
        if as_batch(X, self.layout_.user_shape, getattr(self, "feature_names_in_", None))[1]:
            raise ValueError("Reshape your data: transform() takes rows, and X is a single sample. Pass X[None], "
                             "or call explain(X).")
        found = self.explain(X, target)
        return in_container(np.asarray(found), X)

    def inverse_transform(self, X: Any) -> Any:
        """`X` as it is: counterfactuals live where the data live."""
        check_is_fitted(self)
        return X

    @with_own_modes
    def predict(self, X: Any) -> np.ndarray:
        """The explained model's labels, or values, shape (n,)."""
        check_is_fitted(self)
        return self.classifier_.predict(self.read_samples(X))

    @available_if(lambda self: not hasattr(self, "task_") or not self.is_regression)
    @with_own_modes
    def predict_proba(self, X: Any) -> np.ndarray:
        """The explained classifier's probabilities, shape (n, K), columns as in ``classes_``."""
        check_is_fitted(self)
        classifier: Any = self.classifier_
        return classifier.predict_proba(self.read_samples(X))

    @with_own_modes
    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """log p(z|y) of each row's code in nats, shape (n,); without `y`, log p(z) over all classes."""
        check_is_fitted(self)
        Z, _ = self.coordinates_.encode_dataset(self.read_samples(X))
        return self.density_.score_samples(
            Z, None if y is None or self.is_regression else label_indices(y, self.classes_))

    def score(self, X: Any, y: Any = None) -> float:
        """How good the counterfactuals of `X` are, in [0, 1]; larger is better. What `GridSearchCV` maximises.

        The mean over rows of *valid · plausible · near*: valid is 0 or 1, plausible is min(1, plausibility / 50),
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
