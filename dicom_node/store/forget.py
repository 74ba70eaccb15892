"""Erasing a patient from the database: which series, what others hold of them, and the rows themselves.

A series belongs to the patient of its current images. If a correction moved it to another patient, it is that one's;
then only what still has the former patient's ID goes: superseded images, and objects made before the correction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store import jobs as job_queue
from dicom_node.store import purge, whereabouts
from dicom_node.store.database import note
from dicom_node.store.tables import DeliveryState, commitments, deliveries, instances, jobs, objects, series


@dataclass(frozen=True)
class Found:
    """Numbers of the series in which there is something to erase."""

    series: tuple[int, ...]
    """These go completely."""
    former: tuple[int, ...] = ()
    """These now belong to another patient."""


@dataclass(frozen=True)
class Held:
    """An object that a destination has stored, or may have."""

    destination: str
    kind: str
    study_uid: str
    sop_instance_uid: str
    certain: bool
    """False where it went out without an answer."""


@dataclass(frozen=True)
class Erased:
    series: tuple[int, ...]
    former: tuple[int, ...]
    images: int
    objects: int
    files: tuple[str, ...]


def find(connection: Connection, *, patients: Collection[str], study_uid: str | None) -> Found:
    """By patient (the digests that rows of this one may have), or by study."""
    if study_uid is not None:
        of_study = sa.select(series.c.id).where(series.c.study_uid == study_uid).order_by(series.c.id)
        return Found(tuple(connection.scalars(of_study)))
    touched = sa.select(instances.c.series_id).where(instances.c.patient.in_(patients))
    seen = sa.select(instances.c.series_id, instances.c.current, instances.c.patient).distinct()
    named: dict[tuple[int, bool], set[str]] = defaultdict(set)
    for row in connection.execute(seen.where(instances.c.series_id.in_(touched))):
        named[row.series_id, row.current].add(row.patient)
    numbers = sorted({number for number, _ in named})
    whole = [number for number in numbers if (named[number, True] or named[number, False]).issubset(patients)]
    return Found(tuple(whole), tuple(number for number in numbers if number not in whole))


def objects_of(connection: Connection, series_ids: Collection[int]) -> dict[int, str]:
    """What was made from these series: numbers of the objects, and their files."""
    query = sa.select(objects.c.id, objects.c.file).join(jobs).where(jobs.c.series_id.in_(series_ids))
    return {int(row.id): str(row.file) for row in connection.execute(query)}


def held(connection: Connection, object_ids: Sequence[int]) -> list[Held]:
    query = (
        sa.select(
            deliveries.c.destination,
            objects.c.kind,
            series.c.study_uid,
            objects.c.sop_instance_uid,
            (deliveries.c.state == DeliveryState.DELIVERED).label("certain"),
        )
        .select_from(deliveries.join(objects).join(jobs).join(series))
        .where(objects.c.id.in_(object_ids), whereabouts.may_be_there())
        .order_by(deliveries.c.destination, objects.c.id)
    )
    return [Held(**row._asdict()) for row in connection.execute(query)]


def erase(
    connection: Connection, found: Found, *, patients: Collection[str], former_objects: Collection[int], now: float
) -> Erased:
    """Delete rows; the history keeps one line that says how many, and nothing else.

    `former_objects`: those of `found.former` that have the ID of this patient.
    """
    former = sa.and_(instances.c.series_id.in_(found.former), instances.c.patient.in_(patients))
    going = sa.or_(instances.c.series_id.in_(found.series), sa.and_(former, instances.c.current.is_(True)))
    uids = set(connection.scalars(sa.select(instances.c.sop_instance_uid).where(going)))
    made = len(objects_of(connection, found.series)) + len(former_objects)
    files = [file for series_id in found.series for file in purge.delete_rows(connection, series_id)]
    files += purge.delete_instances(connection, former)
    files += _delete_objects(connection, former_objects, now=now)
    for row in connection.execute(sa.select(commitments.c.id, commitments.c.asked)).all():
        if any(uid in uids for _, uid in row.asked):
            connection.execute(commitments.delete().where(commitments.c.id == row.id))
    erased = Erased(found.series, found.former, len(files) - made, made, tuple(files))
    if files:
        detail = f"series={len(found.series)} images={erased.images} objects={made}"
        note(connection, "forgotten", now=now, detail=detail)
    return erased


def _delete_objects(connection: Connection, object_ids: Collection[int], *, now: float) -> list[str]:
    """Delete these objects; their jobs may then owe nothing more."""
    job_ids = connection.scalars(sa.select(objects.c.job_id).where(objects.c.id.in_(object_ids)).distinct()).all()
    files = purge.delete_objects(connection, objects.c.id.in_(object_ids))
    for job_id in job_ids:
        job_queue.settle_delivered(connection, job_id, now=now)
    return files
