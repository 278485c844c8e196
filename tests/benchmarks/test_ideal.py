"""The ideal of every method: as many tokens in the same places, without its matching."""

import pytest
import torch

from benchmarks.ideal import remaining, sliced_network, token_counts
from benchmarks.random_weights import on_meta, tuned, with_method
from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.analysis.network import network_of
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.reduction.segformerpp import Bipartite
from tests.networks import algm, pictures, small

METHODS = {
    'ALGM': algm(0.2),
    'CTS': dict(type='CTS', share=0.3, policy='random'),
    'Expedite': dict(type='Expedite', layer=1, clusters=(4, 4), k=4),
    'EViT': dict(type='EViT', layers=(1, 2), keep_rate=0.7),
    'ToMe': dict(type='ToMe', r=8),
    'ToMe-dense': dict(type='ToMe', form='dense', r=0.3),
    'ACT': dict(type='ACT', q_hashes=8, bucket_width=1),
    'MPM': dict(type='MPM', layers=(1, 2)),
    'CubistMerge': dict(type='CubistMerge', layer=2, r=2),
    'PiToMe': dict(type='PiToMe', ratio=0.8),
    'SharedMatching': dict(type='SharedMatching', match_every=2),
}


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('method', METHODS)
@torch.inference_mode()
def test_the_ideal_runs_on_the_counts_of_its_method(method, batch):
    model, images = small(METHODS[method]).eval(), pictures(batch)
    record = token_counts(model, images)
    ideal = sliced_network(model, images)
    assert token_counts(ideal, images).layers == record.layers
    assert token_counts(ideal, images).final == record.final
    plain = small().eval().scores(images)
    assert ideal.scores(images).shape == model.scores(images).shape == plain.shape
    assert any(layer.mlp[0] < 65 or layer.queries[0] < 65 for layer in record.layers.values())


def test_counts_are_those_that_the_method_says():
    record = token_counts(small(METHODS['ToMe-dense']), pictures(2))
    kept = 65 - int(65 * 0.3)
    for counts in record.layers.values():
        assert counts.enter == counts.middle == (65, 65)
        assert counts.attend == counts.queries == counts.mlp == (kept, kept)
    clusters = token_counts(small(METHODS['ACT']), pictures(1)).layers[1]
    assert clusters.attend == (65,) and clusters.queries[0] < 65


@pytest.mark.parametrize('reduction', ['bsm_hq', 'n2d_2x2'])
@torch.inference_mode()
def test_the_ideal_of_a_mit_has_the_counts_of_its_mergers_and_no_matching(reduction):
    model, image = MixVisionTransformer('b0', reduction=reduction).eval(), torch.rand(1, 3, 64, 96)
    ideal = sliced_network(model, image)
    assert [level.shape for level in ideal(image)] == [level.shape for level in model(image)]
    with torch.profiler.profile() as profiler:
        ideal(image)
    assert not any('sort' in event.key or 'pool' in event.key for event in profiler.key_averages())
    assert remaining(Bipartite(0.8, (4, 4)), 16 * 24, (16, 24)) == 16 * 24 - int(16 * 24 * 0.8)


@pytest.mark.parametrize(
    ('settings', 'ratio'), [(algm(0.9), 1.4), (dict(type='ACT', q_hashes=8), 1.12)], ids=['ALGM', 'ACT']
)
def test_thresholds_are_found_that_bring_the_work_ratio(settings, ratio):
    plain, images = small().eval(), pictures(1)
    model = with_method(plain, tuned(plain, settings, images, ratio, 'segmenter'))
    work = [count_macs(network, images).total('segmenter') for network in (plain, sliced_network(model, images))]
    assert work[0] / work[1] == pytest.approx(ratio, abs=0.06)


def test_a_network_on_the_meta_device_has_the_same_work_and_leaves_the_other_alone():
    model, images = small(METHODS['ToMe']).eval(), pictures(1)
    empty = on_meta(model)
    assert count_macs(empty, images.to('meta')).units == count_macs(model, images).units
    assert all(not parameter.is_meta for parameter in model.parameters())
    assert network_of(model).scores(images).isfinite().all()
