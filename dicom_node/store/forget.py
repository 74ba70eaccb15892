"""Erasing a patient from the database: which series, what others hold of them, and the rows themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store import purge
from dicom_node.store.database import note
from dicom_node.tables import DeliveryState, commitments, deliveries, instances, jobs, objects, series


@dataclass(frozen=True)
class Held:
    """An object that a destination has stored, or may have been sent at this moment."""

    destination: str
    kind: str
    study_uid: str
    sop_instance_uid: str
    certain: bool
    """False where a delivery was under way or had been tried."""


@dataclass(frozen=True)
class Erased:
    series: tuple[int, ...]
    images: int
    objects: int
    files: tuple[str, ...]


def series_of(connection: Connection, *, patient: str | None, study_uid: str | None) -> list[int]:
    """Series with any image of this patient (a digest), or of this study."""
    if study_uid is not None:
        query = sa.select(series.c.id).where(series.c.study_uid == study_uid)
    else:
        query = sa.select(instances.c.series_id).where(instances.c.patient == patient).distinct()
    return sorted(int(number) for number in connection.scalars(query))


def held(connection: Connection, series_ids: Sequence[int]) -> list[Held]:
    told = (DeliveryState.DELIVERED, DeliveryState.WAITING)
    query = (
        sa.select(
            deliveries.c.destination,
            objects.c.kind,
            series.c.study_uid,
            objects.c.sop_instance_uid,
            (deliveries.c.state == DeliveryState.DELIVERED).label("certain"),
        )
        .select_from(deliveries.join(objects).join(jobs).join(series))
        .where(series.c.id.in_(series_ids), deliveries.c.state.in_(told))
        .order_by(deliveries.c.destination, objects.c.id)
    )
    return [Held(**row._asdict()) for row in connection.execute(query)]


def erase(connection: Connection, series_ids: Sequence[int], *, now: float) -> Erased:
    """Delete all rows; the history keeps one line that says how many they were, and no more."""
    uids = set(connection.scalars(sa.select(instances.c.sop_instance_uid).where(instances.c.series_id.in_(series_ids))))
    own = sa.select(jobs.c.id).where(jobs.c.series_id.in_(series_ids))
    made = connection.scalar(sa.select(sa.func.count()).select_from(objects).where(objects.c.job_id.in_(own)))
    files = [file for series_id in series_ids for file in purge.delete_rows(connection, series_id)]
    for row in connection.execute(sa.select(commitments.c.id, commitments.c.asked)).all():
        if any(uid in uids for _, uid in row.asked):
            connection.execute(commitments.delete().where(commitments.c.id == row.id))
    objects_made = int(made or 0)
    images = len(files) - objects_made
    if series_ids:
        note(
            connection, "forgotten", now=now, detail=f"series={len(series_ids)} images={images} objects={objects_made}"
        )
    return Erased(tuple(series_ids), images, objects_made, tuple(files))
