"""What the node reads from an object's header: enough to file it, to judge it, and to order it; no identity in clear.

Optional attributes that cannot be read count as absent: an odd kernel name must not cost a slice. What files an object
(its UIDs) must be there and valid, and must agree with what the association said about it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, PersonName

from dicom_node import uids
from dicom_node.errors import InvalidObject
from dicom_node.status import StoreStatus

# A value outside the letter of the standard is read as it stands: the warning would quote it, and it may be a name.
warnings.filterwarnings("ignore", module=r"pydicom\.")

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
_TAKEN = (
    ("AcquisitionDateTime", None),
    ("AcquisitionDate", "AcquisitionTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
    ("ContentDate", "ContentTime"),
)
_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_UNDEFINED = 0xFFFFFFFF  # length of a value that ends with a delimiter (PS3.5 7.1.1)
_LONGEST_TEXT = 64  # LO, the longest of the texts kept here; longer is broken, and would be dragged into every reason
_FARTHEST_MM = 1e5  # a hundred metres from the isocentre is no patient


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
    patient: str
    """Digest of the patient's ID alone (`patient_digest`): series of one study must share it."""
    taken_at: datetime | None
    """When the image was taken, as far as the header tells, in the zone of the scanner; not kept."""
    pixel_sha256: str | None
    """Of the value of Pixel Data, alike in all uncompressed little endian syntaxes; None for an object without it."""
    facts: Facts

    @property
    def is_ct(self) -> bool:
        return self.sop_class_uid in CT_IMAGE_STORAGE


def read(data_set: bytes, *, transfer_syntax_uid: str, sop_class_uid: str, sop_instance_uid: str) -> Header:
    """Read the header of an encoded data set as it came over an association that announced these UIDs.

    Raises InvalidObject, with the status for the sender, if it cannot be parsed or contradicts the announcement.
    """
    try:
        ds, pixels = _parse(data_set, transfer_syntax_uid)
    except InvalidObject:
        raise
    except Exception as exc:  # the library promises no class of exception for what is broken
        raise InvalidObject("the data set cannot be parsed", StoreStatus.CANNOT_UNDERSTAND) from exc
    named = {
        "SOP Class UID": (_text(ds, "SOPClassUID"), sop_class_uid),
        "SOP Instance UID": (_text(ds, "SOPInstanceUID"), sop_instance_uid),
    }
    for name, (inside, announced) in named.items():
        if inside is None:
            raise InvalidObject(f"{name} is missing", StoreStatus.CANNOT_UNDERSTAND)
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
    if sop_class_uid in CT_IMAGE_STORAGE and pixels is None:
        raise InvalidObject("a CT image without Pixel Data", StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS)
    pixel_sha256 = None if pixels is None else hashlib.sha256(pixels).hexdigest()
    assert study is not None
    assert series is not None
    return Header(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        study_uid=study,
        series_uid=series,
        identity=_identity(ds),
        patient=_patient(ds),
        taken_at=_taken_at(ds),
        pixel_sha256=pixel_sha256,
        facts=_facts(ds),
    )


def patient_digest(patient_id: str) -> str:
    """By which the instances of a patient are found again; the ID itself is in no row."""
    return hashlib.sha256(patient_id.strip().encode()).hexdigest()


