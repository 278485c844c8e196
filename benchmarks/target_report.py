"""What a suite's targets ask for, what was measured, and whether it is reached: as Markdown and on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

HEAD = ('row', 'what', 'target', 'measured', 'reached')
WHAT = {
    'time_ratio': 'time ratio, one image',
    'compiled_ratio': 'time ratio, one image, both compiled',
    'batch_efficiency': 'efficiency, in a batch',
    'efficiency': 'efficiency, one image',
    'of_ideal': 'of its ideal',
    'of_copies': 'throughput next to copies, at equal work',
    'idle_ratio': 'time ratio with no active layer',
    'inside': 'share of the time of infer inside the network',
    'of_own': "time ratio next to our own ViT's",
}


def cells(content: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """The cells of every target, in the order of HEAD; rows without a target are left out."""
    for name, row in content['rows'].items():
        for key, least in row.get('targets', {}).items():
            value, reached = row['result'].get(key), row['reached'][key]
            work = row['result'].get('work')
            label = name if work is None else f'{name} (at {work:.0%} of the work)'
            measured = 'not measured' if value is None else f'{value:.3f}'
            yield label, WHAT[key], f'{least:.2f}', measured, {True: 'yes', False: 'no', None: '-'}[reached]


def target_lines(content: dict[str, Any]) -> list[str]:
    """Return the section of the report; nothing without targets."""
    found = list(cells(content))
    if not found:
        return []
    met = sum(line[-1] == 'yes' for line in found)
    lines = [
        '## Targets',
        '',
        f'{met} of {len(found)} reached. Every number is a ratio within one run; more is better.',
        '',
    ]
    lines += ['| ' + ' | '.join(HEAD) + ' |', '|---' * len(HEAD) + '|']
    return [*lines, *('| ' + ' | '.join(line) + ' |' for line in found), '']


def target_table(content: dict[str, Any]) -> Table | None:
    """The same for the terminal; None without targets."""
    table = Table(*HEAD)
    for line in cells(content):
        table.add_row(*line)
    return table if table.row_count else None
