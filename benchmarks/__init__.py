"""Measurements of alternet against PyTorch and its peers: ``make bench``, ``python -m benchmarks.static``."""
