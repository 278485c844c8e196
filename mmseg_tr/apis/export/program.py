"""Export a network as one torch.export program, for any number of images of one size."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.analysis.network import network_of
from mmseg_tr.errors import ExportError, first_line
from mmseg_tr.nn.labels import pixel_classes

OUTPUTS = ('logits', 'labels')
DESCRIPTION = 'description.json'
Program = Callable[[Tensor], Tensor]


class Whole(nn.Module):
    """Normalised images (B, C, H, W) -> logits (B, K, H, W) or labels (B, H, W) int64, at the size of the images."""

    def __init__(self, model: nn.Module, output: str = 'logits') -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, image: Tensor) -> Any:
        network = network_of(self.model)
        logits = network.enlarge(network.scores(image), image)
        if self.output == 'logits':
            return logits
        return pixel_classes(logits, network.threshold)


def trace(whole: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Return the program for any number of images like the two or more of `example`. Raises ExportError."""
    any_batch = {0: torch.export.Dim('batch', min=1)}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return torch.export.export(whole, (example,), dynamic_shapes=(any_batch,), strict=False)
    except Exception as error:  # the code of a third-party network may raise anything
        raise ExportError(f'torch.export cannot trace this network: {first_line(error)}') from error


def write_torch(
    program: torch.export.ExportedProgram, path: Path, description: Mapping[str, str] | None = None
) -> None:
    """Save a program as torch.export.load() reads it, with its description as the extra file DESCRIPTION.

    It is packed in memory: torch's own writer aborts the process when the disk is full, an open file raises OSError.
    """
    packed = io.BytesIO()
    torch.export.save(program, packed, extra_files={DESCRIPTION: json.dumps(dict(description or {}))})
    path.write_bytes(packed.getbuffer())


def read_torch(path: Path) -> Program:
    """Load a file of write_torch()."""
    return torch.export.load(path).module()
