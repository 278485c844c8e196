"""The facts that a method carries, and what the backbone makes of them: one harness over the registry."""

from __future__ import annotations

import warnings
from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch

from mmseg_tr.analysis.mac_rules import RULES
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import ViT
from mmseg_tr.reduction import REDUCTIONS, Reduction, Tokens, build_reduction, find_method, method_names
from mmseg_tr.reduction.observe import Observer
from tests.reduction.methods import METHODS, pictures, short_vit, tiny_vit
from tests.torch_versions import ANY_BATCH, needs_newer_torch

FOR_VIT = [method for method in REDUCTIONS.values() if method.backbone == 'ViT']
every_class = pytest.mark.parametrize('method', FOR_VIT, ids=lambda method: method.name)
every_method = pytest.mark.parametrize('method', METHODS, ids=str)
NETWORKS = [(192, 12, (14, 14)), (384, 12, (32, 32)), (1024, 24, (40, 40)), (64, 6, (16, 12)), (32, 2, (3, 5))]


@every_class
def test_default_settings_of_the_class_fit_a_network_of_twelve_layers(method, recwarn):
    for grid in ((14, 14), (32, 32), (24, 40)):
        method().bind(12, grid, 1)
    assert not recwarn


@every_class
@pytest.mark.parametrize(('width', 'depth', 'grid'), NETWORKS, ids=str)
def test_a_bare_name_takes_defaults_that_fit_the_network(method, width, depth, grid):
    for name in (method.name, method.name.lower(), '-'.join(method.name.upper())):
        built = build_reduction(name, width, depth, grid)
        assert type(built) is method
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # a setting that reduces nothing warns
        built.bind(depth, grid, 1)


@every_method
def test_settings_build_the_same_strategy_again(method):
    strategy = build_reduction(method.settings)
    again = build_reduction(strategy.settings())
    assert again.settings() == strategy.settings()
    bound = strategy.bind(4, (8, 8), 1)
    assert build_reduction(bound.settings()).bind(4, (8, 8), 1).settings() == bound.settings()


@every_method
def test_strategies_are_frozen_and_binding_leaves_them_alone(method):
    strategy = build_reduction(method.settings)
    before = dict(vars(strategy))
    for grid in ((8, 8), (6, 9)):
        strategy.bind(4, grid, 1)
    assert dict(vars(strategy)) == before
    name = next(key for key in strategy.settings() if key not in ('type', 'policy'))
    with pytest.raises(FrozenInstanceError):
        setattr(strategy, name, 3)


@every_class
def test_facts_are_of_the_kinds_that_the_package_asks_for(method):
    assert method.count_rule in RULES
    assert isinstance(method().bind(12, (32, 32), 1).adaptive, bool)
    assert find_method(method.name) is method
    assert method.name in method_names('ViT') and len(set(method_names())) == len(method_names())


def test_names_that_are_nearly_right_are_told():
    with pytest.raises(ConfigError, match="got 'TwoMe': did you mean ToMe"):
        tiny_vit('TwoMe')
    with pytest.raises(ConfigError, match='did you mean threshold'):
        tiny_vit(dict(type='algm', treshold=0.5))


def test_two_methods_at_once_are_refused():
    with pytest.raises(ConfigError, match='one method, as methods are not combined, got a list of 2'):
        tiny_vit([dict(type='ALGM'), dict(type='ToMe')])


@pytest.mark.parametrize('name', ['none', 'Original', 'plain'])
def test_names_of_the_plain_model_are_the_plain_model(name):
    assert tiny_vit(name).reduction is None


def test_a_method_of_another_backbone_is_refused():
    @dataclass(frozen=True)
    class Elsewhere(Reduction):
        backbone = 'MiT'

    with pytest.raises(ConfigError, match='Elsewhere is for a MiT'):
        tiny_vit(Elsewhere())


@every_method
def test_printing_a_network_shows_its_method_with_the_settings(method):
    shown = str(tiny_vit(method.settings))
    strategy = build_reduction(method.settings)
    key, value = next((key, value) for key, value in strategy.settings().items() if key != 'type' and value)
    assert strategy.name in shown and f'{key}={value!r}' in shown


# ---------------------------------------------------------------- one forward, another method


@every_method
@torch.no_grad()
def test_a_method_for_one_forward_does_what_the_method_of_a_network_does(method):
    images = pictures(2, (8, 8))
    plain, own = tiny_vit(), tiny_vit(method.settings)
    before = dict(vars(plain))
    for given in (method.settings, own.reduction, Observer(own.reduction)):
        assert torch.equal(plain(images, reduction=given)[0], own(images)[0])
    assert dict(vars(plain)) == before and plain.reduction is None


