"""Vision transformers for dense prediction, made cheaper by reducing their tokens.

Importing the package loads nothing heavy: `mmseg_tr.nn` and `mmseg_tr.reduction` need torch and timm only, and
everything that OpenMMLab needs stands behind `mmseg_tr.registry`.
"""

from mmseg_tr.version import __version__

__all__ = ['__version__']
