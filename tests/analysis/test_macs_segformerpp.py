"""Multiply-adds of SegFormer++ at full size against the published rule: convolutions and products, similarities too."""

import warnings

import pytest
import torch

from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.nn.mit import ARCHS, MixVisionTransformer
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.reduction.segformerpp import SegFormerPP

PRESETS = ('original', 'bsm_hq', 'bsm_fast', 'n2d_2x2', 'downsample')
# image -> arch -> GMACs of each preset, 19 classes
GMACS = {
    (512, 1024): {
        'b0': (17.8, 14.9, 13.8, 14.2, 3.7),
        'b1': (34.8, 28.5, 26.2, 26.7, 7.1),
        'b2': (58.0, 45.6, 41.5, 42.5, 11.6),
        'b3': (95.3, 73.3, 67.9, 69.9, 19.4),
        'b4': (133.7, 102.0, 94.3, 96.9, 27.1),
        'b5': (168.9, 128.1, 119.7, 123.5, 34.6),
    },
    (1024, 1024): {
        'b0': (43.8, 32.9, 28.6, 30.4, 7.8),
        'b1': (86.3, 63.3, 54.5, 57.6, 15.3),
        'b2': (147.2, 102.7, 87.1, 92.7, 25.1),
        'b3': (237.9, 163.3, 143.5, 151.7, 41.8),
        'b4': (335.3, 228.0, 199.7, 210.8, 58.4),
        'b5': (418.8, 284.1, 253.8, 267.2, 74.3),
    },
}


@pytest.mark.parametrize('arch', ARCHS)
def test_published_multiply_adds(arch):
    with torch.device('meta'):
        model = SegFormer(MixVisionTransformer(arch), 19, resolution='quarter').eval()
    # the deep ones at one size, for the time it takes: their blocks are those of b2
    sizes = list(GMACS)[: 1 if arch in ('b3', 'b4', 'b5') else 2]
    for size in sizes:
        table, image = GMACS[size], torch.empty(1, 3, *size, device='meta')
        for preset, want in zip(PRESETS, table[arch], strict=True):
            model.backbone.reduction = SegFormerPP(preset)
            got = count_macs(model, image).total('segformerpp') / 1e9
            # 1 %, or half of the last printed digit
            assert abs(got - want) <= max(0.01 * want, 0.05), (size, preset, got, want)


def test_unknown_operators_are_none():
    with torch.device('meta'), warnings.catch_warnings():
        warnings.simplefilter('error')
        model = SegFormer(MixVisionTransformer('b0', reduction='bsm_hq'), 19).eval()
    assert not count_macs(model, torch.empty(1, 3, 256, 256, device='meta')).unknown
