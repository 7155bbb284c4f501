"""log p(z | c) of a chain of affine couplings, its gradient in z, and its inverse."""

from cfexplain.ops.coupling_flow.packing import NotPackable, PackedFlow, pack_couplings

__all__ = ["NotPackable", "PackedFlow", "pack_couplings"]
