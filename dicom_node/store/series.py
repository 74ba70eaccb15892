"""Series and their instances: what is kept about them, and what becomes of a series before it is a job.

States and arrows: docs/architecture.md. Knows UIDs, times and digests; nothing of pixels or associations.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.headers.facts import Facts
from dicom_node.headers.identity import NOBODY
from dicom_node.store.database import note
from dicom_node.store.tables import JobState, SeriesState, instances, jobs, series, slice_results


@dataclass(frozen=True)
class Series:
    id: int
    series_uid: str
    study_uid: str
    calling_aet: str
    state: SeriesState
    reason: str | None
    run: int
    expected: int | None
    first_at: float
    last_at: float
    not_before: float | None
    rule: str | None
    whole: bool | None
    forced: bool
    passed_over_for: int | None
    priority: int


@dataclass(frozen=True)
class Instance:
    id: int
    series_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    file: str
    identity: str
    facts: Facts
    ruled_out: str | None
    tries: int


LEFT_BEHIND = "left behind"
"""Kind of the event that `note_left_behind` writes."""
ASKED_AGAIN = "retry"
"""Kind of the event that `receive_again` writes."""

_SERIES_COLUMNS = [series.c[name] for name in Series.__dataclass_fields__]


def columns_of_instance() -> list[sa.Column[Any]]:
    """The columns of a row that `instance_from` needs."""
    return [instances.c[name] for name in Instance.__dataclass_fields__]


def receiving(connection: Connection) -> list[Series]:
    query = sa.select(*_SERIES_COLUMNS).where(series.c.state == SeriesState.RECEIVING).order_by(series.c.id)
    return [_series(row) for row in connection.execute(query)]


def of_study(connection: Connection, study_uid: str) -> list[Series]:
    query = sa.select(*_SERIES_COLUMNS).where(series.c.study_uid == study_uid).order_by(series.c.id)
    return [_series(row) for row in connection.execute(query)]


def get(connection: Connection, series_id: int, *, lock: bool = False) -> Series | None:
    query = sa.select(*_SERIES_COLUMNS).where(series.c.id == series_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return None if row is None else _series(row)


def of_job(connection: Connection, job_id: int | None) -> Series | None:
    query = sa.select(*_SERIES_COLUMNS).join(jobs, jobs.c.series_id == series.c.id).where(jobs.c.id == job_id)
    row = connection.execute(query).first()
    return None if row is None else _series(row)


def find(connection: Connection, uid: str) -> list[Series]:
    """Series by their own or their study's UID."""
    matches = sa.or_(series.c.series_uid == uid, series.c.study_uid == uid)
    return [_series(row) for row in connection.execute(sa.select(*_SERIES_COLUMNS).where(matches))]


def instances_of(connection: Connection, series_id: int, *, current: bool = True) -> list[Instance]:
    """The current instances, or the superseded ones, in order of arrival."""
    query = (
        sa.select(*columns_of_instance())
        .where(instances.c.series_id == series_id, instances.c.current.is_(current))
        .order_by(instances.c.id)
    )
    return [instance_from(row) for row in connection.execute(query)]


def ids_of(connection: Connection, series_id: int) -> list[int]:
    """Those of the current instances, in order of arrival."""
    its = instances.c.series_id == series_id, instances.c.current.is_(True)
    return list(connection.scalars(sa.select(instances.c.id).where(*its).order_by(instances.c.id)))


def count(connection: Connection, series_id: int) -> int:
    """How many current instances there are."""
    query = sa.select(sa.func.count()).where(instances.c.series_id == series_id, instances.c.current.is_(True))
    return int(connection.scalar(query) or 0)


def begin_reading(connection: Connection, instance_ids: Sequence[int], *, tries: int) -> set[int]:
    """Count a try before the pixels are touched: if they kill the process, the next one knows.

    Returns those that still had so many tries: another worker has begun the others meanwhile.
    """
    still = sa.and_(instances.c.id.in_(instance_ids), instances.c.tries == tries)
    begun = instances.update().where(still).values(tries=tries + 1).returning(instances.c.id)
    return set(connection.scalars(begun))


def end_reading(connection: Connection, instance_ids: Sequence[int]) -> None:
    """The process that read them is alive: whatever went wrong, this try does not count against them."""
    connection.execute(instances.update().where(instances.c.id.in_(instance_ids)).values(tries=instances.c.tries - 1))


def complete(connection: Connection, series_id: int, *, rule: str, whole: bool, now: float, priority: int) -> int:
    """The series is complete as far as the rule can tell: make the next run's job; returns its id."""
    cancelled = (
        jobs.update()
        .where(jobs.c.series_id == series_id, jobs.c.state == JobState.READY)
        .values(state=JobState.CANCELLED, reason="more instances arrived before it began", finished_at=now)
    )
    connection.execute(cancelled)
    run = int(connection.scalar(sa.select(series.c.run).where(series.c.id == series_id)) or 0) + 1
    connection.execute(
        series.update()
        .where(series.c.id == series_id)
        .values(state=SeriesState.COMPLETE, run=run, rule=rule, whole=whole, reason=None, not_before=None)
    )
    made = connection.execute(
        jobs.insert()
        .values(
            series_id=series_id,
            run=run,
            state=JobState.READY,
            priority=priority,
            not_before=now,
            tries=0,
            created_at=now,
        )
        .returning(jobs.c.id)
    )
    job_id = int(made.scalar_one())
    note(connection, "complete", now=now, series_id=series_id, job_id=job_id, detail=f"rule={rule} whole={whole}")
    return job_id


def expect(connection: Connection, asked: Series, count: int) -> None:
    """The series has so many instances, says a PACS; ignored if one more has arrived since it was `asked`."""
    unchanged = sa.and_(series.c.id == asked.id, series.c.last_at == asked.last_at)
    connection.execute(series.update().where(unchanged).values(expected=count))


