"""What the receiver hands to the flow above it: one object as received, before anything has looked at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_node import digests
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_BEFORE_GROUP_2 = 132  # preamble and prefix
_GROUP_LENGTH_ELEMENT = 12  # (0002,0000) itself, which does not count its own bytes


@dataclass(frozen=True)
class Received:
    """One C-STORE request, as the receiver hands it over."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    meta: bytes
    """Preamble, prefix and File Meta Information (PS3.10 7.1), ready to precede the data set in a file."""
    data_set: bytes | bytearray
    digest: str
    """Of the data set (`digests`), made while the data arrive."""
    calling_aet: str
    association: int
    """The node's own number for the association, for the log."""


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and File Meta Information for an object as received; its UIDs are not checked."""
    elements = b"".join(
        (
            b"\x02\x00\x01\x00OB\0\0\x02\0\0\0\0\x01",  # File Meta Information Version
            _uid(0x02, sop_class_uid),
            _uid(0x03, sop_instance_uid),
            _uid(0x10, transfer_syntax_uid),
            _uid(0x12, IMPLEMENTATION_CLASS_UID),
            _short(0x13, b"SH", IMPLEMENTATION_VERSION_NAME.encode(), b" "),
        )
    )
    group_length = b"\x02\x00\x00\x00UL\x04\0" + len(elements).to_bytes(4, "little")
    return b"\0" * 128 + b"DICM" + group_length + elements


def _uid(element: int, uid: str) -> bytes:
    return _short(element, b"UI", uid.encode("ascii", "replace"), b"\0")


def _short(element: int, vr: bytes, value: bytes, pad: bytes) -> bytes:
    """An element of group 2 in Explicit VR Little Endian, of even length (PS3.5 7.1.2)."""
    value = value[:64] + (pad if len(value[:64]) % 2 else b"")
    return b"\x02\x00" + element.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little") + value


def data_set_in(content: bytes) -> bytes:
    """The encoded data set of a file whose File Meta Information begins with its group length, as from `file_meta`."""
    return content[_data_set_at(content) :]


def _data_set_at(content: bytes) -> int:
    length_at = _BEFORE_GROUP_2 + _GROUP_LENGTH_ELEMENT - 4
    return length_at + 4 + int.from_bytes(content[length_at : length_at + 4], "little")


def is_acknowledged(content: bytes, size: int, digest: str) -> bool:
    """Whether a file of the spool is still what was acknowledged: of this size, and its data set with this digest."""
    if len(content) != size:
        return False
    return digests.is_of(memoryview(content)[_data_set_at(content) :], digest)  # no copy of a gigabyte


def from_file(path: Path, *, calling_aet: str) -> Received:
    """A Part 10 file as if received over an association. Raises InvalidDicomError if it is not one (PS3.10 7.1)."""
    meta = read_file_meta_info(path)
    content = path.read_bytes()
    length = meta.get("FileMetaInformationGroupLength")
    if not isinstance(length, int) or not 0 <= length <= len(content):
        raise InvalidDicomError("the File Meta Information has no group length")
    data_set_at = _BEFORE_GROUP_2 + _GROUP_LENGTH_ELEMENT + length
    return Received(
        sop_class_uid=str(meta.get("MediaStorageSOPClassUID", "")),
        sop_instance_uid=str(meta.get("MediaStorageSOPInstanceUID", "")),
        transfer_syntax_uid=str(meta.get("TransferSyntaxUID", "")),
        meta=content[:data_set_at],
        data_set=content[data_set_at:],
        digest=digests.of(content[data_set_at:]),
        calling_aet=calling_aet,
        association=0,
    )
