"""The frames of encapsulated Pixel Data (PS3.5 A.4): which fragments hold which of them.

Offset tables are often wrong and seldom needed: fragments come in the order of their frames, so an image of one frame
has them all, and one with as many fragments as frames has one for each, as it must where there is an Extended Offset
Table (PS3.3 C.7.6.3.1.8).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from dtvit.reading.headervalues import UnreadableSlice

MAX_FRAGMENTS = 100_000  # who splits frames makes some dozens of each
_ITEM, _END = 0xE000FFFE, 0xE0DDFFFE  # tags, in little endian
_HEAD = struct.Struct("<LL")
_STREAM_ENDS = b"\xff\xd9"  # in JPEG, JPEG-LS and JPEG 2000
_LAST = 10  # bytes of a frame among which that is; the others are padding


def frames_of(value: bytes, frames: int) -> list[bytes]:
    """As they were compressed. Raises UnreadableSlice where it cannot be told which fragment belongs to which frame:
    a guess would show a slice at the place of another."""
    (_, table), *fragments = list(_items(value)) or [(0, b"")]
    if not fragments:
        raise UnreadableSlice("the object holds no pixels")
    if frames == 1:
        return [b"".join(content for _, content in fragments)]
    if len(fragments) == frames:
        return [content for _, content in fragments]
    starts = {begin for (begin,) in struct.iter_unpack("<L", table[: len(table) // 4 * 4])}
    found = _joined([begin in starts for begin, _ in fragments[1:]], fragments)
    if len(starts) != frames or len(found) != frames:
        found = _joined([_STREAM_ENDS in content[-_LAST:] for _, content in fragments[:-1]], fragments)
    if len(found) != frames:
        raise UnreadableSlice(
            f"the compressed pixels are {len(fragments)} pieces, which {frames} frames do not explain"
        )
    return found


def _items(value: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each begins, counted from the one behind the table, which comes first; and its content."""
    at, base = 0, 0
    for count in range(MAX_FRAGMENTS + 2):
        tag, length = _HEAD.unpack_from(value, at) if at + _HEAD.size <= len(value) else (_END, 0)
        if tag == _END:
            return
        if tag != _ITEM:
            raise UnreadableSlice("the compressed pixels are not in items, as they must be")
        begin = at + _HEAD.size
        yield at - base, value[begin : begin + length]
        at = begin + length
        base = base if count else at
    raise UnreadableSlice(f"the compressed pixels are in more than {MAX_FRAGMENTS} pieces")


def _joined(ends: Sequence[bool], fragments: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """`ends`: whether a frame ends between one and the next."""
    found = [[fragments[0][1]]]
    for new, (_, content) in zip(ends, fragments[1:], strict=True):
        if new:
            found.append([])
        found[-1].append(content)
    return [b"".join(parts) for parts in found]
