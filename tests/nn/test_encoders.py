"""Which timm networks are run, which are refused, and Segmenter's own by name."""

from __future__ import annotations

import pytest
import torch

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import SEGMENTER_ENCODERS, ViT
from mmseg_tr.nn.encoders import build_encoder, timm

WIDTH = dict(tiny=(192, 3, 12), small=(384, 6, 12), base=(768, 12, 12), large=(1024, 16, 24))


@pytest.mark.parametrize('name', sorted(SEGMENTER_ENCODERS))
def test_segmenters_encoders_build_at_the_crop_with_timms_keys(name):
    with torch.device('meta'):
        vit = ViT(name, img_size=512)
        reference = timm.create_model(name, num_classes=0, img_size=512)
    assert {key: tuple(value.shape) for key, value in vit.state_dict().items()} == {
        key: tuple(value.shape) for key, value in reference.state_dict().items()
    }
    width, heads, depth = WIDTH[name.split('_')[1]]
    patch = 32 if 'patch32' in name else 16
    assert (vit.embed_dim, vit.blocks[0].attn.num_heads, len(vit.blocks)) == (width, heads, depth)
    assert vit.grid == (512 // patch,) * 2 and vit.num_prefix == (2 if 'distilled' in name else 1)
    assert ('dist_token' in vit.state_dict()) == ('distilled' in name)


def test_patch_8_goes_by_dimensions():
    """timm has no vit_base_patch8_384."""
    with torch.device('meta'):
        vit = ViT(dict(embed_dim=768, depth=12, num_heads=12, patch_size=8), img_size=512)
    assert vit.grid == (64, 64) and vit.pos_embed.shape == (1, 4097, 768)
    assert vit.norm.eps == 1e-5 and vit.pos_resize == 'bilinear'


@pytest.mark.parametrize(
    ('arch', 'said'),
    [
        ('swin_tiny_patch4_window7_224', "'swin_tiny_patch4_window7_224' is not a plain ViT"),
        ('eva02_tiny_patch14_224', "'eva02_tiny_patch14_224' is not a plain ViT"),
        ('beit_base_patch16_224', 'is not a plain ViT'),
        ('vit_tiny_r_s16_p8_224', 'is not a plain ViT'),
        ('resnet18', 'is not a plain ViT'),
        ('vit_base_patch16_18x2_224', "'vit_base_patch16_18x2_224' has blocks of type ParallelThingsBlock"),
        ('vit_base_patch16_xp_224', 'blocks of type ParallelScalingBlock'),
        ('vit_base_patch16_rpn_224', 'blocks of type ResPostBlock'),
        ('vit_smal_patch16_384', 'is not a timm model: did you mean .*vit_small_patch16_384'),
        ('segmenter', 'is not a timm model'),
        (16, 'neither a timm model name nor a dict with embed_dim, depth, num_heads, patch_size'),
        (dict(embed_dim=64, depth=2), 'lacks num_heads, patch_size'),
        (dict(embed_dim=64, depth=2, num_heads=2, patch_size=8, width=3), 'unknown width'),
        (dict(embed_dim=64, depth=0, num_heads=2, patch_size=8), 'depth must be a positive integer, got 0'),
        (dict(embed_dim=64, depth=2, num_heads=2.0, patch_size=8), 'num_heads must be a positive integer, got 2.0'),
        (dict(embed_dim=64, depth=2, num_heads=3, patch_size=8), 'does not divide into 3 heads'),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_name(arch, said):
    with torch.device('meta'), pytest.raises(ConfigError, match=said):
        ViT(arch)


def test_differential_attention_is_refused_where_timm_has_it():
    name = 'vit_dwee_patch16_reg1_gap_256'
    if not timm.is_model(name):
        pytest.skip(f'this timm has no {name}')
    with torch.device('meta'), pytest.raises(ConfigError, match=f'{name}.*DiffAttention'):
        build_encoder(name)


def test_dimensions_are_not_consumed():
    arch = dict(embed_dim=16, depth=1, num_heads=2, patch_size=4, distilled=True)
    before = dict(arch)
    build_encoder(arch, img_size=8)
    assert arch == before


def test_class_and_distillation_tokens_start_as_segmenters():
    torch.manual_seed(0)
    vit = ViT(dict(embed_dim=512, depth=1, num_heads=8, patch_size=4, distilled=True), img_size=8)
    for token in (vit.cls_token, vit.dist_token):
        assert 0.015 < token.std() < 0.025
