"""log p(z | c) of a chain of affine couplings, its gradient in z, and its inverse."""

from cfexplain.ops.coupling_flow.packed_flow import NotPackable, PackedFlow

__all__ = ["NotPackable", "PackedFlow"]
