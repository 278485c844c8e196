"""The demo's report: a page that needs nothing else, and a table for the terminal."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from string import Template

from rich.console import Console
from rich.table import Table

from mmseg_tr.engine.atomic import write_atomically

LABELS = {'plain': 'plain', 'algm': 'ALGM, not retrained'}
PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Segmenter, plain and with ALGM</title>
<style>
  :root { color-scheme: light dark }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem }
  table { border-collapse: collapse } .wide { overflow-x: auto }
  th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid #8886 }
  th:first-child, td:first-child { text-align: left }
  img { width: 100%; min-width: 44rem; height: auto; background: white }
</style>
<h1>Segmenter, plain and with ALGM</h1>
<p>$summary</p>
<div class="wide"><table>$table</table></div>
<h2>Scenes the model has not seen</h2>
<p>On the right, every group of patches that shares one token is painted in its mean colour: quiet regions need few
tokens.</p>
<div class="wide"><img alt="picture, label, predictions and merged tokens" src="data:image/png;base64,$figure"></div>
<h2>Tokens that leave each layer</h2>
<div class="wide"><table>$tokens</table></div>
<p>Trained for $updates updates on $device; this run took $seconds s. GMACs are multiply-adds of the network from image
to class scores, attention and matching included, the mean over $images scenes; images per second are of the same at
batch $batch, both models in turn.</p>
</html>
""")


def rows(report: dict) -> list[tuple[str, str, str, str]]:
    """Model, mIoU, GMACs and images per second, in words."""
    return [
        (
            label,
            f'{100 * report[name]["miou"]:.1f}',
            f'{report[name]["gmacs"]:.3f}',
            f'{report[name]["images_per_second"]:.1f}',
        )
        for name, label in LABELS.items()
    ]


def summary(report: dict) -> str:
    """What was reached, in one sentence."""
    plain, algm = report['plain'], report['algm']
    saved = 100 * (1 - algm['gmacs'] / plain['gmacs'])
    points = 100 * (algm['miou'] - plain['miou'])
    faster = algm['images_per_second'] / plain['images_per_second']
    return (
        f'The plain model reaches {100 * plain["miou"]:.1f} % mIoU; with ALGM switched on it does {saved:.0f} % fewer '
        f'multiply-adds at {points:+.2f} points, and {faster:.2f} times the images per second.'
    )


def write_report(report: dict, figure: Path, path: Path) -> Path:
    """Write report.html, pictures included; returns its path."""
    header = ('model', 'mIoU', 'GMACs', 'images/s')
    layers = range(1, len(report['plain']['tokens_per_layer']) + 1)
    tokens = [
        (label, *(f'{count:.0f}' for count in report[name]['tokens_per_layer'])) for name, label in LABELS.items()
    ]
    page = PAGE.substitute(
        summary=escape(summary(report)),
        table=_table(header, rows(report)),
        tokens=_table(('model', *(f'layer {layer}' for layer in layers)), tokens),
        figure=base64.b64encode(figure.read_bytes()).decode(),
        **{key: report[key] for key in ('updates', 'device', 'seconds', 'images', 'batch')},
    )
    write_atomically(page, str(path))
    return path


def _table(header: tuple, body: list[tuple]) -> str:
    lines = [''.join(f'<th>{escape(str(cell))}</th>' for cell in header)]
    lines += [''.join(f'<td>{escape(str(cell))}</td>' for cell in row) for row in body]
    return ''.join(f'<tr>{line}</tr>' for line in lines)


def print_summary(console: Console, report: dict, paths: dict[str, Path]) -> None:
    """Table, sentence and links, on the terminal."""
    table = Table('model', *('mIoU', 'GMACs', 'images/s'), title='Segmenter on photo mosaics')
    for row in rows(report):
        table.add_row(*row)
    console.print(table)
    console.print(summary(report), soft_wrap=True, highlight=False)
    for name, path in paths.items():
        console.print(f'{name}: [link={path.resolve().as_uri()}]{path}[/link]', soft_wrap=True, highlight=False)
