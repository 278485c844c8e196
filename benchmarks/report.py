"""A suite's results as Markdown with plots, and as a table on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.plots import write_plots
from benchmarks.target_report import target_lines
from mmseg_tr.files import write_atomically

Columns = Sequence[tuple[str, Callable[[dict[str, Any]], str]]]


def _number(key: str, digits: int = 2, unit: str = '') -> Callable[[dict[str, Any]], str]:
    def text(result: dict[str, Any]) -> str:
        value = result.get(key)
        return '' if value is None else f'{value:.{digits}f}{unit}'

    return text


def _share(part: str) -> Callable[[dict[str, Any]], str]:
    return lambda result: f'{result["shares"].get(part, 0):.1%}'


def _mib(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda result: f'{result[key] / 2**20:.0f}'


def _shape(result: dict[str, Any]) -> str:
    return 'x'.join(map(str, result['shape']))


RATIOS: Columns = (
    ('GMACs, plain', _number('gmacs_plain', 1)),
    ('GMACs', _number('gmacs', 1)),
    ('ms, plain', _number('ms_plain', 0)),
    ('ms', _number('ms', 0)),
    ('work ratio', _number('work_ratio')),
    ('time ratio', _number('time_ratio')),
    ('ideal ratio', _number('ideal_ratio')),
    ('efficiency', _number('efficiency')),
    ('of ideal', _number('of_ideal')),
    ('merging', _share('merging')),
    ('restoring', _share('restoring')),
    ('peak MiB, plain', _mib('peak_plain')),
    ('peak MiB', _mib('peak')),
)
SHIPPED: Columns = (
    ('shape', _shape),
    ('ms, mmseg', _number('ms_shipped', 0)),
    ('ms', _number('ms', 0)),
    ('speed-up', _number('speed_up', 2, 'x')),
    ('fused attention', _number('fused_attention', 2, 'x')),
    ('channels-last Mix-FFN', _number('channels_last_ffn', 2, 'x')),
    ('largest difference', lambda result: f'{result["difference"]:.0e}'),
)
TABLES: dict[str, tuple[str, str, Columns]] = {
    'reduced': (
        'Methods on plain vision transformers',
        'Weights are random. This does not affect timing, but it does change what adaptive methods merge: '
        'settings marked with * were chosen to reach the published work ratio. The policy network of CTS has '
        'its own share, and counts as work. Labels: time ratio of the whole path to the class of every pixel.',
        (
            ('images', lambda result: f'{result["images"]}'),
            *RATIOS,
            ('policy', _share('policy')),
            ('efficiency without policy', _number('efficiency_without_policy')),
            ('labels', _number('labels_ratio')),
            ('setting', lambda result: f'{setting_text(result["setting"])}{"*" if result["tuned"] else ""}'),
        ),
    ),
    'improvements': (
        'The plain vision transformer',
        'Each improvement on its own: time without it over time with it. Labels directly from patch scores '
        'save more with larger regions: measured for the scores of random weights, which vary between patches, and '
        'for smooth scores.',
        (
            ('ms to scores', _number('ms', 0)),
            ('ms to labels', _number('ms_to_labels', 0)),
            ('fused attention', _number('fused_attention', 2, 'x')),
            ('ms labels by enlarging', _number('ms_labels_by_enlarging', 1)),
            ('ms labels', _number('ms_labels', 1)),
            ('labels', _number('labels', 1, 'x')),
            ('labels of regions', _number('labels_of_regions', 1, 'x')),
        ),
    ),
    'shipped': (
        "MiT against mmsegmentation's MixVisionTransformer",
        'Equal weights and image, default memory management. Fused attention and channels-last Mix-FFN: time '
        'without each over time with both.',
        SHIPPED,
    ),
    'shipped_kept': (
        'MiT against mmsegmentation, memory kept',
        "The same with both in a process that keeps freed memory, like this package's tools.",
        SHIPPED,
    ),
    'fusion': (
        'SegFormer with its head',
        'To class scores. The head fuses levels of four sizes by a 1x1 convolution: after upsampling, as published, '
        'or before it, which is equal up to rounding.',
        (
            ('shape', _shape),
            ('ms, backbone', _number('ms_backbone', 0)),
            ('ms, fused after', _number('ms_late', 0)),
            ('ms, fused before', _number('ms', 0)),
            ('speed-up', _number('speed_up', 2, 'x')),
        ),
    ),
    'merged': ('SegFormer++ on MiT', 'The backbone alone.', RATIOS),
    'training': (
        'Training',
        'Forward and backward of one batch; published for SegFormer++ on MiT-B5: 1.40 to 1.63x, 48.3 to 30.5 GB.',
        (
            ('batch', lambda result: f'{result["batch"]}'),
            ('ms, plain', _number('ms_plain', 0)),
            ('ms', _number('ms', 0)),
            ('time ratio', _number('time_ratio')),
            ('peak MiB, plain', _mib('peak_plain')),
            ('peak MiB', _mib('peak')),
            ('memory ratio', _number('memory_ratio')),
        ),
    ),
    'copies': (
        'A batch of different images',
        'Throughput relative to a batch of copies of the image whose work is nearest to the mean, as measured and at '
        'equal work.',
        (
            ('batch', lambda result: f'{result["batch"]}'),
            ('ms, copies', _number('ms_copies', 0)),
            ('ms, different', _number('ms_different', 0)),
            ('work / that of copies', _number('work_of_copies')),
            ('throughput', _number('throughput')),
            ('at equal work', _number('of_copies')),
        ),
    ),
    'fixed': (
        'Fixed budgets',
        'Settings of fixed shapes within a share of the plain multiply-adds, everything counted, or at the smallest '
        'share that the method reaches.',
        (
            ('budget', _number('budget')),
            ('work', _number('work')),
            ('operators, plain', _number('operators_plain', 0)),
            ('further operators', _number('operators', 0)),
            ('time ratio', _number('time_ratio')),
            ('efficiency', _number('efficiency')),
            ('time ratio, both compiled', _number('compiled_ratio')),
            ('batch', lambda result: f'{result["batch"]}'),
            ('time ratio, batch', _number('batch_ratio')),
            ('efficiency, batch', _number('batch_efficiency')),
            ('setting', lambda result: setting_text(result['setting'])),
        ),
    ),
    'joint': (
        'A batch under a joint rule',
        'All images of a batch keep the same number of tokens.',
        (('batch', lambda result: f'{result["batch"]}'), ('threads', lambda result: f'{result["threads"]}'), *RATIOS),
    ),
    'applied': (
        'Methods in a network of timm',
        'The network against itself with mmseg_tr.apply() and no active layer, and its time ratio with a method '
        'against that of our own ViT around the same weights.',
        (
            ('ms, plain', _number('ms_host', 0)),
            ('ms, no active layer', _number('ms_idle', 0)),
            ('time ratio', _number('host_ratio')),
            ('time ratio, our ViT', _number('own_ratio')),
        ),
    ),
    'path': (
        'The whole path of infer',
        'Photographs read from JPEG files, predicted, blended and written: the share of the time inside the network. '
        'Classes: how many of them can win anywhere.',
        (
            ('classes', lambda result: f'{result.get("present", "all")}'),
            ('images', lambda result: f'{result["images"]}'),
            ('ms', _number('ms', 0)),
            ('ms, network', _number('ms_inside', 0)),
            ('inside', _number('inside')),
        ),
    ),
    'onnx': (
        'Under ONNX Runtime',
        'Networks exported to class scores, one image at a time, compared with torch; ALGM with fixed counts.',
        (
            ('ms torch, plain', _number('ms_plain', 0)),
            ('ms torch', _number('ms_model', 0)),
            ('time ratio, torch', _number('time_ratio')),
            ('ms ONNX, plain', _number('ms_onnx_plain', 0)),
            ('ms ONNX', _number('ms_onnx', 0)),
            ('time ratio, ONNX', _number('onnx_ratio')),
            ('largest difference', lambda result: f'{result["difference"]:.0e}'),
            ('setting', lambda result: setting_text(result['setting'])),
        ),
    ),
}


def setting_text(settings: dict[str, Any]) -> str:
    """'threshold=0.9, layers=[1, 5]'."""
    return ', '.join(f'{key}={value}' for key, value in settings.items() if key != 'type')


def write_report(content: dict[str, Any], path: Path) -> Path:
    """Write the report and its plots next to the numbers at `path`; returns its path."""
    plots = write_plots(content, path.with_suffix(''))
    report = path.with_suffix('.md')
    write_atomically(markdown(content, [plot.name for plot in plots]), report)
    return report


def markdown(content: dict[str, Any], plots: Sequence[str] = ()) -> str:
    """Return the report. plots: names of picture files next to it."""
    about = content['about']
    lines = [f'# {about["machine"]}, {about["date"]}', '']
    lines += [
        f'Suite `{about["suite"]}`: {about["threads"]} threads, {about["precision"]}, torch {about["torch"]}, '
        f'{content["seconds"] / 60:.0f} minutes in all. [How to read this](README.md).',
        '',
    ]
    lines += [f'![{name}]({name})\n' for name in plots]
    lines += target_lines(content)
    for kind, (title, note, columns) in TABLES.items():
        rows = found(content, kind)
        if rows:
            lines += [f'## {title}', '', note, '', *_table(rows, columns), '']
    lines += _growth(content) + _failed(content) + _does_not_pay(content)
    return '\n'.join(lines).rstrip() + '\n'


def found(content: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Return the results of one kind by row."""
    rows = content['rows'].items()
    return {name: row['result'] for name, row in rows if row['kind'] == kind and 'result' in row}


