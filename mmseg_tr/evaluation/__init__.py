"""Metrics. Importing this package registers them."""

from mmseg_tr.evaluation.metrics import SegmenterIoUMetric
from mmseg_tr.evaluation.policy_accuracy import PolicyAccuracy
from mmseg_tr.evaluation.submission import resolve_format, to_submission

__all__ = ['PolicyAccuracy', 'SegmenterIoUMetric', 'resolve_format', 'to_submission']
