"""`mmseg_tr.PhotoFigures` in mmpose's hands: pipelines, loaders, metrics, and the same figures as files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_tr.registry import DATASETS as OUR_DATASETS  # isort: skip (makes the OpenMMLab packages import)
from mmengine.config import Config
from mmengine.fileio import get
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpose.registry import DATASETS

from mmseg_tr.datasets.figure_drawing import draw_figure_scene
from mmseg_tr.datasets.figure_files import JOINTS, coco_annotations, write_figures
from mmseg_tr.datasets.photo_figures import PhotoFigures
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.evaluation.pose import CocoMetric, PCKAccuracy

SIZE = (96, 80)
OURS = [dict(type='mmseg_tr.LoadFigures'), dict(type='PackPoseInputs')]
STANDARD = [dict(type='LoadImage'), dict(type='PackPoseInputs')]
BASE = Path(__file__).parents[2] / 'local_configs/_base_/datasets/photo_figures.py'


@pytest.fixture(autouse=True)
def mmpose_scope():
    init_default_scope('mmpose')


def build(pipeline=OURS, **settings):
    settings = dict(size=SIZE, length=4) | settings
    return DATASETS.build(dict(type='mmseg_tr.PhotoFigures', pipeline=pipeline, **settings))


def test_is_found_from_mmpose_and_says_what_it_holds():
    dataset = build(split='val')
    assert isinstance(dataset, PhotoFigures) and OUR_DATASETS.get('PhotoFigures') is PhotoFigures
    meta = dataset.metainfo
    assert tuple(meta['keypoint_id2name'].values()) == JOINTS['photo_figures']
    assert len(meta['sigmas']) == len(meta['dataset_keypoint_weights']) == 14
    names = meta['keypoint_id2name']
    for place, other in enumerate(meta['flip_indices']):
        swapped = names[place].replace('left', '?').replace('right', 'left').replace('?', 'right')
        assert names[other] == swapped


def test_default_lengths():
    assert (PhotoFigures(lazy_init=True).length, PhotoFigures(split='val', lazy_init=True).length) == (2000, 200)


def test_packs_the_scene_as_bgr_with_its_labels():
    dataset = build(split='val', seed=7)
    annotations = coco_annotations(SIZE, 7, 'val', 4)['annotations']
    assert len(dataset) == len(annotations) >= 4
    for packed, annotation in zip(dataset, annotations):
        sample, index = packed['data_samples'], annotation['image_id'] - 1
        image = draw_figure_scene(SIZE, 7, 'val', index)
        np.testing.assert_array_equal(packed['inputs'].numpy(), image[:, :, ::-1].transpose(2, 0, 1))
        truth = np.array(annotation['keypoints']).reshape(-1, 3)
        np.testing.assert_allclose(sample.gt_instances.keypoints[0], truth[:, :2], rtol=1e-6)
        np.testing.assert_array_equal(sample.gt_instances.keypoints_visible[0], truth[:, 2] > 0)
        assert sample.ori_shape == SIZE and sample.img_path == f'figures://val/seed7/96x80/{index:06d}.png'


def test_standard_loading_by_address_gives_the_same():
    for ours, standard in zip(build(), build(STANDARD)):
        assert torch.equal(ours['inputs'], standard['inputs'])


def test_kept_pictures_are_drawn_once_and_survive_what_a_pipeline_does(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        'mmseg_tr.datasets.photo_figures.draw_figure_scene',
        lambda **scene: drawn.append(scene) or draw_figure_scene(**scene),
    )
    kept, redrawn = build([*OURS[:1]], cache=True), build([*OURS[:1]])
    first = kept[0]['img'].copy()
    kept[0]['img'][:] = 0
    np.testing.assert_array_equal(kept[0]['img'], first)
    assert len(drawn) == 1
    redrawn[0], redrawn[0]
    assert len(drawn) == 3


def test_bottom_up_an_item_is_a_scene():
    dataset = build(data_mode='bottomup', length=8)
    assert len(dataset) == 8
    figures = sum(len(packed['data_samples'].gt_instances.keypoints) for packed in dataset)
    assert figures == len(build(length=8))


@pytest.mark.parametrize('joints', JOINTS)
def test_written_files_are_the_dataset(joints, tmp_path):
    """mmpose's own CocoDataset reads them, under the metainfo of any dataset whose joints figures have."""
    path = write_figures(tmp_path, 'val', 4, size=SIZE, joints=joints)
    settings = dict(ann_file=str(path), data_prefix=dict(img=str(tmp_path / 'images/val')), pipeline=STANDARD)
    if joints == 'jump_broadcast':
        dataset = DATASETS.build(dict(type='mmseg_tr.JumpBroadcast', **settings))
    elif joints == 'coco':
        dataset = DATASETS.build(dict(type='CocoDataset', **settings))
    else:
        dataset = DATASETS.build(dict(type='CocoDataset', metainfo=PhotoFigures.METAINFO, **settings))
    assert len(dataset) == len(build(split='val', length=4))
    for packed, ours in zip(dataset, build(split='val', length=4)):
        assert torch.equal(packed['inputs'], ours['inputs'])
        assert packed['data_samples'].gt_instances.keypoints.shape[1] == len(JOINTS[joints])
        np.testing.assert_array_equal(
            packed['data_samples'].gt_instances.bboxes, ours['data_samples'].gt_instances.bboxes
        )


