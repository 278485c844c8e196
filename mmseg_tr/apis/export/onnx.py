"""Operators that torch's ONNX exporter does not know, in ONNX's own. Needs the extra `export`."""

from __future__ import annotations

import torch
from onnxscript import opset18 as op


def sort_stable(self, stable=None, dim=-1, descending=False):
    """torch.sort(stable=True): TopK of everything, which ONNX defines to put the lower index first among equals."""
    length = op.Shape(self, start=dim, end=None if dim == -1 else dim + 1)
    return op.TopK(self, length, axis=dim, largest=int(descending), sorted=1)


TRANSLATIONS = {torch.ops.aten.sort.stable: sort_stable}
