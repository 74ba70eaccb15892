"""Filing: where an arriving instance belongs, and which series it reopens.

The same object may come twice, recoded, with a corrected header, or with other pixels under its UID (`comparing`); what
each means is in docs/architecture.md. Everything here happens in the transaction that acknowledges the instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store import cancelling, further
from dicom_node.store.comparing import Arrival, Filed, Files, compared, equal_pixels, same_bytes
from dicom_node.store.database import insert_for, note, one_at_a_time
from dicom_node.store.jobs import is_about
from dicom_node.store.series import contradicted, hold
from dicom_node.store.tables import JobState, SeriesState, instances, jobs, objects, series, slice_results
from dicom_node.store.whereabouts import stands


@dataclass(frozen=True)
class Filing:
    """What an arriving instance was, and where it belongs."""

    filed: Filed
    series_id: int | None
    """None for an object of this node, and for a further image of a series being received: nobody asks there."""
    names_file: bool
    """Whether a row names the file it came in; if not, that file may go."""
    held: tuple[int, ...] = ()
    """Other series that fail because of it, as it counted there."""
    replaced: str | None = None
    """The damaged or missing file whose place it takes: no row names that any longer."""


def file(connection: Connection, arrival: Arrival, *, reopen_wait_s: float, files: Files) -> Filing:
    """File one instance. Runs twice without harm."""
    header = arrival.header
    one_at_a_time(connection, header.sop_instance_uid)  # it may come in two series at once, as another patient's in one
    row = _row(arrival)
    if further.file(connection, row, series_uid=header.series_uid, priority=arrival.priority):
        return Filing(Filed.NEW, None, names_file=True)
    own = connection.scalar(sa.select(objects.c.id).where(objects.c.sop_instance_uid == header.sop_instance_uid))
    if own is not None:
        return Filing(Filed.OWN, None, names_file=False)
    series_id = _series_for(connection, arrival)
    _hurry(connection, series_id, arrival.priority)
    same_uid = instances.c.sop_instance_uid == header.sop_instance_uid
    earlier = connection.execute(sa.select(instances).where(same_uid)).all()
    for known in earlier:
        if same_bytes(known, arrival, files):
            mends = _again(connection, known, arrival, files)
            replaced = known.file if mends else None
            if known.current or not _taken_back(connection, arrival, known, earlier, files):
                return Filing(Filed.AGAIN, series_id, names_file=mends, replaced=replaced)
            held = _change_place(connection, arrival, earlier, known.series_id)
            _touch(connection, known.series_id, Filed.CORRECTED, arrival, reopen_wait_s=reopen_wait_s)
            return Filing(Filed.CORRECTED, known.series_id, names_file=mends, held=held, replaced=replaced)
    filed = compared(connection, arrival, earlier, files)
    held = ()
    if filed is Filed.CORRECTED:
        connection.execute(instances.update().where(same_uid).values(current=False))
        held = _change_place(connection, arrival, earlier, series_id)
    new = {**row, "series_id": series_id, "current": filed is not Filed.RECODED}
    connection.execute(instances.insert().values(new))
    if filed is Filed.CONTRADICTED:
        reason = (
            "an instance arrived again under the same SOP Instance UID with different pixel data; both are kept. "
            "Find out at the sender which one is right, then: dicom-node retry"
        )
        hold(connection, series_id, reason, now=arrival.at)
    elif filed is Filed.RECODED:
        _retain(connection, series_id, now=arrival.at)
    else:
        _touch(connection, series_id, filed, arrival, reopen_wait_s=reopen_wait_s)
    return Filing(filed, series_id, names_file=True, held=held)


def _row(arrival: Arrival) -> dict[str, Any]:
    """A row of `instances`, as far as it is known before the series is."""
    header = arrival.header
    return {
        "sop_class_uid": header.sop_class_uid,
        "sop_instance_uid": header.sop_instance_uid,
        "transfer_syntax_uid": arrival.transfer_syntax_uid,
        "file": arrival.file,
        "size": arrival.size,
        "digest": arrival.digest,
        "pixel_sha256": None,
        "identity": header.identity,
        "patient": header.patient,
        "facts": header.facts.to_json(),
        "ruled_out": arrival.ruled_out,
        "calling_aet": arrival.calling_aet,
        "received_at": arrival.at,
        "current": True,
        "tries": 0,
    }


def _again(connection: Connection, row: sa.Row[Any], arrival: Arrival, files: Files) -> bool:
    """The same bytes again; returns whether this copy takes the place of a lost or damaged one."""
    whose = {"identity": arrival.header.identity, "patient": arrival.header.patient}
    if whose != {"identity": row.identity, "patient": row.patient}:  # an earlier version read some names otherwise
        connection.execute(instances.update().where(instances.c.id == row.id).values(whose))
    if not _retain(connection, row.series_id, now=arrival.at):
        connection.execute(instances.update().where(instances.c.id == row.id).values(received_at=arrival.at))
    if files.is_whole(row.file, row.size, row.digest):
        return False
    mended = {"file": arrival.file, "size": arrival.size, "pixel_sha256": None, "tries": 0}
    connection.execute(instances.update().where(instances.c.id == row.id).values(mended))
    unread = sa.and_(slice_results.c.instance_id == row.id, slice_results.c.left_out.is_not(None))
    connection.execute(slice_results.delete().where(unread))  # the new copy may well be readable
    note(connection, "file mended", now=arrival.at, series_id=row.series_id, detail=f"instance={row.id}")
    return True


def _retain(connection: Connection, series_id: int, *, now: float) -> bool:
    """The series' retention begins anew, even if nothing changes; False while it is being received, as that would delay
    it."""
    done = sa.and_(series.c.id == series_id, series.c.state != SeriesState.RECEIVING)
    return bool(connection.execute(series.update().where(done).values(last_at=now)).rowcount)


def _taken_back(
    connection: Connection, arrival: Arrival, row: sa.Row[Any], earlier: Sequence[sa.Row[Any]], files: Files
) -> bool:
    """A header that had been corrected comes again, as when a patient merge is undone: the newest counts.

    Not so for a recoded copy or one that a person set aside: it differs from what counts in more than its header. Where
    nothing counts any longer, as the correction's series was deleted, it does.
    """
    current = [other for other in earlier if other.current]
    corrected = all(
        other.transfer_syntax_uid == row.transfer_syntax_uid and equal_pixels(connection, arrival, other, files)
        for other in current
    )
    if not corrected:
        return False
    same_uid = instances.c.sop_instance_uid == row.sop_instance_uid
    connection.execute(instances.update().where(same_uid).values(current=instances.c.id == row.id))
    return True


def _change_place(
    connection: Connection, arrival: Arrival, earlier: Sequence[sa.Row[Any]], series_id: int
) -> tuple[int, ...]:
    """If a correction says that the image is another patient's, or in another study, what was made of it and not yet
    sent must not be sent.

    The correction may come under another Series Instance UID: then no newer run supersedes what was sent of the image's
    former series, and only a person can take it back. Returns the series that are held because of it.
    """
    header = arrival.header
    counted = [one for one in earlier if one.current]
    studies = sa.select(series.c.study_uid).where(series.c.id.in_({one.series_id for one in counted}))
    same_patient = all(one.patient == header.patient for one in counted)
    if same_patient and set(connection.scalars(studies)) == {header.study_uid}:
        return ()
    # A series that it left before, as where its study was split, may have a result of it that still waits; it may come
    # back to that series as another patient's.
    left = [one for one in earlier if one.series_id not in {each.series_id for each in counted}]
    counted += [one for one in left if is_about(connection, one.series_id, header.sop_instance_uid)]
    others_patient = {one.series_id for one in counted if one.patient != header.patient}
    was_in = series.c.id.in_({one.series_id for one in counted})
    newest = sa.and_(jobs.c.series_id == series.c.id, jobs.c.run == series.c.run, jobs.c.state == JobState.WITHDRAWN)
    found = sa.select(series.c.id, series.c.study_uid, series.c.state, jobs.c.id).outerjoin(jobs, newest).where(was_in)
    held = []
    for one, study_uid, state, withdrawn in connection.execute(found).all():
        if one not in others_patient and study_uid == header.study_uid:
            continue
        taken_back = withdrawn is not None and state == SeriesState.COMPLETE
        matters = (one in others_patient and not taken_back) or stands(connection, one)
        cancelling.keep_back(connection, one, now=arrival.at)
        if one == series_id or state == SeriesState.FAILED or not matters:
            continue
        held.append(one)
        reason = (
            f"an image of it arrived again under another patient or study, in series {series_id}. Find out which is "
            f"right; to take back what was reported of this one: dicom-node withdraw {one}; to report it anew: retry"
        )
        hold(connection, one, reason, now=arrival.at)
    return tuple(sorted(held))


def _series_for(connection: Connection, arrival: Arrival) -> int:
    """Id of the series, made if new, and locked: what arrives for it at the same time elsewhere waits."""
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
        "priority": arrival.priority,
        "first_at": arrival.at,
        "last_at": arrival.at,
    }
    insert = insert_for(connection)(series).values(new).on_conflict_do_nothing(index_elements=["series_uid"])
    connection.execute(insert)  # the first instances of a series may come over several associations at once
    return int(connection.execute(find).scalar_one())


def _hurry(connection: Connection, series_id: int, priority: int) -> None:
    """A series is as urgent as the most urgent of its images, even if others came earlier from a sender of backlog."""
    less_urgent = sa.and_(series.c.id == series_id, series.c.priority > priority)
    if connection.execute(series.update().where(less_urgent).values(priority=priority)).rowcount:
        waits = sa.and_(jobs.c.series_id == series_id, jobs.c.priority > priority)
        connection.execute(jobs.update().where(waits).values(priority=priority))


def _touch(connection: Connection, series_id: int, filed: Filed, arrival: Arrival, *, reopen_wait_s: float) -> None:
    """Something new belongs to the series: it is (again) being received. A contradiction waits for a person.

    A correction may change the study that it belongs to: the newest counts.
    """
    now = arrival.at
    state = connection.scalar(sa.select(series.c.state).where(series.c.id == series_id))
    values: dict[str, object] = {"last_at": now, "expected": None}
    if filed is Filed.CORRECTED:
        values["study_uid"] = arrival.header.study_uid
    stays_failed = state == SeriesState.FAILED and contradicted(connection, series_id)
    if state != SeriesState.RECEIVING and not stays_failed:
        last_report = connection.scalar(sa.select(sa.func.max(jobs.c.created_at)).where(jobs.c.series_id == series_id))
        values |= {"state": SeriesState.RECEIVING, "reason": None}
        if last_report is not None:
            values["not_before"] = min(last_report, now) + reopen_wait_s  # the clock may have been set back since
        note(connection, "reopened", now=now, series_id=series_id, detail=f"by a {filed} instance")
    connection.execute(series.update().where(series.c.id == series_id).values(values))
