"""Heads for mmpose. Importing this package registers them."""

from mmseg_tr.models.pose.heads import SegformerPoseHead

__all__ = ['SegformerPoseHead']
