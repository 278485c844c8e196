"""Write the interactive report as one self-contained HTML file."""

from __future__ import annotations

import base64
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from mmseg_tr.apis.report import Report, Seen, Shown, labels_of
from mmseg_tr.errors import ConfigError

SCRIPTS = ('state.js', 'views.js', 'controls.js', 'charts.js')
LOSSLESS = 256 * 256  # pixels up to which a picture is a PNG; larger ones are JPEGs, a tenth of the size
AXES = {
    'throughput': 'images per second, batch {batch_size}',
    'fps': 'images per second, one at a time',
    'gmacs': 'GMACs per image (fewer is cheaper)',
}


def check_page(page: Path, force: bool) -> None:
    """Raise ConfigError where the page cannot be written, or would replace a file."""
    if page.is_dir():
        raise ConfigError(f'out must be a file, and {page} is a folder.', parameters=['out'])
    if page.exists() and not force:
        raise ConfigError(f'force must be set to replace what exists: {page}.', parameters=['force'])


class Arrays:
    """Arrays of whole numbers for the page, each kept once: little-endian, deflated, in base64."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._known: dict[bytes, int] = {}

    def add(self, values: np.ndarray, dtype: str) -> int:
        """Keep an array as `dtype`; returns its number."""
        raw = np.ascontiguousarray(values.astype(dtype)).tobytes()
        if raw not in self._known:
            self._known[raw] = len(self.texts)
            self.texts.append(base64.b64encode(zlib.compress(raw, 9)).decode())
        return self._known[raw]


def render(report: Report) -> str:
    """Return the page."""
    folder = files('mmseg_tr.visualization') / 'page'
    data = json.dumps(finite(page_data(report)), separators=(',', ':'), allow_nan=False)
    template = Environment(autoescape=True).from_string((folder / 'report.html').read_text())
    return template.render(
        title=report.title,
        summary=report.summary,
        facts=report.facts,
        css=Markup((folder / 'report.css').read_text()),
        js=Markup('\n'.join((folder / name).read_text() for name in SCRIPTS)),
        data=Markup(data.replace('<', '\\u003c')),  # a name must not close the script tag
    )


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, with null."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def page_data(report: Report) -> dict[str, Any]:
    """Return the data of the page's script; see page/state.js."""
    arrays, labels = Arrays(), labels_of(report.methods)
    methods = [
        dict(name=name, label=labels[name], setting=setting_of(settings)) for name, settings in report.methods.items()
    ]
    pictures = [_picture(shown, list(report.methods), arrays) for shown in report.pictures]
    axes = {
        key: text.format(batch_size=report.about.get('batch_size', 'as measured'))
        for key, text in AXES.items()
        if report.rows and all(isinstance(row.get(key), (int, float)) for row in report.rows)
    }
    row_labels = labels_of({row['name']: row.get('settings') or {} for row in report.rows}) if report.rows else {}
    rows = [
        dict(name=row['name'], label=row_labels[row['name']], miou=row['miou'], explanation=explain(row, report))
        | {key: row[key] for key in axes}
        for row in report.rows
    ]
    return dict(
        classes=list(report.classes),
        palette=[list(map(int, color)) for color in report.palette],
        methods=methods,
        pictures=pictures,
        axes=axes,
        rows=rows,
        arrays=arrays.texts,
    )


def _picture(shown: Shown, methods: Sequence[str], arrays: Arrays) -> dict[str, Any]:
    height, width = shown.image.shape[:2]
    plain = shown.seen[methods[0]].prediction
    return dict(
        name=shown.name,
        width=width,
        height=height,
        image=data_uri(shown.image),
        label=None if shown.label is None else arrays.add(shown.label, 'u1'),
        seen=[_seen(shown.seen[name], plain, arrays) for name in methods],
    )


def _seen(seen: Seen, plain: np.ndarray, arrays: Arrays) -> dict[str, Any]:
    entries = [
        dict(
            layer=entry.layer,
            name=entry.name,
            part=entry.part,
            grid=list(entry.groups.shape),
            tokens=entry.tokens,
            patches=entry.patches,
            similarity=entry.similarity,
            groups=arrays.add(entry.groups, '<i2' if entry.groups.max() < 2**15 else '<i4'),
            wide=bool(entry.groups.max() >= 2**15),
        )
        for entry in seen.merged
    ]
    changed = float(np.mean(seen.prediction != plain))
    return dict(prediction=arrays.add(seen.prediction, 'u1'), changed=changed, entries=entries)


def data_uri(image: np.ndarray) -> str:
    """Encode a picture (H, W, 3) uint8 as a data URL."""
    kind, options = ('PNG', {}) if image.shape[0] * image.shape[1] <= LOSSLESS else ('JPEG', dict(quality=90))
    file = io.BytesIO()
    Image.fromarray(image).save(file, format=kind, optimize=True, **options)
    return f'data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}'


def setting_of(settings: Mapping[str, Any]) -> str:
    """Return settings as 'layers=(1, 3), threshold=0.9'; empty for the plain model."""
    return ', '.join(f'{key}={value}' for key, value in settings.items() if key != 'type')


def explain(row: Mapping[str, Any], report: Report) -> list[tuple[str, str]]:
    """Return the description of a point of the plot, as terms and texts."""
    plain, own = report.rows[0], row is report.rows[0]

    def against(text: str) -> str:
        return '' if own else f' ({text})'

    told = [('mIoU', f'{row["miou"]:.1f} %' + against(f'{row["miou"] - plain["miou"]:+.1f} points'))]
    for key, name in (
        ('throughput', f'images/s, batch {report.about.get("batch_size", "")}'),
        ('fps', 'images/s, single'),
    ):
        if row.get(key) and plain.get(key):
            told.append(
                (name.rstrip(), f'{row[key]:.0f}' + against(f'{row[key] / plain[key]:.2f} times the plain model'))
            )
    told.append(('GMACs', f'{row["gmacs"]:.3f}' + against(f'{100 * (row["gmacs"] / plain["gmacs"] - 1):+.0f} %')))
    if row.get('agreement') is not None and not own:
        told.append(('agreement', f'{row["agreement"]:.1f} % of the pixels as the plain model predicts them'))
    tokens = row.get('tokens_per_layer')
    if tokens:
        told.append(('tokens', f'{tokens[0]:.0f} leave the first layer, {tokens[-1]:.0f} the last'))
    if row.get('settings'):
        told.append(('settings', setting_of(row['settings'])))
    return told
