"""Photographs: colour, 112 to 224 pixels, with the field's own protocol; ``python -m benchmarks.photographs``."""
