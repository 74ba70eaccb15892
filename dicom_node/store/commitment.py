"""Storage commitment as the database knows it: what destinations owe us a word on, and what we promised to others.

Ours:   delivered -> owed -> asked -> committed        asked -> waiting (failed there: sent again), or asked again
Theirs: waiting -> delivered (the answer, that is), and the images we committed to stay until `release`
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store.database import insert_for, note
from dicom_node.tables import (
    CommitmentState,
    DeliveryState,
    JobState,
    commitments,
    deliveries,
    instances,
    jobs,
    objects,
)


@dataclass(frozen=True)
class Owed:
    """A delivered object whose safekeeping is to be asked for."""

    delivery_id: int
    tries: int
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Request:
    """What another node asked us to commit to."""

    id: int
    transaction_uid: str
    calling_aet: str
    asked: tuple[tuple[str, str], ...]
    tries: int
    received_at: float


# Ours


def due(connection: Connection, destination: str, *, now: float, longest_wait_s: float, limit: int) -> list[Owed]:
    """A deadline further away than the longest wait was set before the clock was put back, and is due."""
    passed = sa.or_(deliveries.c.commitment_at <= now, deliveries.c.commitment_at > now + longest_wait_s)
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
            deliveries.c.commitment.in_((CommitmentState.OWED, CommitmentState.ASKED)),
            passed,
        )
        .order_by(deliveries.c.id)
        .limit(limit)
    )
    return [Owed(**row._asdict()) for row in connection.execute(query)]


def ask(connection: Connection, owed: Sequence[Owed], transaction_uid: str, *, again_at: float) -> None:
    """To be committed before the question goes out: the answer may come before the question is done."""
    connection.execute(
        deliveries.update()
        .where(deliveries.c.id.in_([one.delivery_id for one in owed]))
        .values(
            commitment=CommitmentState.ASKED,
            transaction_uid=transaction_uid,
            commitment_at=again_at,
            commitment_tries=deliveries.c.commitment_tries + 1,
        )
    )


def postpone(connection: Connection, transaction_uid: str, *, until: float, error: str) -> None:
    """The question could not be asked; what was answered all the same stays answered."""
    still = sa.and_(deliveries.c.transaction_uid == transaction_uid, deliveries.c.commitment == CommitmentState.ASKED)
    connection.execute(deliveries.update().where(still).values(commitment_at=until, last_error=error))


def settle(
    connection: Connection,
    transaction_uid: str,
    committed: Collection[str],
    failed: Mapping[str, int],
    *,
    now: float,
    again_at: float,
) -> tuple[int, int]:
    """What a destination answered; returns how many it committed to, and how many are to be sent again."""
    query = (
        sa.select(
            deliveries.c.id,
            deliveries.c.destination,
            objects.c.id.label("object_id"),
            objects.c.sop_instance_uid,
            objects.c.job_id,
            jobs.c.series_id,
            jobs.c.state.label("job_state"),
        )
        .select_from(deliveries.join(objects).join(jobs))
        .where(deliveries.c.transaction_uid == transaction_uid, deliveries.c.commitment == CommitmentState.ASKED)
    )
    kept = lost = 0
    for row in connection.execute(query).all():
        this = deliveries.update().where(deliveries.c.id == row.id)
        about = f"object={row.object_id} by={row.destination}"
        if row.sop_instance_uid in failed:
            lost += 1
            reason = f"{row.destination} did not commit to it, reason {failed[row.sop_instance_uid]:04X}"
            withdrawn = row.job_state == JobState.WITHDRAWN  # then it is as well that the destination has it no more
            state = DeliveryState.CANCELLED if withdrawn else DeliveryState.WAITING
            owed_again = {"state": state, "next_at": again_at, "last_error": reason}
            connection.execute(this.values(**owed_again, commitment=None, delivered_at=None))
            was = sa.and_(jobs.c.id == row.job_id, jobs.c.state == JobState.DELIVERED)
            connection.execute(jobs.update().where(was).values(state=JobState.REPORTED))
            about += f" reason={failed[row.sop_instance_uid]:04X}"
            note(connection, "not committed", now=now, series_id=row.series_id, job_id=row.job_id, detail=about)
        elif row.sop_instance_uid in committed:
            kept += 1
            connection.execute(this.values(commitment=CommitmentState.COMMITTED, commitment_at=now, last_error=None))
            note(connection, "committed", now=now, series_id=row.series_id, job_id=row.job_id, detail=about)
    return kept, lost


# Theirs


def keep(
    connection: Connection, transaction_uid: str, calling_aet: str, asked: Sequence[tuple[str, str]], *, now: float
) -> None:
    """A request, once: a repeat under the same transaction changes nothing."""
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


def requests(connection: Connection, *, now: float, longest_wait_s: float) -> list[Request]:
    passed = sa.or_(commitments.c.next_at <= now, commitments.c.next_at > now + longest_wait_s)
    query = (
        sa.select(commitments)
        .where(commitments.c.state == DeliveryState.WAITING, passed)
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


def current(connection: Connection, sop_instance_uid: str) -> list[sa.Row[Any]]:
    """The rows that count under this UID: one, none, or two that contradict each other."""
    query = sa.select(instances).where(instances.c.sop_instance_uid == sop_instance_uid, instances.c.current.is_(True))
    return list(connection.execute(query))


def promise(connection: Connection, instance_id: int, *, now: float) -> bool:
    """It stays from now on; False if it has gone in the meantime."""
    this = sa.and_(instances.c.id == instance_id, instances.c.current.is_(True))
    return bool(connection.execute(instances.update().where(this).values(committed_at=now)).rowcount)


def answered(connection: Connection, request_id: int, *, now: float) -> None:
    values = {"state": DeliveryState.DELIVERED, "answered_at": now, "last_error": None}
    connection.execute(commitments.update().where(commitments.c.id == request_id).values(**values))


def not_answered(connection: Connection, request: Request, *, until: float | None, error: str) -> None:
    """`until`: when to try again; None gives up."""
    values: dict[str, Any] = {"tries": request.tries + 1, "last_error": error}
    values |= {"state": DeliveryState.FAILED} if until is None else {"next_at": until}
    connection.execute(commitments.update().where(commitments.c.id == request.id).values(**values))


def forget_answered(connection: Connection, *, before: float) -> None:
    """Requests that are done with, and old; what they made us promise stands in the images' rows."""
    done = sa.and_(commitments.c.state != DeliveryState.WAITING, commitments.c.received_at < before)
    connection.execute(commitments.delete().where(done))


def release(connection: Connection, series_id: int, *, now: float) -> int:
    """By a person's word: the images of the series may be deleted when their retention ends."""
    held = sa.and_(instances.c.series_id == series_id, instances.c.committed_at.is_not(None))
    released = connection.execute(instances.update().where(held).values(committed_at=None)).rowcount
    if released:
        note(connection, "released", now=now, series_id=series_id, detail=f"images={released}")
    return int(released)
