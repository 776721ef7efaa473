"""Benchmarks: each is a package that runs as `python -m bench.NAME` from the project's root and prints figures."""
