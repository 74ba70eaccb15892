"""Storage commitment in the database: what destinations have yet to commit to, and what we promised to others.

Ours:   delivered -> owed -> asked -> committed        asked -> waiting (failed there: sent again), or asked again
                                                       asked -> cancelled (failed there, and superseded or withdrawn)
Theirs: waiting -> delivered (the answer, that is), and the images we committed to stay until `release`
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store import whereabouts
from dicom_node.store.database import insert_for, note
from dicom_node.store.deadlines import passed
from dicom_node.store.tables import (
    UNCONFIRMED,
    CommitmentState,
    DeliveryState,
    JobState,
    ObjectKind,
    commitments,
    deliveries,
    instances,
    jobs,
    objects,
    series,
)


@dataclass(frozen=True)
class Owed:
    """A delivered object for which commitment is to be asked."""

    delivery_id: int
    tries: int
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Settled:
    """What an answer settled."""

    by: str | None
    """The destination; None where nothing was settled, as an answer to all of it has come, or it was asked for anew."""
    committed: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Request:
    """What a peer asked us to commit to."""

    id: int
    transaction_uid: str
    calling_aet: str
    asked: tuple[tuple[str, str], ...]
    tries: int
    received_at: float


@dataclass(frozen=True)
class Kept:
    """An image that counts under its UID, and when we last promised to keep it."""

    id: int
    sop_class_uid: str
    sop_instance_uid: str
    file: str
    size: int
    digest: str
    committed_at: float | None


# Ours


def due(connection: Connection, destination: str, *, now: float, longest_wait_s: float, limit: int) -> list[Owed]:
    """What this destination is to be asked about now, the oldest first."""
    again = passed(deliveries.c.commitment_at, now=now, longest_s=longest_wait_s)
    query = (
        sa.select(
            deliveries.c.id.label("delivery_id"),
            deliveries.c.commitment_tries.label("tries"),
            objects.c.sop_class_uid,
            objects.c.sop_instance_uid,
        )
        .join(objects)
        .where(
            deliveries.c.destination == destination,
            sa.or_(
                deliveries.c.commitment == CommitmentState.OWED,
                sa.and_(deliveries.c.commitment == CommitmentState.ASKED, again),
            ),
        )
        .order_by(deliveries.c.id)
        .limit(limit)
    )
    return [Owed(**row._asdict()) for row in connection.execute(query)]


def ask(connection: Connection, owed: Sequence[Owed], transaction_uid: str, *, again_at: float) -> list[Owed]:
    """To be committed before the request goes out: the answer may come before the request is done.

    Returns what is to be asked about: not what was kept back, or whose patient was forgotten, since it was due.
    """
    asked = (
        deliveries.update()
        .where(deliveries.c.id.in_([one.delivery_id for one in owed]), UNCONFIRMED)
        .values(
            commitment=CommitmentState.ASKED,
            transaction_uid=transaction_uid,
            commitment_at=again_at,
            commitment_tries=deliveries.c.commitment_tries + 1,
        )
        .returning(deliveries.c.id)
    )
    named = set(connection.scalars(asked))
    return [one for one in owed if one.delivery_id in named]


def postpone(connection: Connection, transaction_uid: str, *, until: float, error: str) -> None:
    """The request could not be made and does not count; anything answered nevertheless stays answered."""
    still = sa.and_(deliveries.c.transaction_uid == transaction_uid, deliveries.c.commitment == CommitmentState.ASKED)
    values = {"commitment_at": until, "commitment_tries": deliveries.c.commitment_tries - 1, "last_error": error}
    connection.execute(deliveries.update().where(still).values(values))


def settle(
    connection: Connection,
    transaction_uid: str,
    committed: Collection[str],
    failed: Mapping[str, int],
    *,
    now: float,
    wait_s: Callable[[int], float],
) -> Settled:
    """What a destination answered.

    `wait_s`: how long to wait, after so many requests, before what failed is sent again.
    """
    query = (
        sa.select(
            deliveries.c.id,
            deliveries.c.destination,
            deliveries.c.commitment_tries,
            objects.c.id.label("object_id"),
            objects.c.kind,
            objects.c.sop_instance_uid,
            objects.c.job_id,
            jobs.c.series_id,
            jobs.c.run,
            jobs.c.state.label("job_state"),
        )
        .select_from(deliveries.join(objects).join(jobs))
        .where(deliveries.c.transaction_uid == transaction_uid, deliveries.c.commitment == CommitmentState.ASKED)
    )
    kept = lost = 0
    by = None
    for row in connection.execute(query).all():
        about = f"object={row.object_id} by={row.destination}"
        if row.sop_instance_uid in failed or row.sop_instance_uid in committed:
            by = row.destination
        if row.sop_instance_uid in failed:
            lost += 1
            reason = failed[row.sop_instance_uid]
            again = _send_again(connection, row, reason, at=now + wait_s(row.commitment_tries))
            about += f" reason={reason:04X}" + ("" if again else ", not sent again: no longer valid")
            note(connection, "not committed", now=now, series_id=row.series_id, job_id=row.job_id, detail=about)
        elif row.sop_instance_uid in committed:
            kept += 1
            values = {"commitment": CommitmentState.COMMITTED, "commitment_at": now, "last_error": None}
            connection.execute(deliveries.update().where(deliveries.c.id == row.id).values(values))
            note(connection, "committed", now=now, series_id=row.series_id, job_id=row.job_id, detail=about)
    return Settled(by, kept, lost)


def _send_again(connection: Connection, row: Any, reason: int, *, at: float) -> bool:
    """Owe once more what the destination lost; False for what it should no longer show."""
    again = row.kind == ObjectKind.WITHDRAWAL or not (
        row.job_state == JobState.WITHDRAWN or _is_superseded(connection, row)
    )
    values = {
        "state": DeliveryState.WAITING if again else DeliveryState.CANCELLED,
        "next_at": at,
        "last_error": f"{row.destination} did not commit to keeping it, reason {reason:04X}",
        "commitment": None,
        "delivered_at": None,
    }
    connection.execute(deliveries.update().where(deliveries.c.id == row.id).values(values))
    if again:
        was = sa.and_(jobs.c.id == row.job_id, jobs.c.state == JobState.DELIVERED)
        connection.execute(jobs.update().where(was).values(state=JobState.REPORTED))
    return again


def _is_superseded(connection: Connection, row: Any) -> bool:
    """Whether this destination has, or is owed, something of a newer run: an older object must not arrive after it.

    If a run is ending at this moment, one waits for the other: both lock the row of the series.
    """
    connection.execute(sa.select(series.c.id).where(series.c.id == row.series_id).with_for_update())
    newer = (
        sa.select(deliveries.c.id)
        .select_from(deliveries.join(objects).join(jobs))
        .where(
            deliveries.c.destination == row.destination,
            whereabouts.not_taken_back(),
            jobs.c.series_id == row.series_id,
            jobs.c.run > row.run,
        )
    )
    return connection.execute(newer.limit(1)).first() is not None


# Theirs


def keep(
    connection: Connection, transaction_uid: str, calling_aet: str, asked: Sequence[tuple[str, str]], *, now: float
) -> None:
    """Record a request once: a repeat under the same transaction changes nothing."""
    values = {
        "transaction_uid": transaction_uid,
        "calling_aet": calling_aet,
        "asked": [list(pair) for pair in asked],
        "state": DeliveryState.WAITING,
        "tries": 0,
        "next_at": now,
        "received_at": now,
    }
    insert = insert_for(connection)(commitments).values(values)
    connection.execute(insert.on_conflict_do_nothing(index_elements=["calling_aet", "transaction_uid"]))


def requests(connection: Connection, calling_aet: str, *, now: float, longest_wait_s: float) -> list[Request]:
    """What this caller has asked, and is to be answered now; the oldest first."""
    waits = sa.and_(commitments.c.calling_aet == calling_aet, commitments.c.state == DeliveryState.WAITING)
    query = (
        sa.select(commitments)
        .where(waits, passed(commitments.c.next_at, now=now, longest_s=longest_wait_s))
        .order_by(commitments.c.id)
        .limit(20)
    )
    return [
        Request(
            row.id,
            row.transaction_uid,
            row.calling_aet,
            tuple((str(cls), str(uid)) for cls, uid in row.asked),
            row.tries,
            row.received_at,
        )
        for row in connection.execute(query)
    ]


def current(connection: Connection, sop_instance_uids: Collection[str]) -> list[Kept]:
    """What counts under these UIDs: under each one, none, or two that contradict each other."""
    columns = [instances.c[one.name] for one in fields(Kept)]
    named = sa.and_(instances.c.sop_instance_uid.in_(sop_instance_uids), instances.c.current.is_(True))
    return [Kept(**row._asdict()) for row in connection.execute(sa.select(*columns).where(named))]


def promise(connection: Connection, instance_ids: Collection[int], *, now: float) -> set[int]:
    """They are kept from now on, except those that have gone in the meantime; returns those that are."""
    these = sa.and_(instances.c.id.in_(instance_ids), instances.c.current.is_(True))
    promised = instances.update().where(these).values(committed_at=now).returning(instances.c.id)
    return set(connection.execute(promised).scalars())


def answered(connection: Connection, request_id: int, *, now: float) -> None:
    values = {"state": DeliveryState.DELIVERED, "answered_at": now, "last_error": None}
    connection.execute(commitments.update().where(commitments.c.id == request_id).values(**values))


def not_answered(connection: Connection, request: Request, *, until: float | None, error: str) -> None:
    """`until`: when to try again; None gives up."""
    values: dict[str, Any] = {"tries": request.tries + 1, "last_error": error}
    values |= {"state": DeliveryState.FAILED} if until is None else {"next_at": until}
    connection.execute(commitments.update().where(commitments.c.id == request.id).values(**values))


def forget_requests(connection: Connection, *, answerable: Collection[str], before: float) -> dict[str, int]:
    """Delete old requests that are settled, or that nobody can answer, as their callers are not among `answerable`.

    Returns how many of the latter still wait, by caller. What we promised is recorded in the images' rows.
    """
    waits = commitments.c.state == DeliveryState.WAITING
    lost = sa.and_(waits, commitments.c.calling_aet.not_in(answerable))
    connection.execute(commitments.delete().where(commitments.c.received_at < before, sa.or_(~waits, lost)))
    query = sa.select(commitments.c.calling_aet, sa.func.count()).where(lost).group_by(commitments.c.calling_aet)
    return {row[0]: row[1] for row in connection.execute(query)}


def release(connection: Connection, series_id: int, *, now: float) -> int:
    """A person's decision: the images of the series may be deleted when their retention ends."""
    held = sa.and_(instances.c.series_id == series_id, instances.c.committed_at.is_not(None))
    released = connection.execute(instances.update().where(held).values(committed_at=None)).rowcount
    if released:
        note(connection, "released", now=now, series_id=series_id, detail=f"images={released}")
    return int(released)
