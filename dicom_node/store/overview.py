"""What `dicom-node status` and `show` report: how much is in each state, and the history of one series."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store import heartbeats, whereabouts
from dicom_node.store.deadlines import SLACK_S
from dicom_node.store.jobs import BACKLOG
from dicom_node.store.series import ASKED_AGAIN, LEFT_BEHIND
from dicom_node.store.tables import (
    OPEN,
    UNCONFIRMED,
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
from dtvit.findings import Outcome


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
    """When its last image came, be it again, or it was held for a person: retention counts from then."""


@dataclass(frozen=True)
class Overview:
    by_state: dict[str, int]
    last_image_s: float | None
    """Time since the newest image arrived; None where there is none. A repeated image does not count."""
    oldest_waiting_s: float | None
    """Age of the oldest series that is received or in progress and not reported yet."""
    undelivered: int
    oldest_undelivered_s: float | None
    oldest_undelivered_positive_s: float | None
    oldest_undelivered_positive: int | None
    """The series of the oldest undelivered positive result."""
    waiting_for_s: dict[str, float]
    """How long the oldest delivery has waited that is still to be tried, by destination."""
    failed_deliveries: int
    refused_series: tuple[int, ...]
    """Series of which a delivery was refused for good."""
    owed: dict[str, int]
    """Open deliveries by destination, including refused ones, and those it has not yet committed to."""
    uncommitted: int
    """Delivered objects for which a destination's commitment is asked but not confirmed."""
    oldest_live_s: float | None
    """How long the live series that waits longest for its result has done so: since its last image, or since it was to
    be judged again."""
    longest_waiting_live: int | None
    """That series."""
    failed_lately: tuple[int, ...]
    """Series that failed within the last day: without a report, or with one that says NOT EVALUATED."""
    left_behind: tuple[int, ...]
    """Series of which it became known within the last day that a destination has an earlier result under another
    patient or study than that of their images now."""
    waiting_live: int
    waiting_backlog: int
    """Series that are received or in progress, by priority."""
    serving_since: float | None
    """When the oldest living `serve` was started; None where none shows a sign of life."""
    newest: tuple[Line, ...]


LATELY_S = 86400.0
NEWEST = 10
"""Series that `status` lists."""


def _shown_state() -> sa.ColumnElement[str]:
    """The state people see: that of the series or, once it is complete, that of its newest job."""
    return sa.case((series.c.state == SeriesState.COMPLETE, jobs.c.state), else_=series.c.state)


def _with_newest_job() -> sa.Join:
    return series.outerjoin(jobs, sa.and_(jobs.c.series_id == series.c.id, jobs.c.run == series.c.run))


def overview(connection: Connection, *, now: float) -> Overview:
    """Finds what is open by index, and counts the rest from indices alone: it is asked often, and all series stay."""
    longest = sa.func.max(_away(objects.c.created_at, now))
    owed = _of_deliveries(sa.func.count(), longest)
    undelivered, oldest_s = connection.execute(owed.where(OPEN)).one()
    positive = connection.execute(
        _of_deliveries(jobs.c.series_id, _away(objects.c.created_at, now).label("waited_s"))
        .where(OPEN, jobs.c.outcome == Outcome.PRESENT)
        .order_by(_away(objects.c.created_at, now).desc())
        .limit(1)
    ).first()
    failed = connection.execute(owed.where(deliveries.c.state == DeliveryState.FAILED)).one()[0]
    longest_of = _of_deliveries(deliveries.c.destination, longest)
    waits = longest_of.where(deliveries.c.state == DeliveryState.WAITING).group_by(deliveries.c.destination)
    uncommitted = sa.select(sa.func.count()).where(UNCONFIRMED)
    waiting = _waiting(connection, now)
    live = max((one for one in waiting if one.priority < BACKLOG), key=lambda one: one.waited_s, default=None)
    serving = heartbeats.alive(connection, now=now)
    last_image_at = connection.scalar(sa.select(instances.c.received_at).order_by(instances.c.id.desc()).limit(1))
    return Overview(
        by_state=_by_state(connection),
        last_image_s=None if last_image_at is None else abs(now - last_image_at),
        oldest_waiting_s=max((one.age_s for one in waiting), default=None),
        undelivered=int(undelivered),
        oldest_undelivered_s=oldest_s,
        oldest_undelivered_positive_s=None if positive is None else positive.waited_s,
        oldest_undelivered_positive=None if positive is None else positive.series_id,
        waiting_for_s={str(name): float(waited_s) for name, waited_s in connection.execute(waits)},
        failed_deliveries=int(failed),
        refused_series=tuple(whereabouts.refused(connection)),
        owed=whereabouts.owed(connection),
        uncommitted=int(connection.scalar(uncommitted) or 0),
        oldest_live_s=None if live is None else live.waited_s,
        longest_waiting_live=None if live is None else live.id,
        failed_lately=_failed_lately(connection, now),
        left_behind=_left_behind(connection, now),
        waiting_live=sum(one.priority < BACKLOG for one in waiting),
        waiting_backlog=sum(one.priority >= BACKLOG for one in waiting),
        serving_since=serving[0].started_at if serving else None,
        newest=tuple(lines(connection, now=now, limit=NEWEST)),
    )


