"""Methods in networks with rotary positions: Eva of timm (DINOv3, EVA-02, PE, mixed frequencies)."""

import copy
import inspect
import pickle
import warnings

import pytest
import torch

import mmseg_tr
from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts import Rotary
from mmseg_tr.hosts.host import Scale
from mmseg_tr.hosts.rope import Turn, halves
from mmseg_tr.hosts.timm import Eva, EvaHeads
from mmseg_tr.reduction import Tokens
from tests.hosts.checks import check_bare
from tests.hosts.test_timm import METHODS, apply, images
from tests.nn.networks import shaken, timm
from tests.parity.rope import rope_angles
from tests.torch_versions import ONE_GRAPH, needs_newer_torch

COMMON = dict(img_size=(48, 64), patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=5, use_rot_pos_emb=True)
DINOV3 = dict(rope_type='dinov3', rope_temperature=100.0, rope_rotate_half=True, use_abs_pos_emb=False)
KINDS = {
    'DINOv3': DINOV3 | dict(num_reg_tokens=3, init_values=0.5, dynamic_img_size=True),
    'EVA-02': dict(swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True, qkv_fused=False, ref_feat_shape=(5, 5)),
    'PE': dict(rope_grid_indexing='xy', rope_grid_offset=1.0, attn_type='rope', use_pre_transformer_norm=True),
    'mixed': dict(rope_type='mixed', rope_temperature=10.0, qk_norm=True, class_token=False, global_pool='avg'),
    'grouped': dict(attn_type='rope', qkv_fused=False, num_heads=4, num_kv_heads=2, attn_only_layer_scale=True),
    'EVA': dict(use_rot_pos_emb=False, qkv_bias=False),
}


TAKEN = inspect.signature(Eva).parameters


def network(kind='DINOv3', dtype=torch.float64, **changes):
    unknown = KINDS[kind].keys() - TAKEN.keys()
    if unknown & {'qk_norm', 'num_kv_heads'}:
        pytest.skip(f'Eva of timm {timm.__version__} does not take {", ".join(unknown)}')
    torch.manual_seed(0)
    return shaken(Eva(**(COMMON | KINDS[kind] | changes))).to(dtype).eval()


DRAWN = {kind: list(METHODS)[number :: len(KINDS)] for number, kind in enumerate(KINDS)} | {'DINOv3': list(METHODS)}


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_every_method_keeps_shapes_and_leaves_no_trace(kind):
    model, x = network(kind), images()
    state, plain, features = copy.deepcopy(model.state_dict()), model(x), model.forward_features(x)
    for name in DRAWN[kind]:
        if name == 'EViT' and model.cls_token is None:
            continue
        apply(model, name)
        reduced, levels = model.forward_intermediates(x)
        assert reduced.shape == features.shape and not torch.equal(reduced, features)
        assert [level.shape for level in levels] == [(2, 32, 6, 8)] * 4
        torch.testing.assert_close(torch.cat([model.forward_features(x[:1]), model.forward_features(x[1:])]), reduced)
        mmseg_tr.remove(model)
    assert torch.equal(model(x), plain)
    check_bare(model, state)


