"""`mmseg_tr.PhotoMosaic` in mmseg's hands: pipelines, loaders, metric, visualisation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmseg_tr.registry import DATASETS as OUR_DATASETS  # isort: skip (makes the OpenMMLab packages import)
from mmengine.config import Config
from mmengine.fileio import get, get_text
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS, TRANSFORMS

from mmseg_tr.analysis.photographs import NAMES
from mmseg_tr.datasets.mosaic import PhotoMosaic, scene_address
from mmseg_tr.datasets.scenes import make_scene
from mmseg_tr.errors import ConfigError, DatasetError

OURS = [dict(type='mmseg_tr.LoadMosaic'), dict(type='PackSegInputs')]
STANDARD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
BASE = Path(__file__).parents[2] / 'local_configs/_base_/datasets/photo_mosaic.py'


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


def build(pipeline=OURS, **settings):
    settings = dict(size=(48, 64), length=6) | settings
    return DATASETS.build(dict(type='mmseg_tr.PhotoMosaic', pipeline=pipeline, **settings))


def test_is_found_from_mmseg_and_says_what_it_holds():
    dataset = build(split='val')
    assert isinstance(dataset, PhotoMosaic) and OUR_DATASETS.get('PhotoMosaic') is PhotoMosaic
    assert len(dataset) == 6
    assert dataset.metainfo['classes'] == NAMES
    palette = np.array(dataset.metainfo['palette'])
    apart = np.abs(palette[:, None] - palette[None]).sum(-1) + 999 * np.eye(len(NAMES), dtype=int)
    assert palette.shape == (11, 3) and apart.min() > 80


def test_default_lengths():
    assert len(PhotoMosaic()) == 2000 and len(PhotoMosaic(split='val')) == 200


def test_packs_the_scene_as_bgr_with_its_label():
    packed = build(split='val', seed=7)[2]
    image, label = make_scene((48, 64), 7, 'val', 2)
    np.testing.assert_array_equal(packed['inputs'].numpy(), image[:, :, ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(packed['data_samples'].gt_sem_seg.data[0].numpy(), label)
    assert packed['data_samples'].ori_shape == packed['data_samples'].img_shape == (48, 64)


def test_standard_loading_by_address_gives_the_same():
    for ours, standard in zip(build(), build(STANDARD)):
        assert torch.equal(ours['inputs'], standard['inputs'])
        assert torch.equal(ours['data_samples'].gt_sem_seg.data, standard['data_samples'].gt_sem_seg.data)
        assert ours['data_samples'].img_path == standard['data_samples'].img_path


def test_standard_training_transforms_apply():
    pipeline = [
        dict(type='mmseg_tr.LoadMosaic'),
        dict(type='RandomResize', scale=(64, 48), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(32, 40), cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackSegInputs'),
    ]
    for packed in build(pipeline):
        assert packed['inputs'].shape[1:] == packed['data_samples'].gt_sem_seg.shape
        assert packed['data_samples'].gt_sem_seg.data.max() < 11


def test_workers_and_epochs_agree():
    def labels(workers):
        loader = torch.utils.data.DataLoader(build(cache=workers > 0), 2, num_workers=workers, collate_fn=list)
        return [torch.stack([s['inputs'] for s in batch]) for _ in range(2) for batch in loader]

    alone, shared = labels(0), labels(2)
    assert len(alone) == 6 and all(map(torch.equal, alone, shared))


def test_kept_scenes_survive_what_a_pipeline_does_to_them():
    spoil = TRANSFORMS.build(dict(type='mmseg_tr.LoadMosaic'))

    def spoiled(info):
        results = spoil(info)
        before = results['img'].copy(), results['gt_seg_map'].copy()
        results['img'][:] = 0
        results['gt_seg_map'][:] = 255
        return before

    dataset = build([spoiled], cache=True)
    first, second = dataset[1], dataset[1]
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_kept_scenes_are_drawn_once(monkeypatch):
    drawn = []

    def counted(**scene):
        drawn.append(scene)
        return make_scene(**scene)

    monkeypatch.setattr('mmseg_tr.datasets.mosaic.make_scene', counted)
    kept, redrawn = build(cache=True), build()
    for _ in range(3):
        kept[4], redrawn[4]
    assert len(drawn) == 1 + 3


def test_a_choice_of_classes_renumbers_the_labels():
    chosen = dict(classes=('cat', 'brick'))
    dataset, standard, whole = build(metainfo=chosen), build(STANDARD, metainfo=chosen), build()
    colours = dict(zip(NAMES, whole.metainfo['palette']))
    assert dataset.metainfo['palette'] == [colours['cat'], colours['brick']]
    for few, same, every in zip(dataset, standard, whole):
        few, same, every = (packed['data_samples'].gt_sem_seg.data for packed in (few, same, every))
        assert torch.equal(few, same)
        assert torch.equal(few == 0, every == NAMES.index('cat'))
        assert torch.equal(few == 1, every == NAMES.index('brick'))
        assert set(few.unique().tolist()) <= {0, 1, 255}


def test_a_fraction_by_indices():
    assert len(build(indices=2)) == 2 and build(indices=[5])[0]['data_samples'].img_path.endswith('/000005.png')


def test_metric_of_the_labels_themselves_is_perfect(tmp_path):
    dataset = build(split='val')
    metric = IoUMetric(iou_metrics=['mIoU'], output_dir=str(tmp_path))
    metric.dataset_meta = dataset.metainfo
    for packed in dataset:
        sample = packed['data_samples']
        sample.pred_sem_seg = sample.gt_sem_seg
        metric.process({}, [sample.to_dict()])
    scores = metric.evaluate(len(dataset))
    assert scores['mIoU'] == 100 and scores['aAcc'] == 100
    assert len(list(tmp_path.glob('00000?.png'))) == 6


def test_base_config_feeds_a_runner():
    config = Config.fromfile(BASE)
    for name, batch in (('train', 8), ('val', 1), ('test', 1)):
        settings = config[f'{name}_dataloader']
        settings.update(num_workers=0, persistent_workers=False)
        data = next(iter(Runner.build_dataloader(settings)))
        assert len(data['inputs']) == batch and data['inputs'][0].shape == (3, 128, 128)
    settings.dataset.pipeline = config.tta_pipeline
    augmented = DATASETS.build(settings.dataset)[0]
    assert len(augmented['inputs']) == 6
    assert all(sample.gt_sem_seg.shape == (128, 128) for sample in augmented['data_samples'])


def test_addresses_that_do_not_exist_are_refused():
    for address in ('mosaic://test/seed0/8x8/000000.png', 'mosaic://val/seed0/8/1.png', 'mosaic://photo.jpg'):
        with pytest.raises(DatasetError, match='address of a photo mosaic'):
            get(address)
    with pytest.raises(ConfigError, match='size'):
        get('mosaic://val/seed0/0x8/000000.png')
    with pytest.raises(DatasetError, match='picture'):
        get_text(scene_address((8, 8), 0, 'val', 0))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(split='test'), "split.*'test'"),
        (dict(size=(0, 8)), r'size.*\(0, 8\)'),
        (dict(size=(8, -8)), r'size.*\(8, -8\)'),
        (dict(size=128), 'height, width.*128'),
        (dict(length=0), 'length .*got 0'),
        (dict(length=-5), 'length .*-5'),
        (dict(length=2.5), 'length .*2.5'),
        (dict(seed=-1), 'seed .*-1'),
        (dict(reduce_zero_label=True), 'reduce_zero_label'),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PhotoMosaic(**settings)