def last_series_from(connection: Connection, *, now: float) -> dict[str, float]:
    """When each sender, by its calling AE title, last began a series. Reads all series.

    A time to come, from before the clock was set back, is told only of a sender that has begun none since.
    """
    last = sa.func.max(sa.case((series.c.first_at <= now + SLACK_S, series.c.first_at)))
    at = sa.func.coalesce(last, sa.func.max(series.c.first_at))
    begun = sa.select(series.c.calling_aet, at).group_by(series.c.calling_aet)
    return {str(sender): float(at) for sender, at in connection.execute(begun.order_by(series.c.calling_aet))}


def _away(at: sa.Column[float], now: float) -> sa.ColumnElement[float]:
    """How long ago; of what is from before the clock was set back, how long its time is still to come.

    Otherwise what a clock had dated years ahead would not be late for years.
    """
    return sa.func.abs(now - at)


def _of_deliveries(*columns: Any) -> sa.Select[Any]:
    return sa.select(*columns).select_from(deliveries.join(objects).join(jobs, jobs.c.id == objects.c.job_id))


def _failed_lately(connection: Connection, now: float) -> tuple[int, ...]:
    """By when they failed: the images of a backlog, or of a series that is tried again, may be much older."""
    lately = sa.select(series.c.id, series.c.state).where(_noted(SeriesState.FAILED, since=now - LATELY_S))
    itself = connection.execute(lately.where(series.c.state == SeriesState.FAILED)).all()
    newest_failed = jobs.c.state == JobState.FAILED, jobs.c.run == series.c.run
    by_job = connection.execute(lately.join(jobs, jobs.c.series_id == series.c.id).where(*newest_failed)).all()
    # If the state were part of the SQL, SQLite would read all complete series first.
    return tuple(sorted(row.id for row in (*itself, *(row for row in by_job if row.state == SeriesState.COMPLETE))))


def _left_behind(connection: Connection, now: float) -> tuple[int, ...]:
    """Only a later run leaves something behind, and few series have one: their number is in the index of the states."""
    query = sa.select(series.c.id).where(series.c.run > 1, _noted(LEFT_BEHIND, since=now - LATELY_S))
    return tuple(connection.scalars(query.order_by(series.c.id)))


def _noted(kind: str, *, since: float) -> sa.ColumnElement[bool]:
    """Whether the history of a series has such an event; jobs and series that fail note it alike."""
    return sa.exists().where(events.c.series_id == series.c.id, events.c.kind == kind, events.c.at > since)


@dataclass(frozen=True)
class _Waiting:
    """A series that is received or in progress."""

    id: int
    priority: int
    age_s: float
    waited_s: float
    """Since its last image came or, if later, since it was to be judged again, of images that may be old."""


def _waiting(connection: Connection, now: float) -> list[_Waiting]:
    of_series = events.c.series_id == series.c.id, events.c.kind == ASKED_AGAIN
    asked_at = sa.select(sa.func.max(events.c.at)).where(*of_series).scalar_subquery().label("asked_at")
    known = series.c.id, series.c.priority, series.c.first_at, series.c.last_at, series.c.state
    shown = sa.select(*known, asked_at).select_from(series)
    newest_in_work = jobs.c.state.in_((JobState.READY, JobState.RUNNING)), jobs.c.run == series.c.run
    in_work = connection.execute(shown.join(jobs, jobs.c.series_id == series.c.id).where(*newest_in_work)).all()
    received = connection.execute(shown.where(series.c.state == SeriesState.RECEIVING)).all()
    # If the state were part of the SQL, SQLite would read all complete series first.
    rows = [*received, *(row for row in in_work if row.state == SeriesState.COMPLETE)]
    return [
        _Waiting(row.id, row.priority, abs(now - row.first_at), abs(now - max(row.last_at, row.asked_at or 0.0)))
        for row in rows
    ]


def _by_state(connection: Connection) -> dict[str, int]:
    """Series by the state that people see. For a complete one that is its newest job's: from the count of all jobs,
    those of earlier runs and of series being received again, which are few, are subtracted.
    """
    number = sa.func.count()
    counts: Counter[str] = Counter()
    for state, count in connection.execute(sa.select(series.c.state, number).group_by(series.c.state)):
        if state != SeriesState.COMPLETE:
            counts[str(state)] += int(count)
    for state, count in connection.execute(sa.select(jobs.c.state, number).group_by(jobs.c.state)):
        counts[str(state)] += int(count)
    stale = sa.select(jobs.c.state, number).select_from(series.join(jobs, jobs.c.series_id == series.c.id))
    superseded = sa.and_(series.c.state == SeriesState.COMPLETE, series.c.run > 1, jobs.c.run < series.c.run)
    reopened = series.c.state.in_([state for state in SeriesState if state is not SeriesState.COMPLETE])
    for not_shown in (superseded, sa.and_(reopened, series.c.run > 0)):
        for state, count in connection.execute(stale.where(not_shown).group_by(jobs.c.state)):
            counts[str(state)] -= int(count)
    return {state: count for state, count in sorted(counts.items()) if count}


def lines(connection: Connection, *, now: float, limit: int) -> list[Line]:
    """The series that changed last; after them those that are dated ahead, from before the clock was set back."""
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
    )
    found: list[Line] = []
    for these in (series.c.last_at <= now + SLACK_S, series.c.last_at > now + SLACK_S):  # each in the order of an index
        if len(found) < limit:
            rows = connection.execute(query.where(these).limit(limit - len(found)))
            found += [Line(**row._asdict()) for row in rows]
    return found


def history(connection: Connection, series_id: int) -> dict[str, Any]:
    """Everything known about one series, as plain values."""
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
            deliveries.c.last_status,
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
