"""Predictor: the labels, names and colours of a test, from pictures, paths and arrays."""

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.dataset import pseudo_collate
from PIL import Image

import mmseg_tr
from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.meta import classes_of, palette_of
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.errors import ConfigError, DatasetError
from tests.pictures import LABELS, LOAD, PACK, PIPELINES, PREPROCESSORS, folder, settings

STREET = dict(type='CityscapesDataset', img_suffix='.png', metainfo=dict(classes=('car', 'person')))
BINARY = dict(type='mmseg_tr.SegmenterLinearHead', in_channels=16, num_classes=2, out_channels=1)
BINARY |= dict(loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))


def trained(config, path):
    """A checkpoint with weights that tell pixels apart."""
    model = build_model(config, None)
    torch.manual_seed(0)
    state = {key: value + 0.5 * torch.randn_like(value) for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state), path)
    return path


def labels_of_test(config, checkpoint) -> np.ndarray:
    """The label that a test of the config predicts for its picture."""
    model = build_model(config, str(checkpoint)).eval()
    with torch.inference_mode():
        (sample,) = model.test_step(pseudo_collate([build_dataset(config.test_dataloader.dataset)[0]]))
    return sample.pred_sem_seg.data[0].numpy()


@pytest.mark.parametrize(
    ('kind', 'preprocessor', 'pipeline', 'model'),
    [
        ('RGB', 'usual', 'resized', {}),
        ('grey16', 'nothing', 'as it is', {}),
        ('exif', 'blue first', 'resized', {}),
        ('RGB', 'padded', 'float', {}),
        ('RGB', 'rgb_to_bgr', 'normalises', {}),
        ('RGB', 'usual', 'resized', dict(decode_head=BINARY)),
        ('RGB', 'usual', 'as it is', dict(decode_head=BINARY | dict(threshold=0.7))),
    ],
)
def test_predictions_are_those_of_a_test(kind, preprocessor, pipeline, model, tmp_path):
    root, suffix = folder(tmp_path, kind), '.jpg' if kind == 'exif' else '.png'
    config = settings(root, suffix, PREPROCESSORS[preprocessor], PIPELINES[pipeline], **model)
    checkpoint, file = trained(config, tmp_path / 'a.pth'), root / 'images' / f'0{suffix}'
    label = mmseg_tr.Predictor(config, checkpoint, device='cpu').predict(file)
    assert label.shape == (40, 56) and label.dtype == np.uint8
    assert np.array_equal(label, labels_of_test(config, checkpoint))
    assert len(np.unique(label)) == 2 or pipeline == 'normalises'


def test_paths_images_and_arrays_in_one_list_give_the_same(tmp_path):
    root = folder(tmp_path)
    config = settings(root, pipeline=PIPELINES['resized'])
    predictor = mmseg_tr.Predictor(config, trained(config, tmp_path / 'a.pth'), device='cpu')
    file = root / 'images' / '0.png'
    small = np.zeros((30, 20, 3), np.uint8)
    found = predictor.predict([file, small, Image.open(file), str(file), np.asarray(Image.open(file))], batch_size=4)
    assert all(np.array_equal(found[0], found[number]) for number in (2, 3, 4)) and found[1].shape == (30, 20)
    assert predictor.draw(file).shape == (40, 56, 3)
    assert predictor.classes == ('a', 'b') and predictor.palette == ((0, 0, 0), (9, 9, 9))
    for wrong in (None, 3, np.zeros((0, 4, 3), np.uint8), tmp_path / 'gone.png'):
        with pytest.raises(DatasetError):
            predictor.predict(wrong)


def test_a_method_is_switched_on_by_text_or_dict(tmp_path):
    config = settings(folder(tmp_path))
    checkpoint = trained(config, tmp_path / 'a.pth')
    for reduction in ('type=ToMe,r=4', dict(type='ToMe', r=4)):
        predictor = mmseg_tr.Predictor(config, checkpoint, reduction=reduction, device='cpu')
        assert predictor.model.backbone.reduction.r == 4
    assert config.model.backbone.get('reduction') is None


