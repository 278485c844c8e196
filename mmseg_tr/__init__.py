"""Vision transformers for dense prediction, made cheaper by reducing their tokens.

Importing the package loads nothing heavy: `mmseg_tr.nn` and `mmseg_tr.reduction` need torch and timm only, and
everything that OpenMMLab needs stands behind `mmseg_tr.registry`. `create_model` (zoo.py) is loaded when it is
first asked for.
"""

from mmseg_tr.version import __version__

__all__ = ['__version__', 'create_model']


def __getattr__(name: str):
    if name == 'create_model':
        from mmseg_tr.zoo import create_model

        return create_model
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
