"""Commands as the README and the pages of docs/ write them, run in a folder that looks like a clone after the demo."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commands(page: str, tool: str) -> list[list[str]]:
    """The arguments of every command of tools/`tool`.py that stands on a line of its own in a page."""
    text = (ROOT / page).read_text()
    found = [
        shlex.split(line, comments=True) for line in re.findall(r'^    (?:python )?(tools/.+)$', text, re.MULTILINE)
    ]
    return [words[1:] for words in found if words[0] == f'tools/{tool}.py']


def clone(folder: Path) -> Path:
    """Make `folder` look like a clone: its configs and documents are those of this one."""
    for name in ('local_configs', 'docs'):
        (folder / name).symlink_to(ROOT / name)
    return folder
