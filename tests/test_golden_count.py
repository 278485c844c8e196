"""The closing count of golden cases: a case that did not run fails the run, and nothing else does."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.clean import ROOT

PARITY = """
import json, os, pathlib
import pytest
CASES = json.loads((pathlib.Path(os.environ['MMSEG_TR_GOLDEN']) / 'algm' / 'manifest.json').read_text())['cases']
MARKED = [pytest.param(c, id=c['name'], marks=pytest.mark.golden(family='algm', case=c['name'], kind=c['kind']))
          for c in CASES if not c.get('forgotten')]

@pytest.mark.parametrize('case', MARKED)
def test_algm(case):
    if case['kind'] == 'drawing':
        pytest.skip('drawings are not delivered yet')
    if case['kind'] == 'unread':
        pytest.skip('no reason that stands in the table')
    assert case['kind'] != 'wrong'
"""

HARNESS = """
import os, pathlib
PENDING = {('algm', 'drawing'): 'no drawings yet'}
def golden_root():
    return pathlib.Path(os.environ['MMSEG_TR_GOLDEN'])
"""


@pytest.fixture
def parity(tmp_path):
    """A checkout with one parity file; returns a function that runs pytest there over the given kinds of cases."""
    folder = tmp_path / 'checkout' / 'tests' / 'parity'
    folder.mkdir(parents=True)
    for file in (folder / '__init__.py', folder.parent / '__init__.py'):
        file.touch()
    shutil.copy(ROOT / 'tests' / 'conftest.py', folder.parent)
    shutil.copy(ROOT / 'pyproject.toml', folder.parents[1])
    (folder / 'harness.py').write_text(HARNESS)
    (folder / 'test_algm.py').write_text(PARITY)
    golden = tmp_path / 'golden'
    for family in ('algm', 'tome'):
        (golden / family).mkdir(parents=True)
        (golden / family / 'manifest.json').write_text(json.dumps(dict(cases=[dict(name='one', kind='unit')])))

    def run(cases: list[dict], *arguments: str):
        (golden / 'algm' / 'manifest.json').write_text(json.dumps(dict(cases=cases)))
        command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-p', 'xdist', *arguments]
        environment = {key: value for key, value in os.environ.items() if not key.startswith('PYTEST')}
        environment |= dict(MMSEG_TR_GOLDEN=str(golden), PYTEST_DISABLE_PLUGIN_AUTOLOAD='1')  # others take seconds
        return subprocess.run(command, cwd=folder.parents[1], env=environment, capture_output=True, text=True)

    return run


def case(name: str, kind: str = 'unit', **more) -> dict:
    return dict(name=name, kind=kind, **more)


COMPLETE = [case('a'), case('b'), case('c', 'drawing')]


@pytest.mark.parametrize('workers', ['0', '2'])
def test_a_complete_run_is_counted_and_passes(parity, workers):
    done = parity(COMPLETE, '-n', workers)
    assert 'golden cases: 2 ran, 1 pending (drawing: 1), 0 skipped, 0 missing' in done.stdout
    assert 'pending algm/drawing: no drawings yet' in done.stdout
    assert 'not implemented yet: tome' in done.stdout
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('workers', ['0', '2'])
def test_a_case_without_a_test_fails_the_run(parity, workers):
    done = parity([*COMPLETE, case('d', forgotten=True)], '-n', workers)
    assert '1 missing' in done.stdout
    assert 'missing in algm: d' in done.stdout
    assert done.returncode == 1


def test_a_case_skipped_for_another_reason_fails_the_run(parity):
    done = parity([*COMPLETE, case('d', 'unread')], '-n', '0')
    assert '2 ran, 1 pending (drawing: 1), 1 skipped, 1 missing' in done.stdout
    assert done.returncode == 1


def test_a_failed_case_ran(parity):
    done = parity([*COMPLETE, case('d', 'wrong')], '-n', '0')
    assert '3 ran, 1 pending' in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize('arguments', [['-k', 'a'], ['tests/parity/test_algm.py::test_algm']])
def test_a_part_of_a_file_need_not_be_complete(parity, arguments):
    done = parity([*COMPLETE, case('d', forgotten=True)], '-n', '0', *arguments)
    assert '0 missing' in done.stdout
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('path', ['tests', 'tests/parity', 'tests/parity/test_algm.py'])
def test_a_whole_file_must_be_complete(parity, path):
    assert parity([*COMPLETE, case('d', forgotten=True)], '-n', '0', path).returncode == 1
