"""The outbox: objects this node made, and for each a delivery a destination; the same bytes until they are taken.

waiting -> delivered          waiting -> failed (refused for good) -> waiting (`retry`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store import jobs as job_queue
from dicom_node.store.database import insert_for, note
from dicom_node.tables import CommitmentState, DeliveryState, deliveries, destinations, jobs, objects

SR_CLASS_LASTS_S = 30 * 86400.0
BACKLOG_LIMIT = 4  # deliveries of backlog over one association: the next live report waits for no more


@dataclass(frozen=True)
class MadeObject:
    """An object ready to be sent: stored in the spool under `file`, never built again."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Delivery:
    id: int
    object_id: int
    job_id: int
    series_id: int
    destination: str
    tries: int
    """How often it was tried before."""
    sop_class_uid: str
    sop_instance_uid: str
    file: str
    sha256: str
    priority: int


def put(connection: Connection, job_id: int, made: Sequence[MadeObject], to: Sequence[str], *, now: float) -> None:
    """Store what a job made and what it owes; belongs into the transaction that ends the job."""
    for item in made:
        values = vars(item) | {"job_id": job_id, "created_at": now}
        object_id = connection.execute(objects.insert().values(values).returning(objects.c.id)).scalar_one()
        for destination in to:
            _owe(connection, int(object_id), destination, now=now)


def due(
    connection: Connection, destination: str, *, now: float, longest_wait_s: float, limit: int = 50
) -> list[Delivery]:
    """What this destination is owed now: live before backlog, what is present before what is not, then the oldest.

    A report never overtakes that of an earlier run. Of backlog only a few are returned, so that the next live one
    need not wait for many. A deadline further away than the longest wait was set before the clock was
    put back, and is due.
    """
    is_due = sa.or_(deliveries.c.next_at <= now, deliveries.c.next_at > now + longest_wait_s)
    before, its_object, its_job = deliveries.alias("before"), objects.alias("its_object"), jobs.alias("its_job")
    overtakes = sa.exists().where(
        before.c.destination == destination,
        before.c.state == DeliveryState.WAITING,
        its_object.c.id == before.c.object_id,
        its_job.c.id == its_object.c.job_id,
        its_job.c.series_id == jobs.c.series_id,
        its_job.c.id < jobs.c.id,
    )
    query = (
        sa.select(
            deliveries.c.id,
            deliveries.c.object_id,
            objects.c.job_id,
            jobs.c.series_id,
            deliveries.c.destination,
            deliveries.c.tries,
            objects.c.sop_class_uid,
            objects.c.sop_instance_uid,
            objects.c.file,
            objects.c.sha256,
            jobs.c.priority,
        )
        .join(objects, objects.c.id == deliveries.c.object_id)
        .join(jobs, jobs.c.id == objects.c.job_id)
        .where(
            deliveries.c.destination == destination,
            deliveries.c.state == DeliveryState.WAITING,
            is_due,
            ~overtakes,
        )
        .order_by(jobs.c.priority, sa.case((jobs.c.outcome == "present", 0), else_=1), objects.c.id)
        .limit(limit)
    )
    found = [Delivery(**row._asdict()) for row in connection.execute(query)]
    live = [one for one in found if one.priority < job_queue.BACKLOG]
    return live or found[:BACKLOG_LIMIT]


def delivered(connection: Connection, delivery: Delivery, status: int, *, now: float, commitment: bool = False) -> bool:
    """The destination has it. Returns whether this settled all that the job owed.

    `commitment`: it is to be asked for a commitment to keep it.
    """
    values = {"state": DeliveryState.DELIVERED, "last_status": status, "last_error": None, "delivered_at": now}
    if commitment:
        values |= {"commitment": CommitmentState.OWED, "commitment_at": now}
    if not _update(connection, delivery, **values):
        return False  # cancelled, or its patient forgotten, while it was sent
    detail = f"object={delivery.object_id} to={delivery.destination} status={status:04X}"
    note(connection, "stored", now=now, series_id=delivery.series_id, job_id=delivery.job_id, detail=detail)
    return job_queue.settle_delivered(connection, delivery.job_id, now=now)


def postpone(connection: Connection, delivery: Delivery, *, until: float, status: int | None, error: str) -> None:
    _update(connection, delivery, next_at=until, last_status=status, last_error=error)


def hurry(connection: Connection, destination: str, *, now: float) -> None:
    """The destination is there again: what waits only because it was not, is due now."""
    connection.execute(
        deliveries.update()
        .where(
            deliveries.c.destination == destination,
            deliveries.c.state == DeliveryState.WAITING,
            deliveries.c.last_status.is_(None),
            deliveries.c.next_at > now,
        )
        .values(next_at=now)
    )


def give_up(connection: Connection, delivery: Delivery, *, now: float, status: int | None, error: str) -> None:
    """Refused for good: kept, shown, and tried again only when a person says so."""
    if not _update(connection, delivery, state=DeliveryState.FAILED, last_status=status, last_error=error):
        return
    detail = f"object={delivery.object_id} to={delivery.destination}: {error}"
    note(connection, "delivery failed", now=now, series_id=delivery.series_id, job_id=delivery.job_id, detail=detail)


