"""What must hold: at any time, and once everything has had time to come right."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from living.images import SLICES, Image, is_another_scan, is_eligible, presence_of, sent
from living.truth import Said
from living.world import DAY_S, KEEP_DAYS, World

from dicom_node.administering import retrying
from dicom_node.errors import NotPossible
from dicom_node.store import overview, tables
from dicom_node.store.database import Database

ENDED = ("delivered", "failed", "withdrawn")


def check(world: World) -> None:
    """At any time: what was acknowledged is there, and what counts is what should."""
    rows = {row.digest: row for row in world.rows(sa.select(tables.instances))}
    for uid, versions in world.truth.versions.items():
        for one in versions:
            row = rows.get(sent(one).digest)
            assert row is not None, f"{one} was acknowledged and has no row"
            assert world.spool.holds(row.file, row.size), f"{one} was acknowledged and has no file"
            counts = one in world.truth.counts[uid]
            assert row.current == counts, f"{one} counts: {counts}; the node thinks otherwise"


def settle(world: World) -> None:
    """Let everything come right: PACS mended, what they refused tried again, and time."""
    for pacs in world.pacs.values():
        pacs.mood = "up"
    if len(world.destinations) < len(world.pacs):
        world.change_destinations(list(world.pacs), cancels=False)
    quiet = 0
    for wait_s in [31.0] * 12 + [3700.0] * 6 + [DAY_S] * 6:
        world.pass_time(wait_s)
        with suppress(NotPossible), world.database.write() as connection:
            retrying.retry_refused(connection, now=world.clock())
        world.go_on()
        quiet = 0 if waits(world) else quiet + 1
        if quiet == 2:  # what ended in the first round may have left a choice open, which the next tick asks for
            break
    assert not waits(world), f"these wait for ever: {waits(world)}"
    check(world)
    check_files(world)
    check_series(world)
    check_plain_studies(world)
    check_counts(world)
    check_deletion(world)
    check_database(world)


def waits(world: World) -> list[str]:
    s, j, d, c = tables.series.c, tables.jobs.c, tables.deliveries.c, tables.commitments.c
    found = [f"series {r.id}" for r in world.rows(sa.select(s.id).where(s.state == "receiving"))]
    busy = sa.or_(j.state.in_(("ready", "running", "reported")), j.extras_due.is_(True))
    found += [f"job {r.id} {r.state}" for r in world.rows(sa.select(j.id, j.state).where(busy))]
    open_ = sa.or_(d.state.in_(("waiting", "failed")), d.commitment.in_(("owed", "asked")))
    found += [
        f"delivery {r.id} {r.state} {r.commitment}" for r in world.rows(sa.select(tables.deliveries).where(open_))
    ]
    return found + [f"answer {r.id}" for r in world.rows(sa.select(c.id).where(c.state == "waiting"))]


def check_files(world: World) -> None:
    """Every row's file is whole."""
    for row in world.rows(sa.select(tables.instances.c.file, tables.instances.c.digest)):
        content = world.spool.read(row.file)
        assert content.endswith(next(sent(i).data_set for i in _all_images(world) if sent(i).digest == row.digest))


def _all_images(world: World) -> list[Image]:
    return [one for versions in world.truth.versions.values() for one in versions]


def check_series(world: World) -> None:
    """What stands at each PACS is the current result of its series, or a person was told that it is not."""
    newest = tables.jobs.c.series_id == tables.series.c.id, tables.jobs.c.run == tables.series.c.run
    join = tables.series.outerjoin(tables.jobs, sa.and_(*newest))
    columns = (
        tables.series,
        tables.jobs.c.id.label("job_id"),
        tables.jobs.c.state.label("job_state"),
        tables.jobs.c.reason.label("job_reason"),
        tables.jobs.c.outcome,
        tables.jobs.c.findings,
        tables.jobs.c.model_digest,
    )
    of_series = {row.series_uid: row for row in world.rows(sa.select(*columns).select_from(join))}
    left = world.rows(sa.select(tables.events.c.series_id).where(tables.events.c.kind == "left behind"))
    left_behind = {row.series_id for row in left}
    for uid, row in of_series.items():
        assert row.study_uid == world.truth.study_of[uid], f"series {uid} belongs to {world.truth.study_of[uid]}"
        _check_state(world, row, of_series)
        for name in world.pacs:
            if name == "PACS1" or row.id not in left_behind:  # it has no way to take back, and a person was told
                _check_standing(world, name, row)
    for name, pacs in world.pacs.items():
        strays = [one for one in pacs.standing() if not one.series & of_series.keys()]
        assert not strays, f"at {name} something stands of a series that the node does not know"


def _check_state(world: World, row: Any, of_series: dict[str, Any]) -> None:
    images = world.truth.of_series(row.series_uid)
    if row.state == "failed":
        assert row.reason, f"series {row.series_uid} failed without a reason"
        left = re.match(r"series (\d+), chosen in its place", row.reason)
        back = [o for o in of_series.values() if left and o.id == int(left[1]) and _gives_result(world, row, o)]
        assert not back, f"series {row.series_uid} failed as another had left, which is back"
    elif row.state == "refused" or (row.state == "complete" and row.job_state == "refused"):
        why = row.reason or row.job_reason
        assert why, f"series {row.series_uid} refused without a reason"
        assert not is_eligible(images), f"series {row.series_uid} was refused, and is eligible: {why}"
    elif row.state == "not chosen":
        speaks = [other for other in of_series.values() if _speaks_for(world, row, other)]
        had = row.study_uid in world.went_by_age
        assert speaks or had, f"series {row.series_uid} was not chosen, and no other gives its scan's result"
    else:
        assert row.state == "complete", row.state
        assert row.job_state in ENDED, f"{row.series_uid}: its job is {row.job_state}"


