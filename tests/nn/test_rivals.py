"""The plain network on smaller images and with larger patches: its own weights, and maps that cover the same image."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.rivals import SmallerInput, with_larger_patch
from mmseg_tr.nn.vit import ViT

ARCH = dict(embed_dim=16, depth=2, num_heads=2, patch_size=4)


@pytest.fixture(scope='module')
def vit():
    torch.manual_seed(0)
    return ViT(ARCH, img_size=32, out='tokens').eval()


@torch.no_grad()
def test_a_smaller_input_gives_what_the_network_gives_for_the_smaller_image(vit):
    image = torch.rand(2, 3, 32, 42)
    smaller = SmallerInput(vit, 0.5)
    (tokens,), (wanted,) = smaller(image), vit(smaller.shrink(image))
    assert smaller.shrink(image).shape == (2, 3, 16, 20)  # whole steps of 4, nothing padded
    assert torch.equal(tokens.x, wanted.x) and tokens.grid == (4, 5)
    assert (tokens.image_size, tokens.patch_size) == ((32, 42), None)  # scores are enlarged straight to the image
    assert smaller.trace(image) == ((21, 21),) * 2


@torch.no_grad()
def test_a_smaller_input_of_a_network_of_stages_has_its_levels():
    mit = MixVisionTransformer('b0').eval()
    levels = SmallerInput(mit, 0.5)(torch.rand(1, 3, 128, 64))
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 8), (8, 4), (4, 2), (2, 1)]


@pytest.mark.parametrize('share', [0, 1, 1.5])
def test_a_share_that_does_not_make_smaller_is_refused(vit, share):
    with pytest.raises(ConfigError, match='above 0 and below 1'):
        SmallerInput(vit, share)


@torch.no_grad()
def test_a_larger_patch_embeds_an_enlarged_image_as_the_patch_embeds_the_image(vit):
    larger = with_larger_patch(vit)
    assert larger.patch_size == (8, 8) and larger.grid == (4, 4) and larger.pos_embed.shape == (1, 17, 16)
    image = torch.rand(1, 3, 4, 4)
    enlarged = F.interpolate(image, scale_factor=2, mode='bicubic', antialias=True)
    torch.testing.assert_close(larger.project(enlarged), vit.project(image), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_larger_patch_shares_every_other_weight_and_leaves_the_network_unchanged(vit):
    before = vit(torch.ones(1, 3, 32, 32))[0].x
    larger = with_larger_patch(vit)
    assert larger(torch.ones(1, 3, 32, 32))[0].grid == (4, 4)
    other = {name for name, weight in larger.named_parameters() if weight is not vit.get_parameter(name)}
    assert other == {'pos_embed', 'patch_embed.proj.weight'}
    assert torch.equal(vit(torch.ones(1, 3, 32, 32))[0].x, before) and vit.patch_size == (4, 4)


def test_an_image_that_is_not_a_whole_number_of_larger_patches_is_refused():
    with pytest.raises(ConfigError, match='20x32 is not a whole number of patches of 8x8'):
        with_larger_patch(ViT(ARCH, img_size=(20, 32)))
