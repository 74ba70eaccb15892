"""What the node reads from an object's header: enough to file it, and the `facts` by which it is judged; no identity in
clear.

The UIDs, by which an object is filed, must be present and valid, and must agree with what the association announced.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dicom_node import uids
from dicom_node.errors import InvalidObject
from dicom_node.headers import dataset, facts
from dicom_node.headers.elements import Elements
from dicom_node.headers.facts import Facts
from dicom_node.headers.identity import IDENTITY, identity_digest, patient_of, said
from dicom_node.status import StoreStatus

# A value that breaks the standard's rules is read as it is: pydicom's warning would quote it, and it may be a name.
warnings.filterwarnings("ignore", module=r"pydicom\.")

CT_IMAGE_STORAGE = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
    }
)
_TAKEN = (
    *facts.ACQUIRED,
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
    ("ContentDate", "ContentTime"),
)
_READ = frozenset(
    {"SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", *IDENTITY, *facts.KEYWORDS}
    | {keyword for pair in _TAKEN for keyword in pair if keyword is not None}
)


@dataclass(frozen=True)
class Header:
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    identity: str
    """Digest of patient and study; instances of one series must share it."""
    patient: str
    """Digest of the patient's ID alone (`identity.patient_digest`): series of one study must share it."""
    taken_at: datetime | None
    """When the image was taken, as far as the header says, in the scanner's time zone; not kept."""
    facts: Facts


def read(data_set: bytes | bytearray, *, transfer_syntax_uid: str, sop_class_uid: str, sop_instance_uid: str) -> Header:
    """Read the header of an encoded data set received over an association that announced these UIDs.

    Raises InvalidObject, with the status for the sender, if it cannot be parsed or contradicts the announcement.
    """
    of, pixels = _elements(data_set, transfer_syntax_uid, _READ)
    named = {
        "SOP Class UID": (of.text("SOPClassUID"), sop_class_uid),
        "SOP Instance UID": (of.text("SOPInstanceUID"), sop_instance_uid),
    }
    for name, (inside, announced) in named.items():
        if inside is None:
            raise InvalidObject(f"{name} is missing", StoreStatus.CANNOT_UNDERSTAND)
        if inside != announced:
            raise InvalidObject(
                f"{name} of the data set differs from the one in the C-STORE request",
                StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
            )
    study, series = of.text("StudyInstanceUID"), of.text("SeriesInstanceUID")
    for name, uid in (
        ("SOP Instance UID", sop_instance_uid),
        ("SOP Class UID", sop_class_uid),
        ("Study Instance UID", study),
        ("Series Instance UID", series),
    ):
        if not uid or not uids.is_valid(uid):
            raise InvalidObject(f"{name} is missing or not a UID", StoreStatus.CANNOT_UNDERSTAND)
    assert study is not None
    assert series is not None
    return _header(of, pixels, sop_class_uid, sop_instance_uid, study, series)


def of_file(
    data_set: bytes | bytearray, *, transfer_syntax_uid: str, sop_class_uid: str, sop_instance_uid: str
) -> Header:
    """The header of a file that nobody sent. UIDs of its File Meta Information stand in for those its data set lacks.

    De-identification often leaves no SOP class in the data set, another instance UID in it than before it, and names
    that are no UIDs (RSNA 2019: ID_000039fa0). They tell objects apart all the same. Raises InvalidObject.
    """
    of, pixels = _elements(data_set, transfer_syntax_uid, _READ)
    found = {
        "SOP Class UID": of.text("SOPClassUID") or sop_class_uid,
        "SOP Instance UID": of.text("SOPInstanceUID") or sop_instance_uid,
        "Study Instance UID": of.text("StudyInstanceUID"),
        "Series Instance UID": of.text("SeriesInstanceUID"),
    }
    for name, uid in found.items():
        if not uid:
            raise InvalidObject(f"{name} is missing", StoreStatus.CANNOT_UNDERSTAND)
    return _header(of, pixels, *(str(uid) for uid in found.values()))


def _header(
    of: Elements, pixels: memoryview | None, sop_class_uid: str, sop_instance_uid: str, study: str, series: str
) -> Header:
    if sop_class_uid in CT_IMAGE_STORAGE and pixels is None:
        raise InvalidObject("a CT image without Pixel Data", StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS)
    return Header(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        study_uid=study,
        series_uid=series,
        identity=identity_digest(of),
        patient=patient_of(of),
        taken_at=facts.moment(of, _TAKEN),
        facts=facts.read(of),
    )


def _elements(
    data_set: bytes | bytearray, transfer_syntax_uid: str, keywords: frozenset[str]
) -> tuple[Elements, memoryview | None]:
    """These elements, and the value of Pixel Data. Raises InvalidObject."""
    try:
        of, where = dataset.read(data_set, transfer_syntax_uid, keywords)
        return of, None if where is None else dataset.pixel_value(data_set, where)
    except InvalidObject:
        raise
    except Exception as exc:  # the library promises no class of exception for what is broken
        raise InvalidObject("the data set cannot be parsed", StoreStatus.CANNOT_UNDERSTAND) from exc


def read_facts(data_set: bytes | bytearray, transfer_syntax_uid: str) -> Facts:
    """The same facts as `read` gives. Raises InvalidObject."""
    return facts.read(_elements(data_set, transfer_syntax_uid, facts.KEYWORDS)[0])


def disagreement(data_sets: Iterable[tuple[bytes, str]]) -> list[str]:
    """Keywords of `identity.IDENTITY` about which these data sets, each with its transfer syntax, disagree.

    Raises InvalidObject.
    """
    told = [said(_elements(content, syntax, frozenset(IDENTITY))[0]) for content, syntax in data_sets]
    return [keyword for keyword in IDENTITY if len({each[keyword] for each in told}) > 1]


def pixel_digest(data_set: bytes | bytearray, transfer_syntax_uid: str) -> str:
    """Digest of the value of Pixel Data, the same in all uncompressed little endian syntaxes; empty if there is none.

    Not part of `Header`: few are ever compared, and it costs several times what all of that does. Raises InvalidObject.
    """
    _, pixels = _elements(data_set, transfer_syntax_uid, frozenset())
    return "" if pixels is None else hashlib.sha256(pixels).hexdigest()
