"""`save` and `load` of explainers, and `load` of whatever the package has saved."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from cfexplain.foundation.files import read_arrays, read_kind, write_arrays
from cfexplain.foundation.settings import own_modes
from cfexplain.persistence.file import read, write

__all__ = ["Persistent", "file_kind", "load"]

Class = TypeVar("Class", bound=type)
Explainer = TypeVar("Explainer")

_CLASSES: dict[str, Any] = {}


def file_kind(kind: str) -> Callable[[Class], Class]:
    """Class decorator: files of this kind are written by the class's ``save``, and `load` gives them to its ``load``."""

    def decorate(cls: Class) -> Class:
        _CLASSES[kind] = cls
        return cls

    return decorate


@file_kind("explainer")
class Persistent:
    """``save`` and ``load`` of an explainer."""

    @own_modes()
    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted explainer to one file (a valid ``.safetensors``), atomically: no pickle, nothing to execute.

        Everything that the package made is in it: networks as their configuration and weights, densities, classes, rules.
        A network, an estimator or a function of your own is not: `load` is given it again, and knows it by the digest of
        its weights, or, if it is no network, by its answers to a few made-up rows. Keep that one in your own way.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        NotFittedError
            There is nothing to save yet.
        TypeError
            An attribute cannot be stored, and is named; nothing is written.
        OSError
            The file cannot be written; what was there before stays.

        Examples
        --------
        >>> import os, tempfile
        >>> from sklearn.datasets import load_iris
        >>> from cfexplain import PLACEExplainer
        >>> X, y = load_iris(return_X_y=True)
        >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
        >>> path = os.path.join(tempfile.mkdtemp(), "iris.safetensors")
        >>> explainer.save(path)
        >>> again = PLACEExplainer.load(path)
        >>> (again.explain(X[:3], target=1).x_cf == explainer.explain(X[:3], target=1).x_cf).all()
        np.True_
        """
        write_arrays(path, *write(self))

    @classmethod
    @own_modes()
    def load(cls: type[Explainer], path: str | os.PathLike, *, classifier: Any = None, device: Any = None,
             verify: bool = True, **given: Any) -> Explainer:
        """The explainer that `save` wrote, of this class or a subclass of it; on the base, of any class.

        Reading runs no code from the file: it can only name classes that are storable, and sizes that it holds the numbers
        for. Explains with the same bits as before, on the same machine and versions.

        Parameters
        ----------
        path : str or path
        classifier : nn.Module, skorch net, fitted estimator, …
            The model of yours that is explained; left out where the package trained one.
        device : str or torch.device, optional
            Where the explainer computes; default: where it did. A model of yours is never moved.
        verify : bool, default=True
            Refuse a model with other weights or answers than the one that was explained when the file was written.
        **given
            Other objects of yours, under the names of the parameters that held them: ``perceptual=``,
            ``coordinates=(encoder, decoder)``, ``generator__generator=``. A message says what is missing.

        Raises
        ------
        ValueError
            The file is damaged, was written by a newer version, or holds something else; an object of yours is missing, or
            is another one.
        TypeError
            Something was given that the file does not ask for.
        OSError
            There is no such file, or it cannot be read.

        Examples
        --------
        >>> import os, tempfile
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import LogisticRegression
        >>> from cfexplain import CounterfactualExplainer, LeapExplainer
        >>> X, y = load_iris(return_X_y=True)
        >>> model = LogisticRegression(max_iter=500).fit(X, y)
        >>> path = os.path.join(tempfile.mkdtemp(), "iris.safetensors")
        >>> LeapExplainer(model, training_budget=0.05, random_state=0).fit(X, y).save(path)
        >>> type(CounterfactualExplainer.load(path, classifier=model)).__name__
        'LeapExplainer'
        >>> other = LogisticRegression(C=0.01).fit(X, y)
        >>> CounterfactualExplainer.load(path, classifier=other)
        Traceback (most recent call last):
        ...
        ValueError: ...classifier= answers otherwise on 16 of 16 rows...
        """
        arrays, meta = read_arrays(path)
        return read(path, arrays, meta, cls, {"classifier": classifier, **given}, device, verify)


def load(path: str | os.PathLike, **given: Any) -> Any:
    """What any ``save`` of the package wrote: an explainer, a result, or an evaluation.

    Parameters
    ----------
    path : str or path
    **given
        For an explainer: ``classifier=``, ``device=``, …, see ``CounterfactualExplainer.load``.

    Raises
    ------
    ValueError, TypeError, OSError
        As the ``load`` of the class.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_iris
    >>> import cfexplain
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = cfexplain.PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> path = os.path.join(tempfile.mkdtemp(), "result.safetensors")
    >>> explainer.explain(X[:3], target=1).save(path)
    >>> cfexplain.load(path).target.tolist()
    [1, 1, 1]
    """
    kind = read_kind(path)
    if kind not in _CLASSES:
        raise ValueError(f"{os.fspath(path)} holds {kind!r}; expected one of {', '.join(map(repr, sorted(_CLASSES)))}.")
    if given and kind not in ("explainer", "pipeline explainer"):
        raise TypeError(f"load() got {', '.join(sorted(given))}=, but the file holds {kind}, which needs nothing beside it.")
    return _CLASSES[kind].load(path, **given)
