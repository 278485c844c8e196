"""Hooks and schedules of the training loop. Importing this package registers them."""

import mmseg_tr.registry  # noqa: F401 (first: it makes the OpenMMLab packages import together)
from mmseg_tr.engine.hooks import (
    MergingVisualizationHook,
    PredictionVisualizationHook,
    SafeCheckpointHook,
    SafeVisBackend,
    TokenCountHook,
)
from mmseg_tr.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mmseg_tr.engine.optim import BFloat16OptimWrapper
from mmseg_tr.engine.schedulers import SegmenterPolyLR, polynomial_lr

__all__ = [
    'BFloat16OptimWrapper',
    'LayerDecayOptimWrapperConstructor',
    'MergingVisualizationHook',
    'PredictionVisualizationHook',
    'SafeCheckpointHook',
    'SafeVisBackend',
    'SegmenterPolyLR',
    'TokenCountHook',
    'polynomial_lr',
]
