"""What is no longer owed to any destination, or to one: something newer took its place, or a person or a correction
took it back.

It may be on the wire by now: then `outbox.delivered` notes that it has arrived all the same.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store import jobs as job_queue
from dicom_node.store.tables import OPEN, UNCONFIRMED, DeliveryState, ObjectKind, deliveries, jobs, objects, series


def supersede(connection: Connection, series_id: int, run: int, *, now: float) -> None:
    """A newer result exists: what earlier runs owe besides their reports and withdrawals would contradict it.

    The newer run then says what they had no time to say: that something filed under another patient is no longer valid.
    """
    earlier = jobs.c.series_id == series_id, jobs.c.run < run
    if _make_no_extras(connection, *earlier, now=now):
        this = jobs.c.series_id == series_id, jobs.c.run == run
        connection.execute(jobs.update().where(*this).values(extras_due=True))
    lasting = (ObjectKind.REPORT, ObjectKind.WITHDRAWAL)
    _cancel(connection, made_of(*earlier, objects.c.kind.not_in(lasting)), now=now)


def outdate(connection: Connection, series_id: int, object_id: int, destination: str, *, now: float) -> None:
    """The destination has this object. If it is a report, it no longer needs the earlier ones that it refused."""
    kind, run = connection.execute(
        sa.select(objects.c.kind, jobs.c.run).join(jobs, jobs.c.id == objects.c.job_id).where(objects.c.id == object_id)
    ).one()
    if kind != ObjectKind.REPORT or run == 1:
        return
    earlier = made_of(jobs.c.series_id == series_id, jobs.c.run < run, objects.c.kind == ObjectKind.REPORT)
    refused = deliveries.c.destination == destination, deliveries.c.state == DeliveryState.FAILED
    _cancel(connection, earlier, *refused, now=now)


def keep_back(connection: Connection, series_id: int, *, now: float) -> None:
    """Owe nothing made from this series, or being made, except withdrawals.

    Nor is a destination asked for commitment: what it reported lost would be sent again.
    """
    connection.execute(sa.select(series.c.id).where(series.c.id == series_id).with_for_update())  # as jobs.finish does
    job_queue.put_off(connection, series_id, now=now)
    its = jobs.c.series_id == series_id
    _make_no_extras(connection, its, now=now)
    made = made_of(its, objects.c.kind != ObjectKind.WITHDRAWAL)
    _cancel(connection, made, now=now)
    _ask_no_commitment(connection, made)


def cancel(connection: Connection, job_id: int, *, now: float) -> int:
    """The job no longer owes anything; returns how many deliveries are cancelled."""
    return _cancel(connection, made_of(jobs.c.id == job_id), now=now)


def cancel_for(connection: Connection, destination: str, *, now: float) -> int:
    """Owe this destination nothing of what was made so far; returns how many deliveries it was owed.

    Nor is it asked for commitment: the images would be kept for its answer, whatever their age.
    """
    its = deliveries.c.destination == destination
    return _cancel(connection, its, now=now) + _ask_no_commitment(connection, its)


def _cancel(connection: Connection, *these: sa.ColumnElement[bool], now: float) -> int:
    """Owe these no longer, if they are open; a job that then owes nothing more is delivered. Returns how many."""
    made = sa.select(objects.c.job_id).join(deliveries, deliveries.c.object_id == objects.c.id)
    job_ids = connection.scalars(made.where(OPEN, *these).distinct()).all()
    cancelled = deliveries.update().where(OPEN, *these).values(state=DeliveryState.CANCELLED)
    count = int(connection.execute(cancelled).rowcount)
    for job_id in job_ids:
        job_queue.settle_delivered(connection, job_id, now=now)
    return count


def _ask_no_commitment(connection: Connection, which: sa.ColumnElement[bool]) -> int:
    """Returns how many deliveries still lacked it."""
    unasked = deliveries.update().where(UNCONFIRMED, which).values(commitment=None)
    return int(connection.execute(unasked).rowcount)


def _make_no_extras(connection: Connection, *of: sa.ColumnElement[bool], now: float) -> bool:
    """Nothing more is made for these jobs; one that lacked only that is delivered. Returns whether any was due."""
    due = sa.select(jobs.c.id).where(jobs.c.extras_due.is_(True), *of)
    job_ids = connection.scalars(due).all()
    connection.execute(jobs.update().where(jobs.c.id.in_(job_ids)).values(extras_due=False))
    for job_id in job_ids:
        job_queue.settle_delivered(connection, job_id, now=now)
    return bool(job_ids)


def made_of(*made: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Deliveries of such objects, by what is known of them and their jobs."""
    return deliveries.c.object_id.in_(sa.select(objects.c.id).join(jobs, jobs.c.id == objects.c.job_id).where(*made))
