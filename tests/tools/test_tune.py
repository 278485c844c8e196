"""tools/tune.py on embedded pictures: it finds, goes on after a kill, keeps what is there, and says what is wrong."""

import json

import pytest
import torch

pytest.importorskip('mmseg')

from PIL import Image

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.compare import CompareOptions, compare
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.tune.measure import Measurer
from mmseg_tr.apis.tune.spaces import identity
from mmseg_tr.paths import config_path
from tests.tiny import write_config, write_dataset
from tests.tools.as_written import clone, commands
from tests.tools.command import call, mistake

ALGM = "model['backbone']['reduction'] = dict(type='ALGM', layers=(1, 2), threshold=0.9)"
MIT = """
model['backbone'] = dict(type='mmseg_tr.MiT', arch=dict(embed_dims=8, num_layers=(1, 1), num_heads=(1, 2),
                         patch_sizes=(7, 3), strides=(4, 2), sr_ratios=(2, 1)), out_indices=(0, 1))
model['decode_head'] = dict(type='SegformerHead', in_channels=[8, 16], in_index=[0, 1], channels=8, num_classes=3,
                            norm_cfg=dict(type='BN'))
"""
FEW = CompareOptions(images=4, batch_size=2, repeats=1, device='cpu')
SMALL = ('--images', 4, '--batch-size', 2, '--repeats', 1, '--device', 'cpu', '--frac-dataset', 0.5)


