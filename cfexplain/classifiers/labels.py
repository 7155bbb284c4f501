"""Between the user's labels (strings too) and class indices 0..K-1."""

from __future__ import annotations

from typing import Any

import numpy as np

from cfexplain.foundation.exceptions import ClassifierOutputError
from cfexplain.foundation.labels import class_indices

__all__ = ["check_count", "reconcile", "show"]


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
