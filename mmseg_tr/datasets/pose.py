"""Pose datasets. Importing this file registers them where mmpose is installed."""

import mmseg_tr.registry  # noqa: F401 (first: it makes mmpose importable)
from mmseg_tr.errors import installed

if installed('mmpose'):
    from mmseg_tr.datasets import jump_broadcast, photo_figures  # noqa: F401 (registers their classes)
