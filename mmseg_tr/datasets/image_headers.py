"""Read size, depth and orientation of an image file from its first bytes, without decoding it."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # its values that exchange height and width
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type; a palette is one channel of indices
_SOF = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # JPEG's frame headers
_BITS = {'1': 1, 'F': 32, 'I': 32}  # of Pillow's modes; others have their bits in the name, or 8


@dataclass(frozen=True)
class ImageHeader:
    """Header of an image file: size (h, w) as stored, channels, bits of each, EXIF orientation."""

    size: tuple[int, int]
    channels: int
    bits: int
    orientation: int = 1

    @property
    def shown_size(self) -> tuple[int, int]:
        """Return (h, w) after the orientation is applied."""
        return self.size[::-1] if self.orientation in SIDEWAYS else self.size


def read_header(path: str | os.PathLike) -> ImageHeader:
    """Read the header of an image file.

    PNG and JPEG are parsed here, several times faster than by Pillow, which reads every other format.
    Raises OSError or ValueError for a file that is missing or is not an image.
    """
    with open(path, 'rb') as file:
        start = file.read(33)
        if start.startswith(b'\x89PNG\r\n\x1a\n') and start[12:16] == b'IHDR' and len(start) == 33:
            width, height, bits, colour = struct.unpack('>IIBB', start[16:26])
            if colour in _PNG_CHANNELS:
                return ImageHeader((height, width), _PNG_CHANNELS[colour], bits, _png_orientation(file))
        if start.startswith(b'\xff\xd8'):
            header = _read_jpeg(file)
            if header is not None:
                return header
        file.seek(0)
        return _read_with_pillow(file)


def _png_orientation(file: BinaryIO) -> int:
    """Return the orientation in a PNG's eXIf chunk, which comes before the pixels."""
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack('>I4s', start)
        if kind == b'eXIf':
            return _orientation(file.read(min(length, 1 << 16)))
        if kind in (b'IDAT', b'IEND'):
            break
        file.seek(length + 4, os.SEEK_CUR)
    return 1


def _read_jpeg(file: BinaryIO) -> ImageHeader | None:
    """Walk over the segments up to the frame header. None for a file of another structure."""
    file.seek(2)
    orientation = 1
    while len(marker := file.read(4)) == 4:
        if marker[0] != 0xFF:
            return None
        length = struct.unpack('>H', marker[2:])[0] - 2
        if marker[1] in _SOF:
            bits, height, width, channels = struct.unpack('>BHHB', file.read(6))
            return ImageHeader((height, width), channels, bits, orientation) if height else None
        if marker[1] == 0xE1 and length > 6:
            segment = file.read(length)
            if segment.startswith(b'Exif\x00\x00'):
                orientation = _orientation(segment[6:])
        else:
            file.seek(length, os.SEEK_CUR)
    return None


def _orientation(exif: bytes) -> int:
    """Return the orientation in a block of EXIF; 1 if it is missing or damaged."""
    order = {b'II': '<', b'MM': '>'}.get(exif[:2])
    try:
        (first,) = struct.unpack_from(f'{order}I', exif, 4)
        (entries,) = struct.unpack_from(f'{order}H', exif, first)
        for number in range(entries):
            tag, _, _, value = struct.unpack_from(f'{order}HHIH', exif, first + 2 + 12 * number)
            if tag == ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _read_with_pillow(file: BinaryIO) -> ImageHeader:
    try:
        with Image.open(file) as image:
            mode, size = image.mode, image.size[::-1]
            orientation = image.getexif().get(ORIENTATION, 1)
            depth = getattr(image, 'tag_v2', {}).get(258, ())  # TIFF's BitsPerSample: Pillow may read it as fewer
    except OSError:
        raise
    except Exception as error:  # Pillow may raise almost anything on damaged data
        raise ValueError(f'it is damaged or not an image ({error})') from error
    bits = 16 if ';16' in mode else _BITS.get(mode, 8)
    bits = max([bits, *(depth if isinstance(depth, tuple) else (depth,))])
    orientation = orientation if orientation in range(1, 9) else 1
    return ImageHeader(size, len(mode) if mode.isalpha() and mode not in ('F', 'I', 'P') else 1, bits, orientation)
