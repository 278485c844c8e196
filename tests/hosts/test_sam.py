"""Image encoders of SAM in timm and transformers: windows, relative positions, no class token."""

import numpy as np
import pytest
import torch

import mmseg_tr
from mmseg_tr.compat import ensure_torchvision
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.relative import between, on_grid
from tests.hosts.checks import check_host, check_neutral
from tests.nn.networks import shaken
from tests.torch_versions import HALF, ONE_GRAPH, needs_newer_torch

pytest.importorskip('transformers')
ensure_torchvision()

from timm.models.vision_transformer_sam import VisionTransformerSAM  # noqa: E402
from transformers import SamVisionConfig, SamVisionModel  # noqa: E402

COMMON = dict(img_size=72, patch_size=8, embed_dim=16, depth=4, num_heads=2, num_classes=0, neck_chans=8)
VISION = dict(
    hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=72, patch_size=8, output_channels=8,
    mlp_dim=32, window_size=4, global_attn_indexes=[1, 3],
)  # fmt: skip


def timm_sam(**changes):
    return VisionTransformerSAM(
        **COMMON, **(dict(use_rel_pos=True, window_size=4, global_attn_indexes=(1, 3)) | changes)
    )


KINDS = {
    'timm': timm_sam,
    'timm without windows': lambda: timm_sam(window_size=0, init_values=0.5, qk_norm=True),
    'timm without positions': lambda: timm_sam(use_rel_pos=False),
    'transformers': lambda: SamVisionModel(SamVisionConfig(**VISION)),
    'transformers eager': lambda: SamVisionModel(SamVisionConfig(**VISION, attn_implementation='eager')),
}
METHODS = {
    'ToMe': dict(form='dense', r=0.3),
    'ACT': dict(q_hashes=2),
    'CubistMerge': dict(layer=2, ratio=0.25),
    'SharedMatching': dict(match_every=2, r=0.5),
}
NEUTRAL = {'ToMe': dict(form='dense', r=0), 'CubistMerge': dict(layer=2, r=0)}


def network(kind, dtype=torch.float64):
    torch.manual_seed(0)
    model = KINDS[kind]()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if 'rel_pos' in name or 'pos_embed' in name:
                weight.normal_(std=0.3)
    return shaken(model).to(dtype).eval()


def images(count=2, dtype=torch.float64, size=(72, 72)):
    small = torch.randn(count, 3, size[0] // 12, size[1] // 12, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(small, size=size, mode='bilinear').to(dtype)


def outputs(model, x):
    """Every tensor that a forward returns, and the maps between blocks."""
    if isinstance(model, VisionTransformerSAM):
        last, levels = model.forward_intermediates(x)
        return [model(x), last, *levels]
    found = model(x, output_hidden_states=True)
    return [found.last_hidden_state, *found.hidden_states]


@pytest.mark.parametrize(
    ('name', 'kind'),
    [(name, kind) for name in METHODS for kind in KINDS if ' ' not in kind or name == 'ToMe'],
)
def test_a_host_returns_what_it_returned_and_is_itself_afterwards(name, kind):
    check_host(network(kind), images(), outputs, name, **METHODS[name])


@pytest.mark.parametrize(('dtype', 'close'), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(('name', 'kind'), [('CubistMerge', kind) for kind in KINDS] + [('ToMe', 'timm')])
def test_a_setting_that_reduces_nothing_changes_nothing(kind, name, dtype, close):
    if kind == 'timm' and dtype == torch.bfloat16:
        needs_newer_torch(HALF)
    check_neutral(network(kind, dtype), images(dtype=dtype), outputs, close, name, **NEUTRAL[name])


@torch.no_grad()
def test_positions_are_the_same_between_patches_as_on_them():
    q, tables = torch.randn(2, 3, 20, 8).double(), [torch.randn(7, 8).double(), torch.randn(4, 8).double()]
    at = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing='ij'), -1).flatten(0, 1)
    at = at.double().expand(2, -1, -1)
    queries, keys = on_grid(q, (4, 5), tables)
    for got, want in zip(between(q, at, (4, 5), tables), (queries, keys.expand(2, 1, -1, -1))):
        torch.testing.assert_close(got, want)
    middle, _ = between(q, at[:, :1] + 0.5, (4, 5), tables)  # between the first patch and the next, down and across
    ends = [between(q, at[:, :1] + step, (4, 5), tables)[0] for step in (0, 1)]
    torch.testing.assert_close(middle, (ends[0] + ends[1]) / 2)


