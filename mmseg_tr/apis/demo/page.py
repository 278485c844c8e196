"""The demo's report: what the interactive page shows, and a table for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmseg_tr.apis.report import Report, Shown

LABELS = {'plain': 'plain', 'algm': 'ALGM, not retrained'}


def rows(report: dict) -> list[tuple[str, str, str, str]]:
    """Describe each model: mIoU, GMACs and images per second."""
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
    """Summarise the result in one sentence."""
    plain, algm = report['plain'], report['algm']
    saved = 100 * (1 - algm['gmacs'] / plain['gmacs'])
    points = 100 * (algm['miou'] - plain['miou'])
    faster = algm['images_per_second'] / plain['images_per_second']
    return (
        f'The plain model reaches {100 * plain["miou"]:.1f} % mIoU; with ALGM switched on it does {saved:.0f} % fewer '
        f'multiply-adds at {points:+.2f} points, and {faster:.2f} times the images per second.'
    )


def page_of(report: dict, methods: dict[str, dict], pictures: list[Shown], classes, palette) -> Report:
    """Return the report page's content: pictures under both models, and their scores."""
    compared = [
        dict(
            name=name,
            method=label,
            settings=methods[name],
            miou=100 * report[name]['miou'],
            gmacs=report[name]['gmacs'],
            throughput=report[name]['images_per_second'],
            tokens_per_layer=report[name]['tokens_per_layer'],
        )
        for name, label in LABELS.items()
    ]
    facts = (
        f'Trained for {report["updates"]} updates on {report["device"]}; this run took {report["seconds"]} s.',
        'GMACs are multiply-adds of the network from image to class scores, attention and matching included, the mean '
        f'over {report["images"]} scenes; images per second are of the same at batch {report["batch"]}, both models in '
        'turn. The pictures are scenes that the model was not trained on.',
    )
    return Report(
        title='Segmenter, plain and with ALGM',
        summary=summary(report),
        methods=methods,
        pictures=pictures,
        classes=classes,
        palette=palette,
        rows=compared,
        about=dict(batch_size=report['batch']),
        facts=facts,
    )


def print_summary(console: Console, report: dict, paths: dict[str, Path]) -> None:
    """Print table, summary and links."""
    table = Table('model', *('mIoU', 'GMACs', 'images/s'), title='Segmenter on photo mosaics')
    for row in rows(report):
        table.add_row(*row)
    console.print(table)
    console.print(summary(report), soft_wrap=True, highlight=False)
    for name, path in paths.items():
        console.print(f'{name}: [link={path.resolve().as_uri()}]{path}[/link]', soft_wrap=True, highlight=False)
