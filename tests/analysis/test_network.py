"""Finding the steps of a network, and its plain counterpart around the same weights."""

import pytest
import torch
from torch import nn

from mmseg_tr.analysis.network import count_params, network_of, reduction_of, without_reduction
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.segformer import SegFormer
from tests.networks import algm, pictures, small


@torch.inference_mode()
def test_the_steps_of_a_segmenter_are_its_forward():
    model, images = small(algm()).eval(), pictures(2, side=60)
    network = network_of(model)
    scores = network.scores(images)
    assert scores.shape == (2, 5, 8, 8)
    torch.testing.assert_close(network.enlarge(scores, images), model(images))
    assert torch.equal(network.labels(scores, images), model(images).argmax(1))


def test_the_plain_network_shares_its_weights_and_leaves_the_reduced_one_as_it_was():
    model = small(algm())
    plain = without_reduction(model)
    assert reduction_of(plain) is None
    assert reduction_of(model) is not None
    assert [id(p) for p in plain.parameters()] == [id(p) for p in model.parameters()]
    with torch.inference_mode():
        torch.testing.assert_close(plain.eval()(pictures(1)), small().eval()(pictures(1)))


def test_a_network_of_its_own_kind_runs_as_it_is():
    model, images = nn.Conv2d(3, 4, 1), pictures(1)
    network = network_of(model)
    assert torch.equal(network.enlarge(network.scores(images), images), model(images))
    assert network.labels(model(images), images).shape == (1, 64, 64)
    one = torch.linspace(-2, 2, 4).view(1, 1, 2, 2)  # one channel is cut at the threshold of mmseg's heads
    assert torch.equal(network.labels(one, images), (one[:, 0].sigmoid() > 0.3).long())


def test_auxiliary_heads_are_no_parameters_of_inference():
    model = small()
    before = count_params(model)
    model.auxiliary_head = nn.Linear(3, 4)
    assert count_params(model) == before == sum(p.numel() for p in small().parameters())


HEADS = {
    'tokens': dict(type='mmseg_tr.SegmenterMaskHead', in_channels=32, num_classes=5, num_heads=2),
    'maps': dict(type='mmseg_tr.SegmenterLinearHead', in_channels=32, num_classes=5),
    'fcn': dict(
        type='FCNHead', in_channels=32, channels=8, num_convs=1, concat_input=False, num_classes=5, in_index=-1
    ),
}


@pytest.mark.parametrize('kind', HEADS)
@torch.inference_mode()
def test_the_steps_of_a_segmentor_are_its_whole_inference(kind):
    pytest.importorskip('mmseg')
    from mmengine.registry import init_default_scope

    from mmseg_tr.registry import MODELS
    from tests.networks import ARCH

    init_default_scope('mmseg')
    out = 'tokens' if kind == 'tokens' else 'maps'
    backbone = dict(type='mmseg_tr.ViT', arch=ARCH, img_size=64, out=out, reduction=algm())
    model = MODELS.build(dict(type='mmseg_tr.TokenSegmentor', backbone=backbone, decode_head=HEADS[kind])).eval()
    images = pictures(2)
    network = network_of(model)
    scores = network.scores(images)
    assert scores.shape[-2:] == (8, 8)
    logits = model.encode_decode(images, [dict(img_shape=images.shape[2:])] * 2)
    torch.testing.assert_close(network.enlarge(scores, images), logits)


@torch.inference_mode()
def test_a_head_that_cannot_be_stopped_runs_whole():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.decode_head = nn.Identity(), nn.Identity()

        def encode_decode(self, image, metas):
            return image * len(metas)

    model, images = Whole(), pictures(2)
    network = network_of(model)
    assert torch.equal(network.enlarge(network.scores(images), images), images * 2)


@pytest.mark.parametrize('resolution', ['full', 'quarter'])
def test_segformer_is_enlarged_by_its_own_rule(resolution):
    backbone = MixVisionTransformer(dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)))
    model = SegFormer(backbone, 5, channels=8, resolution=resolution).eval()
    image = torch.rand(1, 3, 50, 70)
    network = network_of(model)
    with torch.no_grad():
        scores = network.scores(image)
        assert scores.shape == (1, 5, 13, 18)
        assert network.labels(scores, image).shape == (1, 50, 70)
        if resolution == 'full':
            assert torch.equal(network.enlarge(scores, image), model(image))
