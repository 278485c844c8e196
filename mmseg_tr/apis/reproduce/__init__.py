"""Reproduce rows of the published tables: the verb of tools/reproduce.py."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmseg_tr.apis.build import machine, prepare_device
from mmseg_tr.apis.reproduce.page import cells, render
from mmseg_tr.apis.reproduce.rows import Row, find_rows
from mmseg_tr.apis.reproduce.steps import STEPS, Work, macs_per_second
from mmseg_tr.errors import ConfigError, InputError, WriteError
from mmseg_tr.files import write_atomically
from mmseg_tr.options import Options

PAGE, STATE = 'reproduce.html', 'state.json'
# images of the validation sets, of COCO the annotated people; 2000 elsewhere
IMAGES = {'ADE20K': 2000, 'Cityscapes': 500, 'Pascal Context': 5104, 'COCO': 6352}
WINDOWS = {'Cityscapes': 8}  # per image, roughly; 2 elsewhere, of poses the picture and its mirror image
GMACS = {'COCO': 29.0, 'JBD': 90.0}  # per window, where none are published; 100 elsewhere


@dataclass(frozen=True)
class ReproduceOptions(Options):
    """How rows are reproduced.

    out: folder of results; finished steps in it are not repeated. device: by default a GPU if available. fraction:
    share of the test images, evenly spread. mirror: address of a folder with ROW/checkpoint.pth and ROW/variant.yml.
    metafile: another table than those of the package. again: repeat finished steps.
    tell(text) reports progress.
    """

    out: str | os.PathLike = 'work_dirs/reproduce'
    device: str | torch.device | None = None
    fraction: float = 1.0
    mirror: str | None = None
    metafile: str | os.PathLike | None = None
    again: bool = False
    tell: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ConfigError(f'fraction must be above 0 and at most 1, got {self.fraction}.', parameters=['fraction'])


def reproduce(
    names: Sequence[str] = (), options: ReproduceOptions | None = None, **settings: Any
) -> dict[str, dict[str, Any]]:
    """Reproduce rows one by one, all without names; returns what was found by row, 'error' where something is missing.

    The page is written after every row, and every step's result is kept, so that another call continues.
    settings: fields of ReproduceOptions, over `options`. Raises ConfigError for a row that no table has.
    """
    options = replace(options or ReproduceOptions(), **settings)
    rows, place = find_rows(names, options.metafile), prepare_device(options.device)
    out, found = Path(options.out), {}
    for row in rows:
        options.tell(f'{row.name}')
        work = Work(row, out / row.name, options.device, options.fraction, options.mirror)
        found[row.name] = run_row(work, options)
        about = f'{machine(place)}, {options.fraction:.0%} of the test images.'
        write_atomically(render(rows, found, about, options.fraction), out / PAGE)
    return found


def run_row(work: Work, options: ReproduceOptions) -> dict[str, Any]:
    """Run the steps of a row that are not done; returns their results, with 'error' at the first that fails."""
    file = work.folder / STATE
    state = {} if options.again else read_state(file, work.fraction, work.row)
    for name, step in STEPS.items():
        if name in state:
            continue
        options.tell(f'  {name}')
        try:
            state[name] = step(work)
        except WriteError:
            raise
        except (InputError, OSError) as error:
            options.tell(f'  not done: {error}')
            return merged(state) | dict(error=f'{name}: {error}')
        write_atomically(json.dumps(dict(fraction=work.fraction, steps=state), indent=2) + '\n', file)
    return merged(state)


def merged(state: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The results of all steps."""
    return {key: value for result in state.values() for key, value in result.items()}


def read_state(file: Path, fraction: float, row: Row) -> dict[str, dict[str, Any]]:
    """The finished steps of an earlier call; none for another fraction, or if the file was left damaged."""
    try:
        content = json.loads(file.read_text())
        steps = {name: dict(result) for name, result in content['steps'].items() if name in STEPS}
        for key, value in merged(steps).items():
            if not (isinstance(value, str) if key == 'weights' else math.isfinite(value)):
                raise ValueError(f'{key} is {value!r}')
        if len(steps) == len(STEPS):  # a row of the page needs the results of all
            cells(row, merged(steps), fraction)
        return steps if content['fraction'] == fraction else {k: v for k, v in steps.items() if k == 'weights'}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ArithmeticError):
        return {}


def estimate(rows: Sequence[Row], options: ReproduceOptions) -> float:
    """Rough seconds for these rows on this machine: multiply-adds of all test windows, plain and reduced."""
    rate = macs_per_second(prepare_device(options.device)) / 2  # what networks reach of a matrix product's speed
    work = 0.0
    for row in rows:
        images = options.fraction * IMAGES.get(row.dataset, 2000) * WINDOWS.get(row.dataset, 2)
        work += 2 * images * (row.gmacs or GMACS.get(row.dataset, 100)) * 1e9
    return work / rate + 60.0 * len(rows)
