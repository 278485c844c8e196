"""The package's own source files, read for tests about how they are built."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.clean import ROOT

PACKAGE = 'mmseg_tr'


@dataclass(frozen=True)
class Import:
    """One module that a file imports. inside: the function that holds the import, '' at the top of the file."""

    file: str
    line: int
    name: str
    inside: str = ''

    def __str__(self) -> str:
        where = f' in {self.inside}()' if self.inside else ''
        return f'{self.file}:{self.line}: imports {self.name}{where}'


@cache
def files(*folders: str) -> tuple[Path, ...]:
    """Every Python file of the given folders of the checkout."""
    return tuple(file for folder in folders for file in sorted((ROOT / folder).rglob('*.py')))


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def short(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def modules() -> dict[str, Path]:
    """The package's modules by their dotted names."""
    found = {}
    for file in files(PACKAGE):
        parts = file.relative_to(ROOT).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = file
    return found


@cache
def imports(file: Path) -> tuple[Import, ...]:
    """Every import of a file, wherever it is, with `importlib.import_module('...')`."""
    return tuple(
        Import(short(file), node.lineno, name, inside) for node, inside in walk(parse(file)) for name in _named(node)
    )


def walk(node: ast.AST, inside: str = '') -> Iterator[tuple[ast.AST, str]]:
    """Every node of a tree with the name of the function around it."""
    for child in ast.iter_child_nodes(node):
        yield child, inside
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from walk(child, inside or child.name if named else inside)


def _named(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, 'imports are absolute'
        names = [f'{node.module}.{alias.name}' for alias in node.names]
        return sorted({name if name in modules() else node.module for name in names})
    if isinstance(node, ast.Call) and _last_name(node.func) == 'import_module' and node.args:
        (name, *_) = node.args
        return [name.value] if isinstance(name, ast.Constant) and isinstance(name.value, str) else []
    return []


def _last_name(node: ast.expr) -> str | None:
    """`c` of `a.b.c`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, 'id', None)
