"""Decode heads and segmentors for mmseg. Importing this package registers them."""

from mmseg_tr.models.seg.data_preprocessor import AnyChannelsPreProcessor
from mmseg_tr.models.seg.heads import SegmenterLinearHead, SegmenterMaskHead
from mmseg_tr.models.seg.oracle import OracleSegmentor
from mmseg_tr.models.seg.policy_trainer import PolicyClassifier
from mmseg_tr.models.seg.segformer_head import SegformerHead, SegformerLinearHead
from mmseg_tr.models.seg.segmentor import TokenSegmentor
from mmseg_tr.models.seg.tta import TokenTTAModel

__all__ = [
    'AnyChannelsPreProcessor',
    'OracleSegmentor',
    'PolicyClassifier',
    'SegformerHead',
    'SegformerLinearHead',
    'SegmenterLinearHead',
    'SegmenterMaskHead',
    'TokenSegmentor',
    'TokenTTAModel',
]
