"""The job queue: one row per run of a series, leased by a worker, never locked. Knows nothing of DICOM.

    ready -> running -> reported -> delivered        running -> ready (lease expired, a try failed, or put off)
    ready -> cancelled (superseded)                  running -> refused | failed | cancelled (overtaken)

A lease is an owner and a deadline in the row: a worker that dies loses it when the time is up, wherever it ran. Every
step of a worker names the owner, so that one that has lost the job can change nothing. A run is overtaken once a later
run of its series has begun while its worker was dead or slow: its result would come after the newer one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.errors import LeaseLost
from dicom_node.store.database import note
from dicom_node.store.deadlines import passed
from dicom_node.store.results import Version
from dicom_node.store.tables import OPEN, JobState, deliveries, jobs, objects, series

LIVE, BACKLOG = 0, 10
"""Priorities; lower goes first, in the queue, in classifying what arrives, and in delivery."""

LONGEST_WAIT_S = 300.0
"""Longest wait between two tries of a job."""

UNLEASED: dict[str, None] = {"lease_owner": None, "lease_until": None}

OVERTAKEN = "a later run of the series began before this one was done"


@dataclass(frozen=True)
class Job:
    id: int
    series_id: int
    run: int
    tries: int
    """How often it was claimed since it last made progress, this time included."""
    owner: str
    priority: int = LIVE


@dataclass(frozen=True)
class Result:
    """The result of a run that ended with a report."""

    findings: dict[str, Any]
    """`dataclasses.asdict` of SeriesFindings, in JSON form."""
    version: Version


@dataclass(frozen=True)
class Record:
    """A job as its row has it, whoever holds its lease."""

    id: int
    series_id: int
    run: int
    state: JobState
    reason: str | None
    result: Result | None
    extras_tries: int


def is_due(connection: Connection, *, now: float, lease_s: float, at_most: int = BACKLOG) -> bool:
    """Whether there is a job to claim; asked often, and cheaper than the claim, which writes."""
    due = _due(now, lease_s, at_most)
    return connection.execute(sa.select(jobs.c.id).where(due).limit(1)).first() is not None


def claim(connection: Connection, *, owner: str, now: float, lease_s: float, at_most: int = BACKLOG) -> Job | None:
    """Lease the next job that is ready and due, or whose lease has expired; none less urgent than `at_most`.

    Runs of one series begin and end one at a time (the row of the series is locked); one that was overtaken ends here.
    """
    order = (jobs.c.priority, jobs.c.not_before, jobs.c.id)
    due = _due(now, lease_s, at_most)
    query = sa.select(jobs).join(series).where(due).order_by(*order).limit(1).with_for_update(skip_locked=True)
    while (row := connection.execute(query).first()) is not None and _is_overtaken(connection, row.series_id, row.run):
        ended = {"state": JobState.CANCELLED, "reason": OVERTAKEN, "finished_at": now, **UNLEASED}
        connection.execute(jobs.update().where(jobs.c.id == row.id).values(**ended))
        note(connection, JobState.CANCELLED, now=now, series_id=row.series_id, job_id=row.id, detail=OVERTAKEN)
    if row is None:
        return None
    connection.execute(
        jobs.update()
        .where(jobs.c.id == row.id)
        .values(
            state=JobState.RUNNING,
            lease_owner=owner,
            lease_until=now + lease_s,
            tries=row.tries + 1,
            started_at=sa.func.coalesce(jobs.c.started_at, now),
        )
    )
    return Job(row.id, row.series_id, row.run, row.tries + 1, owner, row.priority)


def _due(now: float, lease_s: float, at_most: int) -> sa.ColumnElement[bool]:
    ready = sa.and_(jobs.c.state == JobState.READY, passed(jobs.c.not_before, now=now, longest_s=LONGEST_WAIT_S))
    abandoned = sa.and_(jobs.c.state == JobState.RUNNING, passed(jobs.c.lease_until, now=now, longest_s=lease_s))
    return sa.and_(jobs.c.priority <= at_most, sa.or_(ready, abandoned))


def extend(connection: Connection, job: Job, *, now: float, lease_s: float, further: bool = False) -> None:
    """The heartbeat; if the job got `further`, its tries are counted from here. Raises LeaseLost."""
    _update(connection, job, lease_until=now + lease_s, **({"tries": 1} if further else {}))


def finish(
    connection: Connection,
    job: Job,
    state: JobState,
    *,
    now: float,
    reason: str | None = None,
    outcome: str | None = None,
    findings: dict[str, Any] | None = None,
    model_digest: str | None = None,
    preprocessing: str | None = None,
    extras_due: bool = False,
) -> None:
    """End a run, in the same transaction as what it made. Raises LeaseLost, and then nothing is kept."""
    connection.execute(sa.select(series.c.id).where(series.c.id == job.series_id).with_for_update())
    if _is_overtaken(connection, job.series_id, job.run):
        raise LeaseLost(f"job {job.id} ends without a result: {OVERTAKEN}")
    _update(
        connection,
        job,
        state=state,
        reason=reason,
        outcome=outcome,
        findings=findings,
        model_digest=model_digest,
        preprocessing=preprocessing,
        extras_due=extras_due,
        finished_at=now,
        **UNLEASED,
    )
    # What a person asked for is done; for further images the rules hold again: another patient may be in the study.
    connection.execute(series.update().where(series.c.id == job.series_id).values(forced=False))
    detail = " ".join(filter(None, (outcome, reason))) or None
    note(connection, state, now=now, series_id=job.series_id, job_id=job.id, detail=detail)


def give_back(connection: Connection, job: Job, *, now: float, wait_s: float, reason: str | None) -> None:
    """Not done: another try after `wait_s`. A worker told to stop (no reason) does not use up a try."""
    _update(
        connection,
        job,
        state=JobState.READY,
        not_before=now + wait_s,
        reason=reason,
        **UNLEASED,
        tries=jobs.c.tries if reason else jobs.c.tries - 1,
    )
    if reason:
        note(connection, "try failed", now=now, series_id=job.series_id, job_id=job.id, detail=reason)


def put_off(connection: Connection, series_id: int, *, now: float) -> None:
    """Take the run in progress from its worker: what it has read is no longer valid. It waits for the run that will
    supersede it; if none comes, it begins again after a while, and this does not count as another try.
    """
    under_way = sa.and_(jobs.c.series_id == series_id, jobs.c.state == JobState.RUNNING)
    values = {"state": JobState.READY, "not_before": now + LONGEST_WAIT_S, "tries": jobs.c.tries - 1, **UNLEASED}
    connection.execute(jobs.update().where(under_way).values(**values))


def settle_delivered(connection: Connection, job_id: int, *, now: float) -> bool:
    """Mark a reported job as delivered once nothing it owes is open."""
    owed = sa.select(deliveries.c.id).join(objects).where(objects.c.job_id == job_id, OPEN)
    changed = connection.execute(
        jobs.update()
        .where(jobs.c.id == job_id, jobs.c.state == JobState.REPORTED, jobs.c.extras_due.is_(False), ~sa.exists(owed))
        .values(state=JobState.DELIVERED)
    )
    if changed.rowcount:
        series_id = connection.scalar(sa.select(jobs.c.series_id).where(jobs.c.id == job_id))
        note(connection, JobState.DELIVERED, now=now, series_id=series_id, job_id=job_id)
    return bool(changed.rowcount)


def free(connection: Connection, *, owner: str | None = None, now: float) -> int:
    """Take leases away before they expire: those of a worker known to be dead or, at the start, all there are.

    Safe even if the owner is alive after all: what it does without the lease changes nothing.
    """
    held = sa.or_(jobs.c.state == JobState.RUNNING, jobs.c.extras_due.is_(True))
    if owner is not None:
        held = sa.and_(held, jobs.c.lease_owner == owner)
    freed = connection.execute(jobs.update().where(held).values(lease_until=now, lease_owner=None))
    return int(freed.rowcount)


def next_with_extras(connection: Connection, *, now: float, lease_s: float, at_most: int = BACKLOG) -> Record | None:
    """A job whose report is on its way and whose picture or key objects are still to be made; by urgency, then age.

    None that another worker has just begun: tried by several living workers in turn, it would look like one that ends
    whoever tries it.
    """
    nobodys = sa.or_(jobs.c.lease_until.is_(None), passed(jobs.c.lease_until, now=now, longest_s=lease_s))
    due = sa.and_(jobs.c.extras_due.is_(True), jobs.c.priority <= at_most, nobodys)
    query = sa.select(jobs).where(due).order_by(jobs.c.priority, jobs.c.id).limit(1)
    row = connection.execute(query).first()
    return None if row is None else _record(row)


def begin_extras(connection: Connection, job_id: int, *, tries: int, owner: str, until: float) -> bool:
    """Count a try before they are made, as for reading a slice: what kills the process must not do so for ever.

    False where another worker has begun them since they had so many tries, or they are no longer due.
    """
    still = sa.and_(jobs.c.id == job_id, jobs.c.extras_due.is_(True), jobs.c.extras_tries == tries)
    begun = jobs.update().where(still).values(extras_tries=tries + 1, lease_owner=owner, lease_until=until)
    return bool(connection.execute(begun).rowcount)


def end_extras(connection: Connection, job_id: int) -> None:
    """The process that makes them is alive: whatever stopped it, this try does not count against them."""
    this = sa.and_(jobs.c.id == job_id, jobs.c.extras_due.is_(True))
    connection.execute(jobs.update().where(this).values(extras_tries=jobs.c.extras_tries - 1, **UNLEASED))


def extras_made(connection: Connection, job_id: int) -> bool:
    """Note that they are made; False if another worker was first, and then what was made is not needed."""
    this = sa.and_(jobs.c.id == job_id, jobs.c.extras_due.is_(True))
    return bool(connection.execute(jobs.update().where(this).values(extras_due=False, **UNLEASED)).rowcount)


def withdraw(connection: Connection, job_id: int, *, reason: str, now: float) -> None:
    """The result of this job is no longer valid."""
    connection.execute(
        jobs.update().where(jobs.c.id == job_id).values(state=JobState.WITHDRAWN, reason=reason, extras_due=False)
    )
    series_id = connection.scalar(sa.select(jobs.c.series_id).where(jobs.c.id == job_id))
    note(connection, JobState.WITHDRAWN, now=now, series_id=series_id, job_id=job_id, detail=reason)


def of_series(connection: Connection, series_id: int) -> list[Record]:
    """All runs, in order."""
    query = sa.select(jobs).where(jobs.c.series_id == series_id).order_by(jobs.c.run)
    return [_record(row) for row in connection.execute(query)]


def newest(connection: Connection, series_id: int) -> Record | None:
    return next(reversed(of_series(connection, series_id)), None)


def is_about(connection: Connection, series_id: int, sop_instance_uid: str) -> bool:
    """Whether the newest result of the series was made of this image, too."""
    results = [run.result for run in of_series(connection, series_id) if run.result is not None]
    return bool(results) and any(one["sop_instance_uid"] == sop_instance_uid for one in results[-1].findings["slices"])


def _record(row: sa.Row[Any]) -> Record:
    version = Version(row.model_digest, row.preprocessing)
    result = None if row.findings is None else Result(row.findings, version)
    state = JobState(row.state)
    return Record(row.id, row.series_id, row.run, state, row.reason, result, row.extras_tries)


def _is_overtaken(connection: Connection, series_id: int, run: int) -> bool:
    begun = jobs.c.state.not_in((JobState.READY, JobState.CANCELLED))
    later = sa.select(jobs.c.id).where(jobs.c.series_id == series_id, jobs.c.run > run, begun).limit(1)
    return connection.execute(later).first() is not None


def _update(connection: Connection, job: Job, **values: object) -> None:
    changed = connection.execute(
        jobs.update()
        .where(jobs.c.id == job.id, jobs.c.state == JobState.RUNNING, jobs.c.lease_owner == job.owner)
        .values(**values)
    )
    if not changed.rowcount:
        raise LeaseLost(f"job {job.id} is no longer leased by this worker")
