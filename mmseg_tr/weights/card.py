"""The model card: what a model is, the published results of its row, and the results of a comparison."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmseg_tr.errors import ConfigError
from mmseg_tr.weights.metafiles import published_entries

USE = """```python
from mmseg_tr import from_pretrained

model = from_pretrained('{name}')  # a folder, or a name on the hub
logits = model(model.transform(picture)[None])
```"""
USE_OPENMMLAB = """```python
from mmseg_tr import Predictor

predictor = Predictor.from_pretrained('{name}')
label = predictor.predict('street.jpg')
```"""


def published_row(name: str) -> dict[str, Any]:
    """The entry of a row, 'algm_vit-s16_ade20k-512x512', in the metafiles. Raises ConfigError for another name."""
    entries = published_entries()
    if name not in entries:
        raise ConfigError(
            f'row must be a name that `mmseg-tr configs` lists, such as algm_vit-s16_ade20k-512x512, got {name!r}.'
        )
    return entries[name]


def read_comparison(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a compare.json. Raises ConfigError for another file."""
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
        rows, about = content['rows'], content['about']
        if not rows or not all(isinstance(row, dict) and 'name' in row for row in rows) or not isinstance(about, dict):
            raise ValueError('no rows')
        for row in rows:
            _cells(row)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ConfigError(
            f'comparison must be a compare.json of `mmseg-tr compare`, got {str(path)!r}.', parameters=['comparison']
        ) from error
    return dict(rows=rows, about=about)


def model_card(
    name: str,
    settings: Mapping[str, Any],
    row_name: str | None = None,
    comparison_file: str | os.PathLike[str] | None = None,
) -> str:
    """The text of README.md. settings: of the folder's mmseg_tr.json; row_name, comparison_file: see above.

    Raises ConfigError for a row or a file that is not one.
    """
    row = None if row_name is None else published_row(row_name)
    comparison = None if comparison_file is None else read_comparison(comparison_file)
    reduction = settings.get('reduction')
    head: dict[str, Any] = dict(library_name='mmseg_tr', pipeline_tag='image-segmentation', tags=['token-reduction'])
    if row is not None:
        head['datasets'] = sorted({result['Dataset'] for result in row.get('Results', ())})
    lines = ['---', yaml.safe_dump(head, sort_keys=False).rstrip(), '---', f'# {name}', '']
    lines += [f'{settings.get("name") or "A model"} of [mmseg_tr](https://pypi.org/project/mmseg_tr), token reduction: '
              f'{_setting(reduction)}.', '']  # fmt: skip
    lines += [(USE if settings.get('kind') == 'network' else USE_OPENMMLAB).format(name=name), '']
    if row is not None:
        lines += ['## Published', '', '| Row | Dataset | ' + ' | '.join(_metrics(row)) + ' |']
        lines += ['|---|---|' + '---|' * len(_metrics(row))]
        dataset = row['Results'][0]['Dataset'] if row.get('Results') else ''
        lines += [f'| {row["Name"]} | {dataset} | ' + ' | '.join(map(str, _metrics(row).values())) + ' |', '']
    if comparison is not None:
        lines += ['## Measured', '', *_measured(comparison), '']
    return '\n'.join(lines)


def _setting(reduction: Mapping[str, Any] | None) -> str:
    if not reduction:
        return 'none'
    values = ', '.join(f'{key}={value!r}' for key, value in reduction.items() if key != 'type' and value is not None)
    return f'`{reduction["type"]}({values})`'


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of the first result, and multiply-adds."""
    metrics = dict(row['Results'][0]['Metrics']) if row.get('Results') else {}
    return metrics | {key: value for key, value in row.get('Metadata', {}).items() if key == 'GMACs'}


def _measured(comparison: Mapping[str, Any]) -> list[str]:
    about, rows = comparison['about'], comparison['rows']
    quality = str(about.get('quality', 'quality'))
    lines = [f'| Model | {quality} | Agreement | GMACs | FPS |', '|---|---|---|---|---|']
    for row in rows:
        lines.append(f'| {row["name"]} | ' + ' | '.join(_cells(row)) + ' |')
    where = ', '.join(str(about[key]) for key in ('dataset', 'machine', 'precision') if about.get(key))
    return [*lines, '', f'{about.get("images_tested", "?")} images; {where}; torch {about.get("torch", "?")}.']


def _cells(row: Mapping[str, Any]) -> list[str]:
    score = row.get('miou') if row.get('pck') is None else row.get('pck')
    values = (score, row.get('agreement'), row.get('gmacs'), row.get('fps'))
    return [f'{value:.2f}' if isinstance(value, int | float) else '-' for value in values]
