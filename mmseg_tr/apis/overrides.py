"""A token-reduction method given on a command line, over that of a config."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmseg_tr.errors import ConfigError

MITS = ('mmseg_tr.MiT', 'MiT')


def parse_reduction(text: str) -> dict[str, Any] | None:
    """Settings of a method: "dict(type='ToMe', r=8)", "{'type': 'ToMe'}", "type=ToMe,r=8", or "None" for no method.

    Only literals are read, nothing is run. Raises ConfigError.
    """
    for source in (text, f'dict({text})'):
        try:
            node = ast.parse(source.strip(), mode='eval').body
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
                if node.args or any(keyword.arg is None for keyword in node.keywords):
                    continue
                return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
            value = ast.literal_eval(node)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            continue
        if value is None or (isinstance(value, dict) and all(isinstance(key, str) for key in value)):
            return value
    raise ConfigError(
        f'--reduction {text} cannot be read: write "dict(type=\'ToMe\', r=8)", type=ToMe,r=8, or None for no method.'
    )


def parse_merging_text(text: str) -> Any:
    """Merging of a MiT: a preset ("bsm_hq"), "merging=bsm_hq", a list of dicts, one a stage, or "None".

    Only literals are read, nothing is run. Raises ConfigError.
    """
    text = text.strip().removeprefix('merging=').strip('"\'')
    if text == 'None':
        return None
    if text.replace('-', '_').isidentifier() or text == '2x2':
        return text
    try:
        node = ast.parse(text, mode='eval').body
        if isinstance(node, ast.List | ast.Tuple):
            stages = [parse_reduction(ast.unparse(stage)) for stage in node.elts]
            return [stage or {} for stage in stages]
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # ConfigError, too, is a ValueError
        pass
    raise ConfigError(
        f'--reduction {text} cannot be read: a MiT takes a preset such as bsm_hq, a dict per stage, or None.'
    )


def _literal(node: ast.expr) -> Any:
    """A literal; a bare word, as shells leave it, is a string."""
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def use_reduction(config: Config, text: str) -> None:
    """Set the method of the config's backbone, in place. Without a type the settings change those of the config.

    A MiT has SegFormer++ alone, see parse_merging_text().
    Raises ConfigError for text that cannot be read and where the config has no method to change.
    """
    backbone = config.model.get('backbone')
    if isinstance(backbone, Mapping) and backbone.get('type') in MITS:
        backbone['merging'] = parse_merging_text(text)
        return
    wanted = parse_reduction(text)
    if not isinstance(backbone, Mapping):
        raise ConfigError(f'--reduction is set on a backbone, and the config {config.filename} has none: leave it out.')
    own = backbone.get('reduction')
    if wanted is not None and 'type' not in wanted:
        if not own:
            raise ConfigError(f'--reduction {text} names no type, and the config has no method: add type=... to it.')
        wanted = {**own, **wanted}
    elif wanted is not None and own and own.get('type') == wanted['type']:
        wanted = {**own, **wanted}
    backbone['reduction'] = wanted
