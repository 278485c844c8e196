"""precision='float64': on photographs at 512 x 512 a method decides as in a network that runs in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from skimage import data

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import MixVisionTransformer, ViT
from mmseg_tr.reduction import REDUCTIONS, build_reduction

# photographs on which float32 decided otherwise in at least one method
PHOTOGRAPHS = ('astronaut', 'coffee')
METHODS = {
    'ALGM': dict(type='ALGM', layers=(1, 2), threshold=0.9),
    'ToMe': dict(type='ToMe', r=60),
    'ToMe, dense': dict(type='ToMe', form='dense', r=0.3),
    'ToMe, kth': dict(type='ToMe', matching='kth', k=3),
    'ToMe, random': dict(type='ToMe', matching='random', r=300),
    'ACT': dict(type='ACT', q_hashes=16),
    'MPM': dict(type='MPM', layers=(1, 2)),
    'MPM, fixed': dict(type='MPM', layers=(1, 2), pairs=150),
    'PiToMe': dict(type='PiToMe', ratio=0.9, form='all'),
    'CubistMerge': dict(type='CubistMerge', ratio=0.15),
    'Expedite': dict(type='Expedite', layer=1, clusters=(16, 16)),
    'SharedMatching': dict(type='SharedMatching', destinations='gradient', match_every=2, r=400),
    'CTS': dict(type='CTS', share=0.3),
}
NEITHER_MATCH_NOR_HASH = {'EViT'}


def photograph(name: str) -> torch.Tensor:
    image = torch.tensor(getattr(data, name)()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return torch.nn.functional.interpolate(image, (512, 512), mode='bilinear', antialias=True)


@pytest.fixture(scope='module')
def vit() -> ViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ViT(dict(embed_dim=96, depth=2, num_heads=3, patch_size=16), img_size=512).eval()
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.02 if weight.dim() > 1 else 0.1)
    return net


def in_double(reduction):
    """The method for a network in float64; its own weights follow."""
    return copy.deepcopy(reduction).double() if isinstance(reduction, torch.nn.Module) else reduction


@pytest.mark.parametrize('name', METHODS)
@torch.no_grad()
def test_decisions_on_a_photograph_equal_those_of_a_float64_run(vit, name):
    torch.manual_seed(0)
    method = vit.fitted(METHODS[name] | dict(precision='float64'))
    exact = copy.deepcopy(vit).double()
    for picture in map(photograph, PHOTOGRAPHS):
        ours = vit.forward_tokens(picture, reduction=method)
        theirs = exact.forward_tokens(picture.double(), reduction=in_double(method))
        assert ours.x.dtype == torch.float32 and ours.counts == theirs.counts
        for mine, other in zip(ours.steps, theirs.steps, strict=True):
            assert torch.equal(mine.assignment, other.assignment)
        # what decides inside a layer shows in the features: another decision moves them by 1e-4 or more
        want = theirs.restored().x
        torch.testing.assert_close(ours.restored().x.double(), want, rtol=0, atol=1e-5 * want.abs().max().item())


@torch.no_grad()
def test_matchings_of_a_mit_on_a_photograph_equal_those_of_a_float64_run():
    torch.manual_seed(0)
    dims = dict(
        embed_dims=16, num_layers=(1, 1), num_heads=(1, 2), patch_sizes=(7, 3), strides=(4, 2), sr_ratios=(4, 1)
    )
    stages = [dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2), dict(q_mode='bsm', q_r=0.8, q_sx=4, q_sy=4)]
    settings = dict(type='SegFormerPP', stages=stages, precision='float64')
    net = MixVisionTransformer(dims, out_indices=(0, 1), reduction=settings).eval()
    assert net.reduction.settings() == settings
    exact = copy.deepcopy(net).double()
    for picture in map(photograph, ('coffee', 'rocket')):  # the astronaut's black areas hold patches that are equal
        for mine, other in zip(net.watch(picture), exact.watch(picture.double()), strict=True):
            assert (mine.groups == other.groups).all()


def test_every_method_that_matches_or_hashes_has_the_option():
    without = {key for key, method in REDUCTIONS.items() if not hasattr(method(), 'precision')}
    assert without == NEITHER_MATCH_NOR_HASH


@pytest.mark.parametrize('key', sorted(set(REDUCTIONS) - NEITHER_MATCH_NOR_HASH))
def test_another_precision_is_refused(key):
    with pytest.raises(ConfigError, match="precision must be one of 'float32', 'float64', got 'double'"):
        build_reduction(dict(type=key, precision='double'))
