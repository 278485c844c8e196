"""tools/compare.py: every method over one checkpoint in one run, its files, and one sentence for every mistake."""

import csv
import json

import pytest
import torch

pytest.importorskip('mmseg')

from PIL import Image

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.compare.equal_work import NEAR, nearest
from mmseg_tr.apis.compare.models import names_of, share_weights
from mmseg_tr.apis.compare.options import CompareOptions
from mmseg_tr.apis.config import load_config
from mmseg_tr.errors import ConfigError
from mmseg_tr.paths import config_path
from mmseg_tr.reduction.ladder import Ladder
from tests.tools.command import call, mistake

NAME = 'vit-tiny-p8_photo-mosaic-128x128'
PLAIN, ALGM, TOME, CUBIST = (
    str(config_path(f'{name}/{name}_{NAME}.py')) for name in ('segmenter', 'algm', 'tome', 'cubistmerge')
)
POLICY = str(config_path('cts/cts-policy_effnet-lite0_photo-mosaic-128x128.py'))
SMALL = ('--images', 4, '--batch-size', 2, '--repeats', 1, '--device', 'cpu')
DATA = (
    *('--cfg-options', 'test_dataloader.dataset.length=10', 'test_dataloader.num_workers=0'),
    'test_dataloader.persistent_workers=False',
)
# what is tested does not depend on the size of the network, and bfloat16 takes some CPUs long
DEPTH = 4
NARROW = {
    'model.backbone.arch.embed_dim': 32,
    'model.backbone.arch.depth': DEPTH,
    'model.decode_head.in_channels': 32,
}
OPTIONS = (*DATA, *(f'{key}={value}' for key, value in NARROW.items()))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """The plain model of the embedded data set, untrained but not as even as it is drawn."""
    file = tmp_path_factory.mktemp('weights') / 'plain.pth'
    model = build_model(load_config(PLAIN, NARROW), None)
    torch.manual_seed(0)
    state = {key: value + 0.05 * torch.randn_like(value) for key, value in model.state_dict().items()}
    torch.save(dict(meta={}, state_dict=state), file)
    return str(file)


def compared(folder, checkpoint, *arguments) -> dict:
    numbers = ('--checkpoint', checkpoint, '--frac-dataset', 0.5, '--out', folder, *SMALL)
    assert call('compare', *arguments, *numbers, *OPTIONS) == 0
    return json.loads((folder / 'compare.json').read_text())


