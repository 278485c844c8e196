"""One matching for several layers, in the methods that match inside each layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import MixVisionTransformer
from mmseg_tr.reduction import SegFormerPP
from tests.reduction.methods import pictures, tiny_vit

INSIDE = [dict(type='ToMe', form='dense', r=0.4), dict(type='ACT', q_hashes=6)]
STAGE = dict(q_mode='bsm', q_r=0.5, q_sx=2, q_sy=2, kv_mode='bsm', kv_r=0.3, kv_sx=1, kv_sy=1)
EVERY_STAGE = dict(type='SegFormerPP', stages=[STAGE] * 4)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize('settings', INSIDE, ids=lambda settings: settings['type'])
def test_layers_that_share_a_matching_merge_the_same_patches_and_others_do_not(settings):
    """Four layers, three of which share: the first part of layer 1 (dense ToMe) decides for itself."""
    seen = tiny_vit({**settings, 'match_every': 3}).watch(pictures(1, (8, 8)))
    groups = {(found.layer, found.part): found.groups for found in seen}
    last = 'mlp' if (1, 'mlp') in groups else 'head 1'
    for layer in (2, 3):
        np.testing.assert_array_equal(groups[layer, last], groups[1, last])
    assert not np.array_equal(groups[4, last], groups[3, last])


@pytest.mark.parametrize('settings', INSIDE, ids=lambda settings: settings['type'])
def test_an_image_alone_equals_the_same_image_in_a_batch(settings):
    network, images = tiny_vit({**settings, 'match_every': 2}), pictures(3, (7, 9))
    (together,) = network(images)
    for number in range(3):
        torch.testing.assert_close(network(images[number : number + 1])[0], together[number : number + 1])


def mit(**settings) -> MixVisionTransformer:
    torch.manual_seed(0)
    arch = dict(embed_dims=8, num_layers=(4, 2, 1, 1), num_heads=(1, 2, 4, 8))
    return MixVisionTransformer(arch, reduction=EVERY_STAGE | settings).eval()


def test_segformer_shares_in_every_stage_what_its_stages_could_say_one_by_one():
    images = pictures(2, (32, 48))
    shared = [dict(STAGE, share=2)] * 4
    outputs = mit(match_every=2)(images)
    for one, other in zip(outputs, mit(stages=shared)(images)):
        assert torch.equal(one, other)
    plain = mit()(images)
    assert not torch.equal(outputs[0], plain[0])  # two of its four blocks take over a matching
    assert torch.equal(mit(match_every=1)(images)[0], plain[0])


def test_a_segformer_built_from_its_settings_shares_as_before():
    strategy = SegFormerPP(stages=[STAGE] * 4, match_every=2)
    settings = strategy.settings()
    assert SegFormerPP(**{key: value for key, value in settings.items() if key != 'type'}).merging == strategy.merging


@pytest.mark.parametrize('settings', [*INSIDE, EVERY_STAGE], ids=lambda settings: settings['type'])
@pytest.mark.parametrize('number', [0, -1, 1.5, True, '2'])
def test_refused_below_one(settings, number):
    with pytest.raises(ConfigError, match='match_every must be'):
        mit(match_every=number) if settings is EVERY_STAGE else tiny_vit({**settings, 'match_every': number})
