"""Write a comparison as a terminal table, CSV, JSON, and plots of quality against speed and work."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from mmseg_tr.apis.compare import ComparedModel, Comparison
from mmseg_tr.errors import ConfigError
from mmseg_tr.files import write_together

FILES = ('compare.csv', 'compare.json', 'compare.png')


def check_folder(folder: Path, force: bool) -> None:
    """Raise ConfigError when results of an earlier comparison would be overwritten."""
    there = [name for name in FILES if (folder / name).exists()]
    if there and not force:
        raise ConfigError(
            f'{folder} holds {there[0]}: choose another out folder, or set force to replace its files.',
            parameters=['out', 'force'],
        )


def table(comparison: Comparison) -> Table:
    """Return a table of the results, the plain model first; speeds with their ratio to it."""
    plain = comparison.rows[0]
    out = Table(
        'model',
        comparison.about['quality'],
        'agreement',
        'GMACs',
        'FPS',
        f'throughput, batch {comparison.about["batch_size"]}',
    )
    windows, (height, width) = comparison.about['windows_per_image'], comparison.about['shape']
    if windows != 1:
        out.caption = f'per picture, of {windows:.3g} windows of {height}x{width} on average; tokens per window'
    for name, reason in comparison.about.get('left_out', {}).items():
        out.caption = '\n'.join(filter(None, [out.caption, f'left out: {name}, {reason}']))
    if plain.throughput_compiled is not None:
        out.add_column('compiled: FPS')
        out.add_column('throughput')
    out.add_column('peak memory')
    out.add_column('tokens, first and last layer' if plain.tokens_per_stage is None else 'queries to keys, per stage')
    out.columns[0].no_wrap = True
    for column in out.columns[1:]:
        column.justify = 'right'
    for row in comparison.rows:
        out.add_row(
            row.name,
            f'{row.quality:.2f}',
            f'{row.agreement:.1f} %',
            f'{row.gmacs:.3f} ({100 * (row.gmacs / plain.gmacs - 1):+.0f} %)',
            f'{row.fps:.1f} ({row.fps / plain.fps:.2f}x)',
            f'{row.throughput:.1f} ({row.throughput / plain.throughput:.2f}x)',
            *_compiled(row, plain),
            '-' if row.peak_memory is None else f'{row.peak_memory / 2**20:.0f} MiB',
            _tokens(row),
        )
    return out


def _compiled(row: ComparedModel, plain: ComparedModel) -> list[str]:
    """The cells of the speeds under torch.compile, where they were timed, with their ratios to the plain model's."""
    pairs = [(getattr(row, key), getattr(plain, key)) for key in ('fps_compiled', 'throughput_compiled')]
    return [f'{own:.1f} ({own / other:.2f}x)' for own, other in pairs if own is not None and other is not None]


def _tokens(row: ComparedModel) -> str:
    if row.tokens_per_stage is not None:
        return ', '.join(f'{stage["queries"]}:{stage["keys"]}' for stage in row.tokens_per_stage)
    return '-' if row.tokens_per_layer is None else f'{row.tokens_per_layer[0]:.0f} {row.tokens_per_layer[-1]:.0f}'


def write_files(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Write FILES into `folder`, all or none; returns their paths by kind. Raises WriteError."""
    paths = {name.partition('.')[2]: folder / name for name in FILES}
    content = dict(about=dict(comparison.about), rows=[asdict(row) for row in comparison.rows])
    text = json.dumps(content, indent=2, default=list) + '\n'
    write_together({paths['csv']: _csv(comparison.rows), paths['json']: text, paths['png']: plot(comparison)})
    return paths


def _csv(rows: Sequence[ComparedModel]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(asdict(rows[0])))
    writer.writeheader()
    for row in rows:
        lists = {key: json.dumps(value) for key, value in asdict(row).items() if isinstance(value, dict | list)}
        writer.writerow(asdict(row) | lists)
    return text.getvalue()


def plot(comparison: Comparison) -> bytes:
    """Plot quality over throughput and over GMACs: a marker per method, a colour per model; plain is a line."""
    figure = Figure(figsize=(11, 4.8), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    panels = (
        ('throughput', f'images per second, batch {comparison.about["batch_size"]}'),
        ('gmacs', 'GMACs per image'),
    )
    methods = list(dict.fromkeys(row.method for row in comparison.rows))
    for axis, (key, label) in zip(axes, panels):
        axis.axhline(comparison.rows[0].quality, color='0.8', zorder=0)
        for row in comparison.rows:
            marker = 'os^Dv<>PX*'[methods.index(row.method) % 10]
            x = getattr(row, key)
            axis.plot(x, row.quality, marker, label=row.name, markersize=9, markeredgecolor='white', linestyle='')
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f'{comparison.about["quality"]} (%)')
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside right center', frameon=False)
    about = comparison.about
    figure.suptitle(f'{about["dataset"]}, {about["images_tested"]} images; {about["machine"]}', fontsize=10)
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=130)
    return file.getvalue()
