"""One block: timm's, with the points at which a method takes part, and stochastic depth per image."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from timm.models.vision_transformer import Block

from mmseg_tr.nn.blocks import drop_path, run_block
from mmseg_tr.reduction import Reduction, Tokens
from tests.nn.networks import image, shaken

PACKED = Tokens(torch.ones(1, 12, 16), (2, 2), lengths=(4, 3, 5))


@pytest.mark.parametrize('options', [{}, dict(init_values=0.1), dict(qk_norm=True), dict(qkv_bias=True)], ids=str)
def test_equals_timms_block(options):
    block = shaken(Block(16, 2, **options))
    x = image(2, 9, 16)
    found = run_block(block, Tokens(x, (3, 3)), layer=1)
    torch.testing.assert_close(found.x, block(x), atol=1e-6, rtol=1e-5)
    assert found.trace == ((9, 9),)


def test_packed_images_run_as_they_would_alone():
    block = shaken(Block(16, 2, init_values=0.1))
    x = image(1, 12, 16)
    alone = torch.cat([block(part) for part in x.split(PACKED.lengths, dim=1)], 1)
    torch.testing.assert_close(run_block(block, PACKED.replace(x=x), 1).x, alone, atol=1e-6, rtol=1e-5)


def test_method_is_called_at_its_points_in_their_order():
    calls = []

    class Watching(Reduction):
        def attention(self, attend, y, tokens, layer):
            calls.append(('attention', layer))
            return attend(y, tokens), 'keys'

        def after_attention(self, tokens, layer, seen):
            calls.append(('after_attention', layer, seen))
            return tokens

        def mlp(self, mlp, y, tokens, layer):
            calls.append(('mlp', layer))
            return mlp(y)

        def after_block(self, tokens, layer):
            calls.append(('after_block', layer))
            return tokens

    block = shaken(Block(16, 2))
    x = image(2, 9, 16)
    torch.testing.assert_close(run_block(block, Tokens(x, (3, 3)), 5, Watching()).x, block(x), atol=1e-6, rtol=1e-5)
    assert calls == [('attention', 5), ('after_attention', 5, 'keys'), ('mlp', 5), ('after_block', 5)]


def test_stochastic_depth_drops_whole_images_also_when_packed():
    torch.manual_seed(0)
    module, kept = DropPath(0.25).train(), []
    for _ in range(200):
        branch = drop_path(module, torch.ones(1, 12, 16), PACKED)
        for part in branch.split(PACKED.lengths, dim=1):
            value = part.unique()
            assert len(value) == 1
            assert value.item() in (0, pytest.approx(1 / 0.75))
            kept.append(value.item() > 0)
    assert 0.68 < sum(kept) / len(kept) < 0.82
    pairs = zip(kept[::3], kept[1::3])
    assert {(True, False), (False, True)} <= set(pairs)  # images are drawn one by one


def test_stochastic_depth_rests_in_eval_and_without_a_rate():
    branch = torch.ones(1, 12, 16)
    for module in (DropPath(0.25).eval(), DropPath(0.0).train(), torch.nn.Identity()):
        assert torch.equal(drop_path(module, branch, PACKED), branch)
