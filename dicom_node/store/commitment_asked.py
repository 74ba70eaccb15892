"""Storage commitment in the database, ours: what destinations have yet to commit to, and what they answered.

    delivered -> owed -> asked -> committed        asked -> waiting (failed there: sent again), or asked again
                                                   asked -> cancelled (failed there, and superseded or withdrawn)

What others ask of us: `commitment_given`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store import whereabouts
from dicom_node.store.database import note
from dicom_node.store.deadlines import passed
from dicom_node.store.tables import (
    UNCONFIRMED,
    CommitmentState,
    DeliveryState,
    JobState,
    ObjectKind,
    deliveries,
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
