"""Stepping over the elements of an encoded data set to those that are wanted (PS3.5 chapter 7).

pydicom makes an object of each of the one to three hundred elements before Pixel Data. What is laid out as nearly every
scanner does it is stepped over here; anything else, from a wrong order to an impossible length, is Unusual and left to
pydicom to judge.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

UNDEFINED = 0xFFFFFFFF  # length of a value that ends with a delimiter (PS3.5 7.1.1)

PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
CHARACTER_SET = 0x00080005
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LARGE = 8 * 2**20  # bytes before Pixel Data; more is left to pydicom
_LONGEST_CHARACTER_SET = 1024  # bytes; the longest that means anything has some two hundred
_DEEPEST = 16  # sequences within sequences; PS3.5 sets no limit, and no image comes near it
_LONG = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32)  # PS3.5 7.1.2
_SHORT = frozenset(str(vr).encode() for vr in STANDARD_VR) - _LONG
_explicit, _implicit = struct.Struct("<HH2sH").unpack_from, struct.Struct("<HHL").unpack_from
_long = struct.Struct("<L").unpack_from

Pixels = tuple[str | None, int, int]
"""VR, where the value begins, and its length."""


class Unusual(Exception):
    """Not laid out as nearly every data set is; that is not a verdict."""


def find(
    data: bytes | bytearray,
    implicit: bool,
    wanted: frozenset[int],
    begin: int = 0,
    *,
    after: int = 0x0007FFFF,
) -> tuple[dict[int, RawDataElement], Pixels | None]:
    """The `wanted` elements, by tag, of the little endian data set that begins at `begin`, and where the value of Pixel
    Data lies, which ends the search; None if there is none. A sequence of undefined length gets its actual one.

    `after`: the tag that all come after; groups below 0008 do not belong in a data set.
    Raises Unusual, struct.error.
    """
    found: dict[int, RawDataElement] = {}
    at, end, last = begin, len(data), after
    if implicit and (first := data[begin + 4 : begin + 6]).isalpha() and first.isupper():  # it is a VR
        raise Unusual
    while at < end:
        tag, vr, value, length = _head(data, at, implicit)
        if tag <= last or at - begin > _LARGE:
            raise Unusual
        last = tag
        if tag in PIXEL_DATA:
            return found, (vr, value, length)
        if tag == CHARACTER_SET and (vr not in ("CS", None) or length > _LONGEST_CHARACTER_SET):
            raise Unusual
        if length == UNDEFINED:
            at = _past_sequence(data, value, implicit, vr, 0)
            if tag in wanted:
                items = bytes(data[value : at - 8])
                found[tag] = RawDataElement(BaseTag(tag), "SQ", len(items), items, value, implicit, True)
            continue
        at = value + length
        if tag in wanted:
            found[tag] = RawDataElement(BaseTag(tag), vr, length, bytes(data[value:at]), value, implicit, True)
    if at != end or at == begin:
        raise Unusual
    return found, None


def items(value: bytes, implicit: bool) -> Iterator[bytes]:
    """The elements of each item of a sequence whose value this is. Raises Unusual, struct.error."""
    at = 0
    while at < len(value):
        group, element, length = _implicit(value, at)
        begin = at + 8
        if group << 16 | element != _ITEM:
            raise Unusual
        at = _past_item(value, begin, None, implicit, 0) if length == UNDEFINED else begin + length
        if at > len(value):
            raise Unusual
        yield value[begin : at - 8 if length == UNDEFINED else at]


def _head(data: bytes | bytearray, at: int, implicit: bool) -> tuple[int, str | None, int, int]:
    """Tag, VR, begin and length of the value of the element at `at`."""
    if implicit:
        group, element, length = _implicit(data, at)
        return group << 16 | element, None, at + 8, length
    group, element, vr, length = _explicit(data, at)
    if vr in _SHORT:
        return group << 16 | element, vr.decode(), at + 8, length
    if vr not in _LONG:
        raise Unusual
    return group << 16 | element, vr.decode(), at + 12, _long(data, at + 8)[0]


def _past_sequence(data: bytes | bytearray, at: int, implicit: bool, vr: str | None, depth: int) -> int:
    """Where a sequence of undefined length ends whose items begin at `at`."""
    if vr not in ("SQ", None) or depth > _DEEPEST:
        raise Unusual
    while True:
        group, element, length = _implicit(data, at)
        at += 8
        tag = group << 16 | element
        if tag == _SEQUENCE_END and not length:
            return at
        if tag != _ITEM:
            raise Unusual
        at = _past_item(data, at, None if length == UNDEFINED else at + length, implicit, depth)


def _past_item(data: bytes | bytearray, at: int, end: int | None, implicit: bool, depth: int) -> int:
    """Where an item ends whose elements begin at `at`; `end`: where it says so itself.

    One with an element that reaches beyond its end is Unusual: a parser would continue after that element.
    """
    while end is None or at < end:
        group, element, length = _implicit(data, at)
        if group << 16 | element == _ITEM_END and not length:
            if end is not None:
                raise Unusual
            return at + 8
        tag, vr, begin, length = _head(data, at, implicit)
        if tag == CHARACTER_SET and length > _LONGEST_CHARACTER_SET:
            raise Unusual
        at = _past_sequence(data, begin, implicit, vr, depth + 1) if length == UNDEFINED else begin + length
    if at != end:
        raise Unusual
    return at