def _gives_result(world: World, row: Any, other: Any) -> bool:
    """Whether the other series gives the result of this one's scan."""
    one, theirs = world.truth.of_series(row.series_uid), world.truth.of_series(other.series_uid)
    if other.id == row.id or other.study_uid != row.study_uid or is_another_scan(one, theirs):
        return False
    was_tried = (row.job_reason or "").startswith("none of its images could be evaluated; another")
    tells = other.job_state == "delivered" and (was_tried or other.outcome != "not evaluated")
    return other.state == "complete" and (tells or (other.job_state == "failed" and bool(theirs)))


def _speaks_for(world: World, row: Any, other: Any) -> bool:
    """Or a person was told of that one, or took its result back."""
    told = other.state == "failed" or other.job_state == "withdrawn"
    known = told and other.study_uid == row.study_uid and bool(world.truth.of_series(other.series_uid))
    return known or _gives_result(world, row, other)


def _check_standing(world: World, name: str, row: Any) -> None:
    standing = [one for one in world.pacs[name].standing() if row.series_uid in one.series]
    lost = row.job_state == "failed" and not world.truth.of_series(row.series_uid)
    told = row.state == "failed" or lost or row.series_uid in world.forgotten
    if told:
        return
    ours = sa.select(tables.objects.c.sop_instance_uid).where(tables.objects.c.job_id == row.job_id)
    of_newest = {each.sop_instance_uid for each in world.rows(ours)}
    speaks = row.state == "complete" and row.job_state != "withdrawn"
    for one in standing:
        where = f"{row.series_uid} at {name} ({row.state}, job {row.job_state})"
        if row.outcome != "not evaluated":
            assert speaks, f"{where}: a result stands that should not"
        assert one.uid in of_newest, f"{where}: an object of an earlier run stands"
        if row.state != "refused":  # else it is NOT EVALUATED, and no result that a correction could make wrong
            _check_said(world, one, row, where)
    reports = [one for one in standing if one.is_report]
    assert len(reports) <= 1, f"{len(reports)} reports of {row.series_uid} stand at {name}"
    if name == "PACS1" and speaks and row.job_state == "delivered":
        assert reports, f"no report of {row.series_uid} stands at {name}"


def _check_said(world: World, one: Said, row: Any, where: str) -> None:
    images = []
    for uid in one.images:  # an image that went to another series of its study is still the same image
        right = [i for i in world.truth.counts.get(uid, ()) if (i.patient, i.study) == (one.patient, one.study)]
        assert right, f"{where}: says {one.patient} of {world.truth.counts.get(uid)}"
        images += right
    if not one.is_report:
        return
    missing = {image.uid for image in world.truth.of_series(row.series_uid)} - one.images
    assert not missing, f"{where}: not about all its images"
    for each in row.findings["slices"]:
        if (presence := each["presence"]) is not None:
            its = [i for i in images if i.uid == each["sop_instance_uid"]]
            evaluated = [i for i in its if not i.contrast or i.series != row.series_uid]
            right = [presence_of(i.number, i.pixels, row.model_digest) for i in evaluated]
            assert any(abs(presence - one) < 1e-9 for one in right), f"{where}: not from the pixels that count"
    if row.outcome == "absent":
        world.done["absent"] += 1
        whole = {i.number for i in images if not i.contrast} == set(range(1, SLICES + 1))
        assert whole, f"{where}: absent, with a slice missing"


def check_plain_studies(world: World) -> None:
    """Where nothing but transfers, deaths, clocks and PACS went wrong: exactly one report a scan, if there is any
    eligible series."""
    for study, plain in world.truth.plain.items():
        if not plain:
            continue
        eligible = [
            uid for uid, of in world.truth.study_of.items() if of == study and is_eligible(world.truth.of_series(uid))
        ]
        standing = [one for one in world.pacs["PACS1"].standing() if one.study == study and one.is_report]
        assert len(standing) == bool(eligible), f"{len(standing)} reports of plain study {study}; eligible {eligible}"
        world.done["plain studies"] += bool(eligible)


def check_counts(world: World) -> None:
    """`status` says what the tables say."""
    with Database.read(world.database) as connection:
        found = overview.overview(connection, now=world.clock())
        listed = overview.lines(connection, now=world.clock(), limit=100)
    assert found.by_state == dict(sorted(Counter(line.state for line in listed).items()))
    assert (found.undelivered, found.failed_deliveries, found.uncommitted, found.owed) == (0, 0, 0, {})


def check_deletion(world: World) -> None:
    """After the retention all is deleted but what was promised to scanners, and what crashes left goes, too."""
    world.tidy()  # which sees if the clock was set, and then deletes nothing for a day
    world.pass_time(3.0 * KEEP_DAYS * DAY_S)
    world.tidy()
    check(world)
    i, o = tables.instances.c, tables.objects.c
    promised = {row.series_id for row in world.rows(sa.select(i.series_id).where(i.committed_at.is_not(None)))}
    assert {row.id for row in world.rows(sa.select(tables.series.c.id))} <= promised, "a series is never deleted"
    named = {row.file for column in (i.file, o.file) for row in world.rows(sa.select(column))}
    assert set(world.spool.stored()) == named, "files without rows are left"


def check_database(world: World) -> None:
    with Database.read(world.database) as connection:
        assert connection.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"
        assert not connection.execute(sa.text("PRAGMA foreign_key_check")).all()
