"""The interface of an infer task: read a picture, predict, draw, encode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn

from mmseg_tr.engine.preprocess import Picturelike, PictureReader


@dataclass(frozen=True)
class Request:
    """A picture that was read. pixels: (H, W, 3) uint8 RGB for display; items: what the pipeline packs."""

    name: str
    pixels: np.ndarray
    items: tuple[Mapping[str, Any], ...]

    @property
    def size(self) -> tuple:
        """Key that all pictures of one batch share."""
        return self.pixels.shape, tuple(tuple(item['inputs'].shape) for item in self.items[:1])


class Task(Protocol):
    """A kind of prediction.

    folders: the folders of the output, for what is drawn and for what was found, with the endings of their files.
    per_frame: whether a video has a file of what was found for every frame, or one file for all.
    """

    folders: Mapping[str, str]
    per_frame: bool
    model: nn.Module
    reader: PictureReader

    def read(self, picture: Picturelike, name: str = '') -> Request:
        """Read a file, PIL image or RGB array; name: of its results. Raises DatasetError."""

    def predict(self, requests: Sequence[Request]) -> list[Any]:
        """Return one result per request; all have the same `size`."""

    def draw(self, request: Request, result: Any) -> np.ndarray:
        """Draw a result over its picture, (H, W, 3) uint8 RGB."""

    def encode(self, result: Any) -> bytes:
        """Encode a result as a file; a list of results when one file is for all frames."""


def same_size(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """Group requests that can run in one batch without padding, which would change the input."""
    groups: dict[tuple, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.size, []).append(request)
    yield from groups.values()
