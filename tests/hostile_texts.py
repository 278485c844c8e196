"""Hostile texts where the package reads JSON, YAML or CSV: nested, huge, cut, of other types in every place.

python -m tests.hostile_texts [NAME] prints a line for every fault and the counts.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mmseg_tr import create_model, from_pretrained
from mmseg_tr.apis.infer.pose import read_boxes
from mmseg_tr.apis.logs import draw_curves, find_logs, read_curve, read_log
from mmseg_tr.apis.report import Report, read_comparison
from mmseg_tr.apis.report.page import explain, render
from mmseg_tr.apis.reproduce import merged, read_state
from mmseg_tr.apis.reproduce.page import cells
from mmseg_tr.apis.reproduce.rows import find_rows
from mmseg_tr.apis.reproduce.steps import STEPS
from mmseg_tr.apis.tune.measure import Journal
from mmseg_tr.datasets.empty import why_empty
from mmseg_tr.datasets.jump_csv import read_boxes as read_jump_boxes
from mmseg_tr.engine.start import find_checkpoint
from mmseg_tr.hosts.named import open_model
from mmseg_tr.weights.card import model_card
from mmseg_tr.weights.variant import read_variant
from tests.hostile import VIT, limit_memory, quiet, trial

VALUES = [
    *(
        None,
        True,
        -1,
        0,
        10**9,
        10**30,
        10**400,
        math.nan,
        math.inf,
        1e308,
        '',
        'x',
        '3',
        '\x1b[31m\n\ud800',
        '../../x',
    ),
    *([], [None], [[[]]], {}, {'a': 1}, {'type': 'os.system'}, ['a', 1], '<img src=x onerror=alert(1)>'),
]
ROW = dict(
    tokens_per_layer=[9, 9],
    settings=dict(type='ALGM', layers=[1, 3]),
    agreement=100.0,
    method='ALGM',
    name='a',
    miou=66.6,
    gmacs=0.4,
    fps=133.0,
    throughput=179.0,
)
PROCESSOR = dict(do_rescale=True, do_normalize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3, size=dict(height=32))
ROW_OF_TABLE = find_rows(['algm_vit-s16_ade20k-512x512'])[0]
SETUP = dict(config='a', checkpoint='b')
POINT = dict(quality=60.0, loss=1.0, gmacs=0.4, work=1.5, time=1.2, ladder='ALGM')


def compared(path: Path) -> None:
    rows, about = read_comparison(str(path))
    report = Report('a', 'b', {'a': {}}, [], ['c'], [[0, 0, 0]], rows, about)
    render(report)
    for row in rows:
        explain(row, report)


def journaled(path: Path) -> None:
    journal = Journal(path, SETUP)
    for name in ('1 ALGM', '1 None'):
        found = journal.get(name, True)
        if found is not None:
            float(found['quality']), float(found['time']), float(found['gmacs'])
    journal.put('2', POINT)


def reproduced(path: Path) -> None:
    cells(ROW_OF_TABLE, merged(read_state(path, 1.0, ROW_OF_TABLE)), 1.0)


def plotted(path: Path) -> None:
    found = find_logs([str(path)])
    logs = {name: read_log(log) for name, log in found.paths.items()}
    curves = [read_curve(name, rows, epochs=found.epochs) for name, rows in logs.items() if rows is not None]
    if curves:
        draw_curves(curves, path.with_suffix('.png'), vmin=found.vmin, vmax=found.vmax)


@dataclass(frozen=True)
class Text:
    """A file that is read. valid: its content; read: reads it; write: makes its text."""

    name: str
    valid: Any
    read: Callable[[Path], Any]
    write: Callable[[Any], str] = json.dumps


def texts(folder: Path) -> dict[str, Text]:
    """Every text that is read, by a name; models are saved in `folder`."""
    model = create_model(
        'segmenter', 'algm', num_classes=3, img_size=32, arch=dict(embed_dim=16, depth=2, num_heads=2, patch_size=8)
    ).eval()
    model.save_pretrained(folder)
    torch.manual_seed(0)
    saved = json.loads((folder / 'mmseg_tr.json').read_text())
    state = dict(
        fraction=1.0,
        steps=dict(
            zip(
                STEPS,
                (
                    dict(images=1),
                    dict(weights='a'),
                    dict(plain_miou=1.0),
                    dict(miou=1.0),
                    dict(gmacs=1.0, milliseconds=1.0, plain_milliseconds=2.0),
                ),
                strict=True,
            )
        ),
    )
    lines = [dict(iter=1, loss=0.5, lr=0.1), {'step': 2, 'mIoU': 5.0}, dict(iter=3, loss=0.4, lr=0.1)]
    boxes = dict(annotations=[dict(bbox=[0, 0, 1, 1], keypoints=[1, 2, 2], iscrowd=1)], images=[dict(id=1)])
    row = dict(
        about=dict(batch_size=8, quality='mIoU'), rows=[dict(ROW, name='plain', settings={}, method='plain'), ROW]
    )
    (folder / 'log.json').write_text('\n'.join(map(json.dumps, lines)))
    return {
        'comparison': Text('compare.json', row, compared),
        'comparison on a card': Text('compare.json', row, lambda path: model_card('a', saved, None, path)),
        'saved model': Text('mmseg_tr.json', saved, lambda path: from_pretrained(path.parent)),
        'transformers config': Text('config.json', VIT, lambda path: open_model(f'transformers:{path.parent}', 'none')),
        'transformers processor': Text(
            'preprocessor_config.json', PROCESSOR, lambda path: open_model(f'transformers:{path.parent}', 'none')
        ),
        'journal': Text('tune.json', dict(setup=SETUP, points={'1 ALGM': POINT, '1 None': POINT}), journaled),
        'reproduced': Text('state.json', state, reproduced),
        'boxes': Text('boxes.json', {'a.jpg': [[0, 0, 5, 5]]}, lambda path: read_boxes(path, ['a.jpg'])),
        'log': Text('log.txt', lines, plotted, lambda rows: '\n'.join(map(json.dumps, rows))),
        'list of logs': Text(
            'logs.yml', dict(root='.', vmin=0.0, vmax=1.0, epochs=3, logs=dict(a='log.json')), plotted, dumped
        ),
        'variant': Text('variant.yml', dict(net_kwargs=dict(backbone='a', n=[1, 2])), read_variant, dumped),
        'annotations': Text('ann.json', boxes, lambda path: why_empty(dict(type='X', ann_file=str(path)))),
        'last checkpoint': Text(
            'last_checkpoint', 'iter_2.pth', lambda path: find_checkpoint(str(path.parent)), lambda text: str(text)
        ),
        'boxes of JBD': Text(
            'boxes.csv',
            [['image_id', 'min_x', 'min_y', 'width', 'height'], ['a_(1)', 1, 2, 3, 4]],
            read_jump_boxes,
            lambda rows: '\n'.join(','.join(map(str, row)) if isinstance(row, list) else str(row) for row in rows),
        ),
    }


def dumped(value: Any) -> str:
    return yaml.safe_dump(value)


def whole(text: str) -> dict[str, str | bytes]:
    """Texts that take the place of the whole one."""
    aliases = 'a0: &a0 [1]\n' + ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]\n' for i in range(1, 12))
    digits = text.replace('1', '9' * 5000, 1)
    return {
        'empty': '',
        'not UTF-8': b'\xff\xfe\x00',
        'zeros': bytes(100),
        'HTML': '<html>404</html>',
        'cut': text[: len(text) // 2],
        'nested lists': '[' * 10**5,
        'nested objects': '{"a":' * 10**5,
        'nested in the middle': text.replace('1', '[' * 10**5, 1),
        'nested and closed': '[' * 10**4 + ']' * 10**4,
        '5,000 digits': digits,
        'digits alone': '9' * 5000,
        'NaN': 'NaN',
        'aliases': aliases,
        'tag': '!!python/object/apply:os.system ["touch mark"]',
        'int': 'a: !!int abc',
        'date': 'a: 2001-13-45',
        'binary tag': 'a: !!binary ä',
        'merge': '<<: 5',
        'recursive': '&a [*a]',
        'BOM': '\ufeff' + text,
        'twice': text + text,
        'long line': text + ' ' * 10**6,
    }


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """The path of every part of a document."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from places(part, (*at, key))


