"""Accuracy of policy networks over a dataset."""

import math

import pytest
import torch

pytest.importorskip('mmengine', reason='needs the extra [seg]')

from mmseg_tr.evaluation import PolicyAccuracy


def evaluate(*pairs):
    metric = PolicyAccuracy()
    for prediction, labels in pairs:
        data = [torch.tensor([values]) for values in (prediction, labels)]
        metric.process({}, [dict(pred_policy=dict(data=data[0]), gt_policy=dict(data=data[1]))])
    return metric.compute_metrics(metric.results)


def test_superpatches_count_alike_whatever_the_size_of_their_image():
    found = evaluate(([[1, 0, 1, 1]], [[1, 1, 0, 0]]), ([[1, 1]], [[1, 255]]))
    assert found == dict(accuracy=40.0, constant=60.0)


def test_the_constant_answer_is_the_more_frequent_label():
    assert evaluate(([[0, 0, 0]], [[0, 0, 1]])) == dict(accuracy=66.7, constant=66.7)


def test_images_without_any_label_give_no_number():
    assert all(math.isnan(value) for value in evaluate(([[1]], [[255]])).values())
