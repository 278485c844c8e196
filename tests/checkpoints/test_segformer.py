"""MiT and SegFormer files converted: the weights, and the config that goes with them."""

import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.structures import SegDataSample

from mmseg_tr.checkpoints import convert, convert_file, load_into
from mmseg_tr.checkpoints.segformer import arch_name, dimensions
from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn.mit import ARCHS, DEFAULTS, MixVisionTransformer
from tests.nn.networks import image
from tests.segformers import nvidia, nvidia_backbone, segformer
from tests.weights.test_mit import hugging_face

# what mmengine keeps of a SegFormer++ training, in the words of the published fork
INSIDE = """
crop_size = (64, 96)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=True, size=(64, 96)),
    backbone=dict(
        type='MixVisionTransformer', embed_dims=8, num_heads=[1, 2, 3, 4], drop_path_rate=0.2, down_sample={down},
        tome_cfg=[dict(q_mode=None, kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2), dict(q_mode=None, kv_mode=None),
                  dict(q_mode={mode!r}, q_r=0.8, q_sx=4, q_sy=4), dict()]),
    decode_head=dict(type='SegformerHead', num_classes=5),
    test_cfg=dict(mode='slide', crop_size=(64, 96), stride=(48, 48)))
test_dataloader = dict(dataset=dict(type='MyDataset'))
"""
MERGING = [
    dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2),
    {},
    dict(q_mode='bsm', q_r=0.8, q_sx=4, q_sy=4),
    {},
]


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


def written(tmp_path, content):
    torch.save(content, tmp_path / 'src.pth')
    result = convert_file(tmp_path / 'src.pth', tmp_path / 'new.pth')
    config = Config.fromfile(tmp_path / 'new.py')
    model = MODELS.build(config.model)
    load_into(model, tmp_path / 'new.pth')
    return result.converted, config, model.eval()


def segformerpp(down=False, mode='bsm'):
    meta = dict(cfg=INSIDE.format(down=down, mode=mode), dataset_meta=dict(classes=tuple('abcde'), palette=None))
    return dict(state_dict=segformer().state_dict(), meta=meta, optimizer={})


def test_segformerpp_keeps_its_merging_and_its_test(tmp_path):
    converted, config, model = written(tmp_path, segformerpp())
    assert config.model.backbone.reduction == dict(type='SegFormerPP', stages=MERGING)
    assert config.model.backbone.drop_path_rate == 0.2 and config.model.backbone.pretrained is None
    assert config.model.test_cfg == dict(mode='slide', crop_size=(64, 96), stride=(48, 48))
    assert config.model.data_preprocessor.mean == [1, 2, 3]
    assert converted.meta['dataset_meta']['classes'] == list('abcde')
    assert 'test_dataloader' not in config and not converted.testable and 'optimizer' in converted.dropped
    plain = segformer(reduction=MERGING)
    with torch.no_grad():
        x = image(1, 3, 128, 160)
        torch.testing.assert_close(model.decode_head(model.backbone(x)), plain.scores(x))


def test_downsampling_is_kept(tmp_path):
    assert written(tmp_path, segformerpp(down=True))[1].model.backbone.reduction == dict(
        type='SegFormerPP', preset='downsample'
    )


def test_mode_that_the_published_code_ignored_is_refused(tmp_path):
    torch.save(segformerpp(mode='bsm_r2D'), tmp_path / 'src.pth')
    with pytest.raises(CheckpointError, match="stage 3: q_mode .* got 'bsm_r2D'"):
        convert(tmp_path / 'src.pth')


