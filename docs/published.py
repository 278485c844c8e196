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


BEST = {'miou': 'quality', 'agreement': 'agreement', 'fps': 'FPS', 'throughput': 'throughput'}


def equal_work() -> str:
    """What which_wins.md shows: sentences and a table, from what `make which-wins` puts beside it."""
    found = json.loads((ROOT / 'docs' / 'which_wins.json').read_text())
    about, (plain, *rows) = found['about'], found['rows']
    compiled = _compiled_ratios()
    groups = {f'{share:.0%}': [] for share in about['work']}
    for row in rows:
        if row['name'] not in about.get('rivals', ()):  # which have a page of their own, choose.md
            groups[row['name'].rpartition(' ')[2]].append(row)
    timed = ['FPS', 'Throughput', *(['Compiled'] if compiled else [])]
    head = ['Work', 'Method', about['quality'], 'Agreement', 'GMACs', *timed, 'Settings']
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for share, group in groups.items():
        lines += [
            _cells(share, row, plain, [compiled.get(row['name'], '')] if compiled else [])
            for row in sorted(group, key=lambda row: -row['miou'])
        ]
    left_out = '; '.join(f'{name} ({reason})' for name, reason in about['left_out'].items())
    wins = [f'- {_winners(share, group)}' for share, group in groups.items() if group]
    return '\n'.join([_measured_with(about, plain), '', *wins, '', *lines, '', f'Left out: {left_out or "nothing"}.'])


def _measured_with(about: dict, plain: dict) -> str:
    """The circumstances of a comparison."""
    return (
        f'Measured with `{Path(about["checkpoint"]).name}` on {about["images_tested"]} scenes, {about["images_timed"]} '
        f'of them timed, in batches of {about["batch_size"]}: {about["machine"]}, threads: {about["threads"]}, torch '
        f'{about["torch"]}. The plain network: {about["quality"]} {plain["miou"]:.1f}.'
    )


def rivals() -> str:
    """What choose.md shows: a comparison with --rivals, from the compare.json beside it; nothing without one."""
    file = ROOT / 'docs' / 'rivals.json'
    if not file.is_file():
        return ''
    found = json.loads(file.read_text())
    about, (plain, *rows) = found['about'], found['rows']
    head = ['Row', about['quality'], 'Agreement', 'GMACs', 'FPS', 'Throughput']
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for row in sorted(rows, key=lambda row: -row['throughput']):
        name = f'**{row["name"]}**' if row['name'] in about['rivals'] else row['name']
        speeds = [f'{row[key] / plain[key]:.2f}x' for key in ('fps', 'throughput')]
        work = f'{row["gmacs"]:.3f} ({row["gmacs"] / plain["gmacs"] - 1:+.0%})'
        lines.append('| ' + ' | '.join([name, f'{row["miou"]:.1f}', f'{row["agreement"]:.1f} %', work, *speeds]) + ' |')
    return '\n'.join(['### On the demo', '', f'{_measured_with(about, plain)} Rivals are bold.', '', *lines])


def _compiled_ratios() -> dict[str, str]:
    """Throughput under torch.compile by name, as a ratio to the plain network's, where it was timed."""
    file = ROOT / 'docs' / 'which_wins_compiled.json'
    plain, *rows = json.loads(file.read_text())['rows'] if file.is_file() else [{}]
    return {row['name']: f'{row["throughput_compiled"] / plain["throughput_compiled"]:.2f}x' for row in rows}


def _cells(share: str, row: dict, plain: dict, compiled: list[str]) -> str:
    """A line of the table; speeds as ratios to the plain network's. compiled: the cell for it, if it was timed."""
    speeds = [*(f'{row[key] / plain[key]:.2f}x' for key in ('fps', 'throughput')), *compiled]
    settings = ', '.join(f'`{key}={value!r}`' for key, value in row['settings'].items() if key != 'type')
    numbers = [f'{row["miou"]:.1f}', f'{row["agreement"]:.1f} %', f'{row["gmacs"]:.3f}', *speeds]
    return '| ' + ' | '.join([share, _label(row), *numbers, settings]) + ' |'


def _label(row: dict) -> str:
    """The method, with its form where it has several."""
    form = row['settings'].get('form')
    return row['method'] if form is None else f'{row["method"]} ({form})'


def _winners(share: str, rows: list[dict]) -> str:
    """Which method is best in each respect at one share of the work."""
    best = {what: max(rows, key=lambda row: row[key]) for key, what in BEST.items()}
    return (
        f'At {share} of the work, best by ' + ', by '.join(f'{what}: {_label(row)}' for what, row in best.items()) + '.'
    )
