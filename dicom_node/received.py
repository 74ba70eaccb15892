"""What the receiver hands to the flow above it: one object as it came, before anybody has looked at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info


@dataclass(frozen=True)
class Received:
    """One C-STORE request, as the receiver hands it over."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    meta: bytes
    """Preamble, prefix and File Meta Information (PS3.10 7.1), ready to stand before the data set in a file."""
    data_set: bytes
    calling_aet: str
    association: int
    """The node's own number of the association, for the log."""


_BEFORE_GROUP_2 = 132  # preamble and prefix
_GROUP_LENGTH_ELEMENT = 12  # (0002,0000) itself, which does not count its own bytes


def from_file(path: Path, *, calling_aet: str) -> Received:
    """A Part 10 file as if it had come over an association. Raises InvalidDicomError if it is none (PS3.10 7.1)."""
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
        calling_aet=calling_aet,
        association=0,
    )