def test_joints_stand_in_the_order_of_their_datasets():
    coco = DATASETS.build(dict(type='CocoDataset', lazy_init=True)).metainfo['keypoint_id2name']
    assert tuple(coco.values()) == JOINTS['coco']
    jump = DATASETS.build(dict(type='mmseg_tr.JumpBroadcast', lazy_init=True)).metainfo['keypoint_id2name']
    short = [name.replace('left_', 'l').replace('right_', 'r')[:4] for name in JOINTS['jump_broadcast']]
    assert [name[:4] for name in jump.values()] == short


def test_nothing_that_was_written_is_replaced(tmp_path):
    path = write_figures(tmp_path, 'val', 1, size=(32, 32))
    with Image.open(tmp_path / 'images/val/000000.png') as image:
        assert image.size == (32, 32)
    before = path.read_text()
    assert len(json.loads(before)['images']) == 1
    with pytest.raises(DatasetError, match='exists already'):
        write_figures(tmp_path, 'val', 2)
    assert path.read_text() == before


def true_predictions(dataset, shift=0.0):
    """Samples whose predictions are the truth, moved by a share of the box's longer side."""
    for packed in dataset:
        sample = packed['data_samples'].to_dict()
        truth, box = sample['gt_instances'], sample['gt_instances']['bboxes'][0]
        far = shift * (box[2:] - box[:2]).max() * np.array([1.0, 0.0])
        scores = np.ones(truth['keypoints'].shape[:2])
        sample['pred_instances'] = dict(keypoints=truth['keypoints'] + far, keypoint_scores=scores)
        yield sample


@pytest.mark.parametrize(('shift', 'expected'), [(0.0, (1.0, 1.0)), (0.07, (1.0, 0.0)), (0.2, (0.0, 0.0))])
def test_pck_counts_at_each_threshold(shift, expected):
    dataset = build(split='val')
    metric = PCKAccuracy()
    metric.dataset_meta = dataset.metainfo
    metric.process({}, list(true_predictions(dataset, shift)))
    scores = metric.evaluate(len(dataset))
    assert scores == {'PCK@0.1': expected[0], 'PCK@0.05': expected[1]}
    assert all(type(value) is float for value in scores.values())


def test_pck_of_nothing_labelled_is_nan():
    metric = PCKAccuracy(thr=0.2)
    (sample,) = list(true_predictions(build(length=1)))[:1]
    sample['gt_instances']['keypoints_visible'][:] = 0
    metric.process({}, [sample])
    assert np.isnan(metric.evaluate(1)['PCK@0.2'])


def test_coco_scores_the_truth_as_perfect_without_a_file():
    dataset = build(split='val', test_mode=True, pipeline=[OURS[0], dict(type='GetBBoxCenterScale'), OURS[1]])
    metric = CocoMetric()
    metric.dataset_meta = dataset.metainfo
    metric.process({}, list(true_predictions(dataset)))
    scores = metric.evaluate(len(dataset))
    assert scores['coco/AP'] == 1.0
    assert all(type(value) is float for value in scores.values())


def test_coco_without_its_file_is_refused():
    with pytest.raises(DatasetError, match='no annotation file nowhere.json'):
        CocoMetric(ann_file='nowhere.json')


@pytest.mark.parametrize('thr', [0, -0.1, (), ('a',), None])
def test_impossible_thresholds_are_refused(thr):
    with pytest.raises(ConfigError, match='thr .*numbers above 0'):
        PCKAccuracy(thr=thr)


def test_base_config_feeds_a_runner():
    config = Config.fromfile(BASE)
    width, height = config.codec.input_size
    for name in ('train', 'val'):
        settings = config[f'{name}_dataloader']
        settings.update(num_workers=0, persistent_workers=False, batch_size=2)
        settings.dataset.length = 4
        data = next(iter(Runner.build_dataloader(settings)))
        assert [image.shape for image in data['inputs']] == [(3, height, width)] * 2
    fields = Runner.build_dataloader(config.train_dataloader).dataset[0]['data_samples'].gt_fields
    assert fields.heatmaps.shape == (14, *config.codec.heatmap_size[::-1])


def test_addresses_that_do_not_exist_are_refused():
    with pytest.raises(DatasetError, match='address of a scene of figures.*figures://val'):
        get('figures://test/seed0/8x8/000000.png')


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(split='test'), "split.*'test'"),
        (dict(size=(0, 8)), r'size.*\(0, 8\)'),
        (dict(size=128), 'height, width.*128'),
        (dict(length=0), 'length .*got 0'),
        (dict(length=2.5), 'length .*2.5'),
        (dict(seed=-1), 'seed .*-1'),
        (dict(ann_file='some.json'), "reads no file.*ann_file='some.json'"),
        (dict(bbox_file='some.json', test_mode=True), 'reads no file.*bbox_file'),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PhotoFigures(**settings)