@pytest.mark.parametrize('layout', ['nvidia', 'huggingface'])
def test_models_with_a_linear_head_give_the_same_logits(tmp_path, layout):
    source = segformer('linear', embed_eps=1e-5)
    state = nvidia(source.state_dict())
    x = image(1, 3, 128, 160)
    with torch.no_grad():
        want = source.scores(x)
    if layout == 'huggingface':
        state, results = hugging_face()
        x, want = results['x'].float() / 32, results['logits']
    converted, config, model = written(tmp_path, dict(state_dict=state) if layout == 'nvidia' else state)
    assert config.model.decode_head.type == 'mmseg_tr.SegformerLinearHead'
    assert any('1e-05' in note for note in converted.notes)
    with torch.no_grad():
        torch.testing.assert_close(model.decode_head(model.backbone(x)), want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize('classes, dataset', [(150, 'ADE20KDataset'), (19, 'CityscapesDataset')])
def test_data_set_follows_from_the_classes_where_no_config_is_inside(tmp_path, classes, dataset):
    from mmseg_tr.nn.mit import MixVisionTransformer
    from mmseg_tr.nn.segformer import SegFormer

    torch.save(SegFormer(MixVisionTransformer('b0'), classes).state_dict(), tmp_path / 'src.pth')
    converted = convert(tmp_path / 'src.pth')
    assert f"type='{dataset}'" in converted.config and "arch='b0'" in converted.config and converted.testable
    assert len(converted.meta['dataset_meta']['classes']) == classes
    assert converted.what == f'OpenMMLab or SegFormer++ SegFormer, b0, {classes} classes'


def test_backbone_alone_becomes_a_file_that_pretrained_takes(tmp_path):
    source = segformer()
    torch.save(nvidia_backbone(source), tmp_path / 'mit.pth')
    result = convert_file(tmp_path / 'mit.pth', tmp_path / 'new.pth')
    assert result.config is None and result.converted.dropped == ('head.weight', 'head.bias')
    assert any('pretrained' in note for note in result.converted.notes)
    backbone = segformer(seed=4, pretrained=str(tmp_path / 'new.pth')).backbone
    backbone.init_weights()
    assert torch.equal(backbone.layers[2][2].weight, source.backbone.layers[2][2].weight)


def test_own_checkpoints_keep_their_own_config(tmp_path):
    meta = dict(cfg="model = dict(backbone=dict(type='mmseg_tr.MiT'))\n")
    torch.save(dict(state_dict=segformer().state_dict(), meta=meta), tmp_path / 'own.pth')
    assert convert(tmp_path / 'own.pth').config == meta['cfg']


def mmseg_config(head=(), backbone=(), before=(), **more):
    """mmseg's own SegFormer, tiny."""
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(dict(type='SegDataPreProcessor', **STATISTICS), **dict(before)),
        backbone=dict(
            dict(
                type='MixVisionTransformer',
                embed_dims=8,
                num_layers=[1, 1, 1, 1],
                num_heads=[1, 2, 3, 4],
                patch_sizes=[7, 3, 3, 3],
                sr_ratios=[8, 4, 2, 1],
            ),
            **dict(backbone),
        ),
        decode_head=dict(
            dict(
                type='SegformerHead',
                in_channels=[8, 16, 24, 32],
                in_index=[0, 1, 2, 3],
                channels=12,
                num_classes=5,
                norm_cfg=dict(type='BN'),
                loss_decode=dict(type='CrossEntropyLoss'),
            ),
            **dict(head),
        ),
        test_cfg=dict(mode='whole'),
        **more,
    )


STATISTICS = dict(mean=[1.0, 2.0, 3.0], std=[50.0, 60.0, 70.0])
BINARY = dict(num_classes=2, out_channels=1, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
CARRIED = {
    'align_corners': dict(head=dict(align_corners=True)),
    'interpolate_mode': dict(head=dict(interpolate_mode='bicubic')),
    'activation of the head': dict(head=dict(act_cfg=dict(type='GELU'))),
    'no activation in the head': dict(head=dict(act_cfg=None)),
    'eps of the head': dict(head=dict(norm_cfg=dict(type='BN', eps=1e-2))),
    'eps of the backbone': dict(backbone=dict(norm_cfg=dict(type='LN', eps=1e-2))),
    "torch's eps": dict(backbone=dict(norm_cfg=dict(type='LN'))),
    'strides': dict(backbone=dict(strides=[4, 2, 2, 1])),
    'binary': dict(head=BINARY),
    'binary cut at 0.6': dict(head=BINARY | dict(threshold=0.6)),
    'four channels': dict(backbone=dict(in_channels=4), before=dict(mean=None, std=None)),
    'swapped': dict(before=dict(bgr_to_rgb=True)),
    'swapped the other way': dict(before=dict(rgb_to_bgr=True)),
    'not normalised': dict(before=dict(mean=None, std=None)),
    'padded': dict(before=dict(pad_val=9, test_cfg=dict(size_divisor=64))),
    'windows': dict(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(40, 40))),
}


