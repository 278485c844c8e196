"""SegFormer equals mmseg's where the head is mmseg's, and its heads say what does not fit them."""

import pytest
import torch

from mmseg_tr.compat import ensure_openmmlab
from mmseg_tr.errors import ConfigError, installed
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.segformer import HEADS, SegFormer, SegformerHead, SegformerLinearHead
from tests.nn.networks import image, shaken

WIDTHS = (8, 16, 24)
ARCH = dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))


def maps(*sides):
    return [image(2, width, side, side + 3) for width, side in zip(WIDTHS, sides, strict=True)]


@pytest.mark.skipif(not installed('mmseg'), reason='compared with mmseg, which is not installed')
def test_head_equals_that_of_mmseg():
    ensure_openmmlab()
    from mmseg.models.decode_heads import SegformerHead as Reference

    reference = Reference(
        in_channels=list(WIDTHS),
        in_index=[0, 1, 2],
        channels=12,
        num_classes=5,
        norm_cfg=dict(type='BN'),
        align_corners=False,
    )
    reference = shaken(reference)
    head = SegformerHead(WIDTHS, 5, channels=12).eval()
    head.load_state_dict(reference.state_dict())
    levels = maps(16, 8, 4)
    with torch.no_grad():
        torch.testing.assert_close(head(levels), reference(levels))


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('size', [(64, 64), (50, 75)])
def test_logits_have_the_resolution_asked_for(head, size):
    backbone = MixVisionTransformer(ARCH, reduction='n2d_2x2')
    full = shaken(SegFormer(backbone, 5, head=head, channels=16))
    quarter = SegFormer(backbone, 5, head=head, channels=16, resolution='quarter').eval()
    quarter.load_state_dict(full.state_dict())
    x = image(2, 3, *size)
    with torch.no_grad():
        assert full(x).shape == (2, 5, *size)
        assert quarter(x).shape == (2, 5, *(-(-side // 4) for side in size))
        torch.testing.assert_close(quarter(x), full.scores(x))


def test_linear_head_has_no_norm_and_no_relu_in_front_of_the_fusion():
    head = shaken(SegformerLinearHead(WIDTHS, 5, channels=12))
    levels = maps(8, 8, 8)
    by_hand = [
        torch.einsum('oc,bchw->bohw', conv.weight[..., 0, 0], level) + conv.bias[:, None, None]
        for conv, level in zip(head.convs, levels, strict=True)
    ]
    assert any((level < 0).any() for level in by_hand)
    with torch.no_grad():
        want = head.conv_seg(head.fusion_conv(torch.cat(by_hand, 1)))
        torch.testing.assert_close(head(levels), want)


def test_heads_need_the_maps_that_they_are_built_for():
    for head in (SegformerHead(WIDTHS, 5), SegformerLinearHead(WIDTHS, 5)):
        with pytest.raises(ConfigError, match='gives 2 maps, the head takes 3'):
            head(maps(8, 8, 8)[:2])


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: SegformerHead([8], 0), 'num_classes .*0'),
        (lambda: SegFormer(MixVisionTransformer(ARCH), 3, head='mlp'), "head must be one of .*got 'mlp'"),
        (lambda: SegFormer(MixVisionTransformer(ARCH), 3, resolution='half'), "resolution must be one of .*got 'half'"),
    ],
)
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
