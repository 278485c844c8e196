"""The ViT backbone: equal to timm's, any grid, any levels."""

from __future__ import annotations

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import ViT
from mmseg_tr.nn.encoders import timm
from mmseg_tr.nn.pos_embed import resize_pos_embed
from tests.nn.networks import image, shaken, timm_vit

TINY = dict(embed_dim=16, depth=3, num_heads=2, patch_size=4)


def ours(reference: torch.nn.Module, arch, **kwargs) -> ViT:
    vit = ViT(arch, **kwargs).eval()
    state = {
        key: value for key, value in reference.state_dict().items() if not key.startswith(('fc_norm', 'attn_pool'))
    }
    vit.load_state_dict(state, strict=True)
    return vit


@pytest.mark.parametrize(
    ('name', 'eps'),
    [
        ('test_vit', None),
        ('test_vit2', None),  # LayerScale, pooled
        ('test_vit3', None),  # no class token, LayerScale
        ('test_vit4', None),  # RMS norms
        ('vit_tiny_patch16_384', 1e-6),
        ('deit_tiny_distilled_patch16_224', 1e-6),
        ('deit3_small_patch16_224', None),  # LayerScale, no position for the class token
        ('vit_small_patch14_reg4_dinov2', None),  # LayerScale, registers
        ('vit_xsmall_patch16_clip_224', None),  # norm in front of the blocks
    ],
)
@torch.no_grad()
def test_equals_timm_by_name(name, eps):
    side = 42 if 'patch14' in name else 48
    reference = timm_vit(name, img_size=side)
    vit = ours(reference, name, img_size=side, norm_eps=eps)
    x = image(2, 3, side, side)
    tokens = vit.forward_tokens(x)
    torch.testing.assert_close(tokens.x, reference.forward_features(x), atol=1e-5, rtol=1e-5)
    assert tokens.num_prefix == reference.num_prefix_tokens and tokens.grid == (3, 3)


