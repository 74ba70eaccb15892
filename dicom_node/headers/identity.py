"""Whose an image is: what must agree within a series, and the digests that tell it without naming anyone."""

from __future__ import annotations

import hashlib

from dicom_node.headers.elements import Elements
from dicom_node.headers.texts import as_read_before

IDENTITY = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "AccessionNumber",
)
"""The images of one series agree about all of these; digests are kept, so that the order stays."""


def comparable(keyword: str, text: str | None) -> str:
    """One spelling for values that mean the same. Padding means nothing, nor do trailing delimiters of a name and its
    groups (PS3.5 6.2.1.2), but some devices write them all."""
    text = text or ""
    if keyword == "PatientName":
        text = "=".join(group.rstrip("^ ") for group in text.split("=")).rstrip("=")
    return text.strip()


def said(of: Elements) -> dict[str, str]:
    """What it says of each of IDENTITY, in one spelling."""
    return {keyword: _said(of, keyword) for keyword in IDENTITY}


def identity_digest(of: Elements) -> str:
    """Digest of patient and study."""
    digest = hashlib.sha256()
    for text in said(of).values():
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def patient_digest(patient_id: str) -> str:
    """By this the instances of a patient are found again; the ID itself is in no row."""
    return hashlib.sha256(comparable("PatientID", patient_id).encode()).hexdigest()


def patient_digests(patient_id: str) -> frozenset[str]:
    """The same, and those of earlier versions, which read some IDs differently."""
    return frozenset(map(patient_digest, {patient_id, *as_read_before(patient_id)}))


NOBODY = patient_digest("\0\0")
"""The digest for an object without Patient ID, name and birth date."""


def patient_of(of: Elements) -> str:
    """Digest of the ID, whatever name was corrected since; of name and birth date where there is no ID."""
    if patient_id := _said(of, "PatientID"):
        return patient_digest(patient_id)
    return patient_digest("\0".join(("", _said(of, "PatientName"), of.text("PatientBirthDate") or "")))


def _said(of: Elements, keyword: str) -> str:
    return comparable(keyword, of.text(keyword))
