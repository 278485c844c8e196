"""The page: published and own numbers side by side."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmseg_tr.apis.reproduce.rows import Row

EQUAL, CLOSE, WORK = 0.1, 0.5, 0.02  # points of a score; share of the multiply-adds


def verdict(row: Row, found: Mapping[str, Any], fraction: float) -> str:
    """One word or sentence about a row: reproduced, close, differs, measured, or what is missing.

    Of several published scores the one that is farthest from its own number counts.
    """
    if 'error' in found:
        return f'not done: {found["error"]}'
    differences = [own_score(found, name) - value for name, value in row.published.items() if _scored(found, name)]
    if not differences:
        return f'measured; no {row.metrics[0]} is published'
    if fraction < 1:
        return f'measured on {fraction:.0%} of the images: not comparable'
    work = row.gmacs is None or abs(found.get('gmacs', math.inf) / row.gmacs - 1) <= WORK
    difference = max(map(abs, differences))
    if difference <= EQUAL:
        return 'reproduced' if work else 'reproduced; GMACs differ'
    return 'close' if difference <= CLOSE else 'differs'


def own_score(found: Mapping[str, Any], metric: str) -> float | None:
    """A score with the row's method; of a plain row, of the plain network."""
    return found.get(metric.lower(), plain_score(found, metric))


def plain_score(found: Mapping[str, Any], metric: str) -> float | None:
    """A score of the plain network."""
    return found.get(f'plain_{metric.lower()}')


def _scored(found: Mapping[str, Any], metric: str) -> bool:
    return own_score(found, metric) is not None


def cells(row: Row, found: Mapping[str, Any], fraction: float) -> dict[str, str]:
    """A row of the table as text, by the heads of the columns."""
    line = {'Row': row.name, 'Dataset': row.dataset}
    for name in row.metrics:
        own, published = own_score(found, name), row.published.get(name)
        line |= {
            f'{name} published': _number(published),
            f'{name} here': _number(own),
            f'{name} difference': _number(None if None in (own, published) else own - published, '+.2f'),
            f'{name} plain': _number(plain_score(found, name)),
        }
    reduced = found.get('milliseconds')
    return line | {
        'GMACs published': _number(row.gmacs, '.4g'),
        'GMACs here': _number(found.get('gmacs'), '.4g'),
        'ms': _number(reduced, '.1f'),
        'ms plain': _number(found.get('plain_milliseconds'), '.1f'),
        'speed-up': _number(found['plain_milliseconds'] / reduced if reduced else None),
        'verdict': verdict(row, found, fraction),
    }


def tables(
    rows: Sequence[Row], found: Mapping[str, Mapping[str, Any]], fraction: float
) -> dict[str, list[dict[str, str]]]:
    """The lines of every task's table, by task."""
    lines: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        lines.setdefault(row.task, []).append(cells(row, found.get(row.name, {'error': 'not run yet'}), fraction))
    return lines


def _number(value: float | None, form: str = '.2f') -> str:
    return '-' if value is None else format(value, form)


def render(rows: Sequence[Row], found: Mapping[str, Mapping[str, Any]], about: str, fraction: float) -> str:
    """The page as HTML, which loads nothing."""
    body = ''.join(
        f'<h2>{html.escape(task)}</h2>{_table(lines)}' for task, lines in tables(rows, found, fraction).items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>Published and own numbers</title><style>body{font:15px system-ui,sans-serif;margin:2em}'
        'table{border-collapse:collapse}td,th{padding:4px 10px;border-bottom:1px solid #ccc;text-align:left}</style>'
        f'<h1>Published and own numbers</h1><p>{html.escape(about)}</p>{body}'
        f'<p>Scores in percent: mIoU at one scale, PCK with boxes from the annotations and flip test. Reproduced: '
        f'every published score within {EQUAL} points; close: within {CLOSE}. GMACs and milliseconds are per window '
        'or box, GMACs by the counting rule of the publication, plain measured in the same run.</p></html>\n'
    )


def _table(lines: Sequence[Mapping[str, str]]) -> str:
    head = ''.join(f'<th>{html.escape(name)}</th>' for name in lines[0])
    body = ''.join(
        '<tr>' + ''.join(f'<td>{html.escape(cell)}</td>' for cell in line.values()) + '</tr>' for line in lines
    )
    return f'<table><tr>{head}</tr>{body}</table>'