@pytest.fixture(scope='module')
def report(tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp('compared')
    return folder, compared(folder, checkpoint, ALGM, PLAIN, TOME)


def test_the_plain_model_stands_first_and_agrees_with_itself(report):
    _, found = report
    assert [row['name'] for row in found['rows']] == ['segmenter', 'algm', 'tome']
    assert [row['method'] for row in found['rows']] == ['plain', 'ALGM', 'ToMe']
    plain, *others = found['rows']
    assert plain['agreement'] == 100 and plain['settings'] == {}
    assert plain['tokens_per_layer'] == [257.0] * DEPTH
    for row in others:
        assert 0 < row['agreement'] < 100
        assert 0 <= row['miou'] <= 100
        assert row['settings']['type'] == row['method']
        assert row['gmacs'] < plain['gmacs']
        assert row['params'] == plain['params']
    assert all(row['fps'] > 0 and row['throughput'] > 0 and row['peak_memory'] is None for row in found['rows'])


def test_the_circumstances_are_written_down(report, checkpoint):
    _, found = report
    about = found['about']
    assert about['checkpoint'] == checkpoint
    assert (about['images_tested'], about['images_timed'], about['batch_size']) == (5, 4, 2)
    assert about['shape'] == [128, 128] and about['precision'] == 'fp32' and about['torch'] == torch.__version__


def test_csv_json_and_plot_agree(report):
    folder, found = report
    with open(folder / 'compare.csv', newline='') as file:
        table = list(csv.DictReader(file))
    for line, row in zip(table, found['rows'], strict=True):
        assert line.keys() == row.keys()
        for key, value in row.items():
            if isinstance(value, (list, dict)):
                assert json.loads(line[key]) == value
            else:
                assert line[key] == ('' if value is None else str(value))
    with Image.open(folder / 'compare.png') as picture:
        assert picture.format == 'PNG' and min(picture.size) > 400


def test_results_are_kept_unless_forced_and_the_same_numbers_come_again(report, checkpoint, capsys):
    folder, found = report
    before = (folder / 'compare.json').read_text()
    sentence = mistake(capsys, 'compare', PLAIN, '--checkpoint', checkpoint, '--out', folder)
    assert 'compare.csv' in sentence and '--force' in sentence
    assert (folder / 'compare.json').read_text() == before
    again = compared(folder, checkpoint, PLAIN, ALGM, TOME, '--force')
    fixed = ('name', 'miou', 'agreement', 'gmacs', 'tokens_per_layer')
    assert [[row[key] for key in fixed] for row in again['rows']] == [
        [row[key] for key in fixed] for row in found['rows']
    ]
    said = capsys.readouterr().out
    assert 'agreement' in said and '100.0 %' in said and 'compare.png' in said


def test_one_reduced_config_is_held_against_its_plain_model(report, checkpoint, tmp_path):
    found = compared(tmp_path, checkpoint, TOME)['rows']
    assert [row['name'] for row in found] == ['plain', f'tome_{NAME}']
    assert found[0]['agreement'] == 100
    plain, tome = report[1]['rows'][0], report[1]['rows'][2]
    for key in ('miou', 'gmacs', 'agreement'):
        assert [row[key] for row in found] == [plain[key], tome[key]]


def test_quality_and_tokens_are_those_of_the_precision_that_is_timed(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr('mmseg_tr.apis.build.multiplies_bfloat16', lambda: True)  # any CPU can, if slowly
    found = compared(tmp_path, checkpoint, PLAIN, ALGM, '--amp', 'bf16')
    assert found['about']['precision'] == 'bf16'
    assert found['rows'][0]['agreement'] == 100


def test_a_model_of_another_size_or_kind_is_refused(checkpoint, tmp_path, capsys):
    base = (PLAIN, '--checkpoint', checkpoint, '--out', tmp_path, *SMALL, *OPTIONS)
    assert 'plain.pth' in mistake(capsys, 'compare', *base, 'model.decode_head.num_classes=7')
    assert 'plain.pth' in mistake(
        capsys, 'compare', POLICY, '--checkpoint', checkpoint, '--out', tmp_path, *SMALL, *DATA
    )
    assert not list(tmp_path.iterdir())


def test_networks_that_are_no_segmentors_are_refused(tmp_path, capsys):
    file = tmp_path / 'policy.pth'
    torch.save(dict(meta={}, state_dict=build_model(load_config(POLICY), None).state_dict()), file)
    sentence = mistake(capsys, 'compare', POLICY, '--checkpoint', file, '--out', tmp_path / 'out', *SMALL, *DATA)
    assert 'only segmentation networks and pose estimators can be compared' in sentence


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['nowhere.py'], 'nowhere.py does not exist'),
        ([PLAIN, '--checkpoint', 'nowhere.pth'], 'nowhere.pth'),
        ([PLAIN, ALGM, PLAIN], f'got segmenter_{NAME} twice'),
        ([PLAIN, '--device', 'gpu'], '--device must be cpu, cuda or cuda:1, got gpu'),
        ([PLAIN, '--device', 'cuda:99'], '--device cuda:99 is not available: this machine has'),
        ([PLAIN, '--amp', 'fp16'], '--amp must be bf16 on a CPU'),
        ([PLAIN, '--batch-size', '5'], '--batch-size must be at most --images'),
        ([PLAIN, '--images', '64', '--batch-size', '11'], 'tested on, 10, got 11'),
        ([PLAIN, '--batch-size', '0'], '--batch-size must be a positive integer, got 0'),
        ([PLAIN, '--images', '0'], '--images must be a positive integer, got 0'),
        ([PLAIN, '--repeats', '0'], '--repeats must be a positive integer, got 0'),
        ([PLAIN, '--work', '1.2'], '--work must be shares above 0 and below 1, such as 0.7, got 1.2'),
        ([PLAIN, '--fixed'], '--fixed needs --work'),
        ([PLAIN, '--work', '0.7', '0.7'], '--work must name each share once'),
        ([PLAIN, '--frac-dataset', '0'], '--frac-dataset must be above 0 and at most 1, got 0.0'),
    ],
    ids=lambda value: '_'.join(value[-2:]).rpartition('/')[2] if isinstance(value, list) else '',
)
def test_mistakes_are_told_in_one_sentence(checkpoint, tmp_path, capsys, arguments, said):
    first = ('--checkpoint', checkpoint, '--out', tmp_path, *SMALL)
    names = [value for value in arguments if value.endswith('.py')]
    assert said in mistake(capsys, 'compare', *names, *first, *arguments[len(names) :], *OPTIONS)
    assert not list(tmp_path.iterdir())


