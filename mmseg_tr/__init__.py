"""Vision transformers for dense prediction, made cheaper by reducing their tokens.

Importing the package loads nothing heavy: `mmseg_tr.nn` and `mmseg_tr.reduction` need torch and timm only, and
everything that OpenMMLab needs is in `mmseg_tr.registry`. `create_model` and `Predictor` are loaded when they are first
used. After `import mmseg_tr`, mmcv, mmseg and mmpose import together as they do in the tools (mmseg_tr/compat.py).
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from mmseg_tr.version import __version__

__all__ = [
    'Host',
    'Predictor',
    '__version__',
    'apply',
    'create_model',
    'disabled',
    'from_pretrained',
    'remove',
    'summary',
]

_LAZY = dict(
    create_model='mmseg_tr.zoo', from_pretrained='mmseg_tr.zoo', Predictor='mmseg_tr.apis.infer.predictor'
) | dict.fromkeys(('Host', 'apply', 'disabled', 'remove', 'summary'), 'mmseg_tr.hosts')


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return __all__


class _BeforeOpenMMLab(MetaPathFinder):
    """Applies the workarounds of mmseg_tr.compat when one of these packages is imported, not when it is looked for."""

    workarounds = {'mmengine': 'ensure_yapf', **dict.fromkeys(('mmcv', 'mmseg', 'mmpose'), 'ensure_openmmlab')}
    looking = False

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if self.looking or name not in self.workarounds:
            return None
        self.looking = True
        try:
            spec = find_spec(name)
        finally:
            self.looking = False
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            loader.exec_module = execute
            getattr(import_module('mmseg_tr.compat'), self.workarounds[name])()
            execute(module)

        loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _BeforeOpenMMLab())
