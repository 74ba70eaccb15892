"""What `dicom-node forget` does: erases one patient, or one study, from everything that this node keeps.

Rows go first, in one transaction while nothing else is written: work on them then has no lease and writes no file, and
what was to be sent is no longer owed. Then the files, including those without a row that a crash left, whole or
half-written; then what the database keeps of deleted rows. What was delivered belongs to the PACS, and is listed;
backups and snapshots are out of reach.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pydicom

from dicom_node.errors import NodeError, NotFound
from dicom_node.headers.identity import patient_digest, patient_digests
from dicom_node.headers.texts import read_text
from dicom_node.logs import fields
from dicom_node.store import forget, purge
from dicom_node.store.database import Database
from dicom_node.store.forget import Erased, Found, Held
from dicom_node.store.spool import Spool

log = logging.getLogger("dicom_node.forgetting")


@dataclass(frozen=True)
class Whom:
    """Exactly one of the two is given."""

    patient_id: str | None = None
    study_uid: str | None = None

    @property
    def patients(self) -> frozenset[str]:
        """Digests that are in rows of this patient."""
        return frozenset() if self.patient_id is None else patient_digests(self.patient_id)


@dataclass(frozen=True)
class Forgotten:
    erased: Erased
    held: tuple[Held, ...]
    """What destinations have stored, or may have."""
    orphans: int
    """Files without a row that also belonged to the patient or study."""
    came: int
    """Series of the same patient or study that arrived meanwhile; they are new, and kept."""
    trouble: tuple[str, ...]
    """Why files or traces of rows are left; then it must be run again."""


def search(database: Database, whom: Whom) -> Found:
    """The series from which something will go; even if there are none, there may be files without a row."""
    with database.read() as connection:
        return forget.find(connection, patients=whom.patients, study_uid=whom.study_uid)


def erase(database: Database, spool: Spool, whom: Whom, *, now: float) -> Forgotten:
    """Erase for good, whatever is in progress; what arrives later is new. Raises NotFound."""
    with database.write_alone() as connection:
        found = forget.find(connection, patients=whom.patients, study_uid=whom.study_uid)
        former = forget.objects_of(connection, found.former)
        former_objects = [number for number, file in former.items() if _is_of(spool, file, whom)]
        held = forget.held(connection, [*forget.objects_of(connection, found.series), *former_objects])
        erased = forget.erase(connection, found, patients=whom.patients, former_objects=former_objects, now=now)
    trouble: list[str] = []
    came: Found | None = None
    for name in erased.files:
        with _noted(trouble):
            spool.remove(name)
    orphans = sum(_remove_orphans(database, spool, whom, trouble))
    with _noted(trouble):
        spool.sync()
        database.compact()
        came = search(database, whom)
    if not (erased.files or orphans or trouble):
        raise NotFound("nothing of this patient or study is here")
    counted = fields(series=len(found.series), images=erased.images, objects=erased.objects, orphaned_files=orphans)
    log.warning("forgotten %s", counted)
    return Forgotten(
        erased, tuple(held), orphans, 0 if came is None else len(came.series), tuple(dict.fromkeys(trouble))
    )


@contextmanager
def _noted(trouble: list[str]) -> Iterator[None]:
    """What cannot be erased stops neither the rest from being erased nor what destinations hold from being listed."""
    try:
        yield
    except OSError as exc:
        trouble.append(f"a file cannot be read or removed: {exc.strerror}")
    except NodeError as exc:
        trouble.append(str(exc))


def _remove_orphans(database: Database, spool: Spool, whom: Whom, trouble: list[str]) -> Iterator[bool]:
    """This patient's or study's files without a row, whole or half-written; yields for each whether it was removed."""
    with _noted(trouble):
        for name in purge.without_rows(database, spool.stored()):
            with _noted(trouble):
                if _is_of(spool, name, whom):  # if it is just being received, its sender is told that it is not stored
                    yield _remove_orphan(database, spool, name)


def _remove_orphan(database: Database, spool: Spool, name: str) -> bool:
    """Unless its row was written meanwhile; a later writer finds the file gone and does not acknowledge it."""
    with database.write_alone() as connection:
        if purge.named_files(connection, [name]):
            return False
        spool.remove(name)
    return True


def _is_of(spool: Spool, name: str, whom: Whom) -> bool:
    """By the file's own header; an unreadable file is nobody's, and goes when its retention ends."""
    try:
        ds = pydicom.dcmread(spool.path(name), specific_tags=["PatientID", "StudyInstanceUID"], stop_before_pixels=True)
        patient_id, study_uid = (read_text(ds, keyword) or "" for keyword in ("PatientID", "StudyInstanceUID"))
    except Exception:  # noqa: BLE001 - pydicom promises no class of exception for what is broken
        return False
    if whom.study_uid is not None:
        return study_uid == whom.study_uid
    return bool(patient_id) and patient_digest(patient_id) in whom.patients
