"""Decode heads and segmentors for mmseg. Importing this package registers them."""

from mmseg_tr.models.seg.heads import SegmenterLinearHead, SegmenterMaskHead
from mmseg_tr.models.seg.segmentor import TokenSegmentor

__all__ = ['SegmenterLinearHead', 'SegmenterMaskHead', 'TokenSegmentor']
