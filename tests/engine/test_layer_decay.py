"""Layer-wise learning-rate decay: rates of every block, and the names of mmpose's and mmseg's constructors."""

import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from mmseg_tr.engine.layer_decay import OURS, THEIRS, recognised
from mmseg_tr.engine.runner import ToolRunner
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import ViT
from mmseg_tr.nn.mit import MixVisionTransformer

MIT = dict(embed_dims=8, num_layers=(1, 2, 1, 1), num_heads=(1, 1, 2, 2))
LR = 2e-3


def network(kind='vit'):
    model = nn.Module()
    if kind == 'vit':
        model.backbone = ViT(dict(embed_dim=16, depth=2, num_heads=2, patch_size=8), 32)
    else:
        model.backbone = MixVisionTransformer(MIT)
    model.head = nn.Linear(16, 3)
    return model


def rates(model, **settings):
    """Learning rate and weight decay of every parameter."""
    optimizer = dict(type='AdamW', lr=LR, weight_decay=0.1)
    wrapper = build_optim_wrapper(model, dict(optimizer=optimizer, constructor=OURS, paramwise_cfg=settings))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    found = [(names[id(p)], (group['lr'], group['weight_decay'])) for group in groups for p in group['params']]
    assert sorted(name for name, _ in found) == sorted(names.values()), 'every parameter once'
    return dict(found)


def test_rates_of_a_vit_fall_from_the_head_to_the_embeddings():
    """The rates of the public report: 2.5e-4, 5e-4, 1e-3, 2e-3."""
    found = {name: lr for name, (lr, _) in rates(network(), layer_decay_rate=0.5, num_layers=2).items()}
    for name in ('pos_embed', 'cls_token', 'patch_embed.proj.weight'):
        assert found[f'backbone.{name}'] == pytest.approx(2.5e-4)
    for block, rate in ((0, 5e-4), (1, 1e-3)):
        inside = {lr for name, lr in found.items() if name.startswith(f'backbone.blocks.{block}.')}
        assert [*inside] == pytest.approx([rate])
    assert found['backbone.norm.weight'] == found['head.weight'] == LR


def test_rates_of_a_mit_follow_its_blocks_over_all_stages():
    found = {name: lr for name, (lr, _) in rates(network('mit'), decay_rate=0.5).items()}
    wanted = {
        'layers.0.0.projection.weight': 6, 'layers.0.1.0.norm1.weight': 5, 'layers.0.2.weight': 5,
        'layers.1.0.projection.weight': 4, 'layers.1.1.0.norm1.weight': 4, 'layers.1.1.1.norm1.weight': 3,
        'layers.1.2.weight': 3, 'layers.2.1.0.norm1.weight': 2, 'layers.3.1.0.norm1.weight': 1, 'layers.3.2.weight': 1,
    }  # fmt: skip
    for name, power in wanted.items():
        assert found[f'backbone.{name}'] == pytest.approx(LR * 0.5**power), name
    assert found['head.bias'] == LR


@pytest.mark.parametrize('kind', ['vit', 'mit'])
def test_the_layers_of_a_network_are_numbered_from_input_to_output(kind):
    backbone = network(kind).backbone
    numbers = [backbone.layer_of(name) for name, _ in backbone.named_parameters() if name != 'norm.weight']
    assert set(numbers) >= set(range(backbone.depth + 1))
    assert numbers == sorted(numbers)


def test_norms_biases_and_positions_do_not_decay_and_custom_keys_multiply():
    custom = {'head': dict(lr_mult=10.0), 'blocks.1.mlp': dict(decay_mult=0.5), 'blocks': dict(decay_mult=2.0)}
    found = rates(network(), layer_decay_rate=1.0, custom_keys=custom)
    assert found['head.weight'] == (pytest.approx(10 * LR), 0.1)
    assert found['head.bias'][1] == found['backbone.pos_embed'][1] == found['backbone.norm.weight'][1] == 0
    assert found['backbone.blocks.1.mlp.fc1.weight'] == (LR, 0.05)
    assert found['backbone.blocks.0.mlp.fc1.weight'] == (LR, 0.2)


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(), 'layer_decay_rate'),
        (dict(layer_decay_rate=0), 'got 0'),
        (dict(layer_decay_rate='a'), "got 'a'"),
        (dict(layer_decay_rate=0.5, num_layers=12), 'num_layers must be 2.*got 12'),
        (dict(layer_decay_rate=0.5, decay_type='stage_wise'), 'stage_wise'),
        (dict(layer_decay_rate=0.5, norm_decay_mult=0), 'norm_decay_mult'),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, named):
    with pytest.raises(ConfigError, match=named):
        rates(network(), **settings)


def test_another_backbone_is_refused():
    with pytest.raises(ConfigError, match='ViT or MiT'):
        rates(nn.Sequential(nn.Linear(2, 2)), layer_decay_rate=0.5)


@pytest.mark.parametrize('scope', ['', 'mmpose.', 'mmseg.'])
@pytest.mark.parametrize('name', THEIRS)
def test_constructors_of_mmpose_and_mmseg_are_recognised_on_our_networks(name, scope):
    asked = dict(optimizer=dict(type='SGD', lr=LR), constructor=f'{scope}{name}')
    assert recognised(asked, network())
    assert not recognised(asked, nn.Linear(2, 2))
    assert not recognised(dict(asked, constructor=OURS), network())
    assert not recognised(dict(optimizer=dict(type='SGD', lr=LR)), network())


def test_a_runner_builds_ours_in_their_place(tmp_path):
    runner = Runner.__new__(ToolRunner)
    runner.model = network()
    runner.cfg = type('Named', (), {'filename': 'x.py'})
    runner.logger = __import__('logging').getLogger('test')
    asked = dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=LR),
        constructor='mmpose.LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.5, num_layers=2),
    )
    built = runner.build_optim_wrapper(asked)
    assert sorted({group['lr'] for group in built.param_groups}) == pytest.approx([2.5e-4, 5e-4, 1e-3, 2e-3])
    assert isinstance(built.optimizer, torch.optim.SGD)