@every_method
@torch.no_grad()
def test_the_plain_network_shares_the_weights(method):
    vit = tiny_vit(method.settings)
    plain = vit.plain()
    assert plain.reduction is None and vit.reduction is not None
    own = dict(vit.named_parameters())
    assert all(parameter is own[name] for name, parameter in plain.named_parameters())
    assert torch.equal(plain(pictures(1, (8, 8)))[0], tiny_vit()(pictures(1, (8, 8)))[0])
    assert torch.equal(plain.with_reduction(method.settings)(pictures(1, (8, 8)))[0], vit(pictures(1, (8, 8)))[0])


def test_a_network_with_a_policy_gives_way_to_a_method_without():
    arch = dict(embed_dim=16, depth=2, num_heads=2, patch_size=16)
    vit = ViT(arch, img_size=64, reduction='cts')
    assert not any('policy' in key for key in vit.plain().state_dict())
    assert vit.with_reduction(dict(type='ToMe', r=2)).reduction.r == 2


def test_the_method_of_a_network_may_be_changed_at_any_time():
    """Also from one with weights of its own to one without, and back."""
    vit, keys = tiny_vit(), set(tiny_vit().state_dict())
    policy = dict(type='CTS', share=0.3)
    for settings in (policy, 'tome', policy, None, 'evit', policy, dict(type='CTS', policy='none')):
        vit.reduction = vit.fitted(settings)
        assert vit.reduction is None or vit.with_reduction('act').with_reduction(settings).reduction is not None
        more = set(vit.state_dict()) - keys
        assert all(key.startswith('reduction.') for key in more) and bool(more) == (settings == policy)


# ---------------------------------------------------------------- Tokens.keep


def tokens_of(batch: int, num_prefix: int) -> Tokens:
    x = torch.arange(batch * (num_prefix + 6), dtype=torch.float32).view(batch, -1, 1)
    return Tokens(x, (2, 3), num_prefix)


@pytest.mark.parametrize('num_prefix', [0, 1, 3])
def test_kept_tokens_stand_for_their_patches_and_dropped_patches_are_zero(num_prefix):
    tokens = tokens_of(2, num_prefix)
    kept = tokens.keep(torch.tensor([[4, 0, 1], [5, 3, 2]]))
    assert kept.x.shape[1] == num_prefix + 3
    assert torch.equal(kept.x[:, :num_prefix], tokens.x[:, :num_prefix])
    assert kept.places().tolist() == [[1, 2, -1, -1, 0, -1], [-1, -1, 2, 1, -1, 0]]
    restored, whole = kept.restore(kept.patches().x)[..., 0], tokens.patches().x[..., 0]
    assert torch.equal(restored, torch.where(kept.places() < 0, 0.0, whole))


def test_keeping_composes_with_merging_and_with_keeping():
    from mmseg_tr.reduction.matching import bipartite_matching

    tokens = Tokens(torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0)), (2, 3), 1)
    kept = tokens.keep(torch.tensor([[5, 1, 2, 0], [0, 2, 4, 5]]))
    merged = kept.merge(bipartite_matching(kept.x, 1, 1), 1)
    again = merged.keep(torch.tensor([[0, 1], [1, 2]]))
    for found in (merged, again):
        assert torch.equal(found.places() < 0, found.restore(found.patches().x).eq(0).all(-1))
    assert (again.places() >= 0).sum() < (merged.places() >= 0).sum() == 8
    step = merged.steps[-1].assignment
    assert torch.equal(step, merged.index)


def test_keeping_is_refused_where_images_differ_in_length():
    packed = Tokens(torch.zeros(1, 9, 2), (2, 3), 1, lengths=(4, 5), index=torch.zeros(2, 6, dtype=torch.long))
    with pytest.raises(ConfigError, match='one length'):
        packed.keep(torch.zeros(2, 1, dtype=torch.long))


# ---------------------------------------------------------------- fixed shapes


@pytest.mark.parametrize('name', ['MPM-fixed', 'CubistMerge', 'PiToMe', 'SharedMatching', 'SharedMatching-best'])
@torch.no_grad()
def test_programs_for_any_batch_do_what_the_network_does(name):
    """Those methods that no test of the export tool has."""
    needs_newer_torch(ANY_BATCH)
    method = next(method for method in METHODS if method.name == name)
    vit, images = short_vit(method), pictures(3, (8, 8))
    assert vit.reduction.unexportable() is None
    program = torch.export.export(vit, (images[:2],), dynamic_shapes=({0: torch.export.Dim('batch', min=1)},))
    torch.testing.assert_close(program.module()(images)[0], vit(images)[0])


@every_method
def test_shapes_are_found_without_data(method):
    with torch.device('meta'):
        vit = tiny_vit(method.settings).to('meta')
        if vit.reduction.adaptive:
            return
        (found,) = vit(torch.empty(2, 3, 32, 32))
    assert found.shape == (2, 16, 8, 8)
