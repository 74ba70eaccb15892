"""Which of several series of a scan gives its result, which were passed over for it, and whether that still holds.

A series that is passed over keeps the job in whose favour that was. Whether it still gives the scan's result is asked
again and again: docs/decisions/0015. By what a choice is made: `headers.eligibility`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store.database import note
from dicom_node.store.series import Series, count, fail
from dicom_node.store.tables import JobState, SeriesState, instances, jobs, series
from dtvit.findings import Outcome

NOTHING_EVALUATED = "none of its images could be evaluated"
LEFT_TO_ANOTHER = f"{NOTHING_EVALUATED}; another series of the study is used instead"
"""Reason of a run whose series is passed over because of that: `leave_to_another`."""


def of_study_with_result(connection: Connection, study_uid: str, *, or_nothing: bool = False) -> list[int]:
    """Ids of the series that give the study its result, or are about to; none while the choice is open. More than one
    where a person asked for it, or a correction brought one into the study. `or_nothing`: NOT EVALUATED is a result.
    """
    gives = _gives_result(sa.true() if or_nothing else sa.false())
    query = sa.select(series.c.id).join(jobs, _NEWEST_RUN).where(series.c.study_uid == study_uid, gives)
    return list(connection.scalars(query.order_by(jobs.c.id)))


def passed_over(connection: Connection, study_uid: str) -> list[int]:
    """Ids of the series of the study that will be judged again if the one that was chosen gives no result, and of which
    it is not known that they cannot be evaluated either.
    """
    waits = series.c.state == SeriesState.NOT_CHOSEN, series.c.passed_over_for.is_not(None)
    query = sa.select(series.c.id).where(series.c.study_uid == study_uid, *waits, ~_was_left_to_another(series))
    return list(connection.scalars(query.order_by(series.c.id)))


def was_left_to_another(connection: Connection, series_id: int) -> bool:
    query = sa.select(series.c.id).where(series.c.id == series_id, _was_left_to_another(series))
    return connection.scalar(query) is not None


def not_chosen(connection: Connection, series_id: int, chosen: int, *, now: float, besides: str = "") -> None:
    """Another series gives the scan's result, as long as its newest job of now does: `judged_too_soon`."""
    said = f"series {chosen} gives the scan's result; to have this one reported: dicom-node retry {series_id}"
    reason = f"{besides}; {said}" if besides else said
    newest = sa.select(sa.func.max(jobs.c.id)).where(jobs.c.series_id == chosen).scalar_subquery()
    values = {"state": SeriesState.NOT_CHOSEN, "reason": reason, "passed_over_for": newest}
    connection.execute(series.update().where(series.c.id == series_id).values(values))
    note(connection, "not chosen", now=now, series_id=series_id, detail=reason)


def leave_to_another(connection: Connection, series_id: int, job_id: int, reason: str, *, now: float) -> None:
    """The run of this job said nothing, as another series may give the scan's result. Not if more has come for it."""
    run = sa.select(jobs.c.run).where(jobs.c.id == job_id).scalar_subquery()
    unchanged = sa.and_(series.c.id == series_id, series.c.state == SeriesState.COMPLETE, series.c.run == run)
    values = {"state": SeriesState.NOT_CHOSEN, "reason": reason, "passed_over_for": job_id}
    if connection.execute(series.update().where(unchanged).values(values)).rowcount:
        note(connection, "not chosen", now=now, series_id=series_id, job_id=job_id, detail=reason)


def is_still_in(connection: Connection, one: Series, study_uid: str) -> bool:
    """Whether the series is in this study, with an image; or has none, and all that it had count in others there."""
    if count(connection, one.id):
        return one.study_uid == study_uid
    had, others = instances.alias(), instances.join(series, series.c.id == instances.c.series_id)
    counts = sa.select(instances.c.id).select_from(others).where(instances.c.current.is_(True))
    here = counts.where(series.c.study_uid == study_uid, instances.c.sop_instance_uid == had.c.sop_instance_uid)
    found = connection.scalars(sa.select(sa.exists(here)).where(had.c.series_id == one.id)).all()
    return bool(found) and all(found)


