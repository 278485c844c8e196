"""`python -m benchmarks`, also as tools/benchmark.py: suites, their files, continuing after a stop, mistakes."""

import json
import runpy
import sys

import pytest

from benchmarks.mit import exponent
from benchmarks.suites import SUITES, chosen_rows, suite_of
from mmseg_tr.paths import config_path
from tests.tools.command import call, mistake

pytest.importorskip('mmseg')


TINY = 'vit-tiny-p8_photo-mosaic-128x128'


def run(folder, *arguments) -> int:
    return call('benchmark', '--suite', 'cpu-small', '--out', folder, '--name', 'here', '--threads', 1, *arguments)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """One row of every kind, in two runs."""
    folder = tmp_path_factory.mktemp('benchmark')
    assert run(folder, '--rows', 'ALGM b2', 'CTS b1', 'improvements', 'mit-b0 64x64*', 'mit*bsm_hq', 'onnx EViT') == 0
    assert run(folder, '--rows', 'ALGM b2', f'growth algm_{TINY}', 'copies', 'training algm*') == 0
    assert run(folder, '--rows', 'fixed act', 'fixed cts', 'fixed tome', 'joint', 'applied', 'path') == 0
    return folder


def test_every_kind_of_row_is_measured_and_reported(folder):
    content = json.loads((folder / 'here.json').read_text())
    kinds = {row['kind'] for row in content['rows'].values()}
    assert kinds == {row.kind for row in suite_of('cpu-small').rows}
    assert not any('failed' in row for row in content['rows'].values())
    algm = content['rows']['ALGM b2']['result']
    assert algm['efficiency'] == pytest.approx(algm['time_ratio'] / algm['work_ratio'])
    assert algm['work_ratio'] > 1 and algm['peak'] > 0 and 0 < algm['shares']['merging'] < 1
    sharing = content['rows']['CTS b1']['result']
    assert sharing['shares']['policy'] > 0 and sharing['efficiency_without_policy'] > sharing['efficiency']
    assert algm['efficiency_without_policy'] is None
    assert content['rows']['mit-b0 64x64 plain']['result']['difference'] < 1e-4
    assert next(iter(content['rows'])) == 'mit-b0 64x64 plain'  # before freed memory is kept
    assert content['rows']['onnx EViT']['result']['difference'] < 1e-4
    trained = content['rows'][f'training algm_{TINY}']['result']
    assert trained['peak_plain'] > trained['peak'] > 0
    assert len(content['rows'][f'growth algm_{TINY}']['result']['points']) == 3
    for name, share in (('act', 0.85), ('cts', 0.7), ('tome', 0.7)):
        row = content['rows'][f'fixed {name}']
        assert row['result']['work'] <= share + 0.01 and row['reached'].keys() == row['targets'].keys()
        assert row['result']['batch_efficiency'] == pytest.approx(row['result']['batch_ratio'] * row['result']['work'])
    assert content['rows']['fixed cts']['targets'] == dict(batch_efficiency=0.9)  # its policy takes its time
    assert content['rows']['fixed act']['reached']['compiled_ratio'] is None  # small suites do not compile
    assert len(set(content['rows']['joint']['result']['tokens'][-1])) == 1
    walked = content['rows']['path']['result']
    assert walked['images'] == 2 and 0 < walked['inside'] < 1
    assert walked['inside'] == pytest.approx(walked['ms_inside'] / walked['ms'])
    host = content['rows']['applied vit_tiny_patch16_384']['result']
    assert host['of_own'] == pytest.approx(host['host_ratio'] / host['own_ratio'])
    report = (folder / 'here.md').read_text()
    for title in (
        'plain vision transformers',
        'SegFormer++',
        'Training',
        'Growth',
        'different images',
        'mmsegmentation',
        'memory kept',
        'ONNX Runtime',
        'Targets',
        'Fixed budgets',
        'joint rule',
        'network of timm',
        'with its head',
    ):
        assert title in report
    assert all(name in report for name in content['rows'])
    assert sorted(path.name for path in folder.glob('*.png')) == [
        f'here-{name}.png' for name in ('growth', 'mit', 'ratios')
    ]


