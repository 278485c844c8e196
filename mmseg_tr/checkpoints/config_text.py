"""Configs as text: read the one inside a checkpoint without running it, and write one."""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from mmseg_tr.compat import ensure_openmmlab
from mmseg_tr.errors import CheckpointError, require_extra
from mmseg_tr.paths import config_path
from mmseg_tr.reduction import REDUCTIONS
from mmseg_tr.weights.io import few


def require_openmmlab(purpose: str) -> None:
    """Make the OpenMMLab packages import together. Raises MissingExtraError, naming the extra, without them."""
    require_extra('seg', 'mmseg', purpose)
    ensure_openmmlab()


def pretty_text(content: dict[str, Any]) -> str:
    """Return a config of plain values as the text of a .py file. Needs OpenMMLab.

    Raises CheckpointError for types that are not registered: mmengine would import and call what they name.
    """
    from mmengine.config import Config

    unknown = unknown_types(content)
    if unknown:
        raise CheckpointError(f'the config inside the file has types that are not registered here: {few(unknown)}.')
    return Config(content).pretty_text


def unknown_types(value: Any) -> list[str]:
    """Return values of `type` anywhere in a config that OpenMMLab's registries and this package's do not have."""
    return sorted({name for name in map(str, _types(value)) if not _is_registered(name)})


def _types(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        if 'type' in value:
            yield value['type']
        value = list(value.values())
    for part in value if isinstance(value, list | tuple) else ():
        yield from _types(part)


def _is_registered(name: str) -> bool:
    scope, _, bare = name.rpartition('.')
    if name in REDUCTIONS or scope == 'mmseg_tr':
        return bare.isidentifier()
    return bare in _registered() and (not scope or scope in SCOPES)


@cache
def _registered() -> frozenset[str]:
    """Return all names in the registries of mmengine and of the packages that derive from it."""
    from mmengine import registry as root
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    waiting = [value for value in vars(root).values() if isinstance(value, root.Registry)]
    names: set[str] = set()
    while waiting:
        registry = waiting.pop()
        with suppress(ImportError):  # of an extra that is not installed
            registry.import_from_location()
        names |= set(registry.module_dict)
        waiting += registry.children.values()
    return frozenset(names)


def shipped_config(name: str) -> dict[str, Any]:
    """Return a file of local_configs, its bases merged in and its environment variables left to whoever loads it.

    Needs OpenMMLab. Raises ConfigError where the package's configs are not installed.
    """
    from mmengine.config import Config

    path = config_path(name)
    return Config.fromfile(path, use_environment_variables=False, import_custom_modules=False).to_dict()


LARGEST = 100_000  # parts of a value; the largest configs have some thousand
SCOPES = ('mmengine', 'mmcv', 'mmseg')
# mmengine writes keys without escaping them, and replaces {{...}} in the text of a config before it parses it
_KEY = re.compile(r'[^\'"\\\\\n\r{}]*')
_VARIABLE = re.compile(r'\{\{\$DATASET:[\w./:-]*\}\}')


class _NotPlainError(Exception):
    """An expression that holds more than plain values."""


def read_config(text: str) -> dict[str, Any]:
    """Return plain top-level assignments of a config: numbers, texts, lists, tuples, dicts, and names of earlier ones.

    That is all that mmengine's pretty_text consists of. Code that would have to run (imports, other calls), text
    that is not Python and values of more than LARGEST parts are left out.
    """
    try:
        lines = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, Any] = {}
    sizes: dict[int, int] = {}
    for line in lines:
        if not isinstance(line, ast.Assign) or len(line.targets) != 1 or not isinstance(line.targets[0], ast.Name):
            continue
        name = line.targets[0].id
        try:
            found[name] = _value(line.value, found)
        except (_NotPlainError, RecursionError, TypeError, ValueError):
            found.pop(name, None)
        if name in found and _size(found[name], sizes) > LARGEST:
            del found[name]
    return found


def section(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a dict inside dicts, empty without one."""
    for name in names:
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else {}


def _size(value: Any, known: dict[int, int]) -> int:
    """Count the parts of a value, repeated ones each time: short texts can describe huge values.

    known: sizes by id of values that stay alive.
    """
    if not isinstance(value, dict | list | tuple):
        return 1
    if id(value) not in known:
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in inside)
    return known[id(value)]


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=str() as text):
            if '{{' in _VARIABLE.sub('', text):
                raise _NotPlainError
            return text
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Tuple():
            return tuple(_value(item, known) for item in node.elts)
        case ast.List():
            return [_value(item, known) for item in node.elts]
        case ast.Dict() if None not in node.keys:
            keys = [_value(key, known) for key in node.keys]
            if not all(isinstance(key, int) or (isinstance(key, str) and _KEY.fullmatch(key)) for key in keys):
                raise _NotPlainError
            return {key: _value(value, known) for key, value in zip(keys, node.values, strict=True)}
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.Call(func=ast.Name(id='dict'), args=args, keywords=keywords) if len(args) <= 1:
            given = dict(_value(args[0], known)) if args else {}
            if any(keyword.arg is None for keyword in keywords):
                raise _NotPlainError
            return given | {keyword.arg: _value(keyword.value, known) for keyword in keywords}
    raise _NotPlainError
