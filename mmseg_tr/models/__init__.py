"""Wrap the networks of mmseg_tr.nn for OpenMMLab. Importing this package fills the MODELS registry.

Plain networks are registered unchanged. `seg` (heads, segmentors) is imported only where mmseg is installed, `pose`
(heads) only where mmpose is.
"""

from mmseg_tr.errors import installed
from mmseg_tr.nn import ViT
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.registry import MODELS

__all__ = ['ViT']

MODELS.register_module(module=ViT)
MODELS.register_module(name='MiT', module=MixVisionTransformer)

if installed('mmseg'):
    from mmseg_tr.models import seg  # noqa: F401 (registers its classes)
if installed('mmpose'):
    from mmseg_tr.models import pose  # noqa: F401 (registers its classes)
