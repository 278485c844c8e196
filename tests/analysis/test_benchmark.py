"""A reduced network beside its plain one: what the numbers are made of."""

import pytest
import torch

from mmseg_tr.analysis import measure
from mmseg_tr.analysis.benchmark import benchmark_model
from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.analysis.measure import MeasureOptions
from mmseg_tr.analysis.network import count_rule_of
from mmseg_tr.analysis.tokens import tokens_per_layer
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.mit import MixVisionTransformer
from tests.networks import algm, pictures, small


def quick(model, images, **settings):
    return benchmark_model(model, images, MeasureOptions(repeats=1, **settings))


@pytest.fixture(scope='module')
def runs():
    return quick(small(algm()), pictures(5), batch_sizes=(1, 2))


def test_there_is_a_run_for_every_batch_size_and_only_full_batches_are_measured(runs):
    assert [(run.shape, run.batch_size, run.images) for run in runs] == [((64, 64), 1, 5), ((64, 64), 2, 4)]


def test_work_is_that_of_the_tokens_that_remained(runs):
    alone = [count_macs(small(algm()), image[None]).total('segmenter') / 1e9 for image in pictures(5)]
    assert runs[0].model.gmacs == pytest.approx(sum(alone) / 5)
    assert runs[0].plain.gmacs == pytest.approx(count_macs(small(), pictures(1)).total('segmenter') / 1e9)
    for measured in (runs[0].model, runs[0].plain):
        assert measured.gflops == 2 * measured.gmacs
        assert measured.gmacs_all > measured.gmacs
        assert sum(measured.parts.values()) == pytest.approx(measured.gmacs)
        assert sum(measured.parts_all.values()) == pytest.approx(measured.gmacs_all)


def test_ratios_are_plain_over_reduced(runs):
    for run in runs:
        ratios = run.ratios
        assert ratios['work'] == pytest.approx(run.plain.gmacs / run.model.gmacs)
        assert ratios['time'] == pytest.approx(run.model.images_per_second / run.plain.images_per_second)
        assert ratios['efficiency'] == pytest.approx(ratios['time'] / ratios['work_to_scores'])
        assert ratios['work_to_scores'] > ratios['work']  # enlarging costs both the same
        published = run.model.images_per_second / run.published_images_per_second
        assert ratios['time_over_published'] == pytest.approx(published)


def test_tokens_are_means_over_the_images(runs):
    vit, images = small(algm()).encoder.eval(), pictures(5)
    assert runs[0].plain.tokens_per_layer == [65.0] * 3
    assert runs[0].model.tokens_per_layer == tokens_per_layer(vit, images.split(1))
    assert tokens_per_layer(vit, [images]) == tokens_per_layer(vit, images.split(1))


def test_labels_take_longer_than_scores(runs):
    for measured in (runs[0].model, runs[0].plain):
        assert 0 < measured.images_per_second_to_labels < measured.images_per_second


def test_a_plain_network_is_measured_once():
    (run,) = quick(small(), pictures(1), batch_sizes=[1])
    assert run.model is run.plain
    assert run.ratios is run.shares is None
    assert run.published_images_per_second > 0


def test_published_attention_is_left_out_on_request_or_where_it_would_not_fit(monkeypatch):
    (run,) = quick(small(), pictures(1), batch_sizes=[1], published=False)
    assert run.published_images_per_second is None
    monkeypatch.setattr(measure, 'MATH_ATTENTION_BYTES', 4 * 2 * 65**2 - 1)
    (run,) = quick(small(), pictures(1), batch_sizes=[1])
    assert run.published_images_per_second is None


def test_the_method_or_the_backbone_decides_the_rule_unless_one_is_named():
    assert count_rule_of(small(algm())) == count_rule_of(small()) == 'segmenter'
    assert count_rule_of(small(dict(type='ToMe', r=2))) == 'expedite'
    assert (
        count_rule_of(torch.nn.ReLU()) == count_rule_of(MixVisionTransformer('b0', reduction='bsm_hq')) == 'conv-matmul'
    )
    (run,) = quick(small(), pictures(1), batch_sizes=[1], rule='conv-matmul')
    assert run.rule == 'conv-matmul'
    with pytest.raises(ConfigError, match="'flops' is unknown"):
        quick(small(), pictures(1), batch_sizes=[1], rule='flops')


def test_any_network_can_be_measured():
    (run,) = quick(torch.nn.Conv2d(3, 4, 1), pictures(2), batch_sizes=[2])
    assert run.model.tokens_per_layer is None
    assert run.model.gmacs == pytest.approx(64 * 64 * 12 / 1e9)


def test_a_batch_of_more_images_than_there_are_is_refused():
    with pytest.raises(ConfigError, match='batch_sizes .* 2, got 3'):
        quick(small(), pictures(2), batch_sizes=[3])


def test_the_joint_rule_is_measured_with_the_batch_that_ran():
    model, images = small(algm(threshold=0.3, batch='joint')), pictures(2)
    images[1] = 0.5
    one, two = quick(model, images, batch_sizes=(1, 2), published=False)
    assert two.model.gmacs > one.model.gmacs


def test_runs_become_plain_numbers(runs):
    import json

    assert json.loads(json.dumps(runs[0].to_dict()))['model']['tokens_per_layer'] == runs[0].model.tokens_per_layer