@pytest.mark.parametrize(
    'option',
    [
        dict(qk_norm=True),
        dict(init_values=0.1),
        dict(reg_tokens=4),
        dict(reg_tokens=4, no_embed_class=True),
        dict(class_token=False),
        dict(pre_norm=True),
        dict(qkv_bias=False),
        dict(mlp_ratio=2.0),
        dict(distilled=True),
        dict(distilled=True, qk_norm=True, init_values=0.1),
    ],
    ids=str,
)
@torch.no_grad()
def test_equals_timm_by_dimensions(option):
    options = dict(option)
    cls = VisionTransformerDistilled if options.pop('distilled', False) else VisionTransformer
    if options.get('class_token') is False:
        options |= dict(global_pool='avg', fc_norm=False)
    reference = shaken(cls(num_classes=0, img_size=(16, 24), **TINY, **options))
    vit = ours(reference, TINY | option, img_size=(16, 24), norm_eps=1e-6)
    x = image(2, 3, 16, 24)
    torch.testing.assert_close(vit.forward_tokens(x).x, reference.forward_features(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_equals_timm_on_another_grid():
    """By timm's own rule for resizing position embeddings; by Segmenter's it is another network."""
    reference = timm_vit('test_vit', img_size=64, dynamic_img_size=True)
    x = image(1, 3, 48, 112)
    vit = ours(reference, 'test_vit', img_size=64)
    torch.testing.assert_close(vit.forward_tokens(x).x, reference.forward_features(x), atol=1e-5, rtol=1e-5)
    bilinear = ours(reference, 'test_vit', img_size=64, pos_resize='bilinear')
    assert not torch.allclose(bilinear.forward_tokens(x).x, reference.forward_features(x), atol=1e-3)


@torch.no_grad()
def test_levels_equal_timms_intermediates():
    reference = timm_vit('test_vit', img_size=64)
    vit = ours(reference, 'test_vit', img_size=64, out_indices=(-1, 1, 3))
    x = image(2, 3, 64, 64)
    wanted = reference.forward_intermediates(x, indices=[1, 3], intermediates_only=True)
    last = reference.forward_intermediates(x, norm=True, indices=1, intermediates_only=True)
    for found, level in zip(vit(x), [*last, *wanted]):
        torch.testing.assert_close(found, level, atol=1e-5, rtol=1e-5)


def test_grids_are_compared_not_counts():
    """8 x 8 and 4 x 16 patches are equally many and lie elsewhere."""
    vit = shaken(ViT(TINY, img_size=32))
    x = image(1, 3, 16, 64)
    expected = vit.patch_embed.proj(x).flatten(2).transpose(1, 2)
    expected = expected + resize_pos_embed(vit.pos_embed, (8, 8), (4, 16), 1)[:, 1:]
    torch.testing.assert_close(vit.embed(x).x[:, 1:], expected)
    assert vit.embed(x).grid == (4, 16)
    unresized = vit.patch_embed.proj(x).flatten(2).transpose(1, 2) + vit.pos_embed[:, 1:]
    assert not torch.allclose(vit.embed(x).x[:, 1:], unresized, atol=1e-3)


@pytest.mark.parametrize(('size', 'grid'), [((1, 1), (1, 1)), ((15, 33), (4, 9)), ((32, 4), (8, 1))])
def test_images_are_padded_to_whole_patches_with_zeros(size, grid):
    vit = shaken(ViT(TINY, img_size=32))
    x = image(2, 3, *size)
    padded = torch.nn.functional.pad(x, (0, -size[1] % 4, 0, -size[0] % 4))
    torch.testing.assert_close(vit(x)[0], vit(padded)[0])
    assert vit(x)[0].shape == (2, 16, *grid)
    tokens = vit.forward_tokens(x)
    assert (tokens.image_size, tokens.patch_size, tokens.grid) == (size, (4, 4), grid)


def test_tokens_leave_with_the_trace_of_all_layers():
    (first, last) = ViT(TINY, img_size=16, out='tokens', out_indices=(0, 2))(image(2, 3, 16, 16))
    assert first.trace == ((17, 17),) and last.trace == ((17, 17),) * 3


def test_blocks_behind_the_last_level_do_not_run():
    vit = shaken(ViT(TINY, img_size=16, out_indices=(0,)))
    vit.blocks[1].forward = vit.blocks[1].mlp.forward = None  # would fail if called
    assert vit(image(1, 3, 16, 16))[0].shape == (1, 16, 4, 4)


def test_stochastic_depth_rises_over_blocks_and_rests_in_eval():
    vit = ViT(TINY, img_size=16, drop_path_rate=0.4)
    rates = [getattr(block.drop_path1, 'drop_prob', 0.0) for block in vit.blocks]
    torch.testing.assert_close(rates, [0.0, 0.2, 0.4])
    x = image(4, 3, 16, 16)
    assert torch.equal(vit.eval()(x)[0], vit(x)[0])
    assert not torch.equal(vit.train()(x)[0], vit(x)[0])


@pytest.mark.parametrize('name', ['vit_tiny_patch16_384', 'test_vit'])
def test_segmenters_encoders_have_its_eps_and_others_their_own(name):
    published = name.startswith('vit_tiny')
    vit = ViT(name, img_size=32)
    assert vit.norm.eps == vit.blocks[0].norm2.eps == (1e-5 if published else 1e-6)
    assert vit.pos_resize == ('bilinear' if published else 'bicubic_antialias')
    assert ViT(name, img_size=32, norm_eps=1e-3).blocks[1].norm1.eps == 1e-3


def test_other_numbers_of_channels_run_when_asked_for():
    assert ViT(TINY, img_size=16, in_chans=4)(image(1, 4, 16, 16))[0].shape == (1, 16, 4, 4)


@pytest.mark.parametrize('shape', [(1, 1, 16, 16), (1, 4, 16, 16), (3, 16, 16)], ids=str)
def test_wrong_channels_are_refused(shape):
    with pytest.raises(ConfigError, match=r'image .*\(B, 3, H, W\)'):
        ViT(TINY, img_size=16)(torch.zeros(shape))


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (dict(out='features'), "out must be one of 'maps', 'tokens'"),
        (dict(out_indices=(3,)), 'different blocks from -3 to 2'),
        (dict(out_indices=(-4,)), 'different blocks'),
        (dict(out_indices=(2, -1)), 'different blocks'),
        (dict(out_indices=()), 'at least one'),
        (dict(pos_resize='nearest'), "'bilinear', 'bicubic', 'bicubic_antialias'"),
        (dict(img_size=0), 'img_size must be .*got .*0'),
        (dict(img_size=(16, 16, 16)), r'img_size must be .*got \(16, 16, 16\)'),
        (dict(img_size='16'), "img_size must be .*got '16'"),
        (dict(pretrained=True), 'needs an arch by name'),
    ],
    ids=str,
)
def test_settings_that_do_not_exist_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        ViT(TINY, **(dict(img_size=16) | settings))


def test_state_dict_is_timms():
    reference = timm.create_model('test_vit', num_classes=0)
    vit = ViT('test_vit')
    assert {key: value.shape for key, value in vit.state_dict().items()} == {
        key: value.shape for key, value in reference.state_dict().items()
    }


def test_a_timm_model_is_taken_as_it_is():
    model = timm.create_model('vit_tiny_patch16_224', num_classes=0, img_size=64, depth=2).eval()
    vit = ViT(model, reduction=dict(type='ToMe', r=2))
    image = torch.rand(1, 3, 64, 64)
    plain = ViT(model)
    with torch.no_grad():
        (features,) = plain(image)
        assert vit(image)[0].shape == features.shape == (1, 192, 4, 4)
        assert torch.allclose(features.flatten(2).transpose(1, 2), model.forward_features(image)[:, 1:], atol=1e-5)
        assert vit.forward_tokens(image).trace == ((15,), (13,))
    assert vit.blocks[0].attn.qkv.weight is model.blocks[0].attn.qkv.weight
    assert vit.blocks[0].norm1.eps == 1e-6


@pytest.mark.parametrize('settings', [dict(img_size=64), dict(pretrained=True)])
def test_settings_of_a_name_are_refused_beside_a_timm_model(settings):
    model = timm.create_model('vit_tiny_patch16_224', num_classes=0, img_size=64, depth=1)
    with pytest.raises(ConfigError, match='by name'):
        ViT(model, **settings)
