"""Datasets and transforms.

`scenes`, `figures` and its neighbours are plain numpy, for the benchmarks too. The modules that need
mmseg or mmpose are named in mmseg_tr/registry.py, which imports them to fill its registries; this file imports nothing.
"""
