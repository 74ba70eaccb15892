"""What a compressed frame says of itself, read before a decoder gets near it.

A decoder allocates what the stream's own header asks for, not what the data set announces, so that header is read
first. Knows JPEG and JPEG-LS (ISO 10918-1 B.2.2, ISO 14495-1 C.2.2) and JPEG 2000 with HTJ2K (ISO 15444-1 A.5.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SOS = 0xDA
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # SOF0..15 and JPEG-LS's SOF55; not DHT, JPG, DAC
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_SIZ = b"\xff\x4f\xff\x51"  # SOC, then SIZ: the fixed start of every JPEG 2000 codestream
_BOX = struct.Struct(">I4sQ")
"""Length, kind, and the extended length if the box is too long for the first; ISO 15444-1 I.4."""
_MOST_BOXES = 100  # three or four precede a codestream; a gigabyte of empty ones would take half a minute


@dataclass(frozen=True)
class Codestream:
    """The size that a decoder would allocate: rows x columns of `bits` per component."""

    rows: int
    columns: int
    components: int
    bits: int
    tiles: int = 1


def codestream(data: bytes) -> Codestream | None:
    """The stream's own header, or None if it is of no known kind or cut short."""
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)
        start = 0 if data.startswith(_SIZ) else _behind_boxes(data)
        return _jpeg2000(data[start + 4 : start + 44]) if data.startswith(_SIZ, start) else None
    except (struct.error, IndexError, OverflowError):  # the last for a box longer than any file
        return None


def _jpeg(data: bytes) -> Codestream | None:
    at = 2
    while at < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAMES:
            bits, rows, columns, components = struct.unpack_from(">BHHB", data, at + 4)
            return Codestream(rows, columns, components, bits)
        elif marker == _SOS:
            return None
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _behind_boxes(data: bytes) -> int:
    """Where the codestream begins in a JP2 wrapper, which DICOM forbids but which occurs. Found as decoders find it, so
    that what looks like one inside another box does not mislead; the end of `data` if there is none.
    Raises struct.error."""
    at = 0
    for _ in range(_MOST_BOXES):
        length, kind, longer = _BOX.unpack_from(data, at)
        if kind == b"jp2c":
            return at + (16 if length == 1 else 8)
        at += max(longer if length == 1 else length, 8)
    return len(data)


def _jpeg2000(siz: bytes) -> Codestream | None:
    """`siz` begins at Lsiz: length, capabilities, then image, tile and component sizes."""
    right, bottom, left, top, wide, high, wide_from, high_from, components, depth = struct.unpack_from(">8IHB", siz, 4)
    if right <= left or bottom <= top or not wide or not high:
        return None
    across, down = -(-(right - wide_from) // wide), -(-(bottom - high_from) // high)
    return Codestream(bottom - top, right - left, components, (depth & 0x7F) + 1, max(1, across * down))
