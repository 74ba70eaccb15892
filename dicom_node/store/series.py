"""Series and their instances: filing what arrives, and what becomes of a series before it is a job.

States and arrows: docs/architecture.md. Knows of UIDs, times and digests; nothing of pixels or associations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.header import Facts, Header
from dicom_node.store.database import insert_for, note
from dicom_node.tables import JobState, SeriesState, instances, jobs, objects, series, slice_results

_LITTLE_ENDIAN = frozenset(
    {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}
)  # uncompressed: the same pixels, the same bytes


class Filed(StrEnum):
    """What an arriving instance was."""

    NEW = "new"
    AGAIN = "again"  # the same bytes as before; nothing changed
    RECODED = "recoded"  # the same image in another transfer syntax; kept, and the first counts
    CORRECTED = "corrected"  # the same pixels under another header; the newer header counts
    CONTRADICTED = "contradicted"  # other pixels under the same SOP Instance UID; both are kept
    OWN = "own"  # made by this node and routed back to it


@dataclass(frozen=True)
class Arrival:
    """One received instance, durable in the spool, about to be filed."""

    header: Header
    transfer_syntax_uid: str
    file: str
    size: int
    sha256: str
    ruled_out: str | None
    calling_aet: str
    at: float


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


_SERIES_COLUMNS = [series.c[name] for name in Series.__dataclass_fields__]


def columns_of_instance() -> list[sa.Column[Any]]:
    """What `instance_from` needs of a row."""
    return [instances.c[name] for name in Instance.__dataclass_fields__]


@dataclass(frozen=True)
class Filing:
    """What an arriving instance was, and where it belongs."""

    filed: Filed
    series_id: int | None
    names_file: bool
    """Whether a row names the file it came in; if not, that file may go."""


def file(
    connection: Connection, arrival: Arrival, *, reopen_wait_s: float, holds: Callable[[str, int], bool]
) -> Filing:
    """File one instance. Runs twice without harm.

    `holds`: whether the spool has a file of this name and size; a copy that was lost there is replaced by this one.
    """
    header = arrival.header
    own = connection.scalar(sa.select(objects.c.id).where(objects.c.sop_instance_uid == header.sop_instance_uid))
    if own is not None:
        return Filing(Filed.OWN, None, names_file=False)
    series_id = _series_for(connection, arrival)
    same_uid = instances.c.sop_instance_uid == header.sop_instance_uid
    earlier = connection.execute(sa.select(instances).where(same_uid)).all()
    for row in earlier:
        if row.sha256 == arrival.sha256:
            return Filing(Filed.AGAIN, series_id, names_file=_again(connection, row, arrival, holds))
    filed = _compared(arrival, [row for row in earlier if row.current])
    if filed is Filed.CORRECTED:
        connection.execute(instances.update().where(same_uid).values(current=False))
    connection.execute(
        instances.insert().values(
            series_id=series_id,
            sop_class_uid=header.sop_class_uid,
            sop_instance_uid=header.sop_instance_uid,
            transfer_syntax_uid=arrival.transfer_syntax_uid,
            file=arrival.file,
            size=arrival.size,
            sha256=arrival.sha256,
            pixel_sha256=header.pixel_sha256,
            identity=header.identity,
            facts=header.facts.to_json(),
            ruled_out=arrival.ruled_out,
            calling_aet=arrival.calling_aet,
            received_at=arrival.at,
            current=filed is not Filed.RECODED,
            tries=0,
        )
    )
    if filed is Filed.CONTRADICTED:
        reason = (
            "an instance arrived a second time under the same SOP Instance UID with other pixel data; both are kept. "
            "Find out at the sender which one is right, then: dicom-node retry"
        )
        fail(connection, series_id, reason, now=arrival.at)
    elif filed is not Filed.RECODED:
        _touch(connection, series_id, filed, now=arrival.at, reopen_wait_s=reopen_wait_s)
    return Filing(filed, series_id, names_file=True)


def _again(connection: Connection, row: sa.Row[Any], arrival: Arrival, holds: Callable[[str, int], bool]) -> bool:
    """The same bytes: retention begins anew; returns whether this copy takes the place of one that was lost."""
    done = sa.and_(series.c.id == row.series_id, series.c.state != SeriesState.RECEIVING)
    connection.execute(series.update().where(done).values(last_at=arrival.at))
    if holds(row.file, row.size):
        return False
    mended = {"file": arrival.file, "size": arrival.size}
    connection.execute(instances.update().where(instances.c.id == row.id).values(mended))
    note(connection, "file mended", now=arrival.at, series_id=row.series_id, detail=f"instance={row.id}")
    return True


def _compared(arrival: Arrival, current: Sequence[sa.Row[Any]]) -> Filed:
    """What this instance is beside those that came under its UID before."""
    if not current:
        return Filed.NEW
    if not all(_same_pixels(arrival, row) for row in current):
        return Filed.CONTRADICTED
    header = arrival.header
    recoded = any(
        row.transfer_syntax_uid != arrival.transfer_syntax_uid
        and row.identity == header.identity
        and Facts.from_json(row.facts) == header.facts
        for row in current
    )
    return Filed.RECODED if recoded else Filed.CORRECTED


def _same_pixels(arrival: Arrival, row: sa.Row[Any]) -> bool:
    """As far as can be told without decoding; a PACS may pass on compressed what the scanner sent uncompressed."""
    header, syntaxes = arrival.header, {arrival.transfer_syntax_uid, row.transfer_syntax_uid}
    if len(syntaxes) == 1 or syntaxes <= _LITTLE_ENDIAN:
        return bool(header.pixel_sha256 == row.pixel_sha256)
    was, now = Facts.from_json(row.facts), header.facts
    return (was.rows, was.columns, was.frames, was.position, was.orientation) == (
        *(now.rows, now.columns, now.frames),
        *(now.position, now.orientation),
    )


def _series_for(connection: Connection, arrival: Arrival) -> int:
    """Id of the series, made if it is new, and locked: what comes to it at once by another association waits."""
    header = arrival.header
    find = sa.select(series.c.id).where(series.c.series_uid == header.series_uid).with_for_update()
    known = connection.scalar(find)
    if known is not None:
        return int(known)
    new = {
        "series_uid": header.series_uid,
        "study_uid": header.study_uid,
        "calling_aet": arrival.calling_aet,
        "state": SeriesState.RECEIVING,
        "run": 0,
        "forced": False,
        "first_at": arrival.at,
        "last_at": arrival.at,
    }
    insert = insert_for(connection)(series).values(new).on_conflict_do_nothing(index_elements=["series_uid"])
    connection.execute(insert)  # the first instances of a series may come over several associations at once
    return int(connection.execute(find).scalar_one())


def _touch(connection: Connection, series_id: int, filed: Filed, *, now: float, reopen_wait_s: float) -> None:
    """Something new belongs to the series: it is (again) being received. A contradiction waits for a person."""
    state = connection.scalar(sa.select(series.c.state).where(series.c.id == series_id))
    values: dict[str, object] = {"last_at": now, "expected": None}
    stays_failed = state == SeriesState.FAILED and contradicted(connection, series_id)
    if state != SeriesState.RECEIVING and not stays_failed:
        last_report = connection.scalar(sa.select(sa.func.max(jobs.c.created_at)).where(jobs.c.series_id == series_id))
        values |= {"state": SeriesState.RECEIVING, "reason": None}
        if last_report is not None:
            values["not_before"] = min(last_report, now) + reopen_wait_s  # the clock may have been put back since
        note(connection, "reopened", now=now, series_id=series_id, detail=f"by a {filed} instance")
    connection.execute(series.update().where(series.c.id == series_id).values(values))


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


def find(connection: Connection, uid: str) -> list[Series]:
    """Series by their own or their study's UID."""
    matches = sa.or_(series.c.series_uid == uid, series.c.study_uid == uid)
    return [_series(row) for row in connection.execute(sa.select(*_SERIES_COLUMNS).where(matches))]


