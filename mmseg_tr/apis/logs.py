"""Read training logs, mmengine's and the published log.txt, and draw their curves."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmseg_tr.errors import ConfigError, require_extra
from mmseg_tr.files import write_atomically
from mmseg_tr.options import check_type

X_KEYS = ('epoch', 'step', 'iter')
# default keys: the first of these sets of which a log has a key
Y_KEYS = (('val_mean_iou', 'mIoU', 'coco/AP', 'AP', 'PCK@0.1', 'PCK'), ('train_loss', 'loss'))
LARGEST = 1e100  # differences and squares of what is drawn must be floats
SIZES = {'large': (9.6, 5.4), 'tight': (4.8, 3.2)}  # inches


@dataclass(frozen=True)
class LogList:
    """Logs to draw, {name: path}, and axis limits; None takes a limit from the data."""

    paths: Mapping[str, Path]
    vmin: float | None = None
    vmax: float | None = None
    epochs: int = -1


@dataclass(frozen=True)
class Curve:
    """The values of one key in one log, in the log's order."""

    name: str
    x_key: str
    y_key: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def find_logs(inputs: Sequence[str]) -> LogList:
    """Find the named logs: one published .yml list, or log files and work folders, also as NAME=PATH.

    Raises ConfigError for a list that cannot be read or is not given alone, and for a name given twice.
    """
    check_type('inputs', inputs, Sequence[str])
    lists = [text for text in inputs if Path(text).suffix in ('.yml', '.yaml')]
    if lists:
        if len(inputs) > 1:
            raise ConfigError(f'{lists[0]} is a list of logs: give it alone.')
        return read_list(Path(lists[0]))
    paths: dict[str, Path] = {}
    for text in inputs:
        name, equals, path = text.partition('=')
        if not equals or Path(text).exists():
            name, path = _name(Path(text)), text
        if name in paths:
            raise ConfigError(f'two logs are called {name}: name them, such as first={paths[name]} second={path}.')
        paths[name] = Path(path)
    return LogList(paths)


def _name(path: Path) -> str:
    """Return the name of a log: its work folder, or a file's first folder that is not one of mmengine's."""
    if path.is_dir() or path.suffix not in ('.json', '.txt'):
        return path.resolve().name
    folder = path.resolve().parent
    return folder.parent.parent.name if folder.name == 'vis_data' else folder.name


def read_list(path: Path) -> LogList:
    """Read a published list of logs: root, logs {name: path}, and vmin, vmax, epochs if given.

    Paths are relative to root, root to the folder of the list, and without root to that folder itself.
    Raises ConfigError for a file that is missing or not such a list.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise ConfigError(f'the list of logs {path} cannot be read ({error.strerror}): check the path.') from error
    except RecursionError as error:
        raise ConfigError(f'the list of logs {path} is nested too deeply to be read.') from error
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError) as error:  # also of tags such as !!int
        raise ConfigError(f'the list of logs {path} is not valid YAML: {" ".join(str(error).split())}') from error
    logs = content.get('logs') if isinstance(content, Mapping) else None
    if not isinstance(logs, Mapping) or not logs or not all(isinstance(value, str) for value in logs.values()):
        raise ConfigError(f'{path} lists no logs: it needs an entry logs with a path for every name.')
    limits = {key: content[key] for key in ('vmin', 'vmax', 'epochs') if content.get(key) is not None}
    for key, value in limits.items():
        if not _is_number(value) or (key == 'epochs' and not isinstance(value, int)):
            raise ConfigError(
                f'{key} in {path} must be {"an integer" if key == "epochs" else "a number"}, got {value!r}.'
            )
        limits[key] = value if key == 'epochs' else float(value)
    root = path.parent / str(content.get('root') or '')
    return LogList({str(name): root / value for name, value in logs.items()}, **limits)


def read_log(path: Path) -> list[dict[str, Any]] | None:
    """Read the rows of a log file, or of all logs in a work folder; None without a log.

    A training that was resumed has written several logs in its work folder: each takes over where it starts.
    Raises ConfigError for a file that is not a log.
    """
    if not os.path.isdir(path):  # False for a name that is too long, of which Path.is_dir() complains
        return _read_rows(path) if os.path.isfile(path) else None
    rows: list[dict[str, Any]] = []
    files = _log_files(path)
    for file in files:
        part = _read_rows(file)
        count = 'epoch' if any('epoch' in row for row in part) else 'step'
        start = min((row[count] for row in part if _is_number(row.get(count))), default=None)
        if start is not None:
            rows = [row for row in rows if not _is_number(row.get(count)) or row[count] < start]
        rows += part
    return rows if files else None


def _with_epochs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rename `step` to epoch in validation rows of logs that count epochs."""
    if not any('epoch' in row and 'step' in row for row in rows):
        return rows
    return [
        {**row, 'epoch': row['step']} if 'step' in row and not {'epoch', 'iter'} & set(row) else row for row in rows
    ]


