"""Decoders over tokens, and the whole network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import LinearDecoder, MaskTransformer, Segmenter, ViT
from mmseg_tr.nn.segmenter import enlarge_scores
from mmseg_tr.reduction import Tokens
from tests.nn.networks import image, shaken

TINY = dict(embed_dim=16, depth=2, num_heads=2, patch_size=4)
DECODERS = {'linear': lambda: LinearDecoder(5, 16), 'mask': lambda: MaskTransformer(5, 16, dropout=0.1)}
every_decoder = pytest.mark.parametrize('decoder', sorted(DECODERS))


def tokens(lengths: tuple[int, ...] | None = None, prefix: int = 1) -> Tokens:
    """Two images of 2 x 3 patches, packed where lengths are given."""
    if lengths is None:
        return Tokens(image(2, prefix + 6, 16), (2, 3), prefix)
    index = torch.stack([torch.arange(6).clamp(max=n - prefix - 1) for n in lengths])
    return Tokens(image(1, sum(lengths), 16), (2, 3), prefix, lengths=lengths, index=index)


@every_decoder
def test_scores_lie_on_the_patch_grid(decoder):
    scores = shaken(DECODERS[decoder]())(tokens())
    assert scores.shape == (2, 5, 2, 3) and scores.is_contiguous()


@every_decoder
def test_prefix_tokens_do_not_reach_the_decoder(decoder):
    net, given = shaken(DECODERS[decoder]()), tokens(prefix=2)
    changed = given.replace(x=torch.cat([given.x[:, :2] + 1, given.x[:, 2:]], 1))
    assert torch.equal(net(given), net(changed))


@every_decoder
def test_packed_images_are_scored_as_they_would_be_alone(decoder):
    net, packed = shaken(DECODERS[decoder]()), tokens(lengths=(4, 6))
    together = net(packed)
    for number, part in enumerate(packed.x.split(packed.lengths, dim=1)):
        alone = Tokens(part, (2, 3), 1, index=packed.index[number : number + 1])
        torch.testing.assert_close(together[number], net(alone)[0], atol=1e-6, rtol=1e-5)


@every_decoder
def test_patches_that_share_a_token_share_its_scores(decoder):
    scores = shaken(DECODERS[decoder]())(tokens(lengths=(3, 7)))
    assert torch.equal(scores[0, :, 0, 1:], scores[0, :, 0, 1:2].expand(-1, 2))
    assert torch.equal(scores[0, :, 1], scores[0, :, 0, 1:2].expand(-1, 3))


def test_masks_are_normalised_cosines():
    net = MaskTransformer(5, 16).eval()  # weight 1 and bias 0 in mask_norm
    scores = net(tokens())
    torch.testing.assert_close(scores.mean(1), torch.zeros(2, 2, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize(('width', 'heads'), [(64, 1), (192, 3), (768, 12), (16, 1), (130, None)])
def test_decoder_has_a_head_for_every_64_channels(width, heads):
    if heads is None:
        assert MaskTransformer(5, width).blocks[0].attn.num_heads == 2
    else:
        assert MaskTransformer(5, width).blocks[0].attn.num_heads == heads


def test_decoders_start_as_published():
    torch.manual_seed(0)
    net = MaskTransformer(150, 192)
    assert 0.018 < net.cls_emb.std() < 0.022 and 0.018 < net.proj_dec.weight.std() < 0.022
    assert 0.9 < net.proj_patch.std() * 192**0.5 < 1.1 and net.proj_dec.bias.abs().sum() == 0
    assert net.mask_norm.eps == net.decoder_norm.eps == net.blocks[0].norm1.eps == 1e-5
    assert net.blocks[0].attn.attn_drop.p == net.blocks[0].mlp.drop1.p == 0.1


def test_keys_of_the_decoders_are_the_published_ones():
    assert sorted(LinearDecoder(5, 16).state_dict()) == ['head.bias', 'head.weight']
    keys = {key.split('.')[0] for key in MaskTransformer(5, 16).state_dict()}
    assert keys == {'cls_emb', 'proj_dec', 'blocks', 'decoder_norm', 'proj_patch', 'proj_classes', 'mask_norm'}


@pytest.mark.parametrize(
    ('build', 'said'),
    [
        (lambda: MaskTransformer(0, 64), 'num_classes must be .*got 0'),
        (lambda: MaskTransformer(5, 64, depth=0), 'depth must be .*got 0'),
        (lambda: MaskTransformer(5, 64, depth=1.0), 'depth must be .*got 1.0'),
        (lambda: MaskTransformer(True, 64), 'num_classes must be .*got True'),
        (lambda: MaskTransformer(5, 100, num_heads=3), 'embed_dim=100 does not divide into num_heads=3'),
        (lambda: LinearDecoder(5, -1), 'embed_dim must be .*got -1'),
        (lambda: Segmenter(ViT(TINY, img_size=16), LinearDecoder(5, 16)), "set out='tokens'"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(build, said):
    with pytest.raises(ConfigError, match=said):
        build()


@pytest.mark.parametrize('size', [(16, 16), (14, 21), (3, 30)])
@every_decoder
def test_network_gives_logits_at_the_size_of_the_image(decoder, size):
    model = shaken(Segmenter(ViT(TINY, img_size=16, out='tokens'), DECODERS[decoder]()))
    x = image(2, 3, *size)
    scores, logits = model.scores(x), model(x)
    padded = tuple(-(-side // 4) * 4 for side in size)
    expected = F.interpolate(scores, size=padded, mode='bilinear', align_corners=False)[..., : size[0], : size[1]]
    assert logits.shape == (2, 5, *size)
    torch.testing.assert_close(logits, expected)


def test_scores_are_enlarged_straight_to_the_image_where_no_patch_is_given():
    scores = image(1, 5, 4, 6)
    expected = F.interpolate(scores, size=(14, 21), mode='bilinear', align_corners=False)
    assert torch.equal(enlarge_scores(scores, (14, 21), None), expected)


@every_decoder
def test_gradients_reach_every_parameter(decoder):
    model = shaken(Segmenter(ViT(TINY, img_size=16, out='tokens'), DECODERS[decoder]())).train()
    F.cross_entropy(model(image(2, 3, 16, 16)), torch.randint(0, 5, (2, 16, 16))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@every_decoder
def test_bf16_autocast_runs(decoder):
    model = shaken(Segmenter(ViT(TINY, img_size=16, out='tokens'), DECODERS[decoder]()))
    x = image(2, 3, 16, 16)
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        logits = model(x)
    torch.testing.assert_close(logits.float(), model(x), atol=0.2, rtol=0.2)
