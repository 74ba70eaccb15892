"""Which CT series a folder holds, by their headers, and which of them the node would not look at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom

from dicom_node import received
from dicom_node.config import Eligibility
from dicom_node.errors import InvalidObject
from dicom_node.headers import eligibility
from dicom_node.headers.eligibility import ByHeader
from dicom_node.headers.header import Header, of_file
from dicom_node.headers.identity import comparable
from dicom_node.headers.texts import read_text

_WHO = ("PatientID", "PatientName", "PatientBirthDate")
_WHERE = ("InstitutionName", "Manufacturer", "ManufacturerModelName")


@dataclass(frozen=True)
class Instance:
    path: Path
    header: Header
    digest: str
    """Of the data set (`dicom_node.digests`)."""
    patient_id: str
    """As the object has it; empty where it has none."""
    person: str
    """What tells this patient from others. Ignores the issuer of the id, which comes and goes: two patients taken for
    one stay in one part of a split, but one patient taken for two may be in both training and test."""
    site: str
    scanner: str


@dataclass(frozen=True)
class Series:
    instances: tuple[Instance, ...]
    """The instances that may be slices to look at, in the order of their SOP Instance UIDs."""
    refused: str | None = None
    """Why the node would not look at this series."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over its objects; it changes when the series does."""
        return hashlib.sha256("".join(sorted(i.digest for i in self.instances)).encode()).hexdigest()


def find(folder: Path, rules: Eligibility, without: Path) -> tuple[list[Series], dict[Path, str]]:
    """The series below `folder`, but not below `without`; and for each file that belongs to none, why."""
    members: dict[str, list[Instance]] = {}
    unreadable: dict[Path, str] = {}

    def note(error: OSError) -> None:
        unreadable[Path(error.filename)] = _reason(error)

    files = (Path(parent, name) for parent, _, names in os.walk(folder, onerror=note) for name in names)
    for path in sorted(p for p in files if p.is_file() and p.name.upper() != "DICOMDIR"):
        if path.absolute().is_relative_to(without.absolute()):
            continue
        try:
            instance = _read(path)
        except Exception as exc:  # noqa: BLE001 - outermost line of one file; the library promises no class of exception
            unreadable[path] = _reason(exc)
        else:
            members.setdefault(instance.header.series_uid, []).append(instance)
    return [_series(each, rules) for each in members.values()], unreadable


def _read(path: Path) -> Instance:
    one = received.from_file(path, calling_aet="PREPARE")
    header = of_file(
        one.data_set,
        transfer_syntax_uid=one.transfer_syntax_uid,
        sop_class_uid=one.sop_class_uid,
        sop_instance_uid=one.sop_instance_uid,
    )
    ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_WHO, *_WHERE])
    told = {key: _printable(comparable(key, read_text(ds, key))) for key in (*_WHO, *_WHERE)}
    # Where nothing names the patient, only a study surely belongs together.
    named = (
        f"name {told['PatientName']} {told['PatientBirthDate']}" if told["PatientName"] else f"study {header.study_uid}"
    )
    return Instance(
        path,
        header,
        digest=one.digest,
        patient_id=told["PatientID"],
        person=told["PatientID"] or named,
        site=told["InstitutionName"],
        scanner=" ".join(told[k] for k in _WHERE[1:] if told[k]),
    )


def _printable(text: str) -> str:
    """Text fit for a table: a broken value may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text).strip()


def _reason(exc: Exception) -> str:
    if isinstance(exc, InvalidObject):
        return str(exc)
    if isinstance(exc, pydicom.errors.InvalidDicomError):
        return "not a DICOM file (PS3.10)"
    # Another exception's text may quote the object, and with it the patient.
    kind = type(exc).__name__
    return f"cannot be read ({(exc.strerror or kind) if isinstance(exc, OSError) else kind})"


def _series(found: Sequence[Instance], rules: Eligibility) -> Series:
    everything = tuple(_once(found))
    refused = _contradiction(everything)
    members = [
        ByHeader(i.header.facts, eligibility.ruled_out(i.header.sop_class_uid, i.header.facts, rules))
        for i in everything
    ]
    refused = refused or eligibility.judge(members, rules)
    if refused is not None:
        return Series(everything, refused)
    return Series(tuple(i for i, member in zip(everything, members, strict=True) if member.ruled_out is None))


def _once(found: Sequence[Instance]) -> Iterator[Instance]:
    """Each object once, however many copies of the file there are."""
    seen: set[tuple[str, str]] = set()
    for one in sorted(found, key=lambda i: (i.header.sop_instance_uid, i.digest)):
        if (key := (one.header.sop_instance_uid, one.digest)) not in seen:
            seen.add(key)
            yield one


def _contradiction(found: Sequence[Instance]) -> str | None:
    if len({i.header.sop_instance_uid for i in found}) < len(found):
        return "two different objects have the same SOP Instance UID; remove one of them"
    if len({i.header.identity for i in found}) > 1:
        return "its objects name different patients or studies"
    return None
