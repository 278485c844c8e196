"""Scores of poses: our metrics on the cases of mmpose's own tests, and equal to mmpose's one threshold at a time."""

import json

import numpy as np
import pytest

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)

pytest.importorskip('mmpose')
from mmpose.evaluation import AUC, EPE
from mmpose.evaluation import PCKAccuracy as TheirPCK

from mmseg_tr.datasets.figure_files import coco_annotations
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.evaluation.pose import CocoMetric, PCKAccuracy

# ---------------------------------------------------------------- PCK


def figures(count=8, joints=15, shift=0.0, box=None):
    """Samples in which one joint moves along the diagonal and one is hidden; the first box has no size."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        true = np.zeros((1, joints, 2))
        true[0, number] = 0.5 * number
        visible = np.ones((1, joints, 1), bool)
        visible[0, 2 * number % count] = False
        bounds = rng.random((1, 4)) * 20 * number if box is None else np.array([box], float)
        instances = dict(keypoints=true, keypoints_visible=visible, bboxes=bounds)
        predicted = dict(keypoints=true + shift * rng.random(true.shape))
        samples.append(dict(gt_instances=instances, pred_instances=predicted))
    return samples


def pck(metric, samples):
    metric.process([dict()] * len(samples), samples)
    return metric.evaluate(len(samples))


def scored(value):
    return {key.rpartition('/')[2]: score for key, score in value.items()}


def test_right_poses_score_one_at_every_threshold():
    assert scored(pck(PCKAccuracy(thr=(0.5, 0.05)), figures())) == {'PCK@0.5': 1.0, 'PCK@0.05': 1.0}


@pytest.mark.parametrize('shift', [0.0, 0.5, 2.0, 50.0])
def test_several_thresholds_equal_those_of_mmpose_one_at_a_time(shift):
    """In any order, and although the first box is empty, whose sides mmpose's function overwrites."""
    thresholds = (0.02, 0.5, 0.1, 0.05)
    samples = figures(shift=shift)
    ours = scored(pck(PCKAccuracy(thr=thresholds), samples))
    assert ours == {f'PCK@{thr:g}': scored(pck(TheirPCK(thr=thr), samples))['PCK'] for thr in thresholds}


@pytest.mark.parametrize('box', [(0, 0, 0, 0), (9, 9, 9, 9)])
def test_boxes_without_size_never_count_as_right(box):
    far = figures(count=2, shift=1e4, box=box)
    good = figures(count=2, box=(0, 0, 10, 10))
    found = scored(pck(PCKAccuracy(thr=(0.1, 0.05, 0.2)), far + good))
    alone = scored(pck(PCKAccuracy(thr=(0.1, 0.05, 0.2)), good))
    assert found == alone


def test_auc_and_epe_run_beside_ours():
    true = np.array([[[10, 0], [10, 10], [0, -1], [30, 30], [0, 10]]], float)
    found = np.array([[[10, 4], [10, 18], [0, 0], [40, 40], [20, 10]]], float)
    visible = np.array([[True, True, False, True, True]])
    samples = [dict(gt_instances=dict(keypoints=true, keypoints_visible=visible), pred_instances=dict(keypoints=found))]
    assert list(pck(AUC(norm_factor=20, num_thrs=4), samples).values()) == [pytest.approx(0.375)]
    assert list(pck(EPE(), samples).values()) == [pytest.approx(11.5355339)]


@pytest.mark.parametrize('setting', [dict(thr=()), dict(thr='0.1'), dict(thr=(0.1, -1)), dict(norm_item='head')])
def test_settings_of_pck_that_cannot_be_are_refused(setting):
    with pytest.raises(ConfigError):
        PCKAccuracy(**setting)


# ---------------------------------------------------------------- COCO


@pytest.fixture(scope='module')
def annotations():
    """Twelve figures, of which two have no joint labelled."""
    content = coco_annotations((96, 128), 0, 'val', 9, 'coco')
    for entry in content['annotations'][3:5]:
        entry.update(keypoints=[0] * 51, num_keypoints=0)
    return content


def numbered_from(content, first):
    return dict(content, annotations=[dict(one, id=number) for number, one in enumerate(content['annotations'], first)])