@torch.no_grad()
def test_windows_shrink_and_their_number_stays():
    model, seen = mmseg_tr.apply(network('timm'), 'CubistMerge', layer=2, r=1), []
    model.blocks[2].attn.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    model(images())
    assert seen == [(18, 3, 3, 16)]  # 3 x 3 windows of 3 x 3 for 2 images, in place of 4 x 4


@torch.no_grad()
def test_images_of_other_sizes():
    model = mmseg_tr.apply(network('timm'), 'CubistMerge', layer=1, r=(1, 2))
    assert model(images(size=(56, 104))).shape == network('timm')(images(size=(56, 104))).shape


@pytest.mark.parametrize('kind', ['timm', 'transformers'])
def test_gradients_reach_every_weight_also_with_checkpointing(kind):
    gradients = []
    for checkpointing in (False, True):
        model = mmseg_tr.apply(network(kind), 'ToMe', **METHODS['ToMe']).train()
        if checkpointing:
            if hasattr(model, 'set_grad_checkpointing'):
                model.set_grad_checkpointing()
            else:
                model.gradient_checkpointing_enable({'use_reentrant': False})  # not yet the default of 4.57
        outputs(model, images())[0].square().mean().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(grad is not None for grad in gradients[0])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_a_budget_is_kept_and_is_one_graph():
    model, x = network('timm', torch.float32), images(1, torch.float32)
    mmseg_tr.apply(model, 'CubistMerge', budget=0.8)
    found = mmseg_tr.summary(model, x, repeats=1, instead=0)
    assert found.work >= 1 / 0.8 and found.tokens[-1] < found.plain_tokens == 81
    needs_newer_torch(ONE_GRAPH)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=0)


def test_what_does_not_fit_is_refused_with_the_reason():
    for name, settings in (('ALGM', {}), ('ToMe', dict(form='original', r=4)), ('ToMe', dict(budget=0.8))):
        with pytest.raises(ConfigError, match=f'{name} leaves tokens that form no grid.*CubistMerge'):
            mmseg_tr.apply(network('timm'), name, **settings)
    with pytest.raises(ConfigError, match='EViT needs a class token'):
        mmseg_tr.apply(network('transformers'), 'EViT')
    with pytest.raises(ConfigError, match='rotary'):
        mmseg_tr.apply(timm_sam(use_rel_pos=False, use_rope=True), 'ACT')
    model = KINDS['transformers']()
    del model.vision_encoder.layers[2].attn.qkv
    with pytest.raises(ConfigError, match='SamVisionEncoder .* qkv'):
        mmseg_tr.apply(model, 'ACT')


@pytest.mark.parametrize('name', METHODS)
def test_pictures_of_what_merges_cover_all_windows(name):
    model = mmseg_tr.apply(network('timm'), name, **METHODS[name])
    found = [entry for entry in mmseg_tr.hosts.watch(model, images(1)) if entry.part != 'mlp']
    assert {entry.layer for entry in found} == {1, 2, 3, 4}
    assert all(entry.groups.shape == (9, 9) for entry in found)
    assert any(len(np.unique(entry.groups)) < 81 for entry in found)
    if METHODS[name].get('layer') is None:  # what merges inside attention stays in its window
        first = found[0].groups
        assert not np.intersect1d(first[:4, :4], first[4:8, 4:8]).size
