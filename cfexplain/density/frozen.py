"""log p(z | c) and its gradient, by the fastest way that a flow, a device and an installation allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cfexplain.density.class_flow import ClassFlow
from cfexplain.foundation.optional import import_triton
from cfexplain.foundation.weight_cache import cached_by_weights
from cfexplain.ops.coupling_flow import NotPackable, PackedFlow, reference

if TYPE_CHECKING:
    from cfexplain.ops.coupling_flow.triton import TritonFlow

__all__ = ["BACKENDS", "FrozenDensity", "freeze", "pack"]

BACKENDS = ("reference", "zuko", "packed", "triton")


class FrozenDensity:
    """log p(z | c) of a flow with its weights as they were when this was made, computed by one backend.

    Made by :meth:`ConditionalFlow.frozen`. Calling it gives log p(z | c) in nats, (B,), of codes (B, d) and class indices
    (B,); differentiable in the codes, but, unless the backend is "zuko", only once.

    Attributes
    ----------
    backend : str
        "reference": derived by hand, readable, in float64. "zuko": autograd through zuko. "packed": derived by hand, in
        place, without autograd. "triton": one kernel.
    reason : str
        Why "auto" did not choose a faster backend; "" if it did, or was not asked.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from cfexplain.density import ConditionalFlow
    >>> Z = np.random.default_rng(0).normal(size=(60, 3))
    >>> density = ConditionalFlow(transforms=1, hidden_features=(8,), training_budget=0.01, random_state=0).fit(Z)
    >>> frozen = density.frozen()
    >>> logp, grad = frozen.logp_and_grad(torch.tensor(Z), torch.zeros(60, dtype=torch.long))
    >>> frozen.backend, logp.shape, grad.shape
    ('packed', torch.Size([60]), torch.Size([60, 3]))
    """

    def __init__(self, flow: ClassFlow | PackedFlow | TritonFlow, backend: str, reason: str = ""):
        self.backend, self.reason = backend, reason
        self._flow: Any = flow  # what `backend` reads

    def __repr__(self) -> str:
        return f"FrozenDensity(backend={self.backend!r}" + (f", reason={self.reason!r})" if self.reason else ")")

    def __call__(self, z: Tensor, c: Tensor) -> Tensor:
        if self.backend == "zuko":
            return self._flow.log_prob(z, c)
        from cfexplain.ops.coupling_flow import differentiable  # registering its operator takes a while

        if self.backend == "reference":
            return differentiable.with_gradient(self._reference, z, c)
        return differentiable.log_prob(self._flow, z, c)

    def swap(self, z: Tensor, c: Tensor, t: Tensor) -> Tensor:
        """`z` with its classes changed from `c` to `t`, see :meth:`ClassFlow.swap`; of "packed" alone."""
        from cfexplain.ops.coupling_flow import packed

        return packed.swap(self._flow, z, c, t)

    def logp_and_grad(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """log p(z | c), (B,), and its gradient in `z`, (B, d), in the dtype of `z`."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            logp = self(z, c)
            return logp.detach(), torch.autograd.grad(logp.sum(), z)[0]

    def _reference(self, z: Tensor, c: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
        logp, grad = reference.logp_and_grad(self._flow, z.double(), c)
        return logp.to(z.dtype), grad.to(z.dtype)


def freeze(flow: ClassFlow, backend: str = "auto", precision: str = "float32") -> FrozenDensity:
    """The log density of `flow` by a named backend, or the fastest; see :meth:`ConditionalFlow.frozen`."""
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend={backend!r} is not known; choose 'auto' or one of {BACKENDS}.")
    if precision != "float32" and backend != "triton":
        raise ValueError(f"precision={precision!r} is of the kernel's products; name backend='triton', not {backend!r}.")
    if backend == "zuko":
        return FrozenDensity(flow, "zuko")
    if backend == "reference":
        return FrozenDensity(pack(flow, torch.float64), "reference")
    if backend == "triton":
        return FrozenDensity(_for_kernel(_packed(flow), precision), "triton")
    try:
        tensors = _packed(flow)
    except NotPackable as error:
        if backend == "packed":
            raise
        return FrozenDensity(flow, "zuko", f"not packed: {error}")
    if backend == "auto" and flow.loc.device.type == "cuda":
        try:
            return FrozenDensity(_for_kernel(tensors, precision), "triton")
        except (ImportError, RuntimeError, NotPackable) as error:
            return FrozenDensity(tensors, "packed", f"no kernel: {error}")
    return FrozenDensity(tensors, "packed")


def pack(class_flow: ClassFlow, dtype: torch.dtype | None = None) -> PackedFlow:
    """The tensors of a class-conditional coupling flow, on its device.

    Parameters
    ----------
    class_flow : ClassFlow
        Of zuko couplings with affine maps ("nice", "realnvp"), with either base.
    dtype : torch.dtype, optional
        None: the module's.

    Raises
    ------
    NotPackable
        Something in the flow is none of: affine couplings by ReLU networks of equally many layers, fixed permutations,
        a diagonal normal base.

    Examples
    --------
    >>> import torch, zuko
    >>> from cfexplain.density import ClassFlow
    >>> packed = pack(ClassFlow(zuko.flows.NICE(5, 3, transforms=4, hidden_features=(20,)), 5, 3))
    >>> [tuple(w.shape) for w in packed.weights], tuple(packed.biases[0].shape)
    ([(4, 8, 24), (4, 24, 16)], (4, 3, 24))
    >>> pack(ClassFlow(zuko.flows.NSF(5, 3), 5, 3))
    Traceback (most recent call last):
    ...
    cfexplain.ops.coupling_flow.packed_flow.NotPackable: layer 0 is a MaskedAutoregressiveTransform; packed flows are ...
    """
    attributes = class_flow.attributes
    from cfexplain.ops.coupling_flow.packing import pack_couplings  # zuko is loaded where a flow is

    return pack_couplings(
        class_flow.flow, class_flow.loc, class_flow.scale, dtype=dtype,
        contexts=class_flow.n_classes if class_flow.has_context else 0,
        base=None if attributes is None else (attributes.mean, attributes.scale))


def _for_kernel(flow: PackedFlow, precision: str) -> TritonFlow:
    import_triton("backend='triton'")
    from cfexplain.ops.coupling_flow.triton import prepare

    return prepare(flow, precision)


def _packed(flow: ClassFlow) -> PackedFlow:
    return cached_by_weights(flow, "packed", lambda: pack(flow))
