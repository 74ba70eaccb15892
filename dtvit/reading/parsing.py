"""From a file's bytes to the data set of a CT object: by pydicom, or, for one plain frame, past it.

Nothing is decoded here; what could fill the memory during parsing is refused.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag

from dtvit.reading import headervalues as values
from dtvit.reading import stepping
from dtvit.reading.headervalues import UnreadableSlice

SINGLE_FRAME = frozenset({uid.CTImageStorage})
MAX_INFLATED = 1 << 30  # bytes a deflated data set may grow to
OVERLAYS = range(0x6000, 0x6020, 2)  # (60xx,0102) Overlay Bit Position: above 0 in the retired in-pixel kind

_OF_ONE_FRAME = (
    *("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("ImageOrientationPatient", "ImagePositionPatient", "SliceThickness", "PixelSpacing", "GantryDetectorTilt"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)
_WANTED = frozenset(
    {*(tag for keyword in _OF_ONE_FRAME if (tag := pydicom.datadict.tag_for_keyword(keyword)) is not None)}
    | {group << 16 | 0x0102 for group in OVERLAYS}
)
"""All that is needed from an object with one frame of uncompressed pixels."""
_PIXEL_DATA = b"\xe0\x7f\x10\x00"  # its tag
_GROUP_LENGTH = struct.Struct("<HH2sHL")  # (0002,0000), with which each file begins: PS3.10 7.1

# What pydicom and the decoders behind it raise on broken input; they promise no class of their own.
BROKEN = (
    ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, NotImplementedError, OSError,
    RecursionError, RuntimeError, TypeError, ValueError, struct.error, zlib.error, BytesLengthException,
    InvalidDicomError,
)  # fmt: skip


def parse(source: Path | bytes | BinaryIO) -> pydicom.Dataset:
    """The data set, with File Meta Information that names a transfer syntax. Raises UnreadableSlice, and BROKEN."""
    if isinstance(source, Path):
        with source.open("rb") as opened:
            return parse(opened)
    if isinstance(source, bytes) and (plain := one_plain_frame(source)) is not None:
        return plain
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    _refuse_inflation(file)
    ds = pydicom.dcmread(file, force=True)  # a missing preamble alone is not a reason to lose a slice
    for keyword in ("SOPClassUID", "SOPInstanceUID"):  # in de-identified files often only in the File Meta Information
        if not ds.get(keyword) and (before := ds.file_meta.get(f"MediaStorage{keyword}")):
            setattr(ds, keyword, before)
    if not ds.get("SOPClassUID"):
        raise UnreadableSlice("this is not a DICOM object")
    if "TransferSyntaxUID" not in ds.file_meta:
        ds.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian  # the default of a data set without file meta
    return ds


def is_plain(ds: pydicom.Dataset) -> bool:
    """Whether the pixels need only be taken as they are, or unpacked, as in nearly all CT; all else is left to the
    library."""
    return (
        ds.file_meta.TransferSyntaxUID.is_little_endian
        and values.integer(ds, "BitsAllocated") == 16
        and ds.get("PixelRepresentation") in (0, 1)
        and ds.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    )


def one_plain_frame(data: bytes) -> Dataset | None:
    """What is needed from a file with one frame of uncompressed pixels, as nearly all have; None for any other.

    pydicom makes objects of the hundred other elements too, which takes longer than anything done with these.
    """
    if data[128:132] != b"DICM":
        return None
    try:
        *first, length = _GROUP_LENGTH.unpack_from(data, 132)
        meta, _ = stepping.find(data[144 : 144 + length], False, frozenset({0x00020010}), after=0x00020000)
        file_meta = _plain_meta(meta[0x00020010].value)
        if first != [2, 0, b"UL", 4] or file_meta is None:
            return None
        implicit = file_meta.TransferSyntaxUID.is_implicit_VR
        found, pixels = stepping.find(data, implicit, _WANTED, 144 + length)
    except (stepping.Unusual, struct.error, LookupError):
        return None
    if pixels is None:
        return None
    vr, begin, size = pixels
    head = begin - (8 if implicit else 12)
    if data[head : head + 4] != _PIXEL_DATA or vr not in (None, "OW", "OB") or begin + size != len(data):
        return None
    tag = BaseTag(0x7FE00010)
    found[tag] = RawDataElement(tag, vr, size, data[begin:], begin, implicit, True)
    ds = Dataset({BaseTag(tag): element for tag, element in found.items()})
    ds.file_meta = file_meta
    with contextlib.suppress(UnreadableSlice, *BROKEN):
        if str(ds.get("SOPClassUID")) in SINGLE_FRAME and ds.get("SOPInstanceUID") and is_plain(ds):
            return ds
    return None


@functools.lru_cache(maxsize=8)
def _plain_meta(transfer_syntax: bytes) -> FileMetaDataset | None:
    """For the value of (0002,0010); None unless it is uncompressed and little endian."""
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        if transfer_syntax.rstrip(b"\0 ") == syntax.encode():
            meta = FileMetaDataset()
            meta.TransferSyntaxUID = syntax
            return meta
    return None


def _refuse_inflation(file: BinaryIO) -> None:
    """Refuse a deflated data set that grows beyond MAX_INFLATED: pydicom would inflate all of it at once."""
    start = file.tell()
    head = file.read(4096)
    if head[128:132] == b"DICM" and uid.DeflatedExplicitVRLittleEndian.encode() in head:
        file.seek(start + 144 + int.from_bytes(head[140:144], "little"))  # behind (0002,0000) and the group it counts
        if len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), MAX_INFLATED + 1)) > MAX_INFLATED:
            raise UnreadableSlice(f"the deflated object grows beyond {MAX_INFLATED >> 20} MiB")
    file.seek(start)
