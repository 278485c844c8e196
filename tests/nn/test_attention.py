"""The one attention function: timm's, on packed images too."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Attention

from mmseg_tr.nn import attention
from mmseg_tr.nn.attention import (
    SelfAttention,
    attention_probabilities,
    attention_with_size_channels,
    scaled_attention,
)
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
    expected = torch.softmax(q @ k.transpose(-2, -1) / 2, -1) @ v
    torch.testing.assert_close(scaled_attention(q, k, v), expected)


@pytest.mark.parametrize('sized', [scaled_attention, attention_with_size_channels])
def test_a_key_of_size_three_counts_as_three_keys(sized):
    q, k, v = image(2, 2, 3, 4), image(2, 2, 5, 4, seed=1), image(2, 2, 5, 4, seed=2)
    times = torch.tensor([1, 3, 1, 2, 1])
    repeated = (part.repeat_interleave(times, dim=2) for part in (k, v))
    found = sized(q, k, v, times.float().expand(2, -1))
    torch.testing.assert_close(found, scaled_attention(q, *repeated), atol=1e-6, rtol=1e-5)


def test_size_channels_keep_sizes_that_half_precision_would_round():
    q, k = torch.zeros(1, 1, 1, 64, dtype=torch.bfloat16), torch.zeros(1, 1, 2, 64, dtype=torch.bfloat16)
    v = torch.tensor([0.0, 1.0], dtype=torch.bfloat16)[None, None, :, None].expand(1, 1, 2, 64)
    size = torch.tensor([[700.0, 300.0]])
    share = attention_with_size_channels(q, k, v, size)
    torch.testing.assert_close(share.float(), torch.full_like(share, 0.3, dtype=torch.float), atol=2e-3, rtol=0)


def test_one_kernel_over_packed_images_equals_one_call_an_image(monkeypatch):
    """The kernel itself needs CUDA: its stand-in does what torch documents of it."""

    def kernel(q, k, v, starts_q, starts_k, longest_q, longest_k):
        assert starts_q.dtype == torch.int32 and torch.equal(starts_q, starts_k) and longest_q == longest_k == 5
        lengths = starts_q.diff().tolist()
        images = (part.split(lengths) for part in (q, k, v))  # (T, H, d)
        heads = ([part.transpose(0, 1)[None] for part in parts] for parts in zip(*images, strict=True))
        return torch.cat([scaled_attention(*one)[0].transpose(0, 1) for one in heads])

    attn, x = shaken(Attention(16, num_heads=2, qk_norm=True, norm_layer=torch.nn.LayerNorm)), image(1, 12, 16)
    tokens = Tokens(x, (2, 2), lengths=(4, 3, 5))
    apart = SelfAttention(attn)(x, tokens)
    monkeypatch.setattr(attention, 'varlen_attn', kernel)
    monkeypatch.setattr(attention, 'packed_kernel', lambda *_: True)
    torch.testing.assert_close(SelfAttention(attn)(x, tokens), apart, atol=1e-6, rtol=1e-5)


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