def test_measured_rows_are_kept_and_a_finished_file_is_not_measured_again(folder, capsys):
    before = (folder / 'here.json').read_text()
    said = mistake(
        capsys,
        'benchmark',
        '--suite',
        'cpu-small',
        '--out',
        folder,
        '--name',
        'here',
        '--threads',
        1,
        '--rows',
        'ALGM b2',
    )
    assert said.startswith(str(folder)) and '--force' in said
    assert (folder / 'here.json').read_text() == before
    said = mistake(capsys, 'benchmark', '--suite', 'cpu-small', '--out', folder, '--name', 'here', '--threads', 2)
    assert 'was measured with threads 1, this run has 2' in said
    assert call('benchmark', '--report', folder / 'here.json') == 0


def test_a_run_whose_time_is_up_says_what_is_left_and_goes_on(tmp_path, capsys):
    rows = ('--rows', 'CTS b1', 'ToMe b1')
    assert run(tmp_path, *rows, '--seconds', 0.001) == 0
    assert 'Time was up before 1 rows' in ' '.join(capsys.readouterr().out.split())
    first = json.loads((tmp_path / 'here.json').read_text())['rows']
    assert run(tmp_path, *rows) == 0
    both = json.loads((tmp_path / 'here.json').read_text())['rows']
    assert len(first) == 1 and len(both) == 2
    assert all(both[name] == row for name, row in first.items())
    assert run(tmp_path, '--rows', 'ToMe b1', '--force') == 0
    again = json.loads((tmp_path / 'here.json').read_text())['rows']
    assert again['CTS b1'] == both['CTS b1'] and again['ToMe b1'] != both['ToMe b1']


def test_mistakes_are_told_in_one_sentence(tmp_path, capsys):
    for option, value, named in (
        ('--suite', 'tpu', "'tpu'"),
        ('--rows', 'nothing', "'nothing'"),
        ('--threads', 0, 'got 0'),
        ('--seconds', -1, 'got -1'),
    ):
        said = mistake(capsys, 'benchmark', option, value)
        assert named in said and option.strip('-') in said
    (tmp_path / 'here.json').write_text('{}')
    assert 'here.json' in mistake(capsys, 'benchmark', '--out', tmp_path, '--name', 'here')
    assert 'none.json' in mistake(capsys, 'benchmark', '--report', tmp_path / 'none.json')


def test_the_module_and_the_tool_are_one_command(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, 'benchmarks.__main__', raising=False)
    monkeypatch.setattr(sys, 'argv', ['benchmarks', '--suite', 'cpu-small', '--list'])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module('benchmarks', run_name='__main__', alter_sys=True)  # `python -m benchmarks`
    assert not ended.value.code
    listed = capsys.readouterr().out
    assert call('benchmark', '--suite', 'cpu-small', '--list') == 0
    assert capsys.readouterr().out.split() == listed.split() != []


@pytest.mark.parametrize('name', SUITES)
def test_suites_have_rows_of_different_names_over_configs_that_are_there(name, capsys):
    suite = suite_of(name)
    assert len({row.name for row in suite.rows}) == len(suite.rows) > 10
    for row in suite.rows:
        if 'config' in row.settings:
            config_path(row.settings['config'])
    assert call('benchmark', '--suite', name, '--list') == 0
    assert len(capsys.readouterr().out.splitlines()) >= len(suite.rows)


def test_rows_are_chosen_by_name_and_by_kind():
    suite = suite_of('cpu')
    assert {row.kind for row in chosen_rows(suite, ['growth'])} == {'growth'}
    assert all(row.name.startswith('algm_vit-s16') for row in chosen_rows(suite, ['algm_vit-s16*']))
    assert chosen_rows(suite, None) == suite.rows


def test_the_exponent_of_growth_is_that_of_the_number_of_patches():
    assert exponent((256, 512, 1024), [3 * side**4 for side in (256, 512, 1024)]) == pytest.approx(2)
    assert exponent((256, 512), [5.0, 5.0]) == pytest.approx(0)