def _log_files(folder: Path) -> list[Path]:
    if (folder / 'log.txt').is_file():
        return [folder / 'log.txt']
    found = []
    for place in sorted([folder, folder / 'vis_data', *folder.glob('*/vis_data')]):
        if place.name == 'vis_data':  # it has the same rows twice, once in a file named after the time of the run
            files = [place / 'scalars.json', *sorted(place.glob('*.json'))]
            found += [file for file in files if file.is_file()][:1]
    return found


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = path.read_text(encoding='utf-8').rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'the log {path} cannot be read: {error}') from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) > 1:  # the training is running, or was killed while writing
                break
            raise ConfigError(f'{path} is not a training log: line {number} is not JSON ({error.msg}).') from error
        except (RecursionError, ValueError) as error:  # thousands of brackets, or of digits
            raise ConfigError(f'{path} is not a training log: line {number} cannot be read.') from error
        if not isinstance(row, dict):
            raise ConfigError(f'{path} is not a training log: line {number} is {line[:40]}, not a JSON object.')
        rows.append(row)
    return _with_epochs(rows)


def value_of(row: Mapping[str, Any], key: str) -> float | None:
    """Return the number under `key`, which may be nested, as in val/mean_iou; None without one."""
    value: Any = row.get(key)
    if value is None and '/' in key:
        value = row
        for part in key.split('/'):
            value = value.get(part) if isinstance(value, Mapping) else None
    return value if _is_number(value, finite=False) else None


def _is_number(value: Any, finite: bool = True) -> bool:
    """Return whether a value is a number (not a bool) that can be drawn. finite: excludes NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return abs(value) <= LARGEST if math.isfinite(value) else not finite
    except OverflowError:
        return False


def read_curve(
    name: str, rows: Sequence[Mapping[str, Any]], x_key: str | None = None, y_key: str | None = None, epochs: int = -1
) -> Curve:
    """Return the curve of one log: by default validation mIoU, else the loss, over epochs, else iterations.

    epochs: the last epoch to take, counted as in the log; in a log without epochs, the last iteration. -1 takes all.
    Raises ConfigError where the log has no such key.
    """
    x_keys = [x_key] if x_key else X_KEYS
    x_found = next((key for key in x_keys if any(value_of(row, key) is not None for row in rows)), x_keys[0])
    counter = next((key for key in X_KEYS if any(value_of(row, key) is not None for row in rows)), None)
    if epochs >= 0 and counter:
        rows = [row for row in rows if (value_of(row, counter) or 0) <= epochs]
    # mmengine's validation rows by iterations have no epoch, so they cannot be drawn over epochs
    keys = [y_key] if y_key else [key for group in Y_KEYS for key in group]
    for key in keys:
        drawn = []
        for axis in [x_found] if x_key else dict.fromkeys([x_found, *X_KEYS]):
            pairs = [(value_of(row, axis), value_of(row, key)) for row in rows]
            kept = [(float(x), float(y)) for x, y in pairs if x is not None and y is not None]
            if kept:
                drawn.append(Curve(name, axis, key, *map(tuple, zip(*kept))))
        if drawn:  # spread several values of one epoch over its steps
            return next((curve for curve in drawn if len(set(curve.x)) == len(curve.x)), drawn[0])
    there = sorted({key for row in rows for key in row})
    raise ConfigError(
        f'the log {name} has no {" or ".join(keys)} over {x_key or " or ".join(X_KEYS)}: it has '
        f'{", ".join(there) or "nothing"}.'
    )


def draw_curves(
    curves: Sequence[Curve], path: Path, size: str = 'large', vmin: float | None = None, vmax: float | None = None
) -> None:
    """Write the curves to a PNG of 300 dpi. size: 'large', or 'tight' for a column of a paper."""
    require_extra('seg', 'matplotlib', 'to draw curves')
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZES[size], layout='constrained')
    axes = figure.subplots()
    for i, curve in enumerate(curves):
        color = matplotlib.colormaps['tab20'](i % 20)
        marker = 'o' if len(curve.x) < 40 else None
        axes.plot(curve.x, curve.y, color=color, marker=marker, markersize=3, linewidth=1.5, label=curve.name)
    axes.set_xlabel(', '.join(dict.fromkeys(curve.x_key for curve in curves)))
    axes.set_ylabel(', '.join(dict.fromkeys(curve.y_key for curve in curves)))
    axes.set_ylim(vmin, vmax)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize='small')
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=300)
    write_atomically(file.getvalue(), path)
