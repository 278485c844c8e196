"""Methods applied to networks of create_model(): the same as a network that was built with the method."""

import copy

import pytest
import torch

import mmseg_tr
from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.errors import ConfigError
from tests.nn.networks import shaken

ARCH = dict(embed_dim=32, depth=4, num_heads=2, patch_size=8)
MIT = dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
METHODS = {
    'segmenter': dict(type='ALGM', layers=(1, 3), threshold=0.2),
    'segformer': dict(type='SegFormerPP', preset='n2d_2x2'),
}


def network(family, method=None):
    torch.manual_seed(0)
    options = dict(arch=ARCH, img_size=64, decoder='linear') if family == 'segmenter' else dict(arch=MIT)
    return shaken(mmseg_tr.create_model(family, method, num_classes=3, **options)).eval()


@pytest.mark.parametrize('family', METHODS)
@torch.no_grad()
def test_an_applied_method_is_the_one_that_the_network_can_be_built_with(family):
    method, x = METHODS[family], torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    model = network(family)
    state, plain = copy.deepcopy(model.state_dict()), model(x)
    built = network(family, method)
    built.load_state_dict(state)
    assert mmseg_tr.apply(model, **method_and_settings(method)) is model
    reduced = model(x)
    assert torch.equal(reduced, built(x)) and not torch.equal(reduced, plain)
    assert torch.equal(copy.deepcopy(model)(x), reduced)
    with mmseg_tr.disabled(model):
        assert torch.equal(model(x), plain)
    found = mmseg_tr.summary(model, x, repeats=1, instead=0)
    assert found.work > 1 and torch.equal(model(x), reduced)
    assert len(mmseg_tr.hosts.watch(model, x[:1])) >= 4
    mmseg_tr.remove(model)
    assert torch.equal(model(x), plain)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def method_and_settings(method):
    return dict(method=method['type']) | {key: value for key, value in method.items() if key != 'type'}


@pytest.mark.parametrize('family', METHODS)
@torch.no_grad()
def test_a_budget_is_kept(family):
    model, x = network(family), torch.randn(1, 3, 64, 64)
    backbone = find_backbone(model)
    plain = count_macs(backbone, x).total()
    mmseg_tr.apply(model, METHODS[family]['type'], budget=0.9)
    assert count_macs(backbone, x).total() < plain


@pytest.mark.parametrize(
    ('family', 'built', 'asked', 'said'),
    [
        ('segmenter', None, 'CTS', 'CTS has a network of its own'),
        ('segmenter', None, 'SegFormerPP', 'is for a MiT, and this network is a ViT'),
        ('segformer', None, 'ALGM', 'ALGM is for a ViT'),
        ('segmenter', dict(type='ToMe', r=4), 'ALGM', 'built with ToMe'),
    ],
)
def test_what_does_not_fit_is_refused(family, built, asked, said):
    with pytest.raises(ConfigError, match=said):
        mmseg_tr.apply(network(family, built), asked)
    model = mmseg_tr.apply(network('segmenter'), 'ALGM')
    with pytest.raises(ConfigError, match='remove'):
        mmseg_tr.apply(model, 'ALGM')
