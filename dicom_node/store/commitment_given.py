"""Storage commitment in the database, theirs: what peers asked us to keep, and what we promised.

A request is waiting, then delivered (its answer, that is); the images we committed to stay until `release`. What we ask
of others: `commitment_asked`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store.database import insert_for, note
from dicom_node.store.deadlines import passed
from dicom_node.store.tables import DeliveryState, commitments, instances


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
