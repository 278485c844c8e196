"""The notebook runs from top to bottom, on less training and fewer pictures, and shows what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmseg_tr.reduction import find_method, method_names

nbformat = pytest.importorskip('nbformat')
pytest.importorskip('nbclient')
pytest.importorskip('ipykernel')
pytest.importorskip('mmseg')
pytest.importorskip('skimage')

NOTEBOOK = Path(__file__).resolve().parents[2] / 'notebooks' / 'first_steps.ipynb'
LESS = {'UPDATES, BATCH = 300, 8': 'UPDATES, BATCH = 2, 2', 'TESTED = 32': 'TESTED = 4', 'repeats=3': 'repeats=1'}


@pytest.fixture(scope='module')
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope='module')
def executed(notebook, tmp_path_factory):
    from nbclient import NotebookClient

    less = nbformat.from_dict(notebook)
    for old, new in LESS.items():
        (cell,) = [cell for cell in less.cells if cell.cell_type == 'code' and old in cell.source]
        cell.source = cell.source.replace(old, new)
    folder = str(tmp_path_factory.mktemp('notebook'))
    return NotebookClient(less, timeout=300, resources=dict(metadata=dict(path=folder))).execute()


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def text_of(cell):
    return ''.join(output.get('text', '') for output in cell.outputs)


def test_it_is_ten_steps_without_outputs(notebook):
    nbformat.validate(notebook)
    assert len(code(notebook)) == 10
    assert all(cell.execution_count is None and not cell.outputs for cell in code(notebook))


def test_every_step_runs_and_what_it_draws_is_there(executed):
    drawn = [sum('image/png' in output.get('data', {}) for output in cell.outputs) for cell in code(executed)]
    assert drawn == [1, 0, 0, 1, 0, 1, 1, 3, 0, 1]
    assert not [output for cell in code(executed) for output in cell.outputs if output.output_type == 'error']


def test_the_table_at_its_end_holds_every_method(executed):
    lines = text_of(code(executed)[-1]).splitlines()
    rows = {line[:14].strip(): re.findall(r'[\d.]+', line[14:]) for line in lines[1:]}
    assert {find_method(name.split()[0].strip(',')).name for name in list(rows)[1:]} == set(method_names('ViT'))
    miou, agreement, gmacs, speed = map(float, rows.pop('plain'))
    assert (agreement, speed) == (100, 1)
    assert all(float(row[2]) < gmacs and 0 < float(row[1]) <= 100 for row in rows.values())
    assert text_of(code(executed)[4]).startswith('tokens that leave each layer, of 257: [')
