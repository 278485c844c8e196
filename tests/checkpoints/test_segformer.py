"""MiT and SegFormer files converted: the weights, and the config that goes with them."""

import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope

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
