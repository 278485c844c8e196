"""Hooks of the training and test loops. Importing this package registers them."""

from mmseg_tr.engine.hooks.checkpoint import SafeCheckpointHook

__all__ = ['SafeCheckpointHook']
