"""The notebook on hosts runs from top to bottom and draws what it says."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

nbformat = pytest.importorskip('nbformat')
pytest.importorskip('IPython')
pytest.importorskip('transformers')
pytest.importorskip('skimage')

from tests.notebooks.steps import run_steps  # noqa: E402

NOTEBOOK = Path(__file__).resolve().parents[2] / 'notebooks' / 'any_vision_transformer.ipynb'


def test_every_step_runs_and_draws(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert all(cell.execution_count is None and not cell.outputs for cell in cells)
    importlib.import_module('transformers.models.dinov2.modeling_dinov2')  # here, so that later tests have it too
    steps = run_steps(notebook, {'SIZE = 392': 'SIZE = 112', 'repeats=REPEATS': 'repeats=1, instead=0'}, tmp_path)
    assert [step['images'] for step in steps] == [0, 0, 1, 0, 1, 1, 0]
    assert 'tokens per layer' in steps[-1]['text']
