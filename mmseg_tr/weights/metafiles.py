"""Entries of the published tables, as metafile.yml hold them for OpenMMLab's mim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mmseg_tr.errors import ConfigError
from mmseg_tr.paths import CONFIGS


def published_entries(metafile: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the entries by name, such as 'algm_vit-s16_ade20k-512x512', in the order of the tables.

    metafile: another table than those of the package. Raises ConfigError for a file that is not one.
    """
    files = sorted(CONFIGS.glob('[!_]*/metafile.yml')) if metafile is None else [Path(metafile)]
    entries: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            models = yaml.safe_load(file.read_text(encoding='utf-8'))['Models']
            entries |= {str(entry['Name']): dict(entry) for entry in models}
        except (OSError, KeyError, TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(f'metafile must be a metafile.yml with Models, got {file} ({error}).') from error
    return entries
