"""Benchmark suites of this repository: `python -m benchmarks --suite cpu`. They stay outside the wheel."""
