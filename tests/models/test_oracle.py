"""The oracle ablation of CTS: labels decide, in whole images, windows and training."""

import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.cts.sharing import oracle_logits


def build(policy='oracle', kind='OracleSegmentor', **test_cfg):
    init_default_scope('mmseg')
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type=f'mmseg_tr.{kind}',
            backbone=dict(
                type='mmseg_tr.ViT',
                arch=dict(embed_dim=16, depth=1, num_heads=2, patch_size=4),
                img_size=32,
                out='tokens',
                reduction=dict(type='CTS', shared=4, policy=policy),
            ),
            decode_head=dict(type='mmseg_tr.SegmenterLinearHead', in_channels=16, num_classes=3),
            test_cfg=ConfigDict(test_cfg or dict(mode='whole')),
        )
    ).eval()


def picture(height, width, size=None, **meta):
    """A label map of mixed and of pure superpatches, and its sample; the image is resized to `size`."""
    labels = torch.randint(0, 3, (1, height, width), generator=torch.Generator().manual_seed(1))
    labels[:, : height // 2, : width // 2] = 1
    size = size or (height, width)
    meta = dict(ori_shape=(height, width), img_shape=size, **meta)
    return labels, SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta)


def test_whole_images_share_by_their_labels():
    model, image = build(), torch.randn(1, 3, 32, 32)
    labels, sample = picture(32, 32)
    with torch.no_grad():
        method = model.backbone.reduction.guided(oracle_logits(labels, (4, 4)))
        expected = model.decode_head((model.backbone.forward_tokens(image, method),))
        torch.testing.assert_close(model(image, [sample], mode='tensor'), expected)
        tokens = model.extract_feat(torch.cat([image, labels[None].float()], 1))[0]
    assert tokens.memo.superpatches[0, :2, :2].all() and tokens.memo.superpatches.sum() == 4
    assert model.predict(image, [sample])[0].pred_sem_seg.data.shape == (1, 32, 32)


def test_windows_take_their_own_labels():
    model = build(mode='slide', crop_size=(32, 32), stride=(16, 16), window_batch=2, seg_logits=True)
    image = torch.randn(1, 3, 32, 48)
    labels, sample = picture(32, 48)
    with torch.no_grad():
        (found,) = model.predict(image, [sample])
        logits = torch.zeros(1, 3, 32, 48)
        count = torch.zeros(32, 48)
        for x in (0, 16):
            crop = torch.cat([image, labels[None].float()], 1)[..., x : x + 32]
            logits[..., x : x + 32] += model.encode_decode(crop, [dict(img_shape=(32, 32))])
            count[:, x : x + 32] += 1
    torch.testing.assert_close(found.seg_logits.data, (logits / count)[0])


@pytest.mark.parametrize('small', ['enlarge', 'shrink'])
def test_labels_follow_images_that_were_resized_or_are_small(small):
    model = build(mode='slide', crop_size=(32, 32), stride=(24, 24), small_images=small)
    _, sample = picture(50, 70, size=(20, 28))
    (found,) = model.predict(torch.randn(1, 3, 20, 28), [sample])
    assert found.pred_sem_seg.data.shape == (1, 50, 70)


def test_it_trains():
    model = build().train()
    _, sample = picture(32, 32)
    losses = model.loss(torch.randn(1, 3, 32, 32), [sample])
    losses['decode.loss_ce'].backward()
    assert model.backbone.pos_embed.grad.abs().sum() > 0


def test_weights_are_those_of_the_plain_model():
    assert not any('policy' in key for key in build().state_dict())


def test_what_cannot_work_is_refused():
    model, image = build(), torch.randn(1, 3, 32, 32)
    with pytest.raises(ConfigError, match='needs the labels'):
        model(image)
    with pytest.raises(ConfigError, match='needs the labels'):
        model.predict(image)
    with pytest.raises(ConfigError, match='flipped views'):
        model.predict(image, [picture(32, 32, flip=True)[1]])
    with pytest.raises(ConfigError, match="policy='oracle'"):
        build(policy='random')
    with pytest.raises(ConfigError, match='OracleSegmentor'):
        build(kind='TokenSegmentor')(image)
