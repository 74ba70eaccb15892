"""What the node reads from an object's header: enough to file it, to judge it, and to order it; no identity in clear.

Optional attributes that cannot be read count as absent: an odd kernel name must not cost a slice. What files an object
(its UIDs) must be there and valid, and must agree with what the association said about it.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from dicom_node import uids
from dicom_node.errors import InvalidObject
from dicom_node.status import StoreStatus

CT_IMAGE_STORAGE = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
    }
)
_IDENTITY = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "AccessionNumber",
)
_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})


@dataclass(frozen=True)
class Facts:
    """Kept in the database as JSON beside the instance; lengths in mm, everything optional may be None."""

    modality: str | None
    image_type: tuple[str, ...]
    body_part: str | None
    kernel: str | None
    contrast: bool
    thickness_mm: float | None
    position: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float, float, float] | None
    instance_number: int | None
    series_number: int | None
    frames: int
    rows: int | None
    columns: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Facts:
        tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**tuples)

    @property
    def normal(self) -> tuple[float, float, float] | None:
        """Unit normal of the slice, pointing towards the head for a patient lying in any usual position."""
        if self.orientation is None:
            return None
        a, b, c, d, e, f = self.orientation
        n = (b * f - c * e, c * d - a * f, a * e - b * d)
        length = math.sqrt(sum(v * v for v in n))
        if length < 0.5:
            return None
        sign = -1.0 if n[2] < 0 else 1.0
        return n[0] / length * sign, n[1] / length * sign, n[2] / length * sign

    @property
    def position_mm(self) -> float | None:
        """Position along the normal, growing from feet to head (PS3.3 C.7.6.2.1.1)."""
        normal = self.normal
        if normal is None or self.position is None:
            return None
        return sum(p * n for p, n in zip(self.position, normal, strict=True))

    @property
    def tilt_deg(self) -> float | None:
        """Angle between the slice and the axial plane."""
        normal = self.normal
        return None if normal is None else math.degrees(math.acos(min(1.0, abs(normal[2]))))


@dataclass(frozen=True)
class Header:
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    identity: str
    """Digest of patient and study; instances of one series must share it."""
    pixel_sha256: str | None
    """Of the encoded bytes from Pixel Data on; None for an object without pixels."""
    facts: Facts

    @property
    def is_ct(self) -> bool:
        return self.sop_class_uid in CT_IMAGE_STORAGE


def read(data_set: bytes, *, transfer_syntax_uid: str, sop_class_uid: str, sop_instance_uid: str) -> Header:
    """Read the header of an encoded data set as it came over an association that announced these UIDs.

    Raises InvalidObject, with the status for the sender, if it cannot be parsed or contradicts the announcement.
    """
    try:
        ds, pixels_at = _parse(data_set, transfer_syntax_uid)
    except (InvalidDicomError, BytesLengthException, EOFError, OSError, ValueError, TypeError, KeyError) as exc:
        raise InvalidObject("the data set cannot be parsed", StoreStatus.CANNOT_UNDERSTAND) from exc
    except (RecursionError, MemoryError, NotImplementedError, AttributeError, IndexError, OverflowError) as exc:
        raise InvalidObject("the data set cannot be parsed", StoreStatus.CANNOT_UNDERSTAND) from exc
    named = {
        "SOP Class UID": (_text(ds, "SOPClassUID"), sop_class_uid),
        "SOP Instance UID": (_text(ds, "SOPInstanceUID"), sop_instance_uid),
    }
    for name, (inside, announced) in named.items():
        if inside != announced:
            raise InvalidObject(
                f"{name} of the data set is not the one the C-STORE request announced",
                StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
            )
    study, series = _text(ds, "StudyInstanceUID"), _text(ds, "SeriesInstanceUID")
    for name, uid in (
        ("SOP Instance UID", sop_instance_uid),
        ("SOP Class UID", sop_class_uid),
        ("Study Instance UID", study),
        ("Series Instance UID", series),
    ):
        if not uid or not uids.is_valid(uid):
            raise InvalidObject(f"{name} is missing or no UID", StoreStatus.CANNOT_UNDERSTAND)
    if sop_class_uid in CT_IMAGE_STORAGE and pixels_at is None:
        raise InvalidObject("a CT image without Pixel Data", StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS)
    pixel_sha256 = None if pixels_at is None else hashlib.sha256(memoryview(data_set)[pixels_at:]).hexdigest()
    assert study is not None
    assert series is not None
    return Header(sop_class_uid, sop_instance_uid, study, series, _identity(ds), pixel_sha256, _facts(ds))


def _parse(data_set: bytes, transfer_syntax_uid: str) -> tuple[Dataset, int | None]:
    """The data set up to Pixel Data, and where that begins."""
    syntax = pydicom.uid.UID(transfer_syntax_uid)
    stream = io.BytesIO(data_set)
    reached_pixels = False

    def at_pixels(tag: pydicom.tag.BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal reached_pixels
        reached_pixels = int(tag) in _PIXEL_DATA
        return reached_pixels

    ds = pydicom.filereader.read_dataset(stream, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=at_pixels)
    if not len(ds):
        raise InvalidDicomError("no elements")
    return ds, stream.tell() if reached_pixels else None


def _identity(ds: Dataset) -> str:
    digest = hashlib.sha256()
    for keyword in _IDENTITY:
        digest.update((_text(ds, keyword) or "").strip().encode() + b"\0")
    return digest.hexdigest()


def _facts(ds: Dataset) -> Facts:
    position = _numbers(ds, "ImagePositionPatient", 3)
    orientation = _numbers(ds, "ImageOrientationPatient", 6)
    return Facts(
        modality=_text(ds, "Modality"),
        image_type=tuple(v.strip().upper() for v in (_text(ds, "ImageType") or "").split("\\") if v.strip()),
        body_part=_text(ds, "BodyPartExamined"),
        kernel=_text(ds, "ConvolutionKernel"),
        contrast=bool(_text(ds, "ContrastBolusAgent")),
        thickness_mm=_number(ds, "SliceThickness"),
        position=position,  # type: ignore[arg-type]
        orientation=orientation,  # type: ignore[arg-type]
        instance_number=_integer(ds, "InstanceNumber"),
        series_number=_integer(ds, "SeriesNumber"),
        frames=max(1, _integer(ds, "NumberOfFrames") or 1),
        rows=_integer(ds, "Rows"),
        columns=_integer(ds, "Columns"),
    )


def _value(ds: Dataset, keyword: str) -> Any:
    """The element's value, or None where it is absent, empty, or cannot be decoded."""
    try:
        value = ds.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom lets any exception of any VR's decoder through; the value is optional
        return None
    return None if value is None or value == "" else value


def _text(ds: Dataset, keyword: str) -> str | None:
    value = _value(ds, keyword)
    if value is None:
        return None
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        value = "\\".join(map(str, value))
    text = str(value).strip(" \0")
    return text or None


def _converted(ds: Dataset, keyword: str, convert: Callable[[Any], Any]) -> Any:
    value = _value(ds, keyword)
    if isinstance(value, pydicom.multival.MultiValue) and len(value):
        value = value[0]
    try:
        return None if value is None else convert(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _number(ds: Dataset, keyword: str) -> float | None:
    number = _converted(ds, keyword, float)
    return number if number is not None and math.isfinite(number) else None


def _integer(ds: Dataset, keyword: str) -> int | None:
    number: int | None = _converted(ds, keyword, int)
    return number if number is not None and abs(number) < 2**31 else None


def _numbers(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    value = _value(ds, keyword)
    try:
        numbers = tuple(float(v) for v in value) if value is not None else ()
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None
