"""How many operators a forward dispatches: on a GPU each is a launch, so that the numbers must never creep up.

ViT-S/16 at 512 x 512 to class scores, one image, operators that only view left out. The same on every machine.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

from mmseg_tr.analysis.operators import count_operators
from mmseg_tr.nn import MaskTransformer, Segmenter, ViT

PLAIN = 159
# further operators of each method at its default settings for this network, exactly
MORE = {
    'ALGM': ('algm', 43),
    'ALGM, fixed': (dict(type='ALGM', layers=(1, 5), counts=(120, 200)), 33),
    'CTS': (dict(type='CTS', share=0.3), 109),
    'CTS, published BatchNorms': (dict(type='CTS', share=0.3, policy_batch_norm='train'), 157),
    'EViT': ('evit', 76),
    'Expedite': ('expedite', 71),
    'ToMe, original form': (dict(type='ToMe', r=8), 190),  # 12 merges
    'ToMe, dense form': ('tome', 240),  # 24 merges that are undone
    'ACT': ('act', 264),  # 12 layers
    'ACT, fixed': (dict(type='ACT', clusters=400), 264),
    'MPM': ('mpm', 66),
    'MPM, fixed': (dict(type='MPM', pairs=100), 90),
    'PiToMe': ('pitome', 353),
    'CubistMerge': ('cubistmerge', 116),
}


@cache
def plain():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ViT('vit_small_patch16_384', img_size=512, out='tokens')
        return Segmenter(encoder, MaskTransformer(150, encoder.embed_dim)).eval()


def scores(reduction):
    model = plain()
    model.encoder.reduction = model.encoder.fitted(reduction)
    return model.eval().scores


@pytest.fixture(scope='module')
def image():
    return torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(1))


def test_the_plain_network_dispatches_what_its_layers_are(image):
    found = count_operators(scores(None), image)
    assert found.total() == PLAIN, found
    assert found['aten::scaled_dot_product_attention'] == 14 and found['aten::linear'] == 57


@pytest.mark.parametrize('method', MORE)
def test_a_method_dispatches_as_many_operators_as_it_needs(image, method):
    reduction, more = MORE[method]
    found = count_operators(scores(reduction), image)
    assert found.total() - PLAIN == more, found


def test_views_and_operators_that_do_nothing_are_not_counted():
    drop = torch.nn.Dropout(0.5).eval()

    def run(x):
        return drop(x.view(2, 8).t()[None].detach() + 1)

    assert count_operators(run, torch.rand(16)) == {'aten::add': 1}
