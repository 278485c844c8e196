"""Hooks of the training and test loops. Importing this package registers them."""

from mmseg_tr.engine.hooks.checkpoint import SafeCheckpointHook
from mmseg_tr.engine.hooks.merging import MergingVisualizationHook, TokenCountHook

__all__ = ['MergingVisualizationHook', 'SafeCheckpointHook', 'TokenCountHook']
