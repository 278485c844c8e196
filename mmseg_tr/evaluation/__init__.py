"""Metrics. Importing this package registers them; those of poses where mmpose is installed."""

import mmseg_tr.registry  # noqa: F401 (first: it makes mmseg importable)
from mmseg_tr.errors import installed
from mmseg_tr.evaluation.metrics import SegmenterIoUMetric
from mmseg_tr.evaluation.policy_accuracy import PolicyAccuracy
from mmseg_tr.evaluation.submission import resolve_format, to_submission

__all__ = ['PolicyAccuracy', 'SegmenterIoUMetric', 'resolve_format', 'to_submission']

if installed('mmpose'):
    from mmseg_tr.evaluation import pose  # noqa: F401 (registers its classes)
