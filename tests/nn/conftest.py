"""Tests here import timm themselves, which works everywhere once this package has made torchvision import."""

import mmseg_tr.nn  # noqa: F401
