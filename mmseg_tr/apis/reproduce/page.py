"""The page: published and own numbers side by side."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from mmseg_tr.apis.reproduce.rows import Row

EQUAL, CLOSE, WORK = 0.1, 0.5, 0.02  # points of mIoU; share of the multiply-adds
HEAD = ('Row', 'Dataset', 'mIoU published', 'mIoU here', 'difference', 'mIoU plain', 'GMACs published', 'GMACs here',
        'ms', 'ms plain', 'speed-up', 'verdict')  # fmt: skip


def verdict(row: Row, found: Mapping[str, Any], fraction: float) -> str:
    """One word or sentence about a row: reproduced, close, differs, measured, or what is missing."""
    if 'error' in found:
        return f'not done: {found["error"]}'
    miou = own_miou(found)
    if row.miou is None or miou is None:
        return 'measured; no mIoU is published'
    if fraction < 1:
        return f'measured on {fraction:.0%} of the images: not comparable'
    work = row.gmacs is None or abs(found['gmacs'] / row.gmacs - 1) <= WORK
    difference = abs(miou - row.miou)
    if difference <= EQUAL:
        return 'reproduced' if work else 'reproduced; GMACs differ'
    return 'close' if difference <= CLOSE else 'differs'


def own_miou(found: Mapping[str, Any]) -> float | None:
    """mIoU with the row's method; of a plain row, of the plain network."""
    return found.get('miou', found.get('plain_miou'))


def cells(row: Row, found: Mapping[str, Any], fraction: float) -> list[str]:
    """A row of the table as text."""
    miou, reduced = own_miou(found), found.get('milliseconds')
    difference = None if miou is None or row.miou is None else miou - row.miou
    speed = None if not reduced else found['plain_milliseconds'] / reduced
    return [
        row.name, row.dataset, _number(row.miou), _number(miou), _number(difference, '+.2f'),
        _number(found.get('plain_miou')), _number(row.gmacs, '.4g'), _number(found.get('gmacs'), '.4g'),
        _number(reduced, '.1f'), _number(found.get('plain_milliseconds'), '.1f'), _number(speed, '.2f'),
        verdict(row, found, fraction),
    ]  # fmt: skip


def _number(value: float | None, form: str = '.2f') -> str:
    return '-' if value is None else format(value, form)


def render(rows: Sequence[Row], found: Mapping[str, Mapping[str, Any]], about: str, fraction: float) -> str:
    """The page as HTML, which loads nothing."""
    lines = [cells(row, found.get(row.name, {'error': 'not run yet'}), fraction) for row in rows]
    head = ''.join(f'<th>{html.escape(name)}</th>' for name in HEAD)
    body = ''.join('<tr>' + ''.join(f'<td>{html.escape(cell)}</td>' for cell in line) + '</tr>' for line in lines)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>Published and own numbers</title><style>body{font:15px system-ui,sans-serif;margin:2em}'
        'table{border-collapse:collapse}td,th{padding:4px 10px;border-bottom:1px solid #ccc;text-align:left}</style>'
        f'<h1>Published and own numbers</h1><p>{html.escape(about)}</p><table><tr>{head}</tr>{body}</table>'
        f'<p>mIoU in percent, one scale. Reproduced: within {EQUAL} points; close: within {CLOSE}. GMACs per window by '
        'the counting rule of the publication; milliseconds per window, plain measured in the same run.</p></html>\n'
    )
