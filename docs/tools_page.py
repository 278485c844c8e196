"""Writes docs/tools.md, the page of every command, from each `--help`: `python -m docs.tools_page`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
from pathlib import Path

from mmseg_tr.cli.command import summary, tools

PAGE = Path(__file__).with_name('tools.md')
HEAD = """# Commands

Every command is a file of `tools/` and runs as `python tools/NAME.py ...` or, from any folder, as `mmseg-tr NAME ...`.
CONFIG is a file or a name that `mmseg-tr configs` lists. `make docs/tools.md` writes this page from each `--help`.
"""


def help_of(name: str, file: Path) -> str:
    """What `mmseg-tr NAME --help` prints, at a width of 100 columns."""
    spec = importlib.util.spec_from_file_location(f'tool_{file.stem}', file)
    module = importlib.util.module_from_spec(spec)
    path, program, columns = list(sys.path), sys.argv[0], os.environ.get('COLUMNS')
    sys.argv[0], os.environ['COLUMNS'] = f'mmseg-tr {name}', '100'
    text = io.StringIO()
    try:
        spec.loader.exec_module(module)
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            module.parse_args(['--help'])
    finally:
        sys.path[:], sys.argv[0] = path, program
        os.environ.pop('COLUMNS')
        if columns is not None:
            os.environ['COLUMNS'] = columns
    return text.getvalue()


def page() -> str:
    """The whole page: a table of the commands, then the help of each."""
    known = sorted(tools().items())
    lines = [HEAD, '| Command | |', '|---|---|']
    lines += [f'| `{name}` | {summary(file)} |' for name, file in known]
    for name, file in known:
        if file.suffix == '.py':
            lines += ['', f'## {name}', '', '```text', help_of(name, file).rstrip(), '```']
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    PAGE.write_text(page())
