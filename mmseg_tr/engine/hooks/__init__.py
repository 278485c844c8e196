"""Hooks of the training and test loops. Importing this package registers them."""

from mmseg_tr.engine.hooks.checkpoint import SafeCheckpointHook
from mmseg_tr.engine.hooks.merging import MergingVisualizationHook, TokenCountHook
from mmseg_tr.engine.hooks.predictions import PredictionVisualizationHook, SafeVisBackend

__all__ = [
    'MergingVisualizationHook',
    'PredictionVisualizationHook',
    'SafeCheckpointHook',
    'SafeVisBackend',
    'TokenCountHook',
]
