"""Tables of the documentation made from data: published rows of the metafiles, our measurements in docs/benchmarks."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / 'docs' / 'methods'


def readme(folder: str) -> str:
    """The README of a folder of local_configs below its title, its links made to lead from docs/methods."""
    here = ROOT / 'local_configs' / folder

    def lead(match: re.Match) -> str:
        return f']({os.path.relpath(here / match[1], PAGES)})'

    return re.sub(r'\]\((?!https?:|#)([^)]+)\)', lead, (here / 'README.md').read_text().partition('\n')[2])


def results_tables() -> str:
    """One table per task and data set: every published row, and what of it was measured here."""
    groups: dict[tuple[str, str], list[dict]] = {}
    ours = measured()
    for file in sorted((ROOT / 'local_configs').glob('*/metafile.yml')):
        for entry in yaml.safe_load(file.read_text())['Models']:
            for result in entry.get('Results', []):
                row = dict(config=entry['Config'], method=entry['In Collection'], **entry['Metadata'])
                row |= dict(metrics=result['Metrics'], **ours.get(Path(entry['Config']).stem, {}))
                groups.setdefault((result['Task'], result['Dataset']), []).append(row)
    parts = []
    for (task, dataset), rows in sorted(groups.items()):
        parts += [f'## {dataset}: {task.lower()}', *table(rows), '']
    return '\n'.join(parts)


MEASURED = {'work_ratio': 'Work ratio here', 'time_ratio': 'Time ratio here', 'efficiency': 'Efficiency here'}


def measured() -> dict[str, dict[str, str]]:
    """What docs/benchmarks holds of each config, one image at a time: its ratios to the plain network, by column."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted((ROOT / 'docs' / 'benchmarks').glob('*.json')):
        for name, row in json.loads(file.read_text())['rows'].items():
            if row['kind'] == 'reduced' and name.endswith(' b1'):
                numbers = {title: f'{row["result"][key]:.2f}' for key, title in MEASURED.items()}
                found[name.removesuffix(' b1')] = numbers
    return found


HIDDEN = ('config', 'method', 'metrics', 'Training Data', 'Batch size', 'Crop size')


def table(rows: list[dict]) -> Iterable[str]:
    """Lines of a Markdown table, a column for whatever any row has."""
    metrics = list(dict.fromkeys(key for row in rows for key in row['metrics']))
    others = list(dict.fromkeys(key for row in rows for key in row if key not in HIDDEN))
    yield '| ' + ' | '.join(['Config', 'Method', *metrics, *others]) + ' |'
    yield '|' + '---|' * (2 + len(metrics) + len(others))
    for row in rows:
        values = [row['metrics'].get(key, '') for key in metrics] + [row.get(key, '') for key in others]
        cells = [f'[{Path(row["config"]).stem}](../{row["config"]})', row['method'], *map(str, values)]
        yield '| ' + ' | '.join(cells) + ' |'
