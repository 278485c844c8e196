"""Fixed forms of every method: a budget of multiply-adds, or tokens after each layer; one graph that never waits."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mmseg_tr
from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.reduction import REDUCTIONS, build_reduction, method_names
from tests.reduction.methods import METHODS, pictures, tiny_vit

ARCH = dict(embed_dim=32, depth=4, num_heads=2, patch_size=8)
# what a method can keep to on four narrow layers of 64 patches; CTS's policy alone costs more than such a network
BUDGETS = {'ACT': 0.95, 'SharedMatching': 0.9, 'CTS': None}
TOKENS = {
    'ACT': ((20,), [64] * 4),
    'ALGM': ((40, 25), [40, 40, 40, 25]),
    'CTS': ((40,), [40] * 4),
    'CubistMerge': ((36,), [64, 36, 36, 36]),
    'EViT': ((40, 30, 21), [40, 30, 21, 21]),
    'Expedite': ((37,), [64, 36, 36, 36]),
    'MPM': ((40, 30), [64, 40, 30, 30]),
    'SharedMatching': ((30,), [64] * 4),
    'ToMe': ((60, 50, 40, 30), [60, 50, 40, 30]),
}


def segmenter(method=None, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return mmseg_tr.create_model('segmenter', method, num_classes=5, arch=ARCH, img_size=64, **options).eval()


@pytest.mark.parametrize('method', method_names('ViT'))
def test_a_budget_is_kept_by_the_whole_network(method):
    budget = BUDGETS.get(method, 0.7)
    if budget is None:
        with pytest.raises(ConfigError, match=r'budget must be 1\.00 or more'):
            segmenter(method, budget=0.7)
        return
    image = torch.zeros(1, 3, 64, 64)
    model = segmenter(method, budget=budget)
    assert not model.encoder.reduction.adaptive
    assert count_macs(model, image).total() <= budget * count_macs(segmenter(), image).total()


@pytest.mark.parametrize('method', TOKENS)
@pytest.mark.filterwarnings('ignore:CTS')
def test_tokens_are_what_is_left_after_each_layer(method):
    asked, left = TOKENS[method]
    model = segmenter(method, tokens=asked)
    assert [counts[0] - 1 for counts in model.encoder.trace(torch.zeros(1, 3, 64, 64))] == left


@pytest.mark.parametrize(
    ('method', 'settings', 'said'),
    [
        ('ALGM', dict(tokens=(20, 30)), 'tokens must not grow'),
        ('ALGM', dict(tokens=(80, 30)), 'tokens must be at most the 64 patches'),
        ('ALGM', dict(tokens=(10, 5)), 'tokens must be 16 or more after layer 1'),
        ('ToMe', dict(tokens=(20,)), 'tokens must be 32 or more after layer 1'),
        ('PiToMe', dict(tokens=(30,)), 'tokens must be left out for PiToMe'),
        ('MPM', dict(tokens=(30, 20), budget=0.5), 'one of budget and tokens'),
        ('ToMe', dict(budget=0.05), r'budget must be 0\.\d\d or more'),
        ('ALGM', dict(calibrate=torch.zeros(1, 3, 64, 64)), 'calibrate .* goes with budget'),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(method, settings, said):
    with pytest.raises(ConfigError, match=said):
        segmenter(method, **settings)
    with pytest.raises(ConfigError, match='budget needs the whole network'):
        build_reduction(dict(type=method, budget=0.5))


@torch.no_grad()
def test_calibration_takes_what_changes_the_results_least():
    images = pictures(2, (16, 16))
    plain, first = segmenter(), segmenter('ALGM', budget=0.7)
    chosen = segmenter('ALGM', budget=0.7, calibrate=images)
    losses = [(model(images) - plain(images)).square().sum() for model in (chosen, first)]
    assert losses[0] <= losses[1]
    assert count_macs(chosen, images[:1]).total() <= 0.7 * count_macs(plain, images[:1]).total()


def test_a_config_keeps_to_its_budget():
    pytest.importorskip('mmengine')
    from mmengine.config import Config

    from mmseg_tr.apis.fixed import settle_budget

    arch = dict(ARCH, embed_dim=32)
    config = Config(
        dict(
            default_scope='mmseg',
            model=dict(
                type='mmseg.EncoderDecoder',
                backbone=dict(
                    type='mmseg_tr.ViT', arch=arch, img_size=64, reduction=dict(type='ALGM', layers=[1, 3], budget=0.8)
                ),
                decode_head=dict(type='mmseg.FCNHead', in_channels=32, channels=8, num_classes=5, num_convs=1),
                test_cfg=dict(mode='whole'),
            ),
            custom_imports=dict(imports=['mmseg_tr'], allow_failed_imports=False),
        )
    )
    settle_budget(config)
    settings = config.model.backbone.reduction
    assert settings['type'] == 'ALGM' and 'budget' not in settings and min(settings['counts']) > 0


class NothingWaits(TorchDispatchMode):
    """Fails on every operator whose result the host must read before it can go on."""

    READS = ('_local_scalar_dense', 'item', 'nonzero', 'masked_select', 'unique', 'bincount', 'equal', 'is_nonzero')

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix('aten::')
        assert not name.lstrip('_').startswith(tuple(read.lstrip('_') for read in self.READS)), name
        return func(*args, **(kwargs or {}))


FIXED = {str(method): method.settings for method in METHODS if not build_reduction(method.settings).adaptive}
FIXED |= {
    'ACT': dict(type='ACT', clusters=9, q_hashes=8),
    'ALGM': dict(type='ALGM', layers=(1, 3), counts=(5, 9)),
    'CTS': dict(type='CTS', share=0.3),
}


def test_every_method_has_a_fixed_form_here():
    assert {build_reduction(settings).name for settings in FIXED.values()} == set(method_names('ViT'))
    assert all(issubclass(method, REDUCTIONS[name]) for name, method in REDUCTIONS.items())


@pytest.mark.parametrize('name', FIXED)
@pytest.mark.filterwarnings('ignore:CTS')
def test_a_fixed_form_runs_forward_and_backward_without_data_and_without_waiting(name):
    """On the meta device nothing can be read, and a constant left on the CPU fails."""
    vit = tiny_vit(FIXED[name]).train()
    for device in ('cpu', 'meta'):
        vit.to(device)
        with NothingWaits():
            (maps,) = vit(pictures(2, (8, 8)).to(device))
            maps.sum().backward()
        assert maps.shape == (2, 16, 8, 8) and maps.device.type == device


@pytest.mark.parametrize('preset', ['bsm_hq', 'bsm_fast', 'n2d_2x2', 'downsample'])
@pytest.mark.parametrize('match_every', [1, 2])
def test_presets_of_a_mit_run_forward_and_backward_without_data_and_without_waiting(preset, match_every):
    arch = dict(embed_dims=8, num_layers=(1, 1, 1, 2), num_heads=(1, 2, 4, 8))
    more = dict(match_every=match_every) if match_every > 1 else {}
    mit = MixVisionTransformer(arch, reduction=dict(type='SegFormerPP', preset=preset, **more)).train()
    for device in ('cpu', 'meta'):
        mit.to(device)
        with NothingWaits():
            maps = mit(torch.zeros(2, 3, 128, 128, device=device))
            sum(level.sum() for level in maps).backward()
        assert maps[-1].device.type == device and len(maps[-1]) == 2