def leave_without_result(connection: Connection, one: Series, chosen: Series, *, now: float) -> None:
    """A correction gave the series that was chosen in place of this one, or all its images, another study or patient.

    This one fails until it is corrected, too, or the correction undone, or a person decides: judged at once, a report
    of it could be about the wrong patient, as a correction comes series by series.
    """
    where = "belongs to another study now" if chosen.study_uid != one.study_uid else "has no image left"
    reason = (
        f"series {chosen.id}, chosen in its place, {where}. If this one is right, have it reported: "
        f"dicom-node retry {one.id}"
    )
    fail(connection, one.id, reason, now=now, passed_over_for=one.passed_over_for, last_at=now)


def judged_too_soon(connection: Connection) -> list[int]:
    """Ids of the series that were not chosen because of a run that no longer gives their scan's result, and of those
    that failed because of that where the series of that run gives it again.

    That run may have been superseded, or refused; corrections, or a patient's wish to be forgotten, may have taken its
    images; or its series may have gone to another study. One that waits for more, or for a person, is waited for.
    Those that could not be evaluated come last: the others may say more.
    """
    passed, for_run = series.alias("passed"), jobs.alias("for_run")
    its_series = sa.and_(series.c.id == for_run.c.series_id, series.c.study_uid == passed.c.study_uid)
    chosen = sa.select(jobs.c.id).select_from(for_run.join(series, its_series).join(jobs, _NEWEST_RUN))
    chosen = chosen.where(for_run.c.id == passed.c.passed_over_for)
    waits = sa.or_(series.c.state.in_((SeriesState.RECEIVING, SeriesState.FAILED)), jobs.c.state == JobState.WITHDRAWN)
    was_tried = _was_left_to_another(passed)
    gives = _gives_result(was_tried)
    holds = sa.or_(sa.and_(gives, jobs.c.id == for_run.c.id), sa.and_(waits, _has_images()))
    in_vain = sa.and_(passed.c.state == SeriesState.NOT_CHOSEN, ~sa.exists(chosen.where(holds)))
    undone = sa.and_(passed.c.state == SeriesState.FAILED, sa.exists(chosen.where(gives)))
    query = sa.select(passed.c.id).where(passed.c.passed_over_for.is_not(None), sa.or_(in_vain, undone))
    return list(connection.scalars(query.order_by(was_tried, passed.c.id)))


_NEWEST_RUN = sa.and_(jobs.c.series_id == series.c.id, jobs.c.run == series.c.run)


def _gives_result(or_nothing: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Of a series and its newest run.

    A NOT EVALUATED result leaves the choice open: another series may say more; with `or_nothing` it does not. One that
    failed as all its images now belong to other series does, and one that was refused after a correction. Any other
    failed job does not, as whatever made it fail would make the next one fail.
    """
    live = (JobState.READY, JobState.RUNNING, JobState.REPORTED, JobState.DELIVERED, JobState.FAILED)
    tells_nothing = sa.and_(
        jobs.c.state.in_((JobState.REPORTED, JobState.DELIVERED)),
        sa.func.coalesce(jobs.c.outcome, "") == Outcome.NOT_EVALUATED,
    )
    failed = sa.or_(series.c.state == SeriesState.FAILED, jobs.c.state == JobState.FAILED)
    taken = sa.and_(failed, ~_has_images())
    tells = sa.or_(~tells_nothing, or_nothing)
    return sa.and_(series.c.state != SeriesState.REFUSED, jobs.c.state.in_(live), tells, ~taken)


def _has_images() -> sa.ColumnElement[bool]:
    return sa.exists().where(instances.c.series_id == series.c.id, instances.c.current.is_(True))


def _was_left_to_another(of: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether the newest run of a series found nothing that could be evaluated, and said nothing of it."""
    own = jobs.alias()
    newest = own.c.series_id == of.c.id, own.c.run == of.c.run
    return sa.exists().where(*newest, own.c.reason == LEFT_TO_ANOTHER).correlate(of)
