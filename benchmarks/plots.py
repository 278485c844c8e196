"""Plots of a suite's results."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from mmseg_tr.files import write_atomically


def write_plots(content: dict[str, Any], stem: Path) -> list[Path]:
    """<stem>-ratios.png, -mit.png and -growth.png, as far as there are results for them."""
    written = []
    for name, draw in (('ratios', _ratios), ('mit', _mit), ('growth', _growth)):
        figure = draw(content)
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, dpi=110, format='png')
            written.append(stem.with_name(f'{stem.name}-{name}.png'))
            write_atomically(buffer.getvalue(), written[-1])
    return written


def _results(content: dict[str, Any], *kinds: str) -> dict[str, dict[str, Any]]:
    return {name: row['result'] for name, row in content['rows'].items() if row['kind'] in kinds and 'result' in row}


def _ratios(content: dict[str, Any]) -> Figure | None:
    """Time ratio over work ratio, a colour and mark a method, the ideal of each row as a hollow mark above it."""
    rows = _results(content, 'reduced', 'merged')
    if not rows:
        return None
    figure = Figure(figsize=(7.5, 5), layout='constrained')
    axis = figure.subplots()
    methods = list(dict.fromkeys(result['method'] for result in rows.values()))
    for number, method in enumerate(methods):
        own = [result for result in rows.values() if result['method'] == method]
        work, colour = [result['work_ratio'] for result in own], f'C{number % 10}'
        axis.plot(work, [result['ideal_ratio'] for result in own], 'o', mfc='none', mec=colour, alpha=0.5)
        mark = 'os^Dv<>PX*'[(number + number // 10) % 10]  # another one when the colours begin again
        axis.plot(work, [result['time_ratio'] for result in own], mark, color=colour, label=method)
    top = max(max(result['work_ratio'], result['ideal_ratio']) for result in rows.values())
    axis.plot([1, top], [1, top], color='0.7', zorder=0)
    axis.axhline(1, color='0.85', zorder=0)
    axis.set(xlabel='work ratio: multiply-adds plain / reduced', ylabel='time ratio (hollow: ideal)')
    axis.set_xscale('log')
    axis.set_yscale('log')
    for side in (axis.xaxis, axis.yaxis):  # ratios of a few units read better than powers of ten
        side.set_major_formatter(ScalarFormatter())
        side.set_minor_formatter(ScalarFormatter())
    axis.legend(frameon=False, fontsize=8)
    return figure


def _mit(content: dict[str, Any]) -> Figure | None:
    rows = _results(content, 'shipped')
    if not rows:
        return None
    figure = Figure(figsize=(7.5, 0.6 + 0.35 * len(rows)), layout='constrained')
    axis = figure.subplots()
    axis.barh(list(rows), [result['speed_up'] for result in rows.values()], color='C0')
    axis.axvline(1, color='0.3', linewidth=1)
    axis.invert_yaxis()
    axis.set_xlabel("times as fast as mmsegmentation's MixVisionTransformer")
    return figure


def _growth(content: dict[str, Any]) -> Figure | None:
    rows = _results(content, 'growth')
    if not rows:
        return None
    figure = Figure(figsize=(7.5, 5), layout='constrained')
    axis = figure.subplots()
    for name, result in rows.items():
        key = 'ms_plain' if result['setting'] is None else 'ms_model'
        points = result['points']
        label = f'{name.removeprefix("growth ")} ({result["exponents"][key]:.2f})'
        axis.loglog([point['side'] for point in points], [point[key] for point in points], 'o-', label=label)
    axis.set(xlabel='side of the image in pixels', ylabel='ms per image (exponent in the number of patches)')
    axis.legend(frameon=False, fontsize=8)
    return figure
