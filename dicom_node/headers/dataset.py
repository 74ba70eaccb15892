"""An encoded data set: finds the elements that are asked for, stepping over all others (`dtvit.reading.stepping`).

What that does not read, from big endian to a broken length, pydicom parses: one data set at a time, within bounds.
"""

from __future__ import annotations

import io
import struct
import threading
from functools import lru_cache

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from dicom_node.errors import InvalidObject
from dicom_node.headers.elements import Elements, tags
from dicom_node.status import StoreStatus
from dtvit.reading import stepping
from dtvit.reading.stepping import PIXEL_DATA, UNDEFINED, Pixels, Unusual

_COMMAND_SET, _FILE_META = b"\0\0", b"\2\0"  # groups, in little endian
_CHARACTER_SETS = (b"\x08\0\x05\0", b"\0\x08\0\x05")  # (0008,0005), in either byte order
MOST_READS = 1_000_000  # one or two per element; pydicom takes some 340 bytes for an empty one, which has eight
_CHARACTER_SET_COUNTS = 16  # reads per byte: none has sixty thousand bytes
_PARSING = threading.Lock()  # Python runs one at a time anyway; side by side each would hold its elements meanwhile


@lru_cache(maxsize=32)
def _syntax(uid: str) -> pydicom.uid.UID:
    return pydicom.uid.UID(uid)


def read(
    data_set: bytes | bytearray, transfer_syntax_uid: str, keywords: frozenset[str]
) -> tuple[Elements, Pixels | None]:
    """These elements, and where the value of Pixel Data is. Raises InvalidObject where a length exceeds the data, and
    whatever pydicom raises for what is broken otherwise."""
    syntax, wanted = _syntax(transfer_syntax_uid), tags(keywords)
    if syntax.is_little_endian:
        try:
            raw, pixels = stepping.find(data_set, syntax.is_implicit_VR, wanted)
            return Elements(raw, implicit=syntax.is_implicit_VR, wanted=wanted), pixels
        except (Unusual, struct.error):
            pass
    with _PARSING:
        ds, pixels = _parse(data_set, syntax)
    return Elements({}, implicit=syntax.is_implicit_VR, wanted=wanted, read=ds), pixels


class _Counted(io.BytesIO):
    """Stops the reading of what would fill the memory with elements, here and wherever the file is read later."""

    def __init__(self, data: bytes | bytearray) -> None:
        super().__init__(data)
        self._left = MOST_READS
        self._names_character_sets = False

    def read(self, size: int | None = -1) -> bytes:
        """A Specific Character Set counts by its bytes: it alone is split and looked up at once, which may take 140
        bytes and a microsecond per byte."""
        self._left -= _CHARACTER_SET_COUNTS * (size or 0) if self._names_character_sets else 1
        if self._left < 0:
            raise InvalidObject("the data set has more elements than any real one", StoreStatus.CANNOT_UNDERSTAND)
        got = super().read(size)
        long_length = self._names_character_sets and size == 4  # as an unusual VR has, in front of the value
        self._names_character_sets = long_length or (size == 8 and got[:4] in _CHARACTER_SETS)
        return got


def _parse(data_set: bytes | bytearray, syntax: pydicom.uid.UID) -> tuple[Dataset, Pixels | None]:
    """The data set up to Pixel Data, by pydicom."""
    _refuse_what_is_no_part_of_it(data_set, syntax)
    stream = _Counted(data_set)
    pixel_element: tuple[str | None, int] | None = None

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal pixel_element
        pixel_element = (vr, length) if int(tag) in PIXEL_DATA else None
        return pixel_element is not None

    ds = pydicom.filereader.read_dataset(stream, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=at_pixels)
    if not len(ds):
        raise InvalidObject("the data set is empty", StoreStatus.CANNOT_UNDERSTAND)
    for element in ds.values():
        known = isinstance(element, RawDataElement) and element.length != UNDEFINED
        if known and element.value_tell + element.length > len(data_set):
            raise InvalidObject("an element is longer than the data set", StoreStatus.CANNOT_UNDERSTAND)
    if pixel_element is None:
        return ds, None
    vr, length = pixel_element
    return ds, (vr, stream.tell() + (12 if vr in EXPLICIT_VR_LENGTH_32 else 8), length)


def _refuse_what_is_no_part_of_it(data_set: bytes | bytearray, syntax: pydicom.uid.UID) -> None:
    """Groups 0000 and 0002 in front of a data set (by PS3.5 7.1 they belong elsewhere).

    In a file, after our own File Meta Information, group 0002 would continue it and group 0000 follow rules of its own:
    the file would be another object, perhaps another patient's, than the one that is filed. File Meta Information that
    names the agreed transfer syntax, or none, changes nothing and is accepted.
    """
    behind = 0
    if data_set.startswith(_FILE_META):
        stream = _Counted(data_set)
        meta = pydicom.filereader.read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
        if meta.get("TransferSyntaxUID", syntax) != syntax:
            raise InvalidObject("the data set names another transfer syntax than agreed", StoreStatus.CANNOT_UNDERSTAND)
        behind = stream.tell()
    if data_set.startswith(_COMMAND_SET, behind):
        raise InvalidObject("the data set begins with elements of a command set", StoreStatus.CANNOT_UNDERSTAND)


def pixel_value(data_set: bytes | bytearray, pixels: Pixels) -> memoryview:
    """The value of Pixel Data; to the end of the data if it ends with a delimiter. Raises InvalidObject if cut off."""
    _, begin, length = pixels
    if length == UNDEFINED:
        return memoryview(data_set)[begin:]
    if begin + length > len(data_set):
        raise InvalidObject("Pixel Data is shorter than its stated length", StoreStatus.CANNOT_UNDERSTAND)
    return memoryview(data_set)[begin : begin + length]
