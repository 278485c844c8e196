"""The notebook on hosts runs from top to bottom and draws what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip('nbformat')
pytest.importorskip('nbclient')
pytest.importorskip('ipykernel')
pytest.importorskip('transformers')
pytest.importorskip('skimage')

NOTEBOOK = Path(__file__).resolve().parents[2] / 'notebooks' / 'any_vision_transformer.ipynb'


def test_every_step_runs_and_draws(tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert all(cell.execution_count is None and not cell.outputs for cell in cells)
    for old, new in {'SIZE = 392': 'SIZE = 112', 'repeats=REPEATS': 'repeats=1, instead=0'}.items():
        (cell,) = [cell for cell in cells if old in cell.source]
        cell.source = cell.source.replace(old, new)
    NotebookClient(notebook, timeout=300, resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    drawn = [sum('image/png' in output.get('data', {}) for output in cell.outputs) for cell in cells]
    assert drawn == [0, 0, 1, 0, 1, 1, 0]
    assert 'tokens per layer' in ''.join(output.get('text', '') for output in cells[-1].outputs)
