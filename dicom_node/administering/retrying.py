"""What `dicom-node retry` does: a person's decision about a series, whatever state it is in."""

from __future__ import annotations

from dicom_node.config import Eligibility
from dicom_node.errors import NotPossible
from dicom_node.headers import eligibility
from dicom_node.store import cancelling, jobs, outbox, series, whereabouts
from dicom_node.store.database import Connection
from dicom_node.store.series import Series
from dicom_node.store.tables import JobState, SeriesState


def retry_refused(connection: Connection, *, now: float) -> str:
    """Owe again everything that destinations refused for good; returns what was done, in words. Raises NotPossible."""
    tried = [outbox.try_again(connection, series_id, now=now) for series_id in whereabouts.refused(connection)]
    owed = [count for count in tried if count]
    if not owed:
        raise NotPossible("there is nothing refused that a newer report has not replaced")
    return f"{sum(owed)} deliveries of {len(owed)} series will be tried again"


def retry(connection: Connection, one: Series, rules: Eligibility, *, again: bool, keep: str | None, now: float) -> str:
    """Do what helps in this state; returns what was done, in words. Raises NotPossible where nothing would."""
    contradicted = series.contradicted(connection, one.id)
    others: list[str] = []
    if contradicted:
        if keep is None:
            raise NotPossible(
                f"{len(contradicted)} images came twice under one SOP Instance UID with different pixels; "
                "say which to use: --keep first or --keep last"
            )
        lost = series.decide_for(connection, one.id, keep)
        for loser in lost:  # what was made of an image that is set aside is no longer sent: it may be another patient's
            cancelling.keep_back(connection, loser, now=now)
        others = [_judge_without(connection, other, one.id, now) for other in lost if other != one.id]
    if one.state is SeriesState.RECEIVING:
        raise NotPossible("it is still being received")
    newest = jobs.newest(connection, one.id)
    undone = one.state is not SeriesState.COMPLETE
    if not undone and newest is not None:
        if newest.state in (JobState.READY, JobState.RUNNING):
            raise NotPossible(f"its job {newest.id} is {newest.state}")
        undone = newest.state in (JobState.REFUSED, JobState.FAILED, JobState.CANCELLED)
    owed = outbox.try_again(connection, one.id, now=now)
    if undone or again or contradicted:
        judge_again(connection, one.id, rules, now=now)
        said = "will be judged again" + (f", and {owed} deliveries tried again" if owed else "")
        return "; ".join([said, *others])
    if owed:
        return f"{owed} deliveries will be tried again"
    if newest is not None and newest.state == JobState.WITHDRAWN:
        raise NotPossible("its result was withdrawn; --again makes a new report")
    raise NotPossible("everything is delivered; --again makes a new report that supersedes the last")


def judge_again(connection: Connection, series_id: int, rules: Eligibility, *, now: float) -> None:
    """Judge a series afresh because a person asked for it, under the current rules."""
    for instance in series.instances_of(connection, series_id):
        reason = eligibility.ruled_out(instance.sop_class_uid, instance.facts, rules)
        series.set_ruled_out(connection, instance.id, reason)
    series.receive_again(connection, series_id, now=now, why="by command", forced=True)


def _judge_without(connection: Connection, series_id: int, chosen_id: int, now: float) -> str:
    """What was made of a series is no longer valid: images of it were set aside for those of another. In words."""
    other = series.get(connection, series_id)
    assert other is not None
    if not series.count(connection, series_id):
        advice = f"to take back what was reported of it: dicom-node withdraw {series_id}"
        reason = f"all its images were set aside for those of series {chosen_id}; {advice}"
        series.hold(connection, series_id, reason, now=now)
        return f"series {series_id} has no image left: {advice}"
    if series.contradicted(connection, series_id):
        return f"series {series_id} waits for a decision of its own"
    why = f"images of it were set aside for those of series {chosen_id}"
    series.receive_again(connection, series_id, now=now, why=why, forced=other.forced)
    return f"so will series {series_id}, without the images that were set aside"
