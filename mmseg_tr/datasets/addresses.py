"""Addresses of pictures that are drawn on request, for everything that reads files through mmengine."""

from __future__ import annotations

import io
import re

import numpy as np
from mmengine.fileio import BaseStorageBackend
from PIL import Image

from mmseg_tr.errors import DatasetError


class DrawnBackend(BaseStorageBackend):
    """Draw the picture of an address and return it as the bytes of a PNG file.

    pattern: what addresses look like; its groups are the arguments of `draw`.
    what, example: for the message about an address that does not exist.
    """

    pattern: re.Pattern[str]
    what: str
    example: str

    def draw(self, *groups: str | None) -> np.ndarray:
        """An image (h, w, 3) uint8 RGB, or a label map (h, w) uint8."""
        raise NotImplementedError

    def get(self, filepath: str) -> bytes:
        """Return a PNG of the picture. Raises DatasetError for an unknown address."""
        match = self.pattern.fullmatch(str(filepath))
        if match is None:
            raise DatasetError(f"'{filepath}' is not the address of a {self.what}, such as {self.example}.")
        buffer = io.BytesIO()
        Image.fromarray(self.draw(*match.groups())).save(buffer, format='PNG', compress_level=1)
        return buffer.getvalue()

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        """Raise DatasetError: a picture is not text."""
        raise DatasetError(f"'{filepath}' is a picture and cannot be read as text.")