def restart_wait(connection: Connection, series_id: int, *, now: float, reopen_wait_s: float) -> None:
    """The clock was set back since the last instance arrived: count the waits from now, and retention."""
    latest = now + reopen_wait_s
    not_before = sa.case((series.c.not_before > latest, latest), else_=series.c.not_before)
    connection.execute(series.update().where(series.c.id == series_id).values(last_at=now, not_before=not_before))
    ahead = sa.and_(instances.c.series_id == series_id, instances.c.received_at > now)
    connection.execute(instances.update().where(ahead).values(received_at=now))


def refuse(connection: Connection, series_id: int, reason: str, *, now: float) -> None:
    values = {"state": SeriesState.REFUSED, "reason": reason, "forced": False}
    connection.execute(series.update().where(series.c.id == series_id).values(values))
    note(connection, "refused", now=now, series_id=series_id, detail=reason)


def fail(connection: Connection, series_id: int, reason: str, *, now: float, **values: object) -> None:
    values = {"state": SeriesState.FAILED, "reason": reason, "passed_over_for": None, "forced": False, **values}
    connection.execute(series.update().where(series.c.id == series_id).values(values))
    note(connection, "failed", now=now, series_id=series_id, detail=reason)


def hold(connection: Connection, series_id: int, reason: str, *, now: float) -> None:
    """Fail it until a person decides, and end the run that waits or is in progress: its result must not come before.

    A worker that is working on it loses its lease. Retention begins anew, and the failure is one of today.
    """
    fail(connection, series_id, reason, now=now, last_at=now)
    begun = sa.and_(jobs.c.series_id == series_id, jobs.c.state.in_((JobState.READY, JobState.RUNNING)))
    ended = {"state": JobState.CANCELLED, "reason": reason, "finished_at": now}
    connection.execute(jobs.update().where(begun).values(**ended, lease_owner=None, lease_until=None))


def receive_again(connection: Connection, series_id: int, *, now: float, why: str, forced: bool = False) -> None:
    """Judge the series afresh from what is there; `forced`: report it whatever else the study holds."""
    connection.execute(
        series.update()
        .where(series.c.id == series_id)
        .values(state=SeriesState.RECEIVING, reason=None, not_before=None, forced=forced)
    )
    own = instances.c.series_id == series_id
    connection.execute(instances.update().where(own).values(tries=0))
    left_out = sa.and_(
        slice_results.c.left_out.is_not(None), slice_results.c.instance_id.in_(sa.select(instances.c.id).where(own))
    )
    connection.execute(slice_results.delete().where(left_out))  # the cause may be gone
    note(connection, ASKED_AGAIN, now=now, series_id=series_id, detail=why)


def note_left_behind(connection: Connection, series_id: int, job_id: int, to: Collection[str], *, now: float) -> None:
    """These destinations have results of earlier runs under another patient or study than the images."""
    note(connection, LEFT_BEHIND, now=now, series_id=series_id, job_id=job_id, detail=", ".join(sorted(to)))


def patients_of_study(connection: Connection, study_uid: str) -> int:
    """How many different patients the objects under this Study Instance UID name. An object that names nobody, as dose
    reports may, does not count, unless it is an image that could be reported."""
    speaks = sa.or_(instances.c.patient != NOBODY, instances.c.ruled_out.is_(None))
    query = (
        sa.select(sa.func.count(instances.c.patient.distinct()))
        .join(series)
        .where(series.c.study_uid == study_uid, instances.c.current.is_(True), speaks)
    )
    return int(connection.scalar(query) or 0)


def last_of_study(connection: Connection, study_uid: str) -> float:
    """When the last object arrived for any series of the study."""
    query = sa.select(sa.func.max(series.c.last_at)).where(series.c.study_uid == study_uid)
    return float(connection.scalar(query) or 0.0)


def contradicted(connection: Connection, series_id: int) -> list[str]:
    """SOP Instance UIDs of its current instances under which other pixels came before, in whatever series."""
    before = instances.alias("before")
    query = (
        sa.select(instances.c.sop_instance_uid)
        .distinct()
        .join(before, before.c.sop_instance_uid == instances.c.sop_instance_uid)
        .where(instances.c.series_id == series_id, instances.c.current.is_(True))
        .where(before.c.id < instances.c.id, before.c.current.is_(True))
    )
    return [str(uid) for uid in connection.scalars(query)]


def decide_for(connection: Connection, series_id: int, keep: str) -> list[int]:
    """Where instances contradict each other, let the one that came `first` or `last` count; the others stay on disk.

    Returns the series in which one of them counted until now.
    """
    pick = min if keep == "first" else max
    lost: set[int] = set()
    for uid in contradicted(connection, series_id):
        same = instances.c.sop_instance_uid == uid
        counted = sa.select(instances.c.id, instances.c.series_id).where(same, instances.c.current.is_(True))
        series_of = {row.id: row.series_id for row in connection.execute(counted)}
        chosen = pick(series_of)
        connection.execute(instances.update().where(same).values(current=instances.c.id == chosen))
        lost |= {one for instance, one in series_of.items() if instance != chosen}
    return sorted(lost)


def set_ruled_out(connection: Connection, instance_id: int, reason: str | None) -> None:
    connection.execute(instances.update().where(instances.c.id == instance_id).values(ruled_out=reason))


def _series(row: sa.Row[Any]) -> Series:
    values = row._asdict()
    return Series(**values | {"state": SeriesState(values["state"])})


def instance_from(row: sa.Row[Any]) -> Instance:
    values = row._asdict()
    return Instance(**values | {"facts": Facts.from_json(values["facts"])})