def weights(config, path, options=None):
    """A checkpoint of random weights that are not as even as they are drawn."""
    plain = {'model.backbone.reduction': None} if 'mit' not in path.stem else {}
    model = build_model(load_config(config, plain | (options or {})), None)
    torch.manual_seed(1)
    state = {k: v + 0.2 * torch.randn_like(v) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(dict(state_dict=state), path)
    return path


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tiny')
    root = write_dataset(folder / 'data')
    config = write_config(folder, root, ALGM)
    return config, weights(config, folder / 'plain.pth'), root


def tuned(tiny, folder, *arguments):
    return call('tune', *tiny[:2], '--work-dir', folder, '--by', 'work', *SMALL, *arguments)


def journal(folder):
    return json.loads((folder / 'tune.json').read_text())['points']


@pytest.fixture(scope='module')
def found(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp('found')
    assert tuned(tiny, folder, '--speed-up', 1.1) == 0
    return folder


def test_the_written_config_inherits_and_has_what_was_measured(tiny, found):
    path = found / 'tiny_algm_work-1.1.py'
    written, given = load_config(path), load_config(tiny[0])
    assert written.model.backbone.reduction.threshold != given.model.backbone.reduction.threshold
    for changed in (written, given):
        changed.model.backbone.reduction = None
    assert written.to_dict() == given.to_dict()
    plain, row = compare([str(path)], str(tiny[1]), FEW).rows
    full = [numbers for key, numbers in journal(found).items() if key.startswith('1 ') and numbers['ladder'] != 'plain']
    assert (row.miou, row.gmacs) == pytest.approx((full[-1]['quality'], full[-1]['gmacs']))
    assert plain.gmacs / row.gmacs == pytest.approx(full[-1]['work']) and full[-1]['work'] >= 1.1
    assert plain.miou - row.miou == pytest.approx(full[-1]['loss'])
    said = path.read_text()
    assert 'found by tools/tune.py for 1.1 times the plain model by work' in said and f'mIoU {row.miou:.2f}' in said


def test_table_and_plot_show_every_point(tiny, found, tmp_path, capsys):
    with Image.open(found / 'tune.png') as picture:
        assert picture.format == 'PNG' and min(picture.size) > 400
    before = journal(found)
    assert tuned(tiny, found, '--speed-up', 1.1, '--out', tmp_path / 'again.py') == 0  # nothing is measured again
    said = capsys.readouterr().out
    assert ' 0 measurements in this run' in ' '.join(said.split()) and journal(found) == before
    assert said.count('subset') == sum(key.startswith('0.5 ') for key in before) - 1
    assert 'chosen' in said and (tmp_path / 'again.py').is_file()


def test_a_killed_search_goes_on_where_it_was(tiny, found, tmp_path, monkeypatch):
    measure, done = Measurer._measure, []

    def killed(self, ladder, settings):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(settings)
        return measure(self, ladder, settings)

    monkeypatch.setattr(Measurer, '_measure', killed)
    assert tuned(tiny, tmp_path, '--speed-up', 1.1) == 130
    assert len(journal(tmp_path)) == 4 and not list(tmp_path.glob('*.py'))  # the plain model, and three
    monkeypatch.setattr(Measurer, '_measure', lambda *args: done.append(args[2]) or measure(*args))
    assert tuned(tiny, tmp_path, '--speed-up', 1.1) == 0
    names = [json.dumps(settings) for settings in done]
    assert len(names) == len(journal(found)) - 2  # the plain model on subset and full set
    assert sorted(journal(tmp_path)) == sorted(journal(found))
    name = 'tiny_algm_work-1.1.py'
    assert load_config(tmp_path / name).model == load_config(found / name).model


def test_another_budget_uses_the_points_that_are_there(tiny, found, capsys):
    before = len(journal(found))
    assert tuned(tiny, found, '--budget-miou', 90) == 0
    path = found / 'tiny_algm_miou-90.py'
    known = journal(found)
    assert len(known) > before
    subset = {key: numbers for key, numbers in known.items() if key.startswith('0.5 ')}
    chosen = f'0.5 {identity(load_config(path).model.backbone.reduction.to_dict())}'
    assert subset[chosen]['work'] == max(numbers['work'] for numbers in subset.values())  # all are within 90 points


def test_no_setting_is_written_where_none_keeps_to_the_budget(tiny, found, capsys):
    assert tuned(tiny, found, '--speed-up', 50) == 1
    said = ' '.join(capsys.readouterr().out.split())
    assert 'no setting of ALGM reaches 50 times the plain model by work: the nearest, ALGM, layers' in said
    assert not (found / 'tiny_algm_work-50.py').exists()


def test_a_method_over_a_plain_config_by_time_with_options(tiny, tmp_path, capsys):
    config = write_config(tmp_path, tiny[2])
    arguments = (config, tiny[1], '--work-dir', tmp_path / 'w', *SMALL, '--reduction', 'type=EViT,layers=[1]')
    options = ('--cfg-options', 'test_cfg.fp16=False', 'model.test_cfg.window_batch=2')
    assert 'set --reduction' in mistake(capsys, 'tune', *arguments[:2], '--budget-miou', 1)
    assert call('tune', *arguments, '--budget-miou', 99, *options) == 0
    written = load_config(tmp_path / 'w' / 'tiny_evit_miou-99.py')
    assert written.model.backbone.reduction.type == 'EViT' and written.model.test_cfg.window_batch == 2
    assert all(numbers['time'] > 0 for numbers in journal(tmp_path / 'w').values() if numbers['ladder'] != 'plain')


def test_stages_of_a_mit(tiny, tmp_path, capsys):
    config = write_config(tmp_path, tiny[2], MIT, name='mit.py')
    checkpoint = weights(config, tmp_path / 'mit.pth')
    arguments = ('--work-dir', tmp_path / 'w', '--by', 'work', *SMALL)
    assert call('tune', config, checkpoint, '--budget-miou', 99, *arguments) == 0
    written = load_config(tmp_path / 'w' / 'mit_segformer++_miou-99.py')
    assert written.model.backbone.reduction == dict(
        type='SegFormerPP', preset='downsample'
    )  # saves most, and everything is within 99 points
    assert call('tune', config, checkpoint, '--speed-up', 1.05, *arguments) == 0
    build_model(load_config(tmp_path / 'w' / 'mit_segformer++_work-1.05.py'), str(checkpoint))
    names = {numbers['ladder'] for numbers in journal(tmp_path / 'w').values()}
    assert {'SegFormer++, pattern of bsm_hq, stages 2 to 2', 'SegFormer++, downsample'} <= names


@pytest.mark.filterwarnings('ignore:the image is too small')
def test_pose_networks_are_tuned_by_pck(tmp_path, capsys):
    pytest.importorskip('mmpose')
    pytest.importorskip('skimage')
    from tests import tiny_pose

    config = tiny_pose.write_config(tmp_path)
    checkpoint = weights(config, tmp_path / 'mit.pth')
    arguments = (config, checkpoint, '--work-dir', tmp_path / 'w', '--by', 'work', *SMALL)
    assert call('tune', *arguments, '--budget-pck', 99) == 0
    said = capsys.readouterr().out
    assert 'PCK@0.1' in said and 'mIoU' not in said
    path = tmp_path / 'w' / f'{config.stem}_segformer++_pck-99.py'
    plain, row = compare([str(path)], str(checkpoint), FEW).rows
    (chosen,) = [
        numbers for key, numbers in journal(tmp_path / 'w').items() if key.startswith('1 ') and 'null' not in key
    ]
    assert (row.pck, plain.pck - row.pck) == pytest.approx((chosen['quality'], chosen['loss']))
    assert plain.gmacs / row.gmacs == pytest.approx(chosen['work']) and chosen['work'] > 1.05


def test_nothing_is_overwritten(tiny, found, capsys):
    path = found / 'tiny_algm_work-1.1.py'
    before = path.read_bytes()
    base = (*tiny[:2], '--by', 'work', *SMALL, '--work-dir', found)
    said = mistake(capsys, 'tune', *base, '--speed-up', 1.1)
    assert said.startswith(str(path)) and '--out' in said
    assert path.read_bytes() == before
    said = mistake(capsys, 'tune', *base, '--speed-up', 1.2, '--images', 2)
    assert 'another images' in said and '--work-dir' in said
    said = mistake(capsys, 'tune', *base, '--speed-up', 1.2, '--reduction', 'type=ToMe')
    assert 'another method' in said
    assert str(tiny[0]) in mistake(capsys, 'tune', *base, '--speed-up', 1.2, '--out', tiny[0])


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('--budget-miou', -1), '--budget-miou must be at least 0 and below 100 points, got -1'),
        (('--budget-miou', 'nan'), 'got nan'),
        (('--speed-up', 1), '--speed-up must be a ratio above 1 and below 1000, such as 1.5, got 1'),
        (('--speed-up', 2, '--by', 'luck'), "--by must be time or work, got 'luck'"),
        (('--speed-up', 2, '--out', 'x.txt'), '--out must be a file that ends in .py, got x.txt'),
        (('--speed-up', 2, '--frac-dataset', 0), '--frac-dataset must be above 0 and at most 1, got 0.0'),
        (('--speed-up', 2, '--frac-dataset', 0.1), 'tested on, 1, got 2'),
        (('--speed-up', 2, '--batch-size', 8), '--batch-size must be at most --images'),
        (('--speed-up', 2, '--reduction', 'None'), 'set --reduction'),
        (('--speed-up', 2, '--reduction', 'type=Magic'), "got 'Magic'"),
        (('--speed-up', 2, '--cfg-options', 'train_dataloader.dataset.pipeline.0.x=1'), 'changes an entry of a list'),
    ],
    ids=lambda value: '_'.join(map(str, value)) if isinstance(value, tuple) else '',
)
def test_mistakes_are_one_sentence(tiny, tmp_path, capsys, arguments, said):
    assert said in mistake(capsys, 'tune', *tiny[:2], '--work-dir', tmp_path / 'w', *SMALL, *arguments)
    assert not (tmp_path / 'w').exists()