def _table(rows: dict[str, dict[str, Any]], columns: Columns) -> list[str]:
    shown = [column for column in columns if any(column[1](result) for result in rows.values())]
    lines = ['| row | ' + ' | '.join(name for name, _ in shown) + ' |', '|---' * (len(shown) + 1) + '|']
    return lines + [
        f'| {name} | ' + ' | '.join(text(result) for _, text in shown) + ' |' for name, result in rows.items()
    ]


def _growth(content: dict[str, Any]) -> list[str]:
    rows = found(content, 'growth')
    if not rows:
        return []
    sides = [point['side'] for point in next(iter(rows.values()))['points']]
    lines = ['## Growth with the size of images', '']
    lines += ['Milliseconds per image by its side in pixels, and exponents of time in the number of patches: of the ']
    lines += ['method, of merging and restoring alone (overhead), and of what its ideal saves.', '']
    lines += [
        '| row | ' + ' | '.join(map(str, sides)) + ' | exponent | overhead | saved |',
        '|---' * (len(sides) + 4) + '|',
    ]
    for name, result in rows.items():
        key = 'ms_plain' if result['setting'] is None else 'ms_model'
        times = [f'{point[key]:.0f}' for point in result['points']]
        fitted = [result['exponents'].get(part) for part in (key, 'ms_overhead', 'ms_saved')]
        cells = times + ['' if value is None else f'{value:.2f}' for value in fitted]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return [*lines, '']


def _failed(content: dict[str, Any]) -> list[str]:
    failed = {name: row['failed'] for name, row in content['rows'].items() if 'failed' in row}
    return ['## Not measured', '', *(f'- {name}: {why}' for name, why in failed.items()), ''] if failed else []


def _does_not_pay(content: dict[str, Any]) -> list[str]:
    rows = found(content, 'reduced') | found(content, 'merged')
    slow = [f'{name} ({result["time_ratio"]:.2f})' for name, result in rows.items() if result['time_ratio'] < 1]
    return (
        ['## Does not pay on this machine', '', 'Slower than the plain network: ' + ', '.join(slow) + '.']
        if slow
        else []
    )


def summary(content: dict[str, Any]) -> Table:
    """Return the ratios of every row that has them."""
    table = Table('row', 'work', 'time', 'ideal', 'efficiency', 'merging', 'restoring')
    for name, result in (found(content, 'reduced') | found(content, 'merged')).items():
        keys = ('work_ratio', 'time_ratio', 'ideal_ratio', 'efficiency')
        table.add_row(
            name, *(f'{result[key]:.2f}' for key in keys), _share('merging')(result), _share('restoring')(result)
        )
    for column in table.columns[1:]:
        column.justify = 'right'
    return table
