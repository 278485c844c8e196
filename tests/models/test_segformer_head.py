"""SegFormer's head as mmseg runs it: its own numbers, however the levels are fused."""

import pytest
import torch

from tests.nn.networks import image, shaken

pytest.importorskip('mmseg')

from mmseg_tr.registry import MODELS

SETTINGS = dict(
    in_channels=[4, 6, 8, 10],
    in_index=[0, 1, 2, 3],
    channels=12,
    num_classes=5,
    dropout_ratio=0.0,
    align_corners=False,
    loss_decode=dict(type='mmseg.CrossEntropyLoss'),  # found from whatever scope an earlier test left
)


def levels() -> list[torch.Tensor]:
    return [image(2, width, 16 // step, 24 // step, seed=step) for width, step in zip((4, 6, 8, 10), (1, 2, 4, 8))]


@pytest.mark.parametrize('norm', [dict(type='BN'), None])
def test_it_gives_the_scores_of_mmsegs_head(norm):
    ours = shaken(MODELS.build(dict(type='mmseg_tr.SegformerHead', norm_cfg=norm, **SETTINGS))).eval()
    theirs = MODELS.build(dict(type='mmseg.SegformerHead', norm_cfg=norm, **SETTINGS)).eval()
    theirs.load_state_dict(ours.state_dict())
    assert type(theirs) is not type(ours)
    expected = theirs(levels())
    assert torch.equal(ours(levels()), expected)  # gradients are on: mmseg's own forward
    with torch.no_grad():
        found = ours(levels())
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)


def test_a_linear_head_has_no_norm_in_front_of_the_fusion():
    head = shaken(MODELS.build(dict(type='mmseg_tr.SegformerLinearHead', norm_cfg=dict(type='BN'), **SETTINGS))).eval()
    expected = head(levels())
    with torch.no_grad():
        torch.testing.assert_close(head(levels()), expected.detach(), rtol=1e-5, atol=1e-6)
