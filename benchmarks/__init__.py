"""Reproducible measurements: ``python -m benchmarks.<name>``. Results go to benchmarks/results as JSON."""