def instances_of(connection: Connection, series_id: int) -> list[Instance]:
    """The current instances, in order of arrival."""
    query = (
        sa.select(*columns_of_instance())
        .where(instances.c.series_id == series_id, instances.c.current.is_(True))
        .order_by(instances.c.id)
    )
    return [instance_from(row) for row in connection.execute(query)]


def count(connection: Connection, series_id: int) -> int:
    """How many current instances there are."""
    query = sa.select(sa.func.count()).where(instances.c.series_id == series_id, instances.c.current.is_(True))
    return int(connection.scalar(query) or 0)


def begin_reading(connection: Connection, instance_ids: Sequence[int]) -> None:
    """Count a try before the pixels are touched: what kills the process that reads them is known to the next one."""
    connection.execute(instances.update().where(instances.c.id.in_(instance_ids)).values(tries=instances.c.tries + 1))


def end_reading(connection: Connection, instance_ids: Sequence[int]) -> None:
    """The process that read them is alive: whatever went wrong, this try does not speak against them."""
    connection.execute(instances.update().where(instances.c.id.in_(instance_ids)).values(tries=instances.c.tries - 1))


def complete(connection: Connection, series_id: int, *, rule: str, whole: bool, now: float, priority: int) -> int:
    """The series is whole as far as the rule can tell: make the next run's job; returns its id."""
    cancelled = (
        jobs.update()
        .where(jobs.c.series_id == series_id, jobs.c.state == JobState.READY)
        .values(state=JobState.CANCELLED, reason="more instances arrived before it was begun", finished_at=now)
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
    """The series has so many instances, as a PACS says; void if one more has arrived since it was `asked`."""
    unchanged = sa.and_(series.c.id == asked.id, series.c.last_at == asked.last_at)
    connection.execute(series.update().where(unchanged).values(expected=count))


def restart_wait(connection: Connection, series_id: int, *, now: float, reopen_wait_s: float) -> None:
    """The clock was put back since the last instance came: count the waits from now."""
    latest = now + reopen_wait_s
    not_before = sa.case((series.c.not_before > latest, latest), else_=series.c.not_before)
    connection.execute(series.update().where(series.c.id == series_id).values(last_at=now, not_before=not_before))


def refuse(connection: Connection, series_id: int, reason: str, *, now: float) -> None:
    connection.execute(series.update().where(series.c.id == series_id).values(state=SeriesState.REFUSED, reason=reason))
    note(connection, "refused", now=now, series_id=series_id, detail=reason)


def not_chosen(connection: Connection, series_id: int, reason: str, *, now: float) -> None:
    connection.execute(
        series.update().where(series.c.id == series_id).values(state=SeriesState.NOT_CHOSEN, reason=reason)
    )
    note(connection, "not chosen", now=now, series_id=series_id, detail=reason)


def choose_again(connection: Connection, study_uid: str, *, now: float) -> None:
    """The chosen series of the study turned out not to be one: those passed over are candidates again."""
    passed_over = sa.select(series.c.id).where(
        series.c.study_uid == study_uid, series.c.state == SeriesState.NOT_CHOSEN
    )
    for series_id in connection.scalars(passed_over).all():
        receive_again(connection, series_id, now=now, why="the chosen series was refused")


def fail(connection: Connection, series_id: int, reason: str, *, now: float) -> None:
    connection.execute(series.update().where(series.c.id == series_id).values(state=SeriesState.FAILED, reason=reason))
    note(connection, "failed", now=now, series_id=series_id, detail=reason)


def receive_again(connection: Connection, series_id: int, *, now: float, why: str, forced: bool = False) -> None:
    """Judge the series afresh from what is there; `forced`: whatever else the study holds."""
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
    connection.execute(slice_results.delete().where(left_out))  # what was in the way may be gone
    note(connection, "retry", now=now, series_id=series_id, detail=why)


def contradicted(connection: Connection, series_id: int) -> list[str]:
    """SOP Instance UIDs under which two current instances with different pixels are kept."""
    query = (
        sa.select(instances.c.sop_instance_uid)
        .where(instances.c.series_id == series_id, instances.c.current.is_(True))
        .group_by(instances.c.sop_instance_uid)
        .having(sa.func.count() > 1)
    )
    return [str(uid) for uid in connection.scalars(query)]


def decide_for(connection: Connection, series_id: int, keep: str) -> None:
    """Where instances contradict each other, let the one that came `first` or `last` count; the others stay on disk."""
    pick = sa.func.min if keep == "first" else sa.func.max
    for uid in contradicted(connection, series_id):
        same = instances.c.sop_instance_uid == uid
        chosen = connection.scalar(sa.select(pick(instances.c.id)).where(same, instances.c.current.is_(True)))
        connection.execute(instances.update().where(same).values(current=instances.c.id == chosen))


def set_ruled_out(connection: Connection, instance_id: int, reason: str | None) -> None:
    connection.execute(instances.update().where(instances.c.id == instance_id).values(ruled_out=reason))


def _series(row: sa.Row[Any]) -> Series:
    values = row._asdict()
    return Series(**values | {"state": SeriesState(values["state"])})


def instance_from(row: sa.Row[Any]) -> Instance:
    values = row._asdict()
    return Instance(**values | {"facts": Facts.from_json(values["facts"])})
