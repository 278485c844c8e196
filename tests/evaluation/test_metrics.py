"""Scores over a data set: exact counts, the classes' own scores, prediction files."""

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric
from PIL import Image

from mmseg_tr.errors import ConfigError
from mmseg_tr.evaluation import SegmenterIoUMetric
from mmseg_tr.evaluation.submission import CITYSCAPES_CLASSES, CITYSCAPES_LABEL_IDS

CLASSES = ('a', 'b', 'c', 'never')


def sample(prediction, label=None, **more):
    content = dict(pred_sem_seg=dict(data=torch.as_tensor(prediction)[None]), img_path='city/one.png', **more)
    if label is not None:
        content['gt_sem_seg'] = dict(data=torch.as_tensor(label)[None])
    return content


def random_samples(count=3):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (count, 9, 14))
    prediction = np.where(rng.random(label.shape) < 0.6, label, rng.integers(0, 3, label.shape))
    label[:, :2] = 255
    return [sample(p, lab.astype(np.uint8)) for p, lab in zip(prediction, label)]


def scores_of(metric, samples, classes=CLASSES):
    metric.dataset_meta = dict(classes=classes)
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


def test_agrees_with_mmseg_where_float32_is_exact():
    names = ['mIoU', 'mDice', 'mFscore']
    ours = scores_of(SegmenterIoUMetric(iou_metrics=names), random_samples())
    theirs = scores_of(IoUMetric(iou_metrics=names), random_samples())
    assert ours == pytest.approx(theirs, abs=0.011)
    assert all(type(value) is float for value in ours.values())


def test_keeps_the_scores_of_each_class():
    metric = SegmenterIoUMetric()
    scores_of(metric, [sample([[0, 0], [1, 2]], [[0, 1], [1, 255]])])
    np.testing.assert_array_equal(metric.class_scores['IoU'], [0.5, 0.5, np.nan, np.nan])
    np.testing.assert_array_equal(metric.class_scores['Acc'], [1.0, 0.5, np.nan, np.nan])
    assert [area.tolist() for area in metric.areas] == [[1, 1, 0, 0], [2, 2, 0, 0], [2, 1, 0, 0], [1, 2, 0, 0]]


def test_counts_stay_exact_beyond_what_float32_holds():
    big = torch.tensor([2**24])
    one = torch.tensor([1])
    metric = SegmenterIoUMetric()
    metric.dataset_meta = dict(classes=('a',))
    metric.results = [(big, big, big, big), (one, one, one, one)]
    metric.evaluate(2)
    assert metric.areas[0].item() == 2**24 + 1


def test_is_found_by_its_registered_name():
    assert isinstance(METRICS.build(dict(type='mmseg_tr.SegmenterIoUMetric')), SegmenterIoUMetric)


@pytest.mark.parametrize('names', [['mIoU', 'mAP'], []])
def test_refuses_an_unknown_metric_before_evaluating(names):
    with pytest.raises(ConfigError, match='choose among mIoU, mDice, mFscore'):
        SegmenterIoUMetric(iou_metrics=names)


def written(tmp_path, prediction, classes, **more):
    metric = SegmenterIoUMetric(output_dir=str(tmp_path / 'out'), format_only=True, **more.pop('metric', {}))
    scores_of(metric, [sample(prediction, **more)], classes)
    return np.asarray(Image.open(tmp_path / 'out' / 'one.png'))


def test_ade20k_files_count_from_one(tmp_path):
    prediction = np.array([[0, 149]])
    np.testing.assert_array_equal(written(tmp_path, prediction, CLASSES, reduce_zero_label=True), [[1, 150]])


def test_cityscapes_files_hold_label_ids(tmp_path):
    prediction = np.arange(19)[None]
    np.testing.assert_array_equal(written(tmp_path, prediction, CITYSCAPES_CLASSES), [CITYSCAPES_LABEL_IDS])


def test_other_files_hold_the_classes_as_they_are(tmp_path):
    np.testing.assert_array_equal(written(tmp_path, np.array([[0, 2]]), CLASSES), [[0, 2]])


def test_a_format_can_be_chosen(tmp_path):
    chosen = dict(metric=dict(submission='ade20k'))
    np.testing.assert_array_equal(written(tmp_path, np.array([[0, 2]]), CLASSES, **chosen), [[1, 3]])


def test_refuses_formats_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="'coco' is not known"):
        SegmenterIoUMetric(submission='coco')
    with pytest.raises(ConfigError, match='needs its 19 classes, the dataset has 4'):
        written(tmp_path, np.array([[0]]), CLASSES, metric=dict(submission='cityscapes'))


def test_cityscapes_numbers_are_those_of_mmseg_s_dataset():
    from mmseg.datasets import CityscapesDataset

    assert CityscapesDataset.METAINFO['classes'] == CITYSCAPES_CLASSES
