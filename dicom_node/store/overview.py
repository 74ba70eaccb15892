"""What `dicom-node status` and `show` tell: how much there is in which state, and the history of one series."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store import heartbeats
from dicom_node.store.jobs import BACKLOG
from dicom_node.tables import (
    CommitmentState,
    DeliveryState,
    JobState,
    SeriesState,
    deliveries,
    events,
    instances,
    jobs,
    objects,
    series,
)


@dataclass(frozen=True)
class Line:
    """One series as a list shows it."""

    id: int
    state: str
    reason: str | None
    instances: int
    run: int
    outcome: str | None
    first_at: float
    last_at: float


@dataclass(frozen=True)
class Overview:
    by_state: dict[str, int]
    oldest_waiting_s: float | None
    """Age of the oldest series that is received or in work and not reported yet."""
    undelivered: int
    oldest_undelivered_s: float | None
    oldest_undelivered_positive_s: float | None
    failed_deliveries: int
    uncommitted: int
    """Delivered objects whose safekeeping a destination was asked for and has not confirmed."""
    waiting_live: int
    waiting_backlog: int
    """Series that are received or in work, by priority."""
    serving_since: float | None
    """When the oldest living `serve` was started; None where none gives a sign of life."""
    newest: tuple[Line, ...]


POSITIVE_LATE_S = 600.0
"""A positive result that is not delivered for so long is an alarm."""


class Health(IntEnum):
    """Of the node as a whole, with the exit statuses that monitoring systems know."""

    GOOD = 0
    WARNING = 1
    CRITICAL = 2


def health(found: Overview, *, has_room: bool) -> tuple[Health, list[str]]:
    """How it is, and what a person should look at."""
    critical, warnings = [], []
    if found.serving_since is None:
        critical.append("no dicom-node serve gives a sign of life")
    if (found.oldest_undelivered_positive_s or 0.0) > POSITIVE_LATE_S:
        critical.append(f"a positive result is undelivered for {found.oldest_undelivered_positive_s:.0f} s")
    if not has_room:
        critical.append("the disk is below node.min_free_mib: nothing is received")
    if found.failed_deliveries:
        warnings.append(f"{found.failed_deliveries} deliveries were refused for good; see them by show, then retry")
    level = Health.CRITICAL if critical else Health.WARNING if warnings else Health.GOOD
    return level, critical + warnings


def _shown_state() -> sa.ColumnElement[str]:
    """The state people see: that of the series, or once it is complete that of its newest job."""
    return sa.case((series.c.state == SeriesState.COMPLETE, jobs.c.state), else_=series.c.state)


def _with_newest_job() -> sa.Join:
    return series.outerjoin(jobs, sa.and_(jobs.c.series_id == series.c.id, jobs.c.run == series.c.run))


def overview(connection: Connection, *, now: float, newest: int = 10) -> Overview:
    state = _shown_state().label("state")
    counts = sa.select(state, sa.func.count()).select_from(_with_newest_job()).group_by(state)
    waiting = sa.select(sa.func.min(series.c.first_at)).select_from(_with_newest_job())
    waiting = waiting.where(state.in_((SeriesState.RECEIVING, JobState.READY, JobState.RUNNING)))
    owed = sa.select(sa.func.count(), sa.func.min(objects.c.created_at)).select_from(
        deliveries.join(objects).join(jobs, jobs.c.id == objects.c.job_id)
    )
    open_ = deliveries.c.state.in_((DeliveryState.WAITING, DeliveryState.FAILED))
    undelivered, oldest = connection.execute(owed.where(open_)).one()
    positive = connection.execute(owed.where(open_, jobs.c.outcome == "present")).one()[1]
    failed = connection.execute(owed.where(deliveries.c.state == DeliveryState.FAILED)).one()[0]
    oldest_waiting = connection.scalar(waiting)
    depth = sa.select(series.c.priority, sa.func.count()).select_from(_with_newest_job())
    depth = depth.where(state.in_((SeriesState.RECEIVING, JobState.READY, JobState.RUNNING))).group_by(
        series.c.priority
    )
    depths = {int(priority): int(count) for priority, count in connection.execute(depth)}
    uncommitted = sa.select(sa.func.count()).where(
        deliveries.c.commitment.in_((CommitmentState.OWED, CommitmentState.ASKED))
    )
    serving = heartbeats.alive(connection, now=now)
    return Overview(
        by_state={str(name): int(count) for name, count in connection.execute(counts)},
        oldest_waiting_s=None if oldest_waiting is None else now - oldest_waiting,
        undelivered=int(undelivered),
        oldest_undelivered_s=None if oldest is None else now - oldest,
        oldest_undelivered_positive_s=None if positive is None else now - positive,
        failed_deliveries=int(failed),
        uncommitted=int(connection.scalar(uncommitted) or 0),
        waiting_live=sum(count for priority, count in depths.items() if priority < BACKLOG),
        waiting_backlog=sum(count for priority, count in depths.items() if priority >= BACKLOG),
        serving_since=serving[0].started_at if serving else None,
        newest=tuple(lines(connection, limit=newest)),
    )


def lines(connection: Connection, *, limit: int) -> list[Line]:
    """The series that changed last."""
    count = (
        sa.select(sa.func.count())
        .where(instances.c.series_id == series.c.id, instances.c.current.is_(True))
        .scalar_subquery()
    )
    query = (
        sa.select(
            series.c.id,
            _shown_state().label("state"),
            sa.func.coalesce(series.c.reason, jobs.c.reason).label("reason"),
            count.label("instances"),
            series.c.run,
            jobs.c.outcome,
            series.c.first_at,
            series.c.last_at,
        )
        .select_from(_with_newest_job())
        .order_by(series.c.last_at.desc(), series.c.id.desc())
        .limit(limit)
    )
    return [Line(**row._asdict()) for row in connection.execute(query)]


def history(connection: Connection, series_id: int) -> dict[str, Any]:
    """Everything that is known of one series, as plain values."""
    one = connection.execute(sa.select(series).where(series.c.id == series_id)).one()
    runs = connection.execute(sa.select(jobs).where(jobs.c.series_id == series_id).order_by(jobs.c.run)).all()
    sent = connection.execute(
        sa.select(
            objects.c.job_id,
            objects.c.kind,
            objects.c.file,
            objects.c.sop_class_uid,
            objects.c.sop_instance_uid,
            deliveries.c.destination,
            deliveries.c.state,
            deliveries.c.tries,
            deliveries.c.next_at,
            deliveries.c.last_error,
            deliveries.c.delivered_at,
        )
        .select_from(objects.join(jobs, jobs.c.id == objects.c.job_id).outerjoin(deliveries))
        .where(jobs.c.series_id == series_id)
        .order_by(objects.c.id, deliveries.c.id)
    ).all()
    noted = connection.execute(sa.select(events).where(events.c.series_id == series_id).order_by(events.c.id)).all()
    received = connection.scalar(sa.select(sa.func.count()).where(instances.c.series_id == series_id))
    return {
        "series": one._asdict() | {"instances": received},
        "runs": [row._asdict() for row in runs],
        "deliveries": [row._asdict() for row in sent],
        "events": [row._asdict() for row in noted],
    }