@pytest.mark.parametrize(('dtype', 'close'), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_a_setting_that_reduces_nothing_changes_nothing(kind, dtype, close):
    model, x = network(kind, dtype), images(dtype=dtype)
    plain = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # a setting that reduces nothing warns
        mmseg_tr.apply(model, 'ALGM', layers=(2,), threshold=2.0)
        torch.testing.assert_close(model(x), plain, atol=close, rtol=close if dtype == torch.bfloat16 else 0)


@pytest.mark.parametrize('half', [True, False])
@pytest.mark.parametrize('rule', ['mean', 'representative', 'rotated'])
def test_a_merged_token_gets_the_position_of_its_group(rule, half):
    grid, layout = (6, 7), (lambda table: table.repeat(1, 2) if half else table.repeat_interleave(2, 1))
    angles = rope_angles(grid, 16, 100.0, 'separate').double()  # (42, 8)
    places = torch.tensor([0] * 8 + [1] * 20 + [2] + [3] * 2 + [-1] * 11)
    index = torch.stack([places, places.flip(0)])
    tokens = Tokens(torch.zeros(2, 2 + 5, 4), grid, 2, index=index, gaps=True)  # token 4 has no patch
    given = tuple(layout(table) for table in (angles.cos(), angles.sin()))
    found = Turn(Rotary('rope', rule=rule), given, half).positions(tokens)
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing='ij')
    spots = torch.stack([rows.flatten(), columns.flatten()], 1).double()
    step = torch.stack([angles[7] - angles[0], angles[1] - angles[0]])
    for image in (0, 1):
        assert torch.equal(found.cos[image, :2], torch.ones(2, 1, 16)) and not found.sin[image, :2].any()
        assert torch.equal(found.cos[image, 6], torch.ones(1, 16)) and not found.sin[image, 6].any()
        for token in range(4):
            members = index[image] == token
            centre = spots[members].mean(0)
            nearest = (spots - centre).square().sum(1).masked_fill(~members, torch.inf).argmin()
            want = {
                'mean': [layout(function(angles[:1] + centre @ step)) for function in (torch.cos, torch.sin)],
                'representative': [table[nearest][None] for table in given],
                'rotated': [table[members].mean(0, keepdim=True) for table in given],
            }[rule]
            for got, value in zip((found.cos, found.sin), want):
                torch.testing.assert_close(got[image, 2 + token], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize('kind', ['DINOv3', 'EVA-02', 'PE', 'mixed'])
@torch.no_grad()
def test_the_mean_of_both_neighbours_is_the_patch_between_them(kind):
    model, seen = network(kind), []
    model.blocks[1].register_forward_pre_hook(lambda *a: seen.append(a[2]['rope']), with_kwargs=True)
    model(images())
    index = torch.full((1, 48), -1)
    pairs = {9: 1, 20: 8, 34: 9}  # the step to a neighbour: along a row, a column, a diagonal
    for token, (patch, step) in enumerate(pairs.items()):
        index[0, [patch - step, patch + step]] = token
    tokens = Tokens(torch.zeros(1, 4, 32), (6, 8), 1, index=index, gaps=True)
    found = Turn(Rotary('rope', halves, 'mean'), seen[0], True).positions(tokens)
    for got, table in zip((found.cos, found.sin), halves(seen[0])):
        table = table[:, None] if table.dim() == 2 else table.transpose(0, 1)
        torch.testing.assert_close(got[0, 1:], table[list(pairs)], atol=1e-5, rtol=0)


@pytest.mark.parametrize('positions', ['mean', 'representative', 'rotated'])
@torch.no_grad()
def test_the_rule_is_an_option(positions):
    model, x = network(), images()
    default = apply(model, 'ALGM').forward_features(x)
    mmseg_tr.remove(model)
    apply(model, 'ALGM', positions=positions)
    assert torch.equal(model.forward_features(x), default) == (positions == 'rotated')


@pytest.mark.parametrize('name', ['ALGM', 'Expedite', 'CubistMerge'])
@torch.no_grad()
def test_images_of_any_size_have_their_own_positions(name):
    model, plain = apply(network(), name), network()
    for size in ((48, 64), (64, 40), (40, 72)):
        x = images(size=size)
        assert model.forward_features(x).shape == plain.forward_features(x).shape
        torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), model(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize('kind', ['DINOv3', 'mixed'])
@pytest.mark.parametrize('name', ['ALGM', 'ToMe dense', 'CubistMerge'])
def test_gradients_reach_every_weight_also_with_checkpointing(name, kind):
    gradients = []
    for checkpointing in (False, True):
        model = apply(network(kind), name).train()
        model.set_grad_checkpointing(checkpointing)
        model(images()).square().mean().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(grad is not None for grad in gradients[0])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_copies_run_with_their_own_weights():
    model, x = apply(network(), 'ALGM'), images()
    want = model(x)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), want)
        copied.blocks[1].mlp.fc1.weight.zero_()
        assert not torch.equal(copied(x), want) and torch.equal(model(x), want)


