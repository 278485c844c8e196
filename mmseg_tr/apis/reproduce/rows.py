"""Rows of the published tables, as the metafiles hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mmseg_tr.errors import ConfigError
from mmseg_tr.paths import CARRIED
from mmseg_tr.weights.metafiles import published_entries

DRIVE = re.compile(r'https://drive\.google\.com/file/d/([\w-]+)/')
# task of a metafile -> the scores of it that are compared, in percent
TASKS = {'Semantic Segmentation': ('mIoU',), 'Body 2D Keypoint': ('PCK@0.1', 'PCK@0.05')}


@dataclass(frozen=True)
class Row:
    """One row.

    weights, variant: addresses, None where none is published. task: one of TASKS. published: scores in percent by
    name, those of TASKS that are published. gmacs: published, or None.
    """

    name: str
    config: Path
    dataset: str
    weights: str | None
    variant: str | None
    task: str
    published: Mapping[str, float]
    gmacs: float | None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The scores of the row's task."""
        return TASKS[self.task]


def find_rows(names: Sequence[str] = (), metafile: str | None = None) -> list[Row]:
    """The rows of these names, all with published scores without any, in the order of the tables.

    metafile: another table than those of the package. Raises ConfigError for a name that no table has.
    """
    base = CARRIED if metafile is None else Path(metafile).parent
    entries = published_entries(metafile).values()
    try:
        rows = {row.name: row for row in (_row(entry, base) for entry in entries) if row is not None}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f'metafile must be a metafile.yml with Models, got {metafile} ({error}).') from error
    for name in names:
        if name not in rows:
            near = ', '.join(get_close_matches(name, rows, n=3)) or 'see `mmseg-tr configs`'
            raise ConfigError(f'ROW must be a row of a published table, got {name!r}: {near}.')
    return [rows[name] for name in names] or list(rows.values())


def _row(entry: dict, base: Path) -> Row | None:
    result = next((one for one in entry.get('Results', ()) if one['Task'] in TASKS), None)
    if result is None:
        return None
    gmacs = entry.get('Metadata', {}).get('GMACs')
    return Row(
        name=str(entry['Name']),
        config=base / entry['Config'],
        dataset=str(result['Dataset']),
        weights=_address(entry.get('Weights')),
        variant=_address(entry.get('Variant')),
        task=result['Task'],
        published={name: float(result['Metrics'][name]) for name in TASKS[result['Task']] if name in result['Metrics']},
        gmacs=float(gmacs) if isinstance(gmacs, int | float) else None,
    )


def _address(url: str | None) -> str | None:
    """The address of a file; pages of Google Drive lead to one."""
    found = DRIVE.match(url or '')
    return f'https://drive.google.com/uc?export=download&confirm=t&id={found[1]}' if found else url


def mirrored(row: Row, url: str, mirror: str | None) -> str:
    """The address of a row's file, or its place below a mirror: MIRROR/ROW/checkpoint.pth and variant.yml."""
    if mirror is None:
        return url
    return f'{mirror.rstrip("/")}/{row.name}/{"variant.yml" if url == row.variant else "checkpoint.pth"}'
