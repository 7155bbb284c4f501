"""Between the user's labels (strings too) and class indices 0..K-1."""

from __future__ import annotations

from typing import Any

import numpy as np

from cfexplain.foundation.exceptions import ClassifierOutputError
from cfexplain.foundation.labels import class_indices, is_missing

__all__ = ["check_count", "check_one_target", "read_predictions", "reconcile", "show", "without_failed"]


def show(labels: Any, most: int = 12) -> str:
    """Labels for a message: the first dozen."""
    labels = np.asarray(labels).tolist()
    return "[" + ", ".join(map(repr, labels[:most])) + (f", ... {len(labels)} in all]" if len(labels) > most else "]")


def reconcile(known: np.ndarray, given: np.ndarray, *, encoded: bool = False) -> np.ndarray:
    """The labels of a fitted classifier's outputs: its own classes, which must contain those of y (`given`).

    With `encoded`, labels may also be encoded: a skorch net is trained on ``LabelEncoder().fit_transform(y)``, so
    where its classes are just 0..K-1 and y has K other labels, these are the classes, sorted as the encoder has them.

    Raises
    ------
    ClassifierOutputError
        If y has labels that the classifier does not know.
    """
    unknown = given[class_indices(given, known) < 0]
    if not len(unknown):
        return known
    if encoded and known.tolist() == list(range(len(given))) and len(unknown) == len(given):
        return given
    raise ClassifierOutputError(
        f"y has labels that the classifier does not know: {show(unknown)}. Its classes_ are {show(known)}. Pass y in "
        "the classifier's own labels."
    )


def check_one_target(classes: Any, name: str) -> None:
    """Refuse a model whose `classes_` are a list of arrays: it predicts several labels a row."""
    if isinstance(classes, list | tuple) and len(classes) and np.ndim(classes[0]):
        raise ClassifierOutputError(
            f"{name} predicts several targets at once ({len(classes)}); expected one class a row. Explain one target at a "
            "time: fit or wrap a classifier that predicts one of them.")


def read_predictions(said: Any, classes: np.ndarray, n: int, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """What ``predict`` says of `n` rows, in any of the forms in which libraries give it.

    Labels may come as (n,) or (n, 1), as text where the classes are numbers or the other way round, or as one column a
    class: ones and zeros, or probabilities. For two classes one column of probabilities will do, if no label can be
    taken for one.

    Returns
    -------
    indices : ndarray of int, shape (n,)
        -1 where the model gives none: NaN or None.
    probabilities : ndarray of shape (n, K), or None
        Where that is what ``predict`` gives.

    Raises
    ------
    ClassifierOutputError
        Another shape, or labels that are not among `classes`.

    Examples
    --------
    >>> read_predictions([["b"], ["a"]], np.array(["a", "b"]), 2, "model")[0]
    array([1, 0])
    >>> read_predictions(np.array([[0.1, 0.7, 0.2], [1, 0, 0]]), np.array([5, 6, 7]), 2, "model")[0]
    array([1, 0])
    """
    said = np.asarray(said)
    if said.shape == (n, len(classes)) and n and said.dtype.kind in "fiub":
        columns = said.astype(np.float64)
        finite = np.isfinite(columns).all(1)
        if (columns[finite] >= 0).all() and (np.abs(columns[finite].sum(1) - 1) <= 1e-3).all():
            return np.where(finite, np.nan_to_num(columns).argmax(1), -1), columns
    if said.shape not in ((n,), (n, 1)):
        several = " That is several targets at once: explain one at a time." if said.ndim == 2 and len(said) == n else ""
        raise ClassifierOutputError(f"{name}.predict returned shape {said.shape} for {n} rows; expected one label a row, "
                                    f"({n},) or ({n}, 1), or one column for each of the {len(classes)} classes.{several}")
    said = said.reshape(n)
    indices, missing = class_indices(said, classes), is_missing(said)
    strange = (indices < 0) & ~missing
    if strange.any():
        text = class_indices(said.astype(str), np.asarray(classes).astype(str))
        if (text[strange] >= 0).all():
            indices, strange = np.where(missing, -1, text), np.zeros(n, dtype=bool)
    if strange.any() and len(classes) == 2 and said.dtype.kind == "f" and _are_shares(said[~missing], classes):
        p = said.astype(np.float64)
        return np.where(missing, -1, p > 0.5), np.stack([1 - p, p], axis=1)
    if strange.any():
        raise ClassifierOutputError(
            f"{name}.predict returned {show(np.unique(said[strange]))}, which is not among its classes {show(classes)}. "
            "Pass y in the labels that the classifier predicts.")
    return indices, None


def _are_shares(values: np.ndarray, classes: np.ndarray) -> bool:
    """Probabilities of the second class: 0 and 1 must not be labels of anything else."""
    others = {0, 1}.intersection(np.asarray(classes).tolist())
    return bool(((values >= 0) & (values <= 1)).all()) and (not others or np.asarray(classes).tolist() == [0, 1])


def without_failed(predicted: np.ndarray, proba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class indices and probabilities; -1 and NaN in rows of which the model gives either none, or numbers that are none.

    >>> without_failed(np.array([0, 1]), np.array([[0.8, 0.2], [np.nan, 0.5]]))[0]
    array([ 0, -1])
    """
    failed = (predicted < 0) | ~np.isfinite(proba).all(1)
    return np.where(failed, -1, predicted), np.where(failed[:, None], np.nan, proba) if failed.any() else proba


def check_count(n_columns: int, classes: np.ndarray, source: str) -> None:
    """One class an output (two for a single one), or an error that says how many there are of each and how to fix it.

    `source` says where the classes come from: "y has", "its classes_ are".
    """
    if max(n_columns, 2) != len(classes):
        outputs = "one output, which tells 2 classes apart" if n_columns == 1 else f"{n_columns} outputs"
        raise ClassifierOutputError(
            f"The classifier has {outputs}, but {source} {len(classes)} classes: {show(classes)}. Output column k "
            "stands for the k-th class in sorted order: fit the explainer on rows of all the classifier's classes, or "
            "bring a classifier with one output a class."
        )