def changed(document: Any, at: tuple, value: Any) -> Any:
    """A copy of a document with another value at a place; `...` removes what is there."""
    if not at:
        return value
    copied = dict(document) if isinstance(document, dict) else list(document)
    if len(at) == 1 and value is ...:
        del copied[at[0]]
    else:
        copied[at[0]] = changed(document[at[0]], at[1:], value)
    return copied


def hostile(text: Text) -> Iterator[tuple[str, str | bytes]]:
    """What a file may hold instead, by a name."""
    yield from whole(text.write(text.valid)).items()
    for at in places(text.valid):
        for value in [*VALUES, *([...] if at else [])]:
            name = f'{"/".join(map(str, at))}={"removed" if value is ... else ascii(value)[:30]}'
            try:
                yield name, text.write(changed(text.valid, at, value))
            except (TypeError, ValueError, yaml.YAMLError):  # not a text of this kind
                continue


def sweep(folder: Path, chosen: Callable[[str, int], bool]) -> Iterator[tuple[str, str, str]]:
    """Text, what it holds and the outcome of the trials that chosen(text, number) takes."""
    for name, text in texts(folder).items():
        if not chosen(name, 0) and not chosen(name, 1):
            continue
        place = folder / name.replace(' ', '_')
        place.mkdir()
        for file in (*folder.glob('*.json'), *folder.glob('*.safetensors')):
            (place / file.name).write_bytes(file.read_bytes())
        if name.startswith('transformers'):
            (place / 'config.json').write_text(json.dumps(VIT))
            (place / 'preprocessor_config.json').write_text(json.dumps(PROCESSOR))
        path = place / text.name
        for number, (what, content) in enumerate(hostile(text)):
            if not chosen(name, number):
                continue
            path.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8', 'surrogatepass'))
            with quiet():
                found = trial(lambda path=path, text=text: text.read(path), folder / 'mark')
            yield name, what, found


def main(part: str = '', every: str = '1') -> int:
    """Sweep one in `every` trials; returns the number of faults."""
    counts: dict[str, Counter[str]] = {}
    torch.set_num_threads(1)
    limit_memory()
    with tempfile.TemporaryDirectory() as folder:
        for name, what, found in sweep(Path(folder), lambda name, number: part in name and number % int(every) == 0):
            told = found if found in ('loads', 'refused') else 'faults'
            counts.setdefault(name, Counter())[told] += 1
            if told == 'faults':
                print(f'{name}, {what} -> {ascii(found)}', flush=True)
    for name, count in counts.items():
        print(f'{name}: {dict(count)}')
    total = sum(counts.values(), Counter())
    print(f'{len(counts)} texts: {total.total()} trials, {dict(total)}')
    return total['faults']


if __name__ == '__main__':
    sys.exit(min(main(*sys.argv[1:]), 1))
