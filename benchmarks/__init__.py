"""Benchmarks of jupyter_ns beside its peers: ``python -m benchmarks`` (see README.md)."""
