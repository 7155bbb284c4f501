"""Explainers in files: safetensors and JSON, written whole or not at all, and read without running anything they say.

This room holds the ways in which objects are taken apart and made again, the table of the classes that a file may name, and
the file. It knows none of these classes: each says where it is defined how it is stored.
"""

from cfexplain.persistence.estimators import storable
from cfexplain.persistence.hints import MayBeAbsent
from cfexplain.persistence.kinds import (
    stored_by_attributes,
    stored_by_configuration,
    stored_by_constructor,
    stored_by_parts,
    stored_by_sizes,
)
from cfexplain.persistence.persistent import Persistent, file_kind, load

__all__ = ["MayBeAbsent", "Persistent", "file_kind", "load", "storable", "stored_by_attributes", "stored_by_configuration",
           "stored_by_constructor", "stored_by_parts", "stored_by_sizes"]
