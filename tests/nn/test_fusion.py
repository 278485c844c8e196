"""The decoder that SegFormer's heads share."""

import pytest
import torch
from torch import nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.fusion import MultiScaleFusion
from tests.nn.networks import image, shaken

WIDTHS = [4, 6, 8]


def levels() -> list[torch.Tensor]:
    return [image(2, width, 9 // step, 12 // step, seed=step) for width, step in zip(WIDTHS, (1, 2, 4))]


def fusion(**kwargs) -> MultiScaleFusion:
    return shaken(MultiScaleFusion(WIDTHS, 5, **kwargs))


@pytest.mark.parametrize('mode', ['bilinear', 'nearest', 'bicubic'])
def test_levels_meet_at_the_size_of_the_first(mode):
    assert fusion(interpolate_mode=mode)(levels()).shape == (2, 5, 9, 12)


@pytest.mark.parametrize('mode', ['bilinear', 'nearest', 'bicubic'])
@pytest.mark.parametrize('norm', [nn.BatchNorm2d, None])
@torch.no_grad()
def test_fusing_before_the_enlargement_changes_rounding_alone(mode, norm):
    model, maps = fusion(interpolate_mode=mode, norm=norm), levels()
    early = model(maps)
    model.fuses_early = False
    late = model(maps)
    assert not torch.equal(early, late)  # another order of sums, or the test compares a thing with itself
    torch.testing.assert_close(early, late, rtol=1e-5, atol=1e-6)


def test_training_fuses_as_published():
    model, maps = fusion(), levels()
    with torch.enable_grad():
        trained = model(maps)
    model.fuses_early = False
    assert torch.equal(trained, model(maps))


def test_every_level_counts():
    model, maps = fusion(), levels()
    before = model(maps)
    for number in range(len(maps)):
        changed = [level + 1 if place == number else level for place, level in enumerate(maps)]
        assert not torch.equal(model(changed), before)


def test_keys_are_those_of_mmcv():
    stem = ('conv.weight', 'bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var', 'bn.num_batches_tracked')
    modules = [f'convs.{level}' for level in range(len(WIDTHS))] + ['fusion_conv']
    assert list(fusion().state_dict()) == [f'{module}.{key}' for module in modules for key in stem]


def test_norm_is_a_choice():
    assert any(isinstance(module, nn.SyncBatchNorm) for module in fusion(norm=nn.SyncBatchNorm).modules())
    bare = fusion(norm=None)
    assert 'convs.0.conv.bias' in bare.state_dict() and not any('.bn.' in key for key in bare.state_dict())


def test_another_number_of_levels_is_refused():
    with pytest.raises(ConfigError, match='gives 2 maps, the head takes 3'):
        fusion()(levels()[:2])


@pytest.mark.parametrize('wrong', [dict(in_channels=64), dict(in_channels=[]), dict(interpolate_mode='cubic')])
def test_settings_that_do_not_exist_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MultiScaleFusion(**(dict(in_channels=WIDTHS) | wrong))
