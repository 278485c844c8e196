"""Preprocessing of pictures with any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models import SegDataPreProcessor

from mmseg_tr.registry import MODELS


@MODELS.register_module()
class AnyChannelsPreProcessor(SegDataPreProcessor):
    """mmseg's SegDataPreProcessor with a mean and std of any number of channels, which onedl's refuses.

    Arguments are mmseg's.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **settings: Any) -> None:
        super().__init__(**settings)
        self._enable_normalize = True
        for name, values in dict(mean=mean, std=std).items():
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), False)
