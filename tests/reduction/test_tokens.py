"""Tokens: grouping, merging, dropping the prefix, putting back."""

from __future__ import annotations

import pytest
import torch

from mmseg_tr.reduction import Merge, Tokens


@pytest.fixture
def packed() -> Tokens:
    """Two images of four patches behind one prefix token; the first has merged its middle two patches."""
    tokens = Tokens(torch.arange(10.0).view(2, 5, 1), grid=(2, 2), num_prefix=1)
    return tokens.merge(Merge(torch.tensor([[0, 1, 2, 2, 3], [0, 1, 2, 3, 4]]), (4, 5)), layer=1)


def test_plain_tokens_restore_to_themselves():
    tokens = Tokens.from_map(torch.arange(24.0).view(1, 2, 3, 4))
    assert tokens.grid == (3, 4) and tokens.num_images == 1 and tokens.counts == (12,)
    torch.testing.assert_close(tokens.to_map(), torch.arange(24.0).view(1, 2, 3, 4))


def test_merged_images_of_different_length_are_packed(packed):
    assert packed.lengths == packed.counts == (4, 5) and packed.num_images == 2
    assert packed.x.flatten().tolist() == [0, 1, 2.5, 4, 5, 6, 7, 8, 9]
    assert packed.size.tolist() == [[1, 1, 2, 1, 1, 1, 1, 1, 1]]
    assert [group.shape[1] for group in packed.groups()] == [4, 5]
    torch.testing.assert_close(packed.join(packed.groups()), packed.x)


def test_prefix_is_dropped_image_by_image(packed):
    patches = packed.patches()
    assert patches.lengths == (3, 4) and patches.num_prefix == 0
    assert patches.x.flatten().tolist() == [1, 2.5, 4, 6, 7, 8, 9]
    assert patches.size.tolist() == [[1, 2, 1, 1, 1, 1, 1]]
    assert patches.patches() is patches


def test_every_patch_gets_the_value_of_its_token(packed):
    assert packed.to_map().tolist() == [[[[1, 2.5], [2.5, 4]]], [[[6, 7], [8, 9]]]]
    scores = torch.arange(14.0).view(1, 7, 2)
    assert packed.patches().restore(scores)[0].tolist() == [[0, 1], [2, 3], [2, 3], [4, 5]]


def test_merges_compose_and_unpack_when_lengths_meet(packed):
    both = packed.merge(Merge(torch.tensor([[0, 1, 2, 2, 0, 1, 1, 1, 2]]), (3, 3)), layer=2)
    assert both.lengths is None and both.x.shape == (2, 3, 1)
    assert both.index.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
    assert both.size.tolist() == [[1, 1, 3], [1, 3, 1]]
    torch.testing.assert_close(both.x[0, 2], torch.tensor([3.0]))  # (2.5 * 2 + 4) / 3
    assert [step.layer for step in both.steps] == [1, 2]
    assert both.steps[0].assignment.tolist() == [[0, 1, 1, 2], [0, 1, 2, 3]]


def test_counts_are_traced_layer_by_layer(packed):
    assert packed.traced().traced().trace == ((4, 5), (4, 5))


@pytest.mark.parametrize('function', [torch.relu, torch.flatten, torch.nn.Conv2d(1, 1, 1)])
def test_tokens_are_no_tensor_and_say_so(packed, function):
    with pytest.raises(TypeError, match="needs a feature map: set out='maps' on the backbone"):
        function(packed)
