"""Run a benchmark suite row by row: what `python -m benchmarks` does.

Results are written after every row, so that an interrupted run continues.
"""

from __future__ import annotations

import json
import platform
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.mit import fusion, growth, merged, shipped, training
from benchmarks.onnx import exported
from benchmarks.path import path
from benchmarks.suites import Row, Suite, chosen_rows, suite_of
from benchmarks.targets import applied, fixed, joint, reached
from benchmarks.vit import Bench, copies, improvements, reduced
from mmseg_tr.apis.build import cpu_threads, machine, pick_device, pick_precision
from mmseg_tr.cpu import keep_freed_memory
from mmseg_tr.errors import ConfigError, DeviceError
from mmseg_tr.files import write_atomically

KINDS: dict[str, Callable[[Bench, dict], dict]] = dict(
    improvements=improvements,
    reduced=reduced,
    shipped=shipped,
    shipped_kept=shipped,
    fusion=fusion,
    merged=merged,
    training=training,
    growth=growth,
    copies=copies,
    onnx=exported,
    fixed=fixed,
    joint=joint,
    applied=applied,
    path=path,
)
# measured first, with the memory settings of a fresh process: all others keep freed memory (mmseg_tr.cpu)
AS_SHIPPED = 'shipped'


@dataclass(frozen=True)
class Outcome:
    """The file of results, its content, and the remaining rows."""

    path: Path
    content: dict[str, Any]
    left: tuple[str, ...]


@dataclass(frozen=True)
class SuiteOptions:
    """Options of a suite.

    rows: names or kinds, with * as in file names; by default all. file_name: instead of machine and date. seconds: time
    for all rows together, by default the suite's own; one row is always measured. force: measure finished rows again.
    """

    rows: Sequence[str] | None = None
    file_name: str | None = None
    device: str | None = None
    threads: int | None = None
    seconds: float | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers out of range."""
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f'threads must be a positive integer, got {self.threads}.', parameters=['threads'])
        if self.seconds is not None and self.seconds <= 0:
            raise ConfigError(f'seconds must be a positive number, got {self.seconds}.', parameters=['seconds'])


@dataclass(frozen=True)
class PlannedRow:
    """A row to measure, eager or compiled; name: its key in the file of results."""

    name: str
    row: Row
    compiled: bool


def planned_rows(suite: Suite, patterns: Sequence[str] | None) -> list[PlannedRow]:
    """The chosen rows in the order in which they are measured."""
    ordered = sorted(chosen_rows(suite, patterns), key=lambda row: row.kind != AS_SHIPPED)
    return [
        PlannedRow(f'{row.name} compiled' if compiled else row.name, row, compiled)
        for compiled in suite.compiled
        for row in ordered
    ]


def run_suite(
    name: str,
    out: str | Path,
    options: SuiteOptions = SuiteOptions(),
    progress: Callable[[int, int, str], None] = lambda done, total, row: None,
) -> Outcome:
    """Measure the rows of a suite that are not measured yet, and write OUT/<machine>-<date>.json after each.

    progress(done, total, row) is called before each row. Raises ConfigError or DeviceError.
    """
    suite = suite_of(name)
    planned = planned_rows(suite, options.rows)
    place = pick_device(options.device or suite.device)
    with cpu_threads(options.threads):
        about = circumstances(suite, place)
        path = Path(out) / f'{options.file_name or slug(about)}.json'
        content = begin(path, about, [each.name for each in planned], options.force)
        precision = pick_precision(suite.amp, str(place))
        benches = {each: Bench(place, suite.row_seconds, suite.images, precision, each) for each in suite.compiled}
        begun, fresh = time.perf_counter(), False
        for number, each in enumerate(planned):
            progress(number, len(planned), each.name)
            if each.name in content['rows']:
                continue
            if fresh and time.perf_counter() - begun > (options.seconds or suite.seconds):
                break
            if place.type == 'cpu' and each.row.kind != AS_SHIPPED:
                keep_freed_memory()
            result, fresh = measure_row(benches[each.compiled], each.row), True
            content['rows'][each.name] = result
            content['seconds'] = round(content['seconds'] + result['seconds'], 1)
            write(content, path)
    return Outcome(path, content, tuple(each.name for each in planned if each.name not in content['rows']))


def measure_row(bench: Bench, row: Row) -> dict[str, Any]:
    """Return the numbers of one row, or why there are none."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about random weights, which the report mentions
        try:
            found = dict(result=KINDS[row.kind](bench, row.settings))
        except Exception as error:  # one failing row must not stop the rows after it
            why = str(error) if isinstance(error, DeviceError) else f'{type(error).__name__}: {error}'
            found = dict(failed=' '.join(why.split())[:300])
    if row.targets and 'result' in found:
        found |= dict(targets=dict(row.targets), reached=reached(found['result'], row.targets))
    return dict(kind=row.kind, **found, seconds=round(time.perf_counter() - started, 1))


def circumstances(suite: Suite, device: torch.device) -> dict[str, Any]:
    """Return what a result depends on besides its rows."""
    return dict(
        suite=suite.name,
        machine=machine(device),
        device=device.type,
        threads=torch.get_num_threads(),
        precision=suite.amp or 'fp32',
        torch=torch.__version__,
        python=platform.python_version(),
    )


def slug(about: dict[str, Any]) -> str:
    """<machine>-<date>, in characters that any file system accepts."""
    name = re.sub(r'\((r|tm)\)|processor|\d+-core|cpu @.*?(?=,|$)', '', about['machine'], flags=re.IGNORECASE)
    name = re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')
    suite = '' if about['suite'] in ('cpu', 'gpu') else f'-{about["suite"]}'
    return f'{name}{suite}-{datetime.now():%Y-%m-%d}'


def begin(path: Path, about: dict[str, Any], keys: Sequence[str], force: bool) -> dict[str, Any]:
    """Return the content of an interrupted run, if any. Raises ConfigError when results must be kept."""
    fresh = dict(about=about | dict(date=f'{datetime.now():%Y-%m-%d}'), seconds=0.0, rows={})
    if not path.exists():
        return fresh
    content = read_result(path)
    if force:
        content['rows'] = {key: row for key, row in content['rows'].items() if key not in keys}
        if not content['rows']:
            return fresh
    elif all(key in content['rows'] for key in keys):
        raise ConfigError(f'{path} holds all these rows: set force to measure them again.', parameters=['force'])
    for key, value in about.items():
        if content['about'].get(key) != value:
            raise ConfigError(
                f'{path} was measured with {key} {content["about"].get(key)}, this run has {value}: choose another '
                'file_name.',
                parameters=['file_name'],
            )
    return content


def read_result(path: Path) -> dict[str, Any]:
    """Read the results of an earlier run. Raises ConfigError."""
    try:
        content = json.loads(path.read_text())
        content['about']['suite'], content['rows'].keys(), content['seconds']
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f'{path} is not a result of these benchmarks: name another file.') from error
    return content


def write(content: dict[str, Any], path: Path) -> None:
    write_atomically(json.dumps(content, indent=1) + '\n', path)
