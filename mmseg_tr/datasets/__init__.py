"""Datasets and transforms.

`photographs` and `scenes` are plain numpy, for the benchmarks too. The modules that need mmseg are named in
mmseg_tr/registry.py, which imports them to fill its registries; this file imports nothing.
"""