def test_adaptive_methods_are_compared_with_their_fixed_form_at_the_same_work(checkpoint, tmp_path):
    found = compared(tmp_path, checkpoint, PLAIN, ALGM, TOME, '--work', 0.8, 0.97, '--fixed')
    plain, *names = (row['name'] for row in found['rows'])
    # ToMe's is fixed already; random weights are so even that ALGM merges more than 3 % at every threshold
    assert names == ['algm 80%', 'algm 80% fixed', 'algm 97% fixed', 'tome 80%', 'tome 97%']
    assert found['about']['left_out'].keys() == {'algm 97%'}
    adaptive, fixed = found['rows'][1:3]
    assert fixed['name'] == f'{adaptive["name"]} fixed' and fixed['settings']['counts']
    assert fixed['gmacs'] / found['rows'][0]['gmacs'] == pytest.approx(0.8, abs=2 * NEAR)


def test_methods_are_compared_at_equal_work_and_left_out_by_name_where_they_cannot(checkpoint, tmp_path, capsys):
    found = compared(tmp_path, checkpoint, PLAIN, CUBIST, '--methods', 'sharedmatching', '--work', 0.8, 0.3)
    names = [row['name'] for row in found['rows']]
    assert names == ['segmenter', 'cubistmerge 80%', 'cubistmerge 30%', 'sharedmatching 80%']
    plain, *others = (row['gmacs'] for row in found['rows'])
    assert [gmacs / plain for gmacs in others] == pytest.approx([0.8, 0.3, 0.8], abs=NEAR)
    assert found['about']['left_out'].keys() == {'sharedmatching 30%'} and found['about']['work'] == [0.8, 0.3]
    assert 'left out: sharedmatching 30%' in capsys.readouterr().out


@pytest.mark.parametrize('share', [0.95, 0.71, 0.4, 0.05])
def test_the_rung_nearest_to_a_share_is_found_with_few_counts(share):
    works, asked = [1 - 0.01 * step for step in range(1, 91)], []

    def work(rung):
        asked.append(rung['r'])
        return works[rung['r']]

    found, rung = nearest(Ladder('', tuple(dict(r=r) for r in range(90))), share, work)
    assert abs(found - share) == min(abs(entry - share) for entry in works) and works[rung['r']] == found
    assert len(set(asked)) <= 9


def test_names_leave_out_what_all_configs_share():
    assert names_of([PLAIN, TOME, 'x/tome_vit-tiny-p8_photo-mosaic-128x128_original.py']) == [
        'segmenter',
        'tome',
        'tome_original',
    ]
    assert names_of([PLAIN]) == [f'segmenter_{NAME}']
    assert names_of(['a/x.py', 'b/x_y_x.py']) == ['x', 'y']
    assert names_of(['a_b.py', 'b_a.py']) == ['a_b', 'b_a']
    with pytest.raises(ConfigError, match='x twice'):
        names_of(['a/x.py', 'b/x.py'])


def test_equal_weights_are_held_once():
    models = {name: torch.nn.Linear(2, 2) for name in ('plain', 'equal', 'other')}
    models['equal'].load_state_dict(models['plain'].state_dict())
    with torch.no_grad():
        models['other'].bias.copy_(models['plain'].bias)
    share_weights(models)
    places = {name: (model.weight.data_ptr(), model.bias.data_ptr()) for name, model in models.items()}
    assert places['equal'] == places['plain']
    assert places['other'][1] == places['plain'][1] and places['other'][0] != places['plain'][0]


def test_the_batch_of_the_throughput_is_smaller_where_pictures_are_fewer():
    assert [CompareOptions().batch_for(size) for size in (3, 8, 99)] == [3, 8, 8]
    assert CompareOptions(images=4).batch_for(99) == 4 and CompareOptions(batch_size=3).batch_for(9) == 3
    with pytest.raises(ConfigError, match='got 4'):
        CompareOptions(batch_size=4).batch_for(3)