def test_files_that_cannot_be_used_are_told(tiny, tmp_path, capsys):
    budget = ('--speed-up', 2, '--work-dir', tmp_path / 'w', *SMALL)
    assert 'gone.py does not exist' in mistake(capsys, 'tune', 'gone.py', tiny[1], *budget)
    assert 'there is no checkpoint file gone.pth' in mistake(capsys, 'tune', tiny[0], 'gone.pth', *budget)
    torch.save(dict(state_dict={'backbone.x': torch.zeros(1)}), tmp_path / 'other.pth')
    assert 'other.pth' in mistake(capsys, 'tune', tiny[0], tmp_path / 'other.pth', *budget)
    (tmp_path / 'w').mkdir()
    (tmp_path / 'w' / 'tune.json').write_text('{"points"')
    assert 'tune.json' in mistake(capsys, 'tune', *tiny[:2], *budget)
    assert call('tune', *tiny[:2], '--budget-miou', 1, *budget) == 2  # one budget, not two


@pytest.mark.parametrize('arguments', commands('docs/tune.md', 'tune'), ids=lambda words: words[0].split('/')[1])
def test_commands_of_the_page_run_as_written(arguments, tmp_path, monkeypatch):
    pytest.importorskip('skimage')
    monkeypatch.chdir(clone(tmp_path))
    checkpoint = tmp_path / arguments[1]
    checkpoint.parent.mkdir(parents=True)
    narrow = {
        'model.backbone.arch.embed_dim': 32,
        'model.backbone.arch.depth': 4,
        'model.decode_head.in_channels': 32,
    }
    weights(config_path('segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'), checkpoint, narrow)
    few = (
        *(f'{key}={value}' for key, value in narrow.items()),
        'test_dataloader.dataset.length=2',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    )
    assert call('tune', *arguments, *SMALL, '--frac-dataset', 1, '--cfg-options', *few) in (
        0,
        1,
    )  # 1: random weights may keep no budget
    assert (tmp_path / 'work_dirs' / 'tune').is_dir()
