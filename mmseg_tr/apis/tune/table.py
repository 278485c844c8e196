"""Show a search as a table on the terminal and a plot of quality against speed-up."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from mmseg_tr.apis.tune import Tuned
from mmseg_tr.apis.tune.search import Point
from mmseg_tr.apis.tune.spaces import Settings
from mmseg_tr.files import write_atomically

PLOT = 'tune.png'


def table(tuned: Tuned) -> Table:
    """Return a table of every point, by ladder from mild to strong, then those of the full set."""
    out = Table('images', 'setting', tuned.measure, 'loss', 'GMACs', 'work', 'time', 'budget')
    for column in out.columns[2:7]:
        column.justify = 'right'
    ladders = list(dict.fromkeys(point.ladder for point in tuned.points))
    points = sorted(tuned.points, key=lambda point: (ladders.index(point.ladder), point.work))
    for where, found in (('subset', points), ('full set', tuned.confirmed)):
        for point in found:
            kept = 'kept' if tuned.budget.holds(point) else 'missed'
            out.add_row(
                where,
                describe(point.ladder, point.settings),
                f'{point.quality:.2f}',
                f'{point.loss:+.2f}',
                f'{point.gmacs:.3f}',
                f'{point.work:.2f}x',
                '-' if point.time is None else f'{point.time:.2f}x',
                'chosen' if point is tuned.chosen else kept,
                style='bold' if point is tuned.chosen else None,
            )
        out.add_section()
    return out


def describe(ladder: str, settings: Settings) -> str:
    """Describe a setting in one line: its ladder, and the settings that the ladder does not name."""
    if isinstance(settings, str):
        return ladder
    if isinstance(settings, Sequence):
        fractions = {value for stage in settings for key, value in stage.items() if key.endswith('_r')}
        return f'{ladder}: r={max(fractions):g}'
    told = ('type', 'layers', 'layer', 'form')
    return f'{ladder}: {", ".join(f"{key}={value}" for key, value in settings.items() if key not in told)}'


def plot(tuned: Tuned) -> Path:
    """Draw every point, quality against speed-up, a colour a ladder, the full set as stars; returns the PNG's path."""
    by = tuned.budget.by
    figure = Figure(figsize=(9, 5), layout='constrained')
    axis = figure.subplots()
    names = list(dict.fromkeys(point.ladder for point in tuned.points))
    for number, name in enumerate(names):
        found = sorted((p for p in tuned.points if p.ladder == name), key=lambda point: point.speed_up(by))
        draw(axis, found, by, marker='o', linestyle=':', linewidth=0.8, color=f'C{number}', label=name)
    axis.axhline(tuned.plain_quality[0], color='0.6', linewidth=1, label='plain, subset')
    if tuned.plain_quality[1] is not None:
        axis.axhline(tuned.plain_quality[1], color='0.3', linewidth=1, linestyle='--', label='plain, full set')
    if tuned.budget.loss is not None:
        for level, style in zip(tuned.plain_quality, ('-', '--')):
            if level is not None:
                axis.axhline(level - tuned.budget.loss, color='C3', linewidth=1, linestyle=style)
    else:
        axis.axvline(tuned.budget.speed_up, color='C3', linewidth=1)
    axis.plot([], [], color='C3', linewidth=1, label='budget')
    missed = [point for point in tuned.confirmed if point is not tuned.chosen]
    look = dict(linestyle='', markersize=13, markeredgecolor='k')
    draw(axis, missed, by, marker='*', color='white', label='full set, missed', **look)
    draw(axis, [tuned.chosen] if tuned.chosen else [], by, marker='*', color='gold', label='full set, chosen', **look)
    axis.set_xlabel(f'speed-up over the plain model, by {by}')
    axis.set_ylabel(f'{tuned.measure} (%)')
    axis.grid(alpha=0.3)
    axis.set_title(f'{tuned.method}: {tuned.budget}', fontsize=10)
    figure.legend(loc='outside right center', frameon=False, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=130)
    path = tuned.folder / PLOT
    write_atomically(file.getvalue(), path)
    return path


def draw(axis, points: Sequence[Point], by: str, **look) -> None:
    """Draw points on an axis; without points, also no legend entry."""
    if points:
        axis.plot([point.speed_up(by) for point in points], [point.quality for point in points], **look)


def verdict(tuned: Tuned) -> str:
    """Summarise in one sentence: the setting found, or by how much every setting missed."""
    if tuned.chosen is not None:
        point, plain = tuned.chosen, tuned.plain_quality[1]
        return (
            f'{describe(point.ladder, point.settings)} has {tuned.measure} {point.quality:.2f} on the full set '
            f'(plain {plain:.2f}) at {point.work:.2f} times less work and {point.time:.2f} times the speed.'
        )
    nearest = tuned.budget.closest(tuned.confirmed or tuned.points)
    name, missed = describe(nearest.ladder, nearest.settings), tuned.budget.missed_by(nearest)
    return f'no setting of {tuned.method} reaches {tuned.budget}: the nearest, {name}, misses it by {missed:.2f}.'
