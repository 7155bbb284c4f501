"""Explainers in files: safetensors and JSON, written whole or not at all, and read without running anything they say."""

from cfexplain.persistence.persistent import Persistent, load

__all__ = ["Persistent", "load"]
