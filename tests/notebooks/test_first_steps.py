"""The notebook runs from top to bottom, on less training and fewer pictures, and shows what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmseg_tr.reduction import find_method, method_names

nbformat = pytest.importorskip('nbformat')
pytest.importorskip('IPython')
pytest.importorskip('mmseg')
pytest.importorskip('skimage')

from tests.notebooks.steps import run_steps  # noqa: E402

NOTEBOOK = Path(__file__).resolve().parents[2] / 'notebooks' / 'first_steps.ipynb'
LESS = {'UPDATES, BATCH = 300, 8': 'UPDATES, BATCH = 2, 2', 'TESTED = 32': 'TESTED = 4', 'repeats=3': 'repeats=1'}


@pytest.fixture(scope='module')
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope='module')
def executed(notebook, tmp_path_factory):
    import mmseg_tr.datasets.scenes  # noqa: F401  here, so that later tests have it too

    return run_steps(notebook, LESS, tmp_path_factory.mktemp('notebook'))


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def test_it_is_ten_steps_without_outputs(notebook):
    nbformat.validate(notebook)
    assert len(code(notebook)) == 10
    assert all(cell.execution_count is None and not cell.outputs for cell in code(notebook))


def test_every_step_runs_and_what_it_draws_is_there(executed):
    assert [step['images'] for step in executed] == [1, 0, 0, 1, 0, 1, 1, 3, 0, 1]


def test_the_table_at_its_end_holds_every_method(executed):
    lines = executed[-1]['text'].splitlines()
    rows = {line[:14].strip(): re.findall(r'[\d.]+', line[14:]) for line in lines[1:]}
    assert {find_method(name.split()[0].strip(',')).name for name in list(rows)[1:]} == set(method_names('ViT'))
    miou, agreement, gmacs, speed = map(float, rows.pop('plain'))
    assert (agreement, speed) == (100, 1)
    assert all(float(row[2]) < gmacs and 0 < float(row[1]) <= 100 for row in rows.values())
    assert executed[4]['text'].startswith('tokens that leave each layer, of 257: [')