@torch.no_grad()
def test_a_network_of_features_only_returns_the_same_levels():
    tiny = dict(img_size=(48, 64), patch_size=8, embed_dim=32, depth=4, num_heads=2)
    model = timm.create_model('vit_small_patch16_dinov3', features_only=True, out_indices=(1, 2), **tiny)
    whole = timm.create_model('vit_small_patch16_dinov3', num_classes=0, **tiny)
    shaken(whole).double()
    model = model.double().eval()
    model.model.load_state_dict({key: whole.state_dict()[key] for key in model.model.state_dict()})
    levels = apply(model, 'ALGM')(images())
    wanted = apply(whole, 'ALGM').forward_intermediates(images(), indices=[1, 2], intermediates_only=True)
    for level, want in zip(levels, wanted, strict=True):
        torch.testing.assert_close(level, want)


@torch.no_grad()
def test_a_budget_is_kept_and_is_one_graph():
    model, x = network(dtype=torch.float32), images(dtype=torch.float32)
    plain = count_macs(model, x).total()
    mmseg_tr.apply(model, 'ALGM', budget=0.8)
    assert 0.4 < count_macs(model, x).total() / plain <= 0.8
    assert mmseg_tr.summary(model, x, repeats=1, instead=0).work >= 1 / 0.8
    needs_newer_torch(ONE_GRAPH)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ('make', 'settings', 'said'),
    [
        (lambda: network(use_post_norm=True, init_values=None), {}, 'EvaBlockPostNorm'),
        (lambda: network(patch_drop_rate=0.5), {}, 'patch_drop_rate'),
        (lambda: network('EVA'), dict(positions='mean'), 'rotary positions'),
        (lambda: network('mixed'), dict(name='EViT'), 'class token'),
        (network, dict(positions='median'), r"positions .* 'median'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(make, settings, said):
    with pytest.raises(ConfigError, match=said):
        apply(make(), **(dict(name='ALGM') | settings))


class OwnNetwork(Eva):
    """A network of no library."""


@torch.no_grad()
def test_a_network_of_ones_own_names_its_rotary_positions():
    torch.manual_seed(0)
    model, x = shaken(OwnNetwork(**COMMON | KINDS['DINOv3'])).double().eval(), images()
    with pytest.raises(ConfigError, match='OwnNetwork is not supported'):
        apply(model, 'ALGM')
    layout = dict(blocks='blocks', prefix=4, patch_embed='patch_embed', patch_size=(8, 8), attention=EvaHeads)
    parts = dict(ls1='gamma_1', ls2=lambda block: Scale(block.gamma_2))
    apply(model, 'ALGM', host=mmseg_tr.Host(**layout, parts=parts, rotary=Rotary('rope', halves)))
    assert torch.equal(model(x), apply(network(), 'ALGM')(x))


@torch.no_grad()
def test_attention_masks_and_positions_of_another_grid_are_refused():
    model = apply(network(), 'ALGM')
    tokens = torch.zeros(2, 4 + 48, 32, dtype=torch.float64)
    if 'attn_mask' in inspect.signature(Eva.forward).parameters:
        with pytest.raises(ConfigError, match='attention mask'):
            model(images(), attn_mask=torch.zeros(52, 52, dtype=torch.float64))
    model.patch_embed(images())
    with pytest.raises(ConfigError, match=r'rotary positions of shape \(40, 16\)'):
        model.blocks[0](tokens, rope=torch.zeros(40, 32, dtype=torch.float64))