def _parse(data_set: bytes, transfer_syntax_uid: str) -> tuple[Dataset, memoryview | None]:
    """The data set up to Pixel Data, and the value of that. Raises InvalidObject where a length exceeds the data."""
    syntax = pydicom.uid.UID(transfer_syntax_uid)
    stream = io.BytesIO(data_set)
    pixel_element: tuple[str | None, int] | None = None

    def at_pixels(tag: pydicom.tag.BaseTag, vr: str | None, length: int) -> bool:
        nonlocal pixel_element
        pixel_element = (vr, length) if int(tag) in _PIXEL_DATA else None
        return pixel_element is not None

    ds = pydicom.filereader.read_dataset(stream, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=at_pixels)
    if not len(ds):
        raise InvalidObject("the data set is empty", StoreStatus.CANNOT_UNDERSTAND)
    for element in ds.values():
        if isinstance(element, RawDataElement) and _ends_beyond(element.value_tell, element.length, data_set):
            raise InvalidObject("an element is longer than the data set", StoreStatus.CANNOT_UNDERSTAND)
    if pixel_element is None:
        return ds, None
    vr, length = pixel_element
    begin = stream.tell() + (12 if vr in EXPLICIT_VR_LENGTH_32 else 8)  # PS3.5 7.1.2, 7.1.3
    if _ends_beyond(begin, length, data_set):
        raise InvalidObject("Pixel Data is shorter than its length says", StoreStatus.CANNOT_UNDERSTAND)
    return ds, memoryview(data_set)[begin:] if length == _UNDEFINED else memoryview(data_set)[begin : begin + length]


def _ends_beyond(begin: int, length: int, data_set: bytes) -> bool:
    return length != _UNDEFINED and begin + length > len(data_set)


def _identity(ds: Dataset) -> str:
    digest = hashlib.sha256()
    for keyword in _IDENTITY:
        digest.update((_text(ds, keyword) or "").strip().encode() + b"\0")
    return digest.hexdigest()


def _patient(ds: Dataset) -> str:
    """By ID, whatever name was corrected since; by name and birth date where there is none."""
    patient_id = (_text(ds, "PatientID") or "").strip()
    if patient_id:
        return patient_digest(patient_id)
    return patient_digest("\0".join(("", _text(ds, "PatientName") or "", _text(ds, "PatientBirthDate") or "")))


def _taken_at(ds: Dataset) -> datetime | None:
    """PS3.3 C.7.6.1, C.7.3.1, C.7.2.1; fractions of a second and an offset from UTC are not of interest here."""
    for day, time in _TAKEN:
        digits = re.match(r"\d{8}", _text(ds, day) or "")
        if digits is None:
            continue
        of_day = (_text(ds, time) or "") if time else (_text(ds, day) or "")[8:]
        hours = re.match(r"\d{0,6}", of_day)
        clock = (hours.group() if hours else "").ljust(6, "0")
        with contextlib.suppress(ValueError):
            return datetime.strptime(digits.group() + clock, "%Y%m%d%H%M%S")  # noqa: DTZ007 - no zone in it
    return None


def _facts(ds: Dataset) -> Facts:
    position = _numbers(ds, "ImagePositionPatient", 3)
    orientation = _numbers(ds, "ImageOrientationPatient", 6)
    if orientation is not None and max(map(abs, orientation)) > 1.01:  # direction cosines, rounded
        orientation = None
    return Facts(
        modality=_short(ds, "Modality"),
        image_type=tuple(v.strip().upper() for v in (_text(ds, "ImageType") or "")[:256].split("\\") if v.strip()),
        body_part=_short(ds, "BodyPartExamined"),
        kernel=_short(ds, "ConvolutionKernel"),
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
    """The element's value, or None where it is absent, empty, cannot be decoded, or is no text and no number."""
    try:
        value = ds.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom lets any exception of any VR's decoder through; the value is optional
        return None
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        return value if all(isinstance(v, _PLAIN) for v in value) else None
    return value if isinstance(value, _PLAIN) and value != "" else None


_PLAIN = (str, int, float, PersonName)  # an element may come under any VR, a sequence among them


def _text(ds: Dataset, keyword: str) -> str | None:
    value = _value(ds, keyword)
    if value is None:
        return None
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        value = "\\".join(map(str, value))
    text = str(value).strip(" \0")
    return text or None


def _short(ds: Dataset, keyword: str) -> str | None:
    """A text that is kept: printable (PostgreSQL stores no NUL) and no longer than DICOM allows."""
    text = _text(ds, keyword)
    return None if text is None else "".join(c if c.isprintable() else "?" for c in text[:_LONGEST_TEXT])


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
    return numbers if len(numbers) == count and all(abs(n) <= _FARTHEST_MM for n in numbers) else None