def samples_of(content, move=0.0, score=None):
    """Every annotation as its own prediction, moved by a share of its place; visibility is the score."""
    samples = []
    for entry in content['annotations']:
        points = np.array(entry['keypoints'], np.float32).reshape(1, -1, 3)
        box = np.array(entry['bbox'], np.float32).reshape(1, 4)
        scores = points[..., 2] if score is None else points[..., 2] * score
        instances = dict(bbox_scales=box[:, 2:] * 1.25, bbox_scores=np.ones(1, np.float32), bboxes=box)
        predicted = dict(keypoints=points[..., :2] * (1 + move), keypoint_scores=scores)
        named = dict(id=entry['id'], img_id=entry['image_id'], category_id=1, ori_shape=(96, 128))
        samples.append(dict(named, gt_instances=instances, pred_instances=predicted, raw_ann_info=dict(entry)))
    return samples


def coco(content, samples, tmp_path, **settings):
    file = tmp_path / 'annotations.json'
    file.write_text(json.dumps(content))
    metric = CocoMetric(**{'ann_file': str(file), **settings})
    meta = dict(dataset_name='coco', num_keypoints=17, sigmas=np.full(17, 0.07), CLASSES=content['categories'])
    metric.dataset_meta = meta
    metric.process([dict()] * len(samples), samples)
    return scored(metric.evaluate(len(samples)))


@pytest.mark.parametrize('first', [0, 1, 7, -3])
@pytest.mark.parametrize('modes', [('bbox', 'none'), ('bbox_keypoint', 'oks_nms'), ('bbox_rle', 'soft_oks_nms')])
def test_right_poses_score_one_whatever_annotations_are_numbered(first, modes, annotations, tmp_path):
    """Figures without a labelled joint are predicted with scores of zero, which do not count as false alarms."""
    content = numbered_from(annotations, first)
    found = coco(content, samples_of(content), tmp_path, score_mode=modes[0], nms_mode=modes[1])
    assert found['AP'] == found['AR'] == found['AP .5'] == pytest.approx(1)


def test_scores_of_coco_are_computed_without_a_word_and_verbosely_with_the_steps(
    annotations, tmp_path, monkeypatch, capfd
):
    for verbose in ('', '1'):
        monkeypatch.setenv('MMSEG_TR_VERBOSE', verbose)
        coco(annotations, samples_of(annotations), tmp_path)
        said = capfd.readouterr().out
        assert ('loading annotations' in said and 'Average Precision' in said) if verbose else said == ''


@pytest.mark.parametrize('move', [0.03, 0.06])
def test_numbers_of_annotations_do_not_change_scores(move, annotations, tmp_path):
    scores = [
        coco(content, samples_of(content, move), tmp_path)
        for content in (numbered_from(annotations, first) for first in (0, 1, 1000))
    ]
    assert scores[0] == scores[1] == scores[2]
    assert 0 < scores[0]['AP'] < 1


def test_a_false_alarm_with_scores_still_counts(annotations, tmp_path):
    content = numbered_from(annotations, 1)
    samples = samples_of(content)
    for sample in samples[3:5]:  # nothing is labelled there
        sample['pred_instances']['keypoints'] += 4000
        sample['pred_instances']['keypoint_scores'] = np.full((1, 17), 5, np.float32)
    assert coco(content, samples, tmp_path, score_mode='bbox_keypoint')['AP'] < 1


def test_a_sample_that_comes_twice_counts_once(annotations, tmp_path):
    samples = samples_of(annotations)
    assert coco(annotations, [*samples, samples[0]], tmp_path) == coco(annotations, samples, tmp_path)


def test_samples_serve_in_place_of_an_annotation_file(annotations, tmp_path):
    samples = samples_of(annotations, 0.02)
    from_file = coco(annotations, samples, tmp_path)
    assert coco(annotations, samples, tmp_path, from_samples=True, ann_file=None) == pytest.approx(from_file)


def test_predictions_are_only_written_where_that_is_all_that_is_asked(annotations, tmp_path):
    settings = dict(format_only=True, outfile_prefix=str(tmp_path / 'found'))
    assert coco(annotations, samples_of(annotations), tmp_path, **settings) == {}
    assert len(json.loads((tmp_path / 'found.keypoints.json').read_text())) > 0


def test_settings_of_coco_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match='score_mode'):
        CocoMetric(score_mode='invalid')
    with pytest.raises(ValueError, match='nms_mode'):
        CocoMetric(nms_mode='invalid')
    with pytest.raises(DatasetError, match='nowhere.json'):
        CocoMetric(ann_file=str(tmp_path / 'nowhere.json'))