@pytest.mark.parametrize('case', CARRIED)
def test_every_setting_that_decides_predictions_is_carried(tmp_path, case):
    more = dict(CARRIED[case])
    config = mmseg_config(**{key: more.pop(key) for key in ('head', 'backbone', 'before') if key in more})
    config |= more
    torch.manual_seed(0)
    theirs = MODELS.build(Config(dict(model=config)).model)
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) * 0.4 + (0.1 if tensor.dim() == 1 else -0.2))
    content = dict(state_dict=theirs.state_dict(), meta=dict(cfg=Config(dict(model=config)).pretty_text))
    _, _, ours = written(tmp_path, content)
    channels = theirs.backbone.layers[0][0].projection.in_channels
    picture = torch.randint(0, 256, (channels, 75, 90), dtype=torch.uint8)
    found = []
    for model in (theirs.eval(), ours):
        sample = SegDataSample(metainfo=dict(img_shape=(75, 90), ori_shape=(75, 90)))
        with torch.no_grad():
            (result,) = model.test_step(dict(inputs=[picture], data_samples=[sample]))
        found.append((result.seg_logits.data, result.pred_sem_seg.data))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-4)
    assert (found[0][1] != found[1][1]).float().mean() < 1e-3
    assert found[0][0].std() > 1e-3


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        (dict(backbone=dict(act_cfg=dict(type='ReLU'))), "act_cfg={'type': 'ReLU'}"),
        (dict(backbone=dict(norm_cfg=dict(type='BN'))), "norm_cfg={'type': 'BN'}"),
        (dict(backbone=dict(out_indices=(3, 2, 1, 0))), 'out_indices'),
        (dict(head=dict(norm_cfg=dict(type='GN', num_groups=2))), "'type': 'GN'"),
        (dict(head=dict(in_index=[3, 2, 1, 0])), 'in_index'),
        (dict(head=dict(num_classes=7)), '7 outputs'),
        (dict(before=dict(type='DetDataPreprocessor')), 'DetDataPreprocessor'),
    ],
)
def test_settings_without_counterpart_are_refused_by_name(tmp_path, change, word):
    text = Config(dict(model=mmseg_config(**change))).pretty_text
    torch.save(dict(state_dict=segformer().state_dict(), meta=dict(cfg=text)), tmp_path / 'src.pth')
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / 'src.pth')
    assert word in str(caught.value) and str(tmp_path / 'src.pth') in str(caught.value)


@pytest.mark.parametrize('key', ['decode_head.fusion_conv.bn.weight', 'backbone.layers.1.1.0.norm1.bias'])
def test_incomplete_models_are_refused(tmp_path, key):
    state = segformer().state_dict()
    del state[key]
    torch.save(state, tmp_path / 'src.pth')
    with pytest.raises(CheckpointError, match=rf'1 key missing \({key}\)'):
        convert(tmp_path / 'src.pth')


@pytest.mark.parametrize('arch', ARCHS)
def test_dimensions_are_read_from_the_weights(arch):
    with torch.device('meta'):
        model = MixVisionTransformer(arch)
    found = dimensions(model.state_dict(), 'weights')
    assert found == DEFAULTS | ARCHS[arch] and arch_name(found) == arch
