"""Deleting for good: a series with all that belongs to it, once its retention has ended and nothing of it is owed."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store.database import Database
from dicom_node.store.tables import (
    OPEN,
    UNCONFIRMED,
    JobState,
    SeriesState,
    deliveries,
    events,
    instances,
    jobs,
    objects,
    series,
    slice_results,
)

# Files looked up at once. No index has their names, so each look-up reads all rows: a million files take ten seconds of
# processor time; five hundred at once took seven minutes. SQLite takes 32,766 parameters, PostgreSQL 65,535.
BATCH = 30_000


def deletable(connection: Connection, *, quiet_since: float, unasked: Collection[str] = ()) -> list[int]:
    """Series to which nothing came or was made since then, not in work, with no delivery owed.

    `unasked`: destinations whose commitment is not waited for, as they are no longer asked for it.
    """
    return list(connection.scalars(sa.select(series.c.id).where(*_may_go(quiet_since, unasked))))


def kept(connection: Connection, *, quiet_since: float, unasked: Collection[str] = ()) -> dict[str, int]:
    """How many series have been quiet since then and stay all the same, by what keeps them."""
    counts = {
        why: connection.scalar(sa.select(sa.func.count()).select_from(series).where(*_is_old(quiet_since), holds))
        for why, holds in _holding(unasked).items()
    }
    return {why: int(count) for why, count in counts.items() if count}


def _may_go(quiet_since: float, unasked: Collection[str]) -> tuple[sa.ColumnElement[bool], ...]:
    in_work = sa.exists().where(jobs.c.series_id == series.c.id, jobs.c.state.in_((JobState.READY, JobState.RUNNING)))
    young_report = _has_object(objects.c.created_at >= quiet_since)
    came_again = sa.exists().where(instances.c.series_id == series.c.id, instances.c.received_at >= quiet_since)
    held = in_work, young_report, *_holding(unasked).values(), came_again
    return *_is_old(quiet_since), *(~each for each in held)


def _is_old(quiet_since: float) -> tuple[sa.ColumnElement[bool], ...]:
    return series.c.last_at < quiet_since, series.c.state != SeriesState.RECEIVING


def _holding(unasked: Collection[str]) -> dict[str, sa.ColumnElement[bool]]:
    """What keeps a series however old it is."""
    owed = _has_object(_has_delivery(OPEN))
    uncommitted = _has_object(  # a destination may still say that it has lost what we sent
        _has_delivery(UNCONFIRMED, deliveries.c.destination.not_in(unasked))
    )
    promised = sa.exists().where(instances.c.series_id == series.c.id, instances.c.committed_at.is_not(None))
    return {"owed": owed, "uncommitted": uncommitted, "promised": promised}


def _has_object(which: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Whether such an object was made of the series. Nested, not joined: SQLite would start a join from all deliveries
    in that state, anew for each series."""
    made = sa.exists().where(objects.c.job_id == jobs.c.id, which)
    return sa.exists().where(jobs.c.series_id == series.c.id, made)


def _has_delivery(*which: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists().where(deliveries.c.object_id == objects.c.id, *which)


def delete(
    connection: Connection, series_id: int, *, quiet_since: float, unasked: Collection[str] = ()
) -> list[str] | None:
    """Delete all rows of a series, if still deletable; returns the files that belonged to it, or None if it is not."""
    query = sa.select(series.c.study_uid).where(series.c.id == series_id, *_may_go(quiet_since, unasked))
    study_uid = connection.scalar(query.with_for_update())
    if study_uid is None:
        return None
    its_jobs = series.c.passed_over_for.in_(sa.select(jobs.c.id).where(jobs.c.series_id == series_id))
    passed_over = series.update().where(series.c.study_uid == study_uid, its_jobs)
    connection.execute(passed_over.values(passed_over_for=None))  # their scan had its result
    return delete_rows(connection, series_id)


def delete_rows(connection: Connection, series_id: int) -> list[str]:
    """Delete all rows of a series, whatever its state; returns the files that belonged to it."""
    own_jobs = sa.select(jobs.c.id).where(jobs.c.series_id == series_id)
    made = delete_objects(connection, objects.c.job_id.in_(own_jobs))
    received = delete_instances(connection, instances.c.series_id == series_id)
    connection.execute(events.delete().where(events.c.series_id == series_id))
    connection.execute(jobs.delete().where(jobs.c.series_id == series_id))
    connection.execute(series.delete().where(series.c.id == series_id))
    return received + made


def delete_objects(connection: Connection, which: sa.ColumnElement[bool]) -> list[str]:
    """Delete objects with their deliveries; returns their files."""
    files = list(connection.scalars(sa.select(objects.c.file).where(which)))
    connection.execute(deliveries.delete().where(deliveries.c.object_id.in_(sa.select(objects.c.id).where(which))))
    connection.execute(objects.delete().where(which))
    return files


def delete_instances(connection: Connection, which: sa.ColumnElement[bool]) -> list[str]:
    """Delete instances with what was found in them; returns their files."""
    files = list(connection.scalars(sa.select(instances.c.file).where(which)))
    found_in = slice_results.c.instance_id.in_(sa.select(instances.c.id).where(which))
    connection.execute(slice_results.delete().where(found_in))
    connection.execute(instances.delete().where(which))
    return files


def without_rows(database: Database, names: Iterator[str]) -> Iterator[str]:
    """Those of `names` that no row names."""
    while part := list(itertools.islice(names, BATCH)):
        with database.read() as connection:
            named = named_files(connection, part)
        yield from sorted(set(part) - named)


def named_files(connection: Connection, names: Collection[str]) -> set[str]:
    """Those of `names` (`BATCH` at most) that a row still names."""
    return {
        file
        for table in (instances, objects)
        for file in connection.scalars(sa.select(table.c.file).where(table.c.file.in_(names)))
    }
