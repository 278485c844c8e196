"""Scores over a data set: exact counts, the classes' own scores, prediction files."""

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric
from PIL import Image

from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.evaluation import SegmenterIoUMetric
from mmseg_tr.evaluation.submission import CITYSCAPES_CLASSES, CITYSCAPES_LABEL_IDS

CLASSES = ('a', 'b', 'c', 'never')


def sample(prediction, label=None, **more):
    content = dict(pred_sem_seg=dict(data=torch.as_tensor(prediction)[None]), **{'img_path': 'city/one.png', **more})
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


# ---------------------------------------------------------------- names of prediction files


def planned(images, tmp_path, **settings):
    metric = SegmenterIoUMetric(output_dir=str(tmp_path / 'out'), format_only=True, **settings)
    metric.dataset_meta = dict(classes=CLASSES)
    metric.plan_files(images)
    for number, image in enumerate(images):
        metric.process({}, [sample(np.full((2, 2), number), img_path=image)])
    return {
        path.relative_to(tmp_path / 'out').as_posix(): np.asarray(Image.open(path))[0, 0]
        for path in (tmp_path / 'out').rglob('*.png')
    }


@pytest.mark.parametrize(
    ('images', 'names'),
    [
        (['/d/a/0.png', '/d/b/1.png'], ['0.png', '1.png']),
        (['/d/a/0.png', '/d/b/0.png', '/d/b/1.png'], ['a/0.png', 'b/0.png', 'b/1.png']),
        (['/d/0.png', '/d/b/0.png'], ['0.png', 'b/0.png']),
        (['/d/0.png', '/d/0.jpg'], ['0.png.png', '0.jpg.png']),
        (['d/a/x/0.png', 'd/b/x/0.png'], ['a/x/0.png', 'b/x/0.png']),
    ],
)
def test_every_image_has_a_file_of_its_own(images, names, tmp_path):
    assert planned(images, tmp_path) == {name: number for number, name in enumerate(names)}


@pytest.mark.parametrize('submission', ['ade20k', 'cityscapes'])
def test_formats_without_folders_refuse_two_images_of_one_name_before_anything_is_written(submission, tmp_path):
    metric = SegmenterIoUMetric(output_dir=str(tmp_path / 'out'), format_only=True, submission=submission)
    metric.dataset_meta = dict(classes=CITYSCAPES_CLASSES)
    metric.plan_files(['/d/a/0.png', '/d/b/1.png'])
    with pytest.raises(DatasetError, match=r'/d/a/0.png and /d/b/0.png'):
        metric.plan_files(['/d/a/0.png', '/d/b/0.png'])
    assert not list((tmp_path / 'out').iterdir())


def test_a_run_without_a_plan_refuses_instead_of_overwriting(tmp_path):
    metric = SegmenterIoUMetric(output_dir=str(tmp_path), format_only=True)
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [sample([[1]], img_path='a/0.png')])
    metric.process({}, [sample([[2]], img_path='a/0.png')])  # the same image again
    with pytest.raises(DatasetError, match='a/0.png and b/0.png'):
        metric.process({}, [sample([[3]], img_path='b/0.png')])
    assert np.asarray(Image.open(tmp_path / '0.png')).item() == 2


# ---------------------------------------------------------------- the cases of mmseg's own tests


def test_random_predictions_are_scored_saved_and_formatted(tmp_path):
    rng = np.random.default_rng(1)
    samples = [
        sample(rng.integers(0, 5, (64, 64)), rng.integers(0, 5, (64, 64)), img_path=f'{n}_img.jpg') for n in (0, 1)
    ]
    classes = ('wall', 'building', 'sky', 'floor', 'tree')
    found = scores_of(SegmenterIoUMetric(), samples, classes)
    assert found == pytest.approx(scores_of(IoUMetric(), samples, classes), abs=0.011)
    assert scores_of(SegmenterIoUMetric(output_dir=str(tmp_path / 'a')), samples, classes) == found
    only = SegmenterIoUMetric(output_dir=str(tmp_path / 'b'), format_only=True)
    assert not scores_of(only, samples, classes) and only.results == []
    for folder in 'ab':
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ['0_img.png', '1_img.png']


@pytest.mark.parametrize('seed', range(4))
def test_mean_scores_are_those_of_the_published_formulas(seed):
    """IoU, Dice and accuracy of each class, counted by hand over all images; classes that are nowhere are left out."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (3, 20, 30))
    predictions = np.where(rng.random(labels.shape) < 0.7, labels, rng.integers(0, 3, labels.shape))
    labels[rng.random(labels.shape) < 0.1] = 255
    metric = SegmenterIoUMetric(iou_metrics=['mIoU', 'mDice', 'mFscore'])
    scores_of(metric, [sample(p, lab) for p, lab in zip(predictions, labels)])
    counted = labels != 255
    for number in range(3):
        seen, true = (predictions == number) & counted, labels == number
        both = (seen & true).sum()
        assert metric.class_scores['IoU'][number] == pytest.approx(both / (seen | true).sum())
        assert metric.class_scores['Acc'][number] == pytest.approx(both / true.sum())
        assert metric.class_scores['Dice'][number] == pytest.approx(2 * both / (seen.sum() + true.sum()))
        assert metric.class_scores['Precision'][number] == pytest.approx(both / seen.sum())
    assert np.isnan(metric.class_scores['IoU'][3])
