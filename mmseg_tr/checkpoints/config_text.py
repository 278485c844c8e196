"""Configs as text: what one inside a checkpoint says, read without running it, and writing one."""

import ast
from typing import Any

from mmseg_tr.compat import ensure_openmmlab
from mmseg_tr.errors import require_extra
from mmseg_tr.paths import config_path


def require_openmmlab(purpose: str) -> None:
    """Make the OpenMMLab packages import together. Raises MissingExtraError, naming the extra, without them."""
    require_extra('seg', 'mmseg', purpose)
    ensure_openmmlab()


def pretty_text(content: dict[str, Any]) -> str:
    """A config of plain values as the text of a .py file. Needs OpenMMLab."""
    from mmengine.config import Config

    return Config(content).pretty_text


def shipped_config(name: str) -> dict[str, Any]:
    """A file of local_configs, its bases merged in and its environment variables left to whoever loads it.

    Needs OpenMMLab. Raises ConfigError where the package's configs are not installed.
    """
    from mmengine.config import Config

    path = config_path(name)
    return Config.fromfile(path, use_environment_variables=False, import_custom_modules=False).to_dict()


LARGEST = 100_000  # parts of a value; the largest configs have some thousand


class _NotPlainError(Exception):
    """An expression that is more than values."""


def read_config(text: str) -> dict[str, Any]:
    """Plain top-level assignments of a config: numbers, texts, lists, tuples, dicts, and names of earlier ones.

    That is all that mmengine's pretty_text consists of. Whatever needs running (imports, other calls) is left out, and
    so is everything of a text that is not Python, and a value of more than LARGEST parts.
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
    """A dict inside dicts, empty without one."""
    for name in names:
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else {}


def _size(value: Any, known: dict[int, int]) -> int:
    """Parts of a value, each counted as often as it is used: short texts can describe huge ones.

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
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Tuple():
            return tuple(_value(item, known) for item in node.elts)
        case ast.List():
            return [_value(item, known) for item in node.elts]
        case ast.Dict() if None not in node.keys:
            return {_value(key, known): _value(value, known) for key, value in zip(node.keys, node.values, strict=True)}
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.Call(func=ast.Name(id='dict'), args=args, keywords=keywords) if len(args) <= 1:
            given = dict(_value(args[0], known)) if args else {}
            if any(keyword.arg is None for keyword in keywords):
                raise _NotPlainError
            return given | {keyword.arg: _value(keyword.value, known) for keyword in keywords}
    raise _NotPlainError
