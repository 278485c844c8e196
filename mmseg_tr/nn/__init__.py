"""Networks in plain PyTorch."""

from mmseg_tr.nn.encoders import SEGMENTER_ENCODERS
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.nn.segmenter import LinearDecoder, MaskTransformer, Segmenter
from mmseg_tr.nn.vit import ViT

__all__ = [
    'SEGMENTER_ENCODERS',
    'LinearDecoder',
    'MaskTransformer',
    'MixVisionTransformer',
    'SegFormer',
    'Segmenter',
    'ViT',
]
