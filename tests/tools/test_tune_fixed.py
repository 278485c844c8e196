"""tools/tune.py --fixed: settings of fixed shapes within a budget, chosen on pictures, written as a config."""

import re

import pytest
import torch

pytest.importorskip('mmseg')

from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.tune import TuneOptions
from mmseg_tr.apis.tune.fixed import calibrate, pictures_of
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.fixed import within_budget
from mmseg_tr.hosts.own import OwnTarget
from mmseg_tr.reduction import REDUCTIONS, Reduction
from tests.reduction.methods import tiny_vit
from tests.tiny import write_config, write_dataset
from tests.tools.command import call, mistake
from tests.tools.test_tune import ALGM, weights

SMALL = ('--images', 4, '--batch-size', 2, '--device', 'cpu', '--frac-dataset', 0.5)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tiny')
    config = write_config(folder, write_dataset(folder / 'data'), ALGM)
    return config, weights(config, folder / 'plain.pth')


def test_the_written_config_has_fixed_shapes_within_the_budget(tiny, tmp_path, capsys):
    arguments = ('--fixed', 0.8, '--work-dir', tmp_path, *SMALL)
    assert call('tune', *tiny, *arguments) == 0
    said = ' '.join(capsys.readouterr().out.split())
    path = tmp_path / 'tiny_algm_fixed-0.8.py'
    written = load_config(path)
    method = written.model.backbone.reduction
    assert f'counts={tuple(method.counts)!r}' in said and 'tokens after its layers' in said and str(path) in said
    reduced, plain = (build_model(load_config(config), str(tiny[1])).eval() for config in (path, tiny[0]))
    plain.backbone.reduction = None
    image = torch.zeros(1, 3, 32, 32)
    assert not reduced.backbone.reduction.adaptive
    assert count_macs(reduced, image).total() <= 0.8 * count_macs(plain, image).total()
    left = [str(counts[0] - reduced.backbone.num_prefix) for counts in reduced.backbone.trace(image)]
    assert f'leaves {", ".join(left)} tokens' in said
    assert 'exists and is kept' in mistake(capsys, 'tune', *tiny, *arguments)


def test_the_way_to_spend_it_that_changes_the_results_least_is_chosen(tiny, tmp_path):
    options = TuneOptions(images=4, batch_size=2, fraction=0.5, device='cpu', work_dir=str(tmp_path))
    found = calibrate(str(tiny[0]), str(tiny[1]), 0.8, options, split='test')
    losses = [one.loss for one in found.candidates]
    assert len(losses) > 1 and losses == sorted(losses) and all(one.work <= 0.8 for one in found.candidates)
    assert found.point.loss == pytest.approx(found.plain_quality - found.point.quality)
    assert (found.images, found.split, len(found.tokens)) == (4, 'test', 2)


def test_training_pictures_are_read_as_test_reads_them(tiny):
    config = load_config(tiny[0])
    inner = config.train_dataloader.dataset
    inner.pipeline = [dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=1.0)]
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=inner)
    found = pictures_of(config, 'train')
    assert found['dataset']['pipeline'] == config.test_dataloader.dataset.pipeline
    assert found['dataset']['data_root'] == inner.data_root and inner.pipeline[1].type == 'RandomFlip'


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('--fixed', 0.01), r'--fixed must be 0\.\d\d or more: ALGM cannot save more here, got 0.01'),
        (('--fixed', 1.5), '--fixed must be'),
        (('--fixed', 0.8, '--split', 'val'), '--split must be train or test, got val'),
        (('--fixed', 0.8, '--reduction', 'type=SegFormerPP,preset=bsm_hq'), r'SegFormer\+\+ is for a MiT'),
        (('--fixed', 0.8, '--reduction', 'None'), 'names no method'),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_a_sentence(tiny, tmp_path, capsys, arguments, said):
    assert re.search(said, mistake(capsys, 'tune', *tiny, *arguments, '--work-dir', tmp_path, *SMALL))
    assert not list(tmp_path.glob('*.py'))


def test_a_method_without_fixed_shapes_has_no_budget(monkeypatch):
    class Bare(Reduction):
        pass

    monkeypatch.setitem(REDUCTIONS, 'Bare', Bare)
    with pytest.raises(ConfigError, match='budget must be left out for Bare'):
        list(within_budget(dict(type='Bare'), 0.5, OwnTarget(tiny_vit(None)), 1.0))
