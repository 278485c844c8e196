"""The data sets' base configs, run on small stand-ins laid out as the real data sets are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

BASES = Path(__file__).parents[2] / 'local_configs/_base_/datasets'
# base config -> folder under $DATASET, image and label of the training picture, then of the validation picture
ADE20K = (
    'ade20k/ADEChallengeData2016',
    ('images/training/a.jpg', 'annotations/training/a.png'),
    ('images/validation/b.jpg', 'annotations/validation/b.png'),
)
LAYOUTS = {
    'ade20k_512x512': ADE20K,
    'ade20k_640x640': ADE20K,
    'pascal_context_480x480': (
        'pcontext/VOCdevkit/VOC2010',
        ('JPEGImages/a.jpg', 'SegmentationClassContext/a.png'),
        ('JPEGImages/b.jpg', 'SegmentationClassContext/b.png'),
    ),
    'coco_stuff10k_512x512': (
        'coco_stuff10k',
        ('images/train2014/a.jpg', 'annotations/train2014/a_labelTrainIds.png'),
        ('images/test2014/b.jpg', 'annotations/test2014/b_labelTrainIds.png'),
    ),
    'coco_stuff164k_512x512': (
        'coco_stuff164k',
        ('images/train2017/a.jpg', 'annotations/train2017/a_labelTrainIds.png'),
        ('images/val2017/b.jpg', 'annotations/val2017/b_labelTrainIds.png'),
    ),
    'cityscapes_768x768': (
        'cityscapes',
        ('leftImg8bit/train/x/a_leftImg8bit.png', 'gtFine/train/x/a_gtFine_labelTrainIds.png'),
        ('leftImg8bit/val/x/b_leftImg8bit.png', 'gtFine/val/x/b_gtFine_labelTrainIds.png'),
    ),
}
ZERO_IGNORED = ('ade20k_512x512', 'ade20k_640x640', 'coco_stuff10k_512x512')
SHORT_SIDES = {
    'coco_stuff10k_512x512': 512,
    'coco_stuff164k_512x512': 512,
    'ade20k_512x512': 512,
    'ade20k_640x640': 640,
    'pascal_context_480x480': 520,
    'cityscapes_768x768': 1024,
}
HEIGHT, WIDTH = 90, 120


@pytest.fixture(params=LAYOUTS)
def base(request):
    return request.param


@pytest.fixture
def config(base, tmp_path, monkeypatch):
    """The base config, with DATASET naming a folder that holds one training and one validation picture."""
    init_default_scope('mmseg')
    folder, *splits = LAYOUTS[base]
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    label = (np.arange(HEIGHT, dtype=np.uint8)[:, None] % 19).repeat(WIDTH, 1)
    for files in splits:
        for file, pixels in zip(files, (image, label)):
            path = tmp_path / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    lists = tmp_path / folder / 'ImageSets/SegmentationContext'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('a')
    (lists / 'val.txt').write_text('b')
    monkeypatch.setenv('DATASET', str(tmp_path))
    return Config.fromfile(BASES / f'{base}.py')


def test_training_picture_is_cut_to_the_crop(base, config):
    dataset = DATASETS.build(config.train_dataloader.dataset)
    crop = int(base.split('x')[-1])
    assert len(dataset) == 1
    picture = dataset[0]
    label = picture['data_samples'].gt_sem_seg.data
    assert picture['inputs'].shape[1:] == label.shape[1:]
    assert max(label.shape) <= crop  # padded to the crop by the data preprocessor
    allowed = set(range(18)) | {255} if base in ZERO_IGNORED else set(range(19))
    assert set(label.unique().tolist()) <= allowed


def test_validation_picture_is_resized_and_its_label_is_not(base, config):
    dataset = DATASETS.build(config.val_dataloader.dataset)
    assert len(dataset) == 1
    picture, short = dataset[0], SHORT_SIDES[base]
    assert picture['inputs'].shape == (3, short, int(WIDTH * short / HEIGHT + 0.5))
    assert picture['data_samples'].gt_sem_seg.data.shape == (1, HEIGHT, WIDTH)


def test_label_0_is_ignored_where_it_is_no_class(base, config):
    label = DATASETS.build(config.val_dataloader.dataset)[0]['data_samples'].gt_sem_seg.data[0, :, 0].tolist()
    expected = [row % 19 for row in range(HEIGHT)]
    if base in ZERO_IGNORED:
        expected = [255 if value == 0 else value - 1 for value in expected]
    assert label == expected


def test_multi_scale_test_has_twelve_views_scale_by_scale(base, config):
    dataset = DATASETS.build(dict(config.val_dataloader.dataset, pipeline=config.tta_pipeline))
    views = dataset[0]
    short = [int(SHORT_SIDES[base] * ratio) for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
    assert [view.shape[1] for view in views['inputs']] == [side for side in short for _ in range(2)]
    assert [sample.flip for sample in views['data_samples']] == [False, True] * 6


def test_unset_dataset_folder_can_be_recognised(base, monkeypatch):
    monkeypatch.delenv('DATASET', raising=False)
    config = Config.fromfile(BASES / f'{base}.py')
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.dataset.data_root.startswith('unset:DATASET/')
