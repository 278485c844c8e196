"""What a benchmark of a config warns of, and which pictures it takes."""

from dataclasses import replace

import pytest

pytest.importorskip('mmseg')

from mmseg_tr.analysis.benchmark import benchmark_model
from mmseg_tr.analysis.measure import MeasureOptions
from mmseg_tr.apis import build
from mmseg_tr.apis.benchmark import _cautions
from mmseg_tr.apis.config import load_config
from mmseg_tr.errors import DeviceError, MissingExtraError
from tests.networks import algm, pictures, small
from tests.tiny import write_config, write_dataset

IDLE = dict(type='ALGM', layers=(2,), threshold=1.0)


def cautions(reduction: dict, **ratios) -> list[str]:
    """The warnings of a measured network, with ratios put in the place of those measured."""
    model = small(reduction)
    (run,) = benchmark_model(model, pictures(2), MeasureOptions(batch_sizes=[2], repeats=1, published=False))
    run = replace(run, ratios=run.ratios | dict(time=1.1) | ratios)
    return list(_cautions(model, 'weights.pth', [run]))


@pytest.mark.parametrize(
    'reduction',
    [
        dict(type='ToMe', form='dense', r=0.5),
        dict(type='ACT', q_hashes=1, bucket_width=64),
        algm(),
    ],
    ids=lambda reduction: reduction['type'],
)
def test_whoever_saves_work_is_not_warned_of_whatever_tokens_leave_the_layers(reduction):
    assert cautions(reduction) == []


def test_work_that_is_not_saved_is_told_once_with_its_amount():
    (said,) = cautions(IDLE)
    assert said.startswith('at 64x64, batch 2 ALGM saves no work: it takes 1.0')
    assert said.endswith('times the multiply-adds of the plain network.')


def test_work_that_is_saved_without_time_does_not_pay():
    (said,) = cautions(algm(), time=0.5)
    assert said == 'at 64x64, batch 2 ALGM does not pay: the plain network is 2.00 times as fast.'
    assert len(cautions(IDLE, time=0.5)) == 2


def test_without_the_bundled_photographs_the_test_set_of_the_config_is_measured(tmp_path, monkeypatch):
    def missing(*args):
        raise MissingExtraError('skimage is not installed', name='skimage')

    monkeypatch.setattr(build, 'photograph_batch', missing)
    write_dataset(tmp_path / 'data', count=3)
    config = load_config(str(write_config(tmp_path, tmp_path / 'data')))
    model = build.build_model(config, None)
    assert build.load_batch(config, model, None, (32, 32), 8, 3).shape == (3, 3, 32, 32)
    config.test_dataloader.dataset.data_root = str(tmp_path / 'nowhere')
    with pytest.raises(MissingExtraError, match='images'):
        build.load_batch(config, model, None, (32, 32), 8, 3)


def test_bfloat16_is_refused_where_the_cpu_does_not_multiply_it(monkeypatch):
    monkeypatch.setattr(build, 'multiplies_bfloat16', lambda: False)
    with pytest.raises(DeviceError, match='amp must be left out on this CPU: it has neither avx512_bf16 nor amx'):
        build.pick_precision('bf16', 'cpu')
    monkeypatch.setattr(build, 'multiplies_bfloat16', lambda: True)
    assert build.precision_name(build.pick_precision('bf16', 'cpu')) == 'bf16'
