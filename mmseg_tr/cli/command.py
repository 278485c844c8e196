"""`mmseg-tr COMMAND ...`: the files of tools/, from any folder, also where only the wheel is installed."""

from __future__ import annotations

import ast
import difflib
import fnmatch
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from mmseg_tr.errors import ConfigError
from mmseg_tr.paths import CONFIGS, TOOLS
from mmseg_tr.version import __version__

USAGE = """usage: mmseg-tr COMMAND [arguments]
       mmseg-tr COMMAND --help

{commands}

A CONFIG is a file, or the name of one that comes with the package, as `mmseg-tr configs` lists them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status, 2 for a command that does not exist."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ('-h', '--help'):
        return show(usage())
    if arguments[0] in ('-V', '--version'):
        print(f'mmseg_tr {__version__}')
        return 0
    name, *rest = arguments
    try:
        if name == 'configs':
            return list_configs(rest)
        file = find_tool(name)
    except ConfigError as error:
        print(f'mmseg-tr: {error}', file=sys.stderr)
        return 2
    if file.suffix == '.sh':
        os.environ.setdefault('PYTHON', sys.executable)
        os.execvp('bash', ['bash', str(file), *rest])
    sys.argv = [f'mmseg-tr {name}', *rest]
    tool = ModuleType('__main__')
    tool.__file__ = str(file)
    sys.modules['__main__'] = tool  # so that its definitions can be pickled, as in a script
    try:
        exec(compile(file.read_text(), str(file), 'exec'), vars(tool))
    except SystemExit as stop:  # every tool ends this way
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return 0


def tools() -> dict[str, Path]:
    """Return every command and its file: 'dist-train' is tools/dist_train.sh."""
    files = sorted(file for kind in ('*.py', '*.sh') for file in TOOLS.glob(kind) if not file.name.startswith('_'))
    return {file.stem.replace('_', '-'): file for file in files}


def find_tool(name: str) -> Path:
    """Return the file of a command, written with - or _. Raises ConfigError naming the known ones."""
    known = tools()
    command = name.replace('_', '-')
    if command not in known:
        near = difflib.get_close_matches(command, [*known, 'configs'], n=1)
        hint = f'did you mean {near[0]}?' if near else f'it is one of {", ".join([*known, "configs"])}.'
        raise ConfigError(f'there is no command {name!r}: {hint}')
    return known[command]


def usage() -> str:
    """Return the help text: every command with the first sentence of its file."""
    lines = {name: summary(file) for name, file in tools().items()}
    lines['configs'] = 'List the configs that come with the package: mmseg-tr configs ["PATTERN"].'
    width = max(map(len, lines))
    return USAGE.format(commands='\n'.join(f'  {name:<{width}}  {text}' for name, text in sorted(lines.items())))


def summary(file: Path) -> str:
    """Return the first line of a tool's docstring, or of a script's comment."""
    text = file.read_text()
    if file.suffix == '.py':
        return (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]
    return next((line.lstrip('# ') for line in text.splitlines() if line.startswith('# ')), '').partition(':')[0] + '.'


def list_configs(patterns: Sequence[str]) -> int:
    """Print the names of the package's configs that match any pattern, all of them without one.

    Raises ConfigError when none does.
    """
    names = sorted(file.relative_to(CONFIGS).as_posix() for file in CONFIGS.glob('[!_]*/*.py'))
    wanted = [f'*{pattern}*' for pattern in patterns] or ['*']
    found = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in wanted)]
    if not found:
        raise ConfigError(f'no config of {CONFIGS} matches {" ".join(patterns)!r}: run it without a pattern for all.')
    return show('\n'.join(found))


def show(text: str) -> int:
    """Print a long text; a reader such as head may leave before its end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its exit
    return 0