def test_native_leaves_out_the_resize(tmp_path):
    root = folder(tmp_path)
    config, plain = settings(root, pipeline=PIPELINES['resized']), settings(root)
    checkpoint = trained(config, tmp_path / 'a.pth')
    native = mmseg_tr.Predictor(config, checkpoint, native=True, device='cpu').predict(root / 'images' / '0.png')
    assert np.array_equal(native, labels_of_test(plain, checkpoint))
    assert not np.array_equal(native, labels_of_test(config, checkpoint))


@pytest.mark.parametrize(('channels', 'color'), [(1, 'grayscale'), (4, 'unchanged')])
def test_other_numbers_of_channels_are_predicted(channels, color, tmp_path):
    root = folder(tmp_path, 'L' if channels == 1 else 'RGBA')
    values = dict(mean=[127.5] * channels, std=[127.5] * channels)
    config = settings(root, '.png', values, [dict(LOAD, color_type=color), LABELS, PACK], channels)
    checkpoint = trained(config, tmp_path / 'a.pth')
    predictor = mmseg_tr.Predictor(config, checkpoint, device='cpu')
    assert np.array_equal(predictor.predict(root / 'images' / '0.png'), labels_of_test(config, checkpoint))
    with pytest.raises(DatasetError, match='channels'):
        settings_of_three = settings(root, channels=channels, preprocessor=dict())
        mmseg_tr.Predictor(settings_of_three, checkpoint, device='cpu').predict(np.zeros((32, 32, 3), np.uint8))


class TestNames:
    """Names and colours are those of the dataset as it is built, else of the checkpoint."""

    @pytest.mark.parametrize('wrapped', ['plain', 'concatenated', 'repeated'])
    def test_a_subset_keeps_its_own_colours(self, wrapped, tmp_path):
        config = settings(folder(tmp_path))
        dataset = dict(STREET, data_root=str(tmp_path / 'gone'))
        if wrapped == 'concatenated':
            dataset = dict(type='ConcatDataset', datasets=[dataset, dict(dataset)])
        elif wrapped == 'repeated':
            dataset = dict(type='RepeatDataset', times=2, dataset=dataset)
        config.test_dataloader = dict(dataset=dataset)
        found = classes_of(config, build_model(config, None))
        assert found.names == ('car', 'person') and found.palette == ((0, 0, 142), (220, 20, 60))

    def test_colours_that_the_dataset_draws_are_those_of_test(self, tmp_path):
        config = settings(folder(tmp_path))
        del config.test_dataloader.dataset.metainfo['palette']
        palette = build_dataset(config.test_dataloader.dataset).metainfo['palette']
        assert palette_of(config, build_model(config, None)) == [tuple(colour) for colour in palette]

    def test_the_checkpoint_serves_where_the_config_has_no_dataset(self, tmp_path):
        config = settings(folder(tmp_path))
        config.pop('test_dataloader')
        model, path = build_model(config, None), tmp_path / 'a.pth'
        meta = dict(dataset_meta=dict(classes=['sea', 'land'], palette=[[0, 0, 255], [0, 255, 0]]))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
        found = classes_of(config, model, str(path))
        assert found.names == ('sea', 'land') and found.palette == ((0, 0, 255), (0, 255, 0))
        assert classes_of(config, model).names == ('class 0', 'class 1')
        with pytest.raises(ConfigError, match='palette'):
            palette_of(config, model)

    @pytest.mark.parametrize('palette', ['red', [[0, 0, 0], [0, 0, float('nan')]], [[0, 0]] * 2, [[0, 0, 999]] * 2, 5])
    def test_colours_that_are_none_are_refused(self, palette, tmp_path):
        config = settings(folder(tmp_path))
        config.test_dataloader.dataset.metainfo = dict(classes=('a', 'b'), palette=palette)
        with pytest.raises(ConfigError, match='palette'):
            palette_of(config, build_model(config, None))
        config.pop('test_dataloader')
        torch.save(dict(meta=dict(dataset_meta=dict(classes=['a', 'b'], palette=palette))), tmp_path / 'a.pth')
        with pytest.raises(ConfigError, match='palette'):
            palette_of(config, build_model(config, None), str(tmp_path / 'a.pth'))


def test_the_package_lists_its_names():
    assert {'Predictor', 'create_model'} <= {*dir(mmseg_tr)}
