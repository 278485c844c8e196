"""MiT equals mmseg's, works on every grid, and merges as its settings say."""

import warnings

import pytest
import torch

from mmseg_tr.compat import ensure_openmmlab
from mmseg_tr.errors import ConfigError, installed
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.mit_blocks import MixFFN
from mmseg_tr.reduction.segformerpp import SegFormerPP, mergers
from mmseg_tr.reduction.segformerpp.mergers import Bipartite, grid_partition
from mmseg_tr.reduction.segformerpp.settings import ALIASES, PRESETS
from tests.nn.networks import image, shaken

ARCH = dict(embed_dims=8, num_layers=(1, 1, 2, 1), num_heads=(1, 2, 3, 4))
MIXED = [dict(q_mode='n1d', q_s=3), dict(kv_mode='n2d', kv_s=2), None, dict(q_mode='bsm', q_r=0.5, q_sx=2, q_sy=3)]
SETTINGS = [*PRESETS, MIXED, 'bsm_fast_shared']


def mit(reduction=None, **kwargs):
    torch.manual_seed(0)
    return shaken(MixVisionTransformer(ARCH, reduction=reduction, **kwargs))


@pytest.mark.skipif(not installed('mmseg'), reason='compared with mmseg, which is not installed')
@pytest.mark.parametrize('size', [(64, 64), (75, 101)])
def test_b0_equals_that_of_mmseg(size):
    ensure_openmmlab()
    from mmseg.models.backbones import MixVisionTransformer as Reference

    reference = shaken(Reference(embed_dims=32, num_layers=[2, 2, 2, 2], num_heads=[1, 2, 5, 8]))
    model = MixVisionTransformer('b0').eval()
    assert list(model.state_dict()) == list(reference.state_dict())
    model.load_state_dict(reference.state_dict())
    x = image(2, 3, *size)
    with torch.no_grad():
        for got, want in zip(model(x), reference(x), strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('name', [*PRESETS, *ALIASES])
def test_every_name_has_an_effect_of_its_own(name):
    plain, named, x = mit(), mit(name), image(1, 3, 128, 160)
    other = mit(name.replace('_', '-').upper()).reduction
    assert (other and other.merging) == (named.reduction and named.reduction.merging)
    assert list(named.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        same = [a.shape == b.shape and torch.equal(a, b) for a, b in zip(plain(x), named(x), strict=True)]
    assert all(same) == (ALIASES.get(name, name) == 'original')


@pytest.mark.parametrize(
    'name, matchings', [('bsm_hq', 8), ('bsm_hq_share1', 8), ('bsm-hq-share2', 6), ('hq_share5', 4), ('hq_shared', 4)]
)
def test_blocks_that_share_compare_tokens_once(name, matchings, monkeypatch):
    arch, x, calls = ARCH | dict(num_layers=(1, 1, 5, 1)), image(1, 3, 128, 128), []
    models = {}
    for merging in ('bsm_hq', name):
        torch.manual_seed(0)
        models[merging] = shaken(MixVisionTransformer(arch, reduction=merging))
    with torch.no_grad():
        published = models['bsm_hq'](x)
        match = mergers.grid_matching
        monkeypatch.setattr(mergers, 'grid_matching', lambda *args: calls.append(args[1]) or match(*args))
        shared = models[name](x)
    assert len(calls) == matchings
    assert torch.equal(published[1], shared[1])  # an earlier block shares nothing
    assert torch.equal(published[2], shared[2]) == (matchings == 8)


def test_a_shared_matching_is_that_of_the_first_block():
    attention = mit('bsm_hq').layers[2][1][0].attn
    stage = SegFormerPP('bsm_hq_shared').merging[2]
    first, second = torch.randn(2, 1, 64, 24)
    _, known = attention(first, (8, 8), stage)
    _, used = attention(second, (8, 8), stage, known)
    assert used.queries is known.queries and used.keys is None
    assert not torch.equal(stage.queries.match(second, (8, 8)).index, known.queries.index)


@pytest.mark.filterwarnings('ignore:the image is too small')
@pytest.mark.parametrize('merging', SETTINGS, ids=str)
@pytest.mark.parametrize('size', [(1, 1), (3, 40), (33, 64), (97, 131), (128, 128)])
def test_every_grid_works(merging, size):
    if merging == 'downsample' and min(size) < 2:
        size = (2, 2)
    with torch.no_grad():
        maps = mit(merging)(image(1, 3, *size))
    sides = [side // 2 if merging == 'downsample' else side for side in size]
    for level, stride in zip(maps, (4, 8, 16, 32), strict=True):
        assert level.shape[-2:] == tuple(-(-side // stride) for side in sides)
        assert level.isfinite().all()


def test_small_images_merge_less_with_one_warning():
    model = mit('bsm_hq')
    with pytest.warns(UserWarning, match='too small .* stage 1, 2, 3, 4') as caught, torch.no_grad():
        model(image(1, 3, 48, 200))
    assert len(caught) == 1
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('error')
        model(image(1, 3, 97, 97))


@pytest.mark.parametrize('merging', SETTINGS, ids=str)
def test_result_is_independent_of_batch_mates(merging):
    model, x = mit(merging), image(3, 3, 128, 128)
    with torch.no_grad():
        for together, alone in zip(model(x), model(x[1:2]), strict=True):
            torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('merging', SETTINGS, ids=str)
def test_gradients_reach_every_weight_and_checkpointing_keeps_them(merging):
    gradients = []
    for with_cp in (False, True):
        model = mit(merging, with_cp=with_cp)
        sum(level.square().mean() for level in model(image(1, 3, 128, 128))).backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.isfinite().all(), name
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.skipif(not installed('mmengine'), reason='the registry is that of mmengine, which is not installed')
def test_it_is_registered():
    from mmseg_tr.registry import MODELS

    assert isinstance(MODELS.build(dict(type='mmseg_tr.MiT', arch=ARCH, reduction='bsm_hq')), MixVisionTransformer)


def test_any_number_of_channels_enters():
    with torch.no_grad():
        assert mit(in_channels=9, out_indices=(3,))(image(1, 9, 64, 64))[0].shape == (1, 32, 2, 2)


def test_equal_tokens_and_zero_tokens_merge_without_nan():
    for x in (torch.zeros(1, 16, 4), torch.ones(1, 16, 4)):
        merged, expand = Bipartite(0.5, (2, 2))(x, (4, 4))
        assert merged.shape[1] == 8
        torch.testing.assert_close(expand(merged), x)


def test_partition_of_an_odd_grid_leaves_the_border_to_the_sources():
    destinations, sources = grid_partition((3, 5), (2, 2))
    assert destinations.tolist() == [0, 2]
    assert sorted([*destinations, *sources]) == list(range(15))


def test_a_forward_in_inference_mode_leaves_training_as_it_is():
    model, x = mit('bsm_hq'), image(1, 3, 100, 132)
    with torch.inference_mode():
        model(x)
    model(x)[0].sum().backward()


@pytest.mark.parametrize(
    'merging, message',
    [
        ('bsm_r2D', "got 'bsm_r2D'"),
        ([{}, MIXED[0], {}], '3 stages, .* has 4'),
        ([1, 2, 3, 4], r'got \[1, 2, 3, 4\]'),
        (dict(type='SegFormerPP', preset='bsm_hq', stages=[{}] * 4), "both 'bsm_hq' and "),
        (dict(type='SegFormerPP', presets='bsm_hq'), "'presets'"),
        (dict(type='ALGM', layers=(1, 2), threshold=0.9), 'ALGM .* a MiT takes SegFormer'),
        ([dict(q_mode='neighbor_2D'), {}, {}, {}], "stage 1: q_mode .* got 'neighbor_2D'"),
        ([{}, dict(kv_mode='n1d', kv_s=2), {}, {}], "stage 2: kv_mode .* got 'n1d'"),
        ([{}, {}, dict(q_mode='bsm', q_r=0.5), {}], 'stage 3: .* needs q_sx, q_sy'),
        ([dict(q_mode='n2d', q_scale_factor=2, q_s=2), {}, {}, {}], "'q_scale_factor'"),
        ([dict(q_r=0.5), {}, {}, {}], "'q_r'"),
        ([dict(q_mode='bsm', q_r=6, q_sx=2, q_sy=2), {}, {}, {}], 'q_r .* got 6'),
        ([dict(q_mode='n2d', q_s=(2, 0)), {}, {}, {}], 'q_s .* got 0'),
        ([dict(q_mode='n2d', q_s=(2,)), {}, {}, {}], r'q_s .* got \(2,\)'),
        ([dict(q_mode='n2d', q_s=2, share=2), {}, {}, {}], "'share'"),
        ([dict(q_mode='bsm', q_r=0.5, q_sx=2, q_sy=2, share='all'), {}, {}, {}], "share .* got 'all'"),
        ('bsm_hq_share0', 'share .* got 0'),
        ('n2d_2x2_shared', "'share'"),
        ('original_share2', "'share'"),
    ],
)
def test_wrong_settings_are_refused_when_the_model_is_built(merging, message):
    with pytest.raises(ConfigError, match=message):
        mit(merging)


def test_settings_that_merge_nothing_are_reported():
    with pytest.warns(UserWarning, match='no token in stage 2'):
        mit([{}, dict(q_mode='n1d', q_s=1), {}, {}])


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='b6'), "'b6' is unknown"),
        (dict(arch=dict(depth=3)), "no setting 'depth'"),
        (dict(arch=dict(num_layers=(1, 1))), "'num_layers': 2"),
        (dict(out_indices=(4,)), 'out_indices'),
    ],
)
def test_wrong_architectures_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        MixVisionTransformer(**kwargs)


@pytest.mark.parametrize('precision', [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize('rows', [1, 2, 5, 11])
def test_mix_ffn_in_bands_of_rows_is_that_of_the_whole_grid(rows, precision, monkeypatch):
    torch.manual_seed(0)
    ffn, grid = MixFFN(8, 32, 0.0).eval(), (11, 7)
    y = torch.randn(2, grid[0] * grid[1], 8)
    with torch.no_grad(), torch.autocast('cpu', precision, enabled=precision is not None):
        whole = ffn.whole(y, grid)
        monkeypatch.setattr('mmseg_tr.cpu.BAND', rows * grid[1] * 32 * 4)
        bands = ffn(y, grid)
    assert bands.dtype == whole.dtype
    torch.testing.assert_close(bands, whole, atol=1e-6 if precision is None else 2e-2, rtol=1e-6)


@pytest.mark.parametrize('settings', ['bsm-hq', MIXED, 'original', None], ids=str)
def test_the_old_spelling_is_read_with_one_warning_that_names_the_new_one(settings):
    named = settings in ('original', None) or isinstance(settings, str)
    new = None if settings in ('original', None) else dict(type='SegFormerPP')
    if new is not None:
        new |= dict(preset=settings) if named else dict(stages=settings)
    with pytest.warns(DeprecationWarning, match='reduction=') as warned:
        torch.manual_seed(0)
        old = shaken(MixVisionTransformer(ARCH, merging=settings))
    assert len(warned) == 1
    assert eval(str(warned[0].message).partition('reduction=')[2].rstrip('.')) == new
    with torch.no_grad():
        pairs = zip(old(image(1, 3, 64, 64)), mit(new)(image(1, 3, 64, 64)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_reduction_can_be_given_for_one_forward():
    model, merged, x = mit(), mit('n2d_2x2'), image(1, 3, 128, 128)
    with torch.no_grad():
        plain, given = model(x), model(x, reduction=SegFormerPP('n2d_2x2'))
        assert all(torch.equal(a, b) for a, b in zip(given, merged(x), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(plain, merged.plain()(x), strict=True))
    assert model.reduction is None and merged.plain().reduction is None and merged.reduction is not None


def test_the_step_is_what_every_grid_divides():
    assert mit().step == (32, 32) and mit('downsample').step == (64, 64)
    assert mit().depths == (1, 1, 2, 1) and mit().depth == 5 and mit().width == 32
