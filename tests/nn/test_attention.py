"""The one attention function: timm's, on packed images too."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Attention

from mmseg_tr.nn.attention import SelfAttention, attention_probabilities, scaled_attention
from mmseg_tr.reduction import Tokens
from tests.nn.networks import image, shaken


@pytest.mark.parametrize('options', [{}, dict(qkv_bias=True), dict(qk_norm=True), dict(scale_norm=True)], ids=str)
def test_equals_timms_attention(options):
    norm = {'norm_layer': torch.nn.LayerNorm} if 'qk_norm' in options or 'scale_norm' in options else {}
    attn = shaken(Attention(16, num_heads=2, **options, **norm))
    x = image(2, 9, 16)
    torch.testing.assert_close(SelfAttention(attn)(x, Tokens(x, (3, 3))), attn(x), atol=1e-6, rtol=1e-5)


def test_packed_images_do_not_see_one_another():
    attn = shaken(Attention(16, num_heads=2))
    x = image(1, 12, 16)
    packed = SelfAttention(attn)(x, Tokens(x, (2, 2), lengths=(4, 3, 5)))
    alone = torch.cat([attn(part) for part in x.split((4, 3, 5), dim=1)], 1)
    torch.testing.assert_close(packed, alone, atol=1e-6, rtol=1e-5)


def test_fused_attention_is_the_softmax_of_scaled_products():
    q, k, v = image(2, 2, 3, 4), image(2, 2, 5, 4, seed=1), image(2, 2, 5, 4, seed=2)
    bias = image(1, 1, 3, 5, seed=3)
    expected = torch.softmax(q @ k.transpose(-2, -1) / 2 + bias, -1) @ v
    torch.testing.assert_close(scaled_attention(q, k, v, bias), expected)


def test_probabilities_are_those_that_attention_uses():
    attn = shaken(Attention(16, num_heads=2, qk_norm=True, norm_layer=torch.nn.LayerNorm))
    x = image(2, 9, 16)
    shown = attention_probabilities(attn, x)
    torch.testing.assert_close(shown.sum(-1), torch.ones(2, 2, 9))
    v = attn.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)[2]
    torch.testing.assert_close(attn.proj((shown @ v).transpose(1, 2).flatten(2)), attn(x), atol=1e-6, rtol=1e-5)


def test_dropout_acts_in_training_only():
    attn = shaken(Attention(16, num_heads=2, attn_drop=0.5))
    x = image(2, 9, 16)
    tokens = Tokens(x, (3, 3))
    assert torch.equal(SelfAttention(attn)(x, tokens), SelfAttention(attn)(x, tokens))
    attn.train()
    assert not torch.equal(SelfAttention(attn)(x, tokens), SelfAttention(attn)(x, tokens))
