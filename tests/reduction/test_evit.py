"""EViT against loops written from its description, and the settings it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.attention import SelfAttention, attention_probabilities
from mmseg_tr.reduction import Tokens
from mmseg_tr.reduction.evit import EViT, by_attention, class_attention
from tests.reduction.methods import pictures, tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=20)


@pytest.mark.parametrize('prefix', [1, 2, 5])
def test_class_attention_is_the_class_row_of_attention(prefix):
    vit = tiny_vit(prefix=prefix).double()
    attn, y = vit.blocks[0].attn, torch.randn(2, 20, 16, dtype=torch.float64)
    ((q, k, _),) = SelfAttention(attn).heads(y, Tokens(y, (1, 20 - prefix), prefix))
    row = attention_probabilities(attn, y).mean(1)[:, 0, prefix:]
    torch.testing.assert_close(class_attention(q, k, attn.scale, prefix), row)


def test_tokens_are_ordered_by_attention_and_equals_by_place():
    values, order = by_attention(torch.tensor([[0.1, 0.4, 0.2, 0.4, 0.05], [0.5, 0, 0, 0, 0.2]]))
    assert order.tolist() == [[1, 3, 2, 0, 4], [0, 4, 1, 2, 3]]
    assert values[1].tolist() == pytest.approx([0.5, 0.2, 0, 0, 0])


@pytest.mark.parametrize(
    ('grid', 'rate', 'kept'),
    [
        (40, 0.9, [1440, 1297, 1169]),
        (40, 0.8, [1280, 1025, 821]),
        (40, 0.5, [800, 401, 201]),
        (48, 0.9, [2074, 1868, 1683]),
        (48, 0.8, [1844, 1476, 1182]),
        (48, 0.5, [1152, 577, 289]),
        (30, 0.9, [810, 730, 658]),
        (30, 0.8, [720, 577, 463]),
        (30, 0.5, [450, 226, 114]),
    ],
)
def test_published_rows_keep_the_published_numbers(grid, rate, kept, recwarn):
    method, found, left = EViT(rate), [], grid * grid
    method = method.bind(24, (grid, grid), 1)
    for layer in method.layers:
        found.append(method.kept(left, layer))
        left = found[-1] + 1  # the fused token
    assert found == kept and not recwarn


def nearest(values: torch.Tensor, of: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    return values[(of - candidates).square().sum(-1).argmin()]


@few
@given(
    rate=st.sampled_from([(0.8, 0.5), (0.3, 0.9), (1.0, 0.6), (0.6, 1.0)]),
    fuse=st.booleans(),
    seed=st.integers(0, 99),
    prefix=st.sampled_from([1, 2, 5]),
)
def test_dropping_and_rebuilding_are_the_papers(rate, fuse, seed, prefix):
    """One image at a time, token by token, through the hooks of two dropping layers."""
    method = EViT(rate, layers=(1, 2), fuse_token=fuse)
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = Tokens(random(1, prefix + 12, 6), (3, 4), prefix)
    undo = []
    for layer in (1, 2):
        before = tokens.x[0, prefix:]
        attention = random(1, len(before)).softmax(-1)
        count = method.kept(len(before), layer)
        tokens = method.after_attention(tokens, layer, attention if count < len(before) else None)
        if count == len(before):
            torch.testing.assert_close(tokens.x[0, prefix:], before)
            continue
        order = sorted(range(len(before)), key=lambda place, a=attention[0]: -a[place])
        kept, dropped = order[:count], sorted(order[count:])
        wanted = [before[place] for place in kept]
        if fuse:
            wanted.append(sum(attention[0, place] * before[place] for place in dropped))
        torch.testing.assert_close(tokens.x[0, prefix:], torch.stack(wanted))
        undo.append((before, kept, dropped))
    final = random(*tokens.x.shape)
    rebuilt = method.after_norm(tokens.replace(x=final))
    values = final[0, prefix:]
    for before, kept, dropped in reversed(undo):
        values = values[: len(kept)]
        full = torch.empty_like(before)
        full[kept] = values
        for place in dropped:
            full[place] = nearest(values, before[place], before[kept])
        values = full
    torch.testing.assert_close(rebuilt.x[0, prefix:], values)
    torch.testing.assert_close(rebuilt.x[:, :prefix], final[:, :prefix])
    assert rebuilt.reconstruct is None


def test_tokens_of_an_earlier_level_restore_themselves():
    levels = tiny_vit(dict(type='EViT', keep_rate=0.5, layers=(1, 3)), out='tokens', out_indices=(0, 2, 3))(
        pictures(2, (8, 8))
    )
    assert [level.x.shape[1] for level in levels] == [34, 19, 65]
    assert all(level.to_map().shape == (2, 16, 8, 8) for level in levels)


def test_fused_tokens_carry_gradients_of_the_attention_that_weighed_them():
    method, tokens = EViT(0.5, layers=(1,)), Tokens(torch.randn(1, 9, 4), (2, 4), 1)
    attention = torch.rand(1, 8).requires_grad_()
    method.after_attention(tokens, 1, attention).x[:, -1].sum().backward()
    assert attention.grad.ne(0).sum() == 4


def evit(**changes) -> dict:
    return dict(type='EViT', keep_rate=0.5, layers=(1, 3)) | changes


@pytest.mark.parametrize(
    ('reduction', 'said'),
    [
        (evit(keep_rate=0), 'keep_rate.* must be a number above 0 and at most 1'),
        (evit(keep_rate=1.01), 'keep_rate.* must be a number above 0 and at most 1'),
        (evit(keep_rate=float('nan')), 'keep_rate must be .*got nan'),
        (evit(keep_rate=True), 'keep_rate must be'),
        (evit(keep_rate='0.5'), 'keep_rate must be'),
        (evit(keep_rate=(0.5,)), r'keep_rate must be .*layers=\(1, 3\), got \(0.5,\)'),
        (evit(keep_rate=(0.5, True)), 'keep_rate.*got True'),
        (evit(layers=(1, 5)), 'from 1 to 4.*got 5'),
        (evit(layers=(3, 1)), 'must ascend'),
        (evit(fuse_token=1), 'fuse_token must be .*got 1'),
        (evit(k=0), 'k must be .*got 0'),
        (evit(k=33), 'k must be at most the 32 tokens that layer 1 keeps, got 33'),
        (evit(k=18), 'k must be at most the 17 tokens that layer 3 keeps, got 18'),
        (evit(reconstruct_temperature=0), 'reconstruct_temperature must be .*got 0'),
        (evit(tau=1), "no setting 'tau': its settings are keep_rate, layers"),
    ],
    ids=str,
)
def test_refused_when_the_model_is_built(reduction, said):
    with pytest.raises(ConfigError, match=said):
        tiny_vit(reduction)


def test_networks_without_class_token_are_refused():
    with pytest.raises(ConfigError, match='EViT needs a class token'):
        tiny_vit(evit(), prefix=0)


def test_keeping_everything_is_told_once():
    with pytest.warns(UserWarning, match='drops none of 64 tokens') as told:
        tiny_vit(evit(keep_rate=1.0))
    assert len(told) == 1
