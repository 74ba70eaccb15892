"""The outbox: objects this node made, each with a delivery per destination; the same bytes until they are taken.

waiting -> delivered            waiting -> failed (refused for good) -> waiting (`retry`)
waiting, failed -> cancelled    cancelled -> delivered (it was on the wire, and has arrived)

What is cancelled is no longer owed: another SR class or a newer result took its place, it was withdrawn, turned out to
be about another patient, or its destination is gone: `cancelling`. What each destination has: `whereabouts`. What it
says of keeping it: `commitment_asked`.

`begun_at` is set before an object goes out, and only a refusal undoes that: where it is set, the destination may have
the object, whatever the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.status import in_words
from dicom_node.store import jobs as job_queue
from dicom_node.store.cancelling import made_of, outdate
from dicom_node.store.database import insert_for, note
from dicom_node.store.deadlines import passed
from dicom_node.store.tables import (
    OPEN,
    CommitmentState,
    DeliveryState,
    ObjectKind,
    deliveries,
    jobs,
    objects,
)
from dtvit.findings import Outcome

BACKLOG_LIMIT = 4  # backlog deliveries per association: the next live report waits for no more


@dataclass(frozen=True)
class MadeObject:
    """An object to be sent: stored in the spool under `file`, never built again."""

    kind: ObjectKind
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
    begun_at: float | None
    """When it went out before, without an answer."""
    sop_class_uid: str
    sop_instance_uid: str
    file: str
    sha256: str
    priority: int


def put(connection: Connection, job_id: int, made: Sequence[MadeObject], to: Sequence[str], *, now: float) -> None:
    """Store what a job made and what it owes; belongs in the transaction that ends the job."""
    for item in made:
        object_id = _add(connection, job_id, item, now=now)
        for destination in to:
            _owe(connection, object_id, destination, now=now)


def due(
    connection: Connection, destination: str, *, now: float, longest_wait_s: float, limit: int = 50
) -> list[Delivery]:
    """What this destination is owed now: live before backlog, positive results before others, then the oldest.

    Nothing overtakes a report of an earlier run of its series, nor an earlier object of its own kind. Only a few of
    backlog are returned, so that the next live one need not wait for many.
    """
    is_due = passed(deliveries.c.next_at, now=now, longest_s=longest_wait_s)
    before, its_object, its_job = deliveries.alias("before"), objects.alias("its_object"), jobs.alias("its_job")
    # Nested, not joined: SQLite would start a join from all that waits there, for each one of these.
    owed = sa.exists().where(
        before.c.object_id == its_object.c.id,
        before.c.destination == destination,
        before.c.state == DeliveryState.WAITING,
    )
    made = its_object.c.job_id == its_job.c.id, its_object.c.kind.in_((ObjectKind.REPORT, objects.c.kind))
    owes = sa.exists().where(*made, owed.correlate(its_object)).correlate(its_job, objects)
    overtakes = sa.exists().where(its_job.c.series_id == jobs.c.series_id, its_job.c.run < jobs.c.run, owes)
    query = (
        sa.select(
            deliveries.c.id,
            deliveries.c.object_id,
            objects.c.job_id,
            jobs.c.series_id,
            deliveries.c.destination,
            deliveries.c.tries,
            deliveries.c.begun_at,
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
        .order_by(jobs.c.priority, sa.case((jobs.c.outcome == Outcome.PRESENT, 0), else_=1), objects.c.id)
        .limit(limit)
    )
    found = [Delivery(**row._asdict()) for row in connection.execute(query)]
    live = [one for one in found if one.priority < job_queue.BACKLOG]
    return live or found[:BACKLOG_LIMIT]


def begin(connection: Connection, delivery: Delivery, *, now: float) -> bool:
    """It goes out as soon as this is committed; False if it is no longer owed, and then it must not."""
    return _update(connection, delivery, {"begun_at": now})


def delivered(connection: Connection, delivery: Delivery, status: int, *, now: float, commitment: bool = False) -> bool:
    """The destination has it. Returns whether this settled all that the job owed.

    `commitment`: it is to be asked to commit to keeping it, unless it was cancelled while on the wire.
    """
    values = {"state": DeliveryState.DELIVERED, "tries": delivery.tries + 1, "last_status": status, "last_error": None}
    values["delivered_at"] = now
    asked = {"commitment": CommitmentState.OWED, "commitment_at": now} if commitment else {}
    if not _update(connection, delivery, values | asked):
        if _update(connection, delivery, values, of=DeliveryState.CANCELLED):
            _note(connection, "stored although cancelled", delivery, f"status={in_words(status)}", now=now)
        return False  # if neither, its patient was forgotten while it was being sent
    _note(connection, "stored", delivery, f"status={in_words(status)}", now=now)
    outdate(connection, delivery.series_id, delivery.object_id, delivery.destination, now=now)
    return job_queue.settle_delivered(connection, delivery.job_id, now=now)


def postpone(connection: Connection, delivery: Delivery, *, until: float, status: int | None, error: str) -> bool:
    """Not taken this time; `status`: None where the destination itself did not say so, and may have it after all.

    False if it is no longer owed.
    """
    values = {"tries": delivery.tries + 1, "next_at": until, "last_status": status, "last_error": error}
    record = _update if status is None else _refused
    return record(connection, delivery, values)


def hurry(connection: Connection, destination: str, *, now: float, last_stored_at: float) -> None:
    """The destination can be reached again: what was waiting only for that is due now.

    What went out and got no answer may be what the destination breaks on. It is hurried if it was made after something
    was last stored there, and so may have waited for the same reason as all else; then it keeps to its growing waits.
    """
    is_newer = sa.exists().where(objects.c.id == deliveries.c.object_id, objects.c.created_at > last_stored_at)
    connection.execute(
        deliveries.update()
        .where(
            deliveries.c.destination == destination,
            deliveries.c.state == DeliveryState.WAITING,
            deliveries.c.last_status.is_(None),
            deliveries.c.next_at > now,
            sa.or_(deliveries.c.begun_at.is_(None), is_newer),
        )
        .values(next_at=now)
    )


def give_up(connection: Connection, delivery: Delivery, *, now: float, status: int | None, error: str) -> bool:
    """Refused for good: kept, shown, and tried again only when a person says so. False if it is no longer owed."""
    values = {"state": DeliveryState.FAILED, "tries": delivery.tries + 1, "last_status": status, "last_error": error}
    owed = _refused(connection, delivery, values)
    if owed:
        _note(connection, "delivery failed", delivery, error, now=now)
    return owed


def replace(
    connection: Connection, delivery: Delivery, sop_instance_uid: str, store: Callable[[], MadeObject], *, now: float
) -> bool:
    """This destination takes the report only as another SR class: owe it that object instead, built once.

    `store` is called for an object that does not exist yet. False if the delivery is no longer owed: then nothing is
    stored.
    """
    if not _refused(connection, delivery, {"state": DeliveryState.CANCELLED}):
        return False
    known = connection.scalar(sa.select(objects.c.id).where(objects.c.sop_instance_uid == sop_instance_uid))
    if known is None:
        known = _add(connection, delivery.job_id, store(), now=now)
    _owe(connection, int(known), delivery.destination, now=now)
    return True


def try_again(connection: Connection, series_id: int, *, now: float) -> int:
    """Owe again what was refused of the newest run, and make due what waits of it; returns how many deliveries.

    Of earlier runs only withdrawals, which stay true: an old report must not arrive after the one that supersedes it.
    """
    newest = sa.select(sa.func.max(jobs.c.run)).where(jobs.c.series_id == series_id).scalar_subquery()
    holds = sa.or_(jobs.c.run == newest, objects.c.kind == ObjectKind.WITHDRAWAL)
    these = OPEN, made_of(jobs.c.series_id == series_id, holds)
    changed = connection.execute(deliveries.update().where(*these).values(state=DeliveryState.WAITING, next_at=now))
    return int(changed.rowcount)


def _add(connection: Connection, job_id: int, made: MadeObject, *, now: float) -> int:
    values = vars(made) | {"job_id": job_id, "created_at": now}
    return int(connection.execute(objects.insert().values(values).returning(objects.c.id)).scalar_one())


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


def _refused(connection: Connection, delivery: Delivery, values: Mapping[str, object]) -> bool:
    """The destination did not take it this time: it may have it only if it might have before."""
    return _update(connection, delivery, {**values, "begun_at": delivery.begun_at})


def _update(
    connection: Connection,
    delivery: Delivery,
    values: Mapping[str, object],
    *,
    of: DeliveryState = DeliveryState.WAITING,
) -> bool:
    """False if it is not in this state, or no longer exists."""
    this = deliveries.c.id == delivery.id, deliveries.c.state == of
    return bool(connection.execute(deliveries.update().where(*this).values(dict(values))).rowcount)


def _note(connection: Connection, kind: str, delivery: Delivery, detail: str, *, now: float) -> None:
    text = f"object={delivery.object_id} to={delivery.destination} {detail}"
    note(connection, kind, now=now, series_id=delivery.series_id, job_id=delivery.job_id, detail=text)
