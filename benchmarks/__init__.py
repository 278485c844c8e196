"""Benchmark suites of this repository, `python -m benchmarks --suite cpu`. They are not part of the wheel."""
