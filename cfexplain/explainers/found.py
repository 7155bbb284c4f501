"""What the search found, before the explained model has judged it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = ["Found"]


@dataclass
class Found:
    """The best point of every row, as arrays on the CPU, in the order in which the rows came.

    Attributes
    ----------
    x_cf, reconstruction : ndarray of shape (n, C, H, W) or (n, d)
        x′ and decode(z₀), in the layout of the networks.
    z0, z : ndarray of shape (n, latent_dim)
        Codes of x and of x′.
    log_density : ndarray of shape (n,)
        log p(z′|target), in nats.
    valid : ndarray of bool, shape (n,)
        What was searched (the explained model, or its surrogate) says the target.
    second_opinion : ndarray of bool, shape (n,)
        The small classifiers of the latent agree; False where there are none.
    n_steps : ndarray of int, shape (n,)
    done : ndarray of bool, shape (n,)
        The point that the search returned met every condition.
    finished : ndarray of bool, shape (n,)
        The row stopped by itself: its steps did not run out, and nothing interrupted it.
    interrupted : ndarray of bool, shape (n,)
    late : ndarray of bool, shape (n,)
        The time limit came before the row had stopped by itself.
    conditions : dict of str to ndarray of bool, shape (n,)
    path : list of ndarray of shape (m, latent_dim), or None
        The points of each row's search, if they were recorded.
    backend : str
        How the search computed.
    costs : ndarray of shape (n, columns), optional
        Of a table: what each column's change costs; 0 of those that follow from others.
    """

    x_cf: np.ndarray
    reconstruction: np.ndarray
    z0: np.ndarray
    z: np.ndarray
    log_density: np.ndarray
    valid: np.ndarray
    second_opinion: np.ndarray
    n_steps: np.ndarray
    done: np.ndarray
    finished: np.ndarray
    interrupted: np.ndarray
    late: np.ndarray
    conditions: dict[str, np.ndarray]
    path: list[np.ndarray] | None
    backend: str
    costs: np.ndarray | None = None

    def __getitem__(self, index: np.ndarray) -> Found:
        """Some of the rows, in that order."""
        return replace(
            self, **{name: getattr(self, name)[index] for name in self._rows()},
            costs=None if self.costs is None else self.costs[index],
            conditions={name: met[index] for name, met in self.conditions.items()},
            path=None if self.path is None else [self.path[i] for i in index])

    def put(self, index: np.ndarray, part: Found) -> None:
        """Write `part` into the rows `index`."""
        for name in self._rows():
            getattr(self, name)[index] = getattr(part, name)
        for name, met in part.conditions.items():
            self.conditions[name][index] = met
        if self.path is not None and part.path is not None:
            for i, path in zip(index, part.path, strict=True):
                self.path[i] = path

    @classmethod
    def _rows(cls) -> list[str]:
        """Names of what has one entry a row."""
        return [field.name for field in fields(cls) if field.name not in ("conditions", "path", "backend", "costs")]

    @classmethod
    def concatenate(cls, parts: Sequence[Found]) -> Found:
        """All rows of `parts`, which one call of `explain` found, in order."""
        first = parts[0]
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls._rows()},
            conditions={name: np.concatenate([part.conditions[name] for part in parts]) for name in first.conditions},
            path=None if first.path is None else [path for part in parts for path in part.path or ()],
            backend=first.backend,
            costs=_concatenated_costs(parts))


def _concatenated_costs(parts: Sequence[Found]) -> np.ndarray | None:
    """Rows that were not begun came back as they are, which costs nothing."""
    width = next((part.costs.shape[1] for part in parts if part.costs is not None), None)
    return None if width is None else np.concatenate([
        np.zeros((len(part.z), width)) if part.costs is None else part.costs for part in parts])
