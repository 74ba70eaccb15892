"""Where the objects are that this node made: what each destination has, may have, or is to get."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store.outbox import MadeObject
from dicom_node.store.tables import OPEN, UNCONFIRMED, DeliveryState, JobState, ObjectKind, deliveries, jobs, objects
from dtvit.findings import Outcome

_MADE_COLUMNS = [objects.c[name] for name in MadeObject.__dataclass_fields__]


def may_be_there() -> sa.ColumnElement[bool]:
    """Whether the destination of a delivery has the object, or may have."""
    return sa.or_(deliveries.c.state == DeliveryState.DELIVERED, deliveries.c.begun_at.is_not(None))


def not_taken_back() -> sa.ColumnElement[bool]:
    """Whether the destination of a delivery has the object, may have it, or is still to get it."""
    return sa.or_(deliveries.c.state != DeliveryState.CANCELLED, deliveries.c.begun_at.is_not(None))


def owed(connection: Connection) -> dict[str, int]:
    """How many deliveries wait for each destination, were refused by it, or still lack its commitment."""
    open_ = sa.or_(OPEN, UNCONFIRMED)
    counted = sa.select(deliveries.c.destination, sa.func.count()).where(open_).group_by(deliveries.c.destination)
    return {str(name): int(count) for name, count in connection.execute(counted.order_by(deliveries.c.destination))}


def refused(connection: Connection) -> list[int]:
    """Series from which a destination refused something for good."""
    query = sa.select(jobs.c.series_id).join(objects, objects.c.job_id == jobs.c.id).join(deliveries).distinct()
    return list(connection.scalars(query.where(deliveries.c.state == DeliveryState.FAILED).order_by(jobs.c.series_id)))


def taken_by(connection: Connection, job_id: int, destination: str, *, for_sure: bool = False) -> list[MadeObject]:
    """The job's objects that this destination has stored, or, unless it is to be `for_sure`, may have."""
    there = deliveries.c.state == DeliveryState.DELIVERED if for_sure else may_be_there()
    query = (
        sa.select(*_MADE_COLUMNS)
        .join(deliveries, deliveries.c.object_id == objects.c.id)
        .where(objects.c.job_id == job_id, deliveries.c.destination == destination, there)
        .order_by(objects.c.id)
    )
    return [_made(row) for row in connection.execute(query)]


def standing_in_for(connection: Connection, sop_instance_uid: str, destination: str) -> list[MadeObject]:
    """What this destination has of the run of this report: the report in whatever SR class. First what it surely has,
    then what it may have, as an answer was lost."""
    of_run = sa.select(objects.c.job_id).where(objects.c.sop_instance_uid == sop_instance_uid).scalar_subquery()
    query = (
        sa.select(*_MADE_COLUMNS)
        .join(deliveries, deliveries.c.object_id == objects.c.id)
        .where(objects.c.job_id == of_run, objects.c.kind == ObjectKind.REPORT)
        .where(deliveries.c.destination == destination, may_be_there())
        .order_by(sa.case((deliveries.c.state == DeliveryState.DELIVERED, 0), else_=1), objects.c.id)
    )
    return [_made(row) for row in connection.execute(query)]


def stands(connection: Connection, series_id: int) -> bool:
    """Whether what some destination has, or is to get, as the newest result of the series says more than NOT EVALUATED
    and has not been withdrawn."""
    made = (
        sa.select(deliveries.c.destination, jobs.c.state, jobs.c.outcome)
        .join(objects, objects.c.job_id == jobs.c.id)
        .join(deliveries, deliveries.c.object_id == objects.c.id)
        .where(jobs.c.series_id == series_id, objects.c.kind != ObjectKind.WITHDRAWAL, not_taken_back())
        .order_by(jobs.c.run)
    )
    newest = {row.destination: row for row in connection.execute(made)}.values()
    return any(row.state != JobState.WITHDRAWN and row.outcome != Outcome.NOT_EVALUATED for row in newest)


def told(connection: Connection, series_id: int, *, before_run: int) -> set[str]:
    """Destinations that have, may have, or are to get objects of the series' earlier runs."""
    query = (
        sa.select(deliveries.c.destination)
        .join(objects, objects.c.id == deliveries.c.object_id)
        .join(jobs, jobs.c.id == objects.c.job_id)
        .where(jobs.c.series_id == series_id, jobs.c.run < before_run, not_taken_back())
        .distinct()
    )
    return set(connection.scalars(query))


def waiting_for_reports(connection: Connection, series_id: int) -> list[str]:
    """Destinations, configured or not, that are owed a report of the series: what supersedes it must follow there."""
    query = (
        sa.select(deliveries.c.destination)
        .join(objects, objects.c.id == deliveries.c.object_id)
        .join(jobs, jobs.c.id == objects.c.job_id)
        .where(jobs.c.series_id == series_id, objects.c.kind == ObjectKind.REPORT, OPEN)
    )
    return list(connection.scalars(query.distinct().order_by(deliveries.c.destination)))


def predecessors(connection: Connection, series_id: int, run: int) -> list[list[MadeObject]]:
    """The objects of earlier runs that a report supersedes, the newest run first: the newest of which a destination
    has, or is to get, any besides a withdrawal; and of each destination, back to the newest report that it surely has,
    all whose reports it may have, or may yet get: one that it then refuses supersedes nothing there. Of each run, those
    objects that some destination has, may have, or is to get, in the order in which they were made.
    """
    query = (
        sa.select(objects.c.job_id, objects.c.kind, deliveries.c.destination, deliveries.c.state)
        .join(objects, objects.c.job_id == jobs.c.id)
        .join(deliveries, deliveries.c.object_id == objects.c.id)
        .where(jobs.c.series_id == series_id, jobs.c.run < run)
        .where(objects.c.kind != ObjectKind.WITHDRAWAL, not_taken_back())
        .order_by(jobs.c.run.desc())
    )
    named: dict[int, None] = {}
    surely: set[str] = set()
    for made in connection.execute(query):
        is_report = made.kind == ObjectKind.REPORT
        if not named or (is_report and made.destination not in surely):
            named[made.job_id] = None
        if is_report and made.state == DeliveryState.DELIVERED:
            surely.add(made.destination)
    somewhere = sa.exists().where(deliveries.c.object_id == objects.c.id, not_taken_back())
    return [_objects_of(connection, job_id, somewhere) for job_id in named]


def objects_of(connection: Connection, job_id: int) -> list[MadeObject]:
    """The job's objects, in the order in which they were made."""
    return _objects_of(connection, job_id)


def _objects_of(connection: Connection, job_id: int, *which: sa.ColumnElement[bool]) -> list[MadeObject]:
    query = sa.select(*_MADE_COLUMNS).where(objects.c.job_id == job_id, *which).order_by(objects.c.id)
    return [_made(row) for row in connection.execute(query)]


def _made(row: sa.Row[Any]) -> MadeObject:
    values = row._asdict()
    return MadeObject(**values | {"kind": ObjectKind(values["kind"])})
