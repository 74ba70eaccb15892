"""What `dicom-node forget` does: erases one patient, or one study, from everything that this node keeps.

Rows go first, in one transaction: work on them has lost its lease then, and what it made is dropped. Then the files,
also those without a row that a crash left, then what the database keeps of deleted rows. What was delivered is the
PACS's, and is named; backups and snapshots are beyond reach.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pydicom

from dicom_node.errors import NotFound
from dicom_node.header import patient_digest
from dicom_node.logs import fields
from dicom_node.store import forget, purge
from dicom_node.store.database import Database
from dicom_node.store.forget import Erased, Held
from dicom_node.store.spool import Spool

log = logging.getLogger("dicom_node.forgetting")

BATCH = 500  # files looked up at once: databases bound the number of parameters


@dataclass(frozen=True)
class Whom:
    """By exactly one of the two."""

    patient_id: str | None = None
    study_uid: str | None = None

    @property
    def patient(self) -> str | None:
        return None if self.patient_id is None else patient_digest(self.patient_id)


@dataclass(frozen=True)
class Forgotten:
    erased: Erased
    orphans: int
    """Files without a row that were of the patient too."""
    held: tuple[Held, ...]
    """What destinations have stored of it."""


def search(database: Database, whom: Whom) -> list[int]:
    """Numbers of the series that will go; none does not mean that there are no files without a row."""
    with database.read() as connection:
        return forget.series_of(connection, patient=whom.patient, study_uid=whom.study_uid)


def erase(database: Database, spool: Spool, whom: Whom, *, now: float) -> Forgotten:
    """Erase for good, whatever is in work; what arrives later is new. Raises NotFound."""
    with database.write() as connection:
        found = forget.series_of(connection, patient=whom.patient, study_uid=whom.study_uid)
        held = forget.held(connection, found)
        erased = forget.erase(connection, found, now=now)
    for name in erased.files:
        spool.remove(name)
    orphans = 0
    for name in _without_rows(database, spool):
        if _is_of(spool, name, whom):
            orphans += _remove_orphan(database, spool, name)
    spool.sync()
    database.compact()
    if not found and not orphans:
        raise NotFound("nothing here is of this patient or study")
    counted = fields(series=len(found), images=erased.images, objects=erased.objects, orphaned_files=orphans)
    log.warning("forgotten %s", counted)
    return Forgotten(erased, orphans, tuple(held))


def _without_rows(database: Database, spool: Spool) -> Iterator[str]:
    names = spool.stored()
    while part := list(itertools.islice(names, BATCH)):
        with database.read() as connection:
            named = purge.named_files(connection, part)
        yield from sorted(set(part) - named)


def _remove_orphan(database: Database, spool: Spool, name: str) -> bool:
    """Unless its row was written meanwhile. While this writes, no other can; who comes later finds the file gone and
    does not acknowledge it (`arrivals`). PostgreSQL does not keep writers apart: there only the second of it holds.
    """
    with database.write() as connection:
        if purge.named_files(connection, [name]):
            return False
        spool.remove(name)
    return True


def _is_of(spool: Spool, name: str, whom: Whom) -> bool:
    """By the file's own header; one that cannot be read is nobody's, and goes when its retention ends."""
    try:
        ds = pydicom.dcmread(spool.path(name), specific_tags=["PatientID", "StudyInstanceUID"], stop_before_pixels=True)
        patient_id, study_uid = str(ds.get("PatientID") or ""), str(ds.get("StudyInstanceUID") or "")
    except Exception:  # noqa: BLE001 - pydicom promises no class of exception for what is broken
        return False
    if whom.study_uid is not None:
        return study_uid == whom.study_uid
    return bool(patient_id) and patient_digest(patient_id) == whom.patient
