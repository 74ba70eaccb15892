"""Deliveries no longer owed: what a newer report has outdated, what turned out to be about another patient, and what
waits for a PACS that is gone."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store import jobs as job_queue
from dicom_node.store.tables import CommitmentState, DeliveryState, ObjectKind, deliveries, jobs, objects, series

_OPEN = deliveries.c.state.in_((DeliveryState.WAITING, DeliveryState.FAILED))
_UNCONFIRMED = deliveries.c.commitment.in_((CommitmentState.OWED, CommitmentState.ASKED))


def owed(connection: Connection) -> dict[str, int]:
    """How many deliveries wait for each destination, were refused by it, or still lack its commitment."""
    open_ = sa.or_(_OPEN, _UNCONFIRMED)
    counted = sa.select(deliveries.c.destination, sa.func.count()).where(open_).group_by(deliveries.c.destination)
    return {str(name): int(count) for name, count in connection.execute(counted.order_by(deliveries.c.destination))}


def refused(connection: Connection) -> list[int]:
    """Series from which a destination refused something for good."""
    query = sa.select(jobs.c.series_id).join(objects, objects.c.job_id == jobs.c.id).join(deliveries).distinct()
    return list(connection.scalars(query.where(deliveries.c.state == DeliveryState.FAILED).order_by(jobs.c.series_id)))


def cancel_for(connection: Connection, destination: str, *, now: float) -> int:
    """Owe this destination nothing of what was made so far; returns how many deliveries it was owed.

    Nor is it asked for commitment: the images would be kept for its answer, whatever their age.
    """
    its, count = deliveries.c.destination == destination, owed(connection).get(destination, 0)
    _cancel(connection, its, _OPEN, now=now)
    connection.execute(deliveries.update().where(its, _UNCONFIRMED).values(commitment=None))
    return count


def keep_back(connection: Connection, series_id: int, *, now: float) -> None:
    """Owe nothing made from this series, or being made, except withdrawals.

    Nor is a destination asked for commitment: what it reported lost would be sent again.
    """
    connection.execute(sa.select(series.c.id).where(series.c.id == series_id).with_for_update())  # as jobs.finish does
    job_queue.put_off(connection, series_id, now=now)
    its = jobs.c.series_id == series_id
    connection.execute(jobs.update().where(its).values(extras_due=False))
    of_series = sa.select(objects.c.id).join(jobs, jobs.c.id == objects.c.job_id).where(jobs.c.series_id == series_id)
    made = of_series.where(objects.c.kind != ObjectKind.WITHDRAWAL)
    _cancel(connection, _OPEN, deliveries.c.object_id.in_(made), now=now)
    unconfirmed = deliveries.update().where(deliveries.c.object_id.in_(made), _UNCONFIRMED)
    connection.execute(unconfirmed.values(commitment=None))
    for job_id in connection.scalars(sa.select(jobs.c.id).where(its)).all():  # also one that lacked only its extras
        job_queue.settle_delivered(connection, job_id, now=now)


def outdate(connection: Connection, series_id: int, object_id: int, destination: str, *, now: float) -> None:
    """The destination has this object. If it is a report, it no longer needs the earlier ones that it refused."""
    kind, run = connection.execute(
        sa.select(objects.c.kind, jobs.c.run).join(jobs, jobs.c.id == objects.c.job_id).where(objects.c.id == object_id)
    ).one()
    if kind != ObjectKind.REPORT or run == 1:
        return
    earlier = (
        sa.select(objects.c.id)
        .join(jobs, jobs.c.id == objects.c.job_id)
        .where(jobs.c.series_id == series_id, jobs.c.run < run, objects.c.kind == ObjectKind.REPORT)
    )
    refused = deliveries.c.destination == destination, deliveries.c.state == DeliveryState.FAILED
    _cancel(connection, *refused, deliveries.c.object_id.in_(earlier), now=now)


def _cancel(connection: Connection, *these: sa.ColumnElement[bool], now: float) -> None:
    """Cancel these deliveries; a job that then owes nothing more is delivered."""
    query = sa.select(objects.c.job_id).join(deliveries, deliveries.c.object_id == objects.c.id).where(*these)
    job_ids = connection.scalars(query).all()
    connection.execute(deliveries.update().where(*these).values(state=DeliveryState.CANCELLED))
    for job_id in set(job_ids):
        job_queue.settle_delivered(connection, job_id, now=now)
