"""Position embeddings: resized by grid, prefix rows untouched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.pos_embed import RESIZE_RULES, infer_square_grid, resize_pos_embed
from tests.nn.networks import image

sides = st.integers(1, 6)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    old=st.tuples(sides, sides),
    new=st.tuples(sides, sides),
    prefix=st.sampled_from([0, 1, 2, 5]),
    rule=st.sampled_from(sorted(RESIZE_RULES)),
)
def test_prefix_stays_and_the_grid_part_follows_the_grid(old, new, prefix, rule):
    stored = image(1, prefix + old[0] * old[1], 3)
    found = resize_pos_embed(stored, old, new, prefix, rule)
    assert found.shape == (1, prefix + new[0] * new[1], 3)
    assert torch.equal(found[:, :prefix], stored[:, :prefix])
    if old == new:
        assert found is stored
    flat = resize_pos_embed(torch.full_like(stored, 0.5), old, new, prefix, rule)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5))


def test_equal_counts_on_another_grid_are_resized():
    stored = torch.arange(64.0).view(1, 64, 1)
    found = resize_pos_embed(stored, (8, 8), (4, 16), 0)
    assert found.shape == stored.shape and not torch.equal(found, stored)
    torch.testing.assert_close(found.view(4, 16).mean(1), stored.view(4, 2, 8).mean((1, 2)))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_precision_is_kept(dtype):
    stored = image(1, 17, 4).to(dtype)
    assert resize_pos_embed(stored, (4, 4), (5, 3), 1, 'bicubic').dtype == dtype


def test_gradients_flow_through_resizing():
    stored = image(1, 17, 4).requires_grad_()
    resize_pos_embed(stored, (4, 4), (6, 7), 1).sum().backward()
    assert stored.grad[:, 1:].abs().min() > 0


def test_square_grid_is_inferred_or_refused():
    assert infer_square_grid(torch.zeros(1, 578, 3), 2) == (24, 24)
    for count in (13, 1, 0):
        with pytest.raises(ValueError, match='do not form a square grid'):
            infer_square_grid(torch.zeros(1, count, 3), 1)


def test_wrong_grid_and_unknown_rule_are_refused():
    with pytest.raises(ValueError, match='does not fill a grid of 5 x 5'):
        resize_pos_embed(torch.zeros(1, 17, 3), (5, 5), (4, 4), 1)
    with pytest.raises(ConfigError, match="'bilinear', 'bicubic', 'bicubic_antialias'"):
        resize_pos_embed(torch.zeros(1, 17, 3), (4, 4), (5, 5), 1, 'lanczos')