def replace(connection: Connection, delivery: Delivery, made: MadeObject, *, now: float) -> None:
    """This destination takes the report only as another SR class: owe it that object instead, built once."""
    known = connection.scalar(sa.select(objects.c.id).where(objects.c.sop_instance_uid == made.sop_instance_uid))
    if known is None:
        values = vars(made) | {"job_id": delivery.job_id, "created_at": now}
        known = connection.execute(objects.insert().values(values).returning(objects.c.id)).scalar_one()
    connection.execute(deliveries.update().where(deliveries.c.id == delivery.id).values(state=DeliveryState.CANCELLED))
    _owe(connection, int(known), delivery.destination, now=now)


def taken_by(connection: Connection, job_id: int, destination: str) -> list[sa.Row[Any]]:
    """The job's objects that this destination has stored."""
    query = (
        sa.select(objects)
        .join(deliveries, deliveries.c.object_id == objects.c.id)
        .where(
            objects.c.job_id == job_id,
            deliveries.c.destination == destination,
            deliveries.c.state == DeliveryState.DELIVERED,
        )
        .order_by(objects.c.id)
    )
    return list(connection.execute(query))


def told(connection: Connection, series_id: int, *, before_run: int) -> set[str]:
    """Destinations that objects of the series' earlier runs went to, or may have gone to."""
    query = (
        sa.select(deliveries.c.destination)
        .join(objects, objects.c.id == deliveries.c.object_id)
        .join(jobs, jobs.c.id == objects.c.job_id)
        .where(jobs.c.series_id == series_id, jobs.c.run < before_run, deliveries.c.state != DeliveryState.CANCELLED)
        .distinct()
    )
    return set(connection.scalars(query))


def cancel(connection: Connection, job_id: int) -> int:
    """What the job still owes is owed no longer; returns how many deliveries that were."""
    own = sa.select(objects.c.id).where(objects.c.job_id == job_id)
    changed = connection.execute(
        deliveries.update()
        .where(
            deliveries.c.object_id.in_(own),
            deliveries.c.state.in_((DeliveryState.WAITING, DeliveryState.FAILED)),
        )
        .values(state=DeliveryState.CANCELLED)
    )
    return int(changed.rowcount)


def sr_class_of(connection: Connection, destination: str, *, now: float) -> str | None:
    """The SR class this destination was seen to take; forgotten after a while, as it may have learned a better one."""
    lasting = sa.and_(destinations.c.noted_at <= now, destinations.c.noted_at > now - SR_CLASS_LASTS_S)
    query = sa.select(destinations.c.sr_class_uid).where(destinations.c.name == destination, lasting)
    found = connection.scalar(query)
    return None if found is None else str(found)


def remember_sr_class(connection: Connection, destination: str, sr_class_uid: str, *, now: float) -> None:
    if sr_class_of(connection, destination, now=now) == sr_class_uid:
        return  # noted when it was first seen, so that a better class is offered again one day
    values = {"sr_class_uid": sr_class_uid, "noted_at": now}
    insert = insert_for(connection)(destinations).values(name=destination, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=values))


def objects_of(connection: Connection, job_id: int) -> list[sa.Row[Any]]:
    return list(connection.execute(sa.select(objects).where(objects.c.job_id == job_id).order_by(objects.c.id)))


def predecessor(connection: Connection, series_id: int, run: int) -> list[sa.Row[Any]]:
    """The objects of the newest earlier run that made any."""
    earlier = (
        sa.select(jobs.c.id)
        .join(objects, objects.c.job_id == jobs.c.id)
        .where(jobs.c.series_id == series_id, jobs.c.run < run)
        .order_by(jobs.c.run.desc())
        .limit(1)
    )
    job_id = connection.scalar(earlier)
    return [] if job_id is None else objects_of(connection, int(job_id))


def try_again(connection: Connection, series_id: int, *, now: float) -> int:
    """Owe again what the newest run was refused, and at once what of it waits; returns how many deliveries that were.

    Not what an earlier run was refused: an old report must not arrive after the one that supersedes it.
    """
    newest = sa.select(sa.func.max(jobs.c.run)).where(jobs.c.series_id == series_id).scalar_subquery()
    of_newest = sa.and_(jobs.c.series_id == series_id, jobs.c.run == newest)
    of_series = sa.select(objects.c.id).join(jobs, jobs.c.id == objects.c.job_id).where(of_newest)
    open_states = (DeliveryState.FAILED, DeliveryState.WAITING)
    changed = connection.execute(
        deliveries.update()
        .where(deliveries.c.object_id.in_(of_series), deliveries.c.state.in_(open_states))
        .values(state=DeliveryState.WAITING, next_at=now)
    )
    return int(changed.rowcount)


def _owe(connection: Connection, object_id: int, destination: str, *, now: float) -> None:
    values = {
        "object_id": object_id,
        "destination": destination,
        "state": DeliveryState.WAITING,
        "tries": 0,
        "next_at": now,
    }
    insert = insert_for(connection)(deliveries).values(values)
    connection.execute(insert.on_conflict_do_nothing(index_elements=["object_id", "destination"]))


def _update(connection: Connection, delivery: Delivery, **values: object) -> bool:
    """False if it is not owed any more."""
    changed = connection.execute(
        deliveries.update()
        .where(deliveries.c.id == delivery.id, deliveries.c.state == DeliveryState.WAITING)
        .values(tries=delivery.tries + 1, **values)
    )
    return bool(changed.rowcount)
