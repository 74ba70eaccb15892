"""What is done to one series touches no other, and goes by no other: two that are alike lie beside it in each table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from made import NOW, SERIES, STUDY, Made, changed, ct, made_node
from sqlalchemy import Connection, select

from dicom_node.store import (
    cancelling,
    choices,
    commitment_asked,
    commitment_given,
    forget,
    jobs,
    outbox,
    purge,
    results,
    series,
    whereabouts,
)
from dicom_node.store.jobs import Job
from dicom_node.store.tables import commitments, deliveries, events, instances, objects, slice_results
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import series as series_table

VERSION = results.Version("f" * 64, "1")
ITS = 2
"""Number of the series that something is done to; 1 and 3 lie beside it."""


@dataclass(frozen=True)
class Its:
    """What belongs to it: four runs, of which the third is under way, and what was made in the others."""

    series: series.Series
    images: list[series.Instance]
    jobs: list[int]
    report: int
    """Of the second run."""
    waiting: outbox.Delivery
    patient: str

    @property
    def under_way(self) -> Job:
        return Job(self.jobs[2], ITS, 3, 1, "worker")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = made_node(tmp_path_factory.mktemp("node"))
    for number in (1, 2, 3):
        own = {"series": f"{SERIES}{number}", "study": f"{STUDY}{number}", "PatientID": f"P-{number}"}
        made.accept(ct(1, **own), ct(2, **own), changed(ct(1, **own), PixelData=bytes(512)))
        with made.database.write() as connection:
            _fill(connection, number)
    return made


def _fill(connection: Connection, number: int) -> None:
    for image in series.instances_of(connection, number):
        left_out = results.SliceResult(image.id, 0, 1, 0.0, 5.0, content=None, left_out="cut short")
        results.keep(connection, [left_out], VERSION, now=NOW)
    connection.execute(
        instances.update().where(instances.c.series_id == number).values(committed_at=NOW, pixel_sha256="a", tries=1)
    )
    states = ["reported", "reported", "running", "ready"] + (["delivered"] if number != ITS else [])
    runs = 1 if number == 1 else len(states)  # of those beside it, one has fewer, the other more
    connection.execute(
        series_table.update()
        .where(series_table.c.id == number)
        .values(state="complete", run=runs, not_before=NOW + 1e6)
    )
    for run, state in enumerate(states, 1):
        row = {"series_id": number, "run": run, "state": state, "priority": 0, "not_before": NOW, "tries": 1}
        row |= {"created_at": NOW, "extras_due": run == 1}
        if state == "running":
            row |= {"lease_owner": "worker", "lease_until": NOW + 60}
        job = connection.execute(jobs_table.insert().values(row).returning(jobs_table.c.id)).scalar_one()
        if state != "running":
            _make(connection, number, run, job)
    connection.execute(commitments.insert().values(_promised(number)))


def _make(connection: Connection, number: int, run: int, job: int) -> None:
    for kind in ("report", "picture", "withdrawal"):
        name = f"{number}{run}{kind}"
        uid = f"2.25.{number}{run}{len(kind)}"
        outbox.put(
            connection, job, [outbox.MadeObject(kind, "1.2.3", uid, "2.25.9", name, 1, name)], ["PACS1"], now=NOW
        )
    of_job = select(objects.c.id).where(objects.c.job_id == job)
    reports, pictures = (
        deliveries.c.object_id.in_(of_job.where(objects.c.kind == kind)) for kind in ("report", "picture")
    )
    asked = {"state": "delivered", "commitment": "asked", "transaction_uid": f"2.25.{number}", "begun_at": NOW}
    connection.execute(deliveries.update().where(reports).values(asked if run == 2 else {"state": "failed"}))
    if run == 4:
        connection.execute(deliveries.update().where(pictures).values(asked))


def _promised(number: int) -> dict[str, Any]:
    asked = [["1.2.3", f"{SERIES}{number}.1"]]
    row = {"transaction_uid": f"2.25.{number}", "calling_aet": "PACS1", "asked": asked, "state": "waiting"}
    return row | {"tries": 0, "next_at": NOW, "received_at": NOW}


def _its(connection: Connection) -> Its:
    one = series.get(connection, ITS)
    assert one is not None
    job_ids = [record.id for record in jobs.of_series(connection, ITS)]
    report = connection.scalar(select(objects.c.id).where(objects.c.job_id == job_ids[1], objects.c.kind == "report"))
    due = outbox.due(connection, "PACS1", now=NOW, longest_wait_s=60.0)
    waiting = next(delivery for delivery in due if delivery.series_id == ITS)
    patient = connection.scalar(select(instances.c.patient).where(instances.c.series_id == ITS).limit(1))
    return Its(one, series.instances_of(connection, ITS), job_ids, int(report or 0), waiting, str(patient))


def _beside(connection: Connection) -> list[Any]:
    """All rows of the others."""
    others = series_table.c.id != ITS
    own_jobs = select(jobs_table.c.id).where(jobs_table.c.series_id != ITS)
    own_images = select(instances.c.id).where(instances.c.series_id != ITS)
    made = select(objects.c.id).where(objects.c.job_id.in_(own_jobs))
    queries = (
        select(series_table).where(others),
        select(instances).where(instances.c.series_id != ITS),
        select(slice_results).where(slice_results.c.instance_id.in_(own_images)),
        select(jobs_table).where(jobs_table.c.series_id != ITS),
        select(objects).where(objects.c.job_id.in_(own_jobs)),
        select(deliveries).where(deliveries.c.object_id.in_(made)),
        select(commitments).where(commitments.c.transaction_uid != f"2.25.{ITS}"),
        select(events).where(events.c.series_id != ITS),
    )
    return [row for query in queries for row in connection.execute(query)]


class Undone(Exception):
    pass


ACTIONS: dict[str, Callable[[Connection, Its], object]] = {
    "complete": lambda c, its: series.complete(c, ITS, rule="silence", whole=True, now=NOW, priority=0),
    "expect": lambda c, its: series.expect(c, its.series, 5),
    "restart_wait": lambda c, its: series.restart_wait(c, ITS, now=NOW - 9, reopen_wait_s=60.0),
    "refuse": lambda c, its: series.refuse(c, ITS, "why", now=NOW),
    "not_chosen": lambda c, its: choices.not_chosen(c, ITS, ITS, now=NOW),
    "fail": lambda c, its: series.fail(c, ITS, "why", now=NOW),
    "hold": lambda c, its: series.hold(c, ITS, "why", now=NOW),
    "receive_again": lambda c, its: series.receive_again(c, ITS, now=NOW, why="why", forced=True),
    "decide_for": lambda c, its: series.decide_for(c, ITS, "first"),
    "set_ruled_out": lambda c, its: series.set_ruled_out(c, its.images[0].id, "why"),
    "begin_reading": lambda c, its: series.begin_reading(c, [its.images[0].id], tries=1),
    "end_reading": lambda c, its: series.end_reading(c, [its.images[0].id]),
    "extend": lambda c, its: jobs.extend(c, its.under_way, now=NOW, lease_s=99.0, further=True),
    "finish": lambda c, its: jobs.finish(c, its.under_way, "reported", now=NOW),  # type: ignore[arg-type]
    "give_back": lambda c, its: jobs.give_back(c, its.under_way, now=NOW, wait_s=1.0, reason="why"),
    "put_off": lambda c, its: jobs.put_off(c, ITS, now=NOW),
    "begin_extras": lambda c, its: jobs.begin_extras(c, its.jobs[0], tries=0, owner="worker", until=NOW),
    "end_extras": lambda c, its: jobs.end_extras(c, its.jobs[0]),
    "extras_made": lambda c, its: jobs.extras_made(c, its.jobs[0]),
    "withdraw": lambda c, its: jobs.withdraw(c, its.jobs[0], reason="why", now=NOW),
    "begin": lambda c, its: outbox.begin(c, its.waiting, now=NOW),
    "delivered": lambda c, its: outbox.delivered(c, its.waiting, 0, now=NOW, commitment=True),
    "postpone": lambda c, its: outbox.postpone(c, its.waiting, until=NOW, status=None, error="why"),
    "give_up": lambda c, its: outbox.give_up(c, its.waiting, now=NOW, status=1, error="why"),
    "supersede": lambda c, its: cancelling.supersede(c, ITS, 5, now=NOW),
    "cancel": lambda c, its: cancelling.cancel(c, its.jobs[0], now=NOW),
    "try_again": lambda c, its: outbox.try_again(c, ITS, now=NOW + 1),
    "keep_back": lambda c, its: cancelling.keep_back(c, ITS, now=NOW),
    "outdate": lambda c, its: cancelling.outdate(c, ITS, its.report, "PACS1", now=NOW),
    "ask postponed": lambda c, its: commitment_asked.postpone(c, f"2.25.{ITS}", until=NOW, error="why"),
    "committed": lambda c, its: commitment_asked.settle(c, f"2.25.{ITS}", _every(c), {}, now=NOW, wait_s=float),
    "lost": lambda c, its: commitment_asked.settle(
        c, f"2.25.{ITS}", (), dict.fromkeys(_every(c), 1), now=NOW, wait_s=float
    ),
    "promise": lambda c, its: commitment_given.promise(c, {its.images[0].id}, now=NOW + 1),
    "release": lambda c, its: commitment_given.release(c, ITS, now=NOW),
    "delete": lambda c, its: purge.delete_rows(c, ITS),
    "forget": lambda c, its: forget.erase(
        c,
        forget.find(c, patients=[its.patient], study_uid=None),
        patients=[its.patient],
        former_objects=(),
        now=NOW,
    ),
}


QUESTIONS: dict[str, Callable[[Connection, Its], object]] = {
    "instances_of": lambda c, its: series.instances_of(c, ITS),
    "count": lambda c, its: series.count(c, ITS),
    "ids_of": lambda c, its: series.ids_of(c, ITS),
    "of_study": lambda c, its: series.of_study(c, its.series.study_uid),
    "patients_of_study": lambda c, its: series.patients_of_study(c, its.series.study_uid),
    "contradicted": lambda c, its: series.contradicted(c, ITS),
    "results": lambda c, its: results.of_series(c, ITS, VERSION),
    "of_series": lambda c, its: jobs.of_series(c, ITS),
    "of_study_with_result": lambda c, its: choices.of_study_with_result(c, its.series.study_uid),
    "told": lambda c, its: whereabouts.told(c, ITS, before_run=3),
    "predecessors": lambda c, its: whereabouts.predecessors(c, ITS, 3),
    "taken_by": lambda c, its: whereabouts.taken_by(c, its.jobs[1], "PACS1"),
    "standing_in_for": lambda c, its: whereabouts.standing_in_for(c, f"2.25.{ITS}2{len('report')}", "PACS1"),
    "objects_of": lambda c, its: whereabouts.objects_of(c, its.jobs[1]),
    "due": lambda c, its: [one for one in outbox.due(c, "PACS1", now=NOW, longest_wait_s=60.0) if one.series_id == ITS],
    "current": lambda c, its: commitment_given.current(c, {its.images[0].sop_instance_uid}),
    "find": lambda c, its: forget.find(c, patients=[its.patient], study_uid=None),
    "find by study": lambda c, its: forget.find(c, patients=[], study_uid=its.series.study_uid),
}


def _every(connection: Connection) -> set[str]:
    return set(connection.scalars(select(objects.c.sop_instance_uid)))


@contextmanager
def undone(node: Made) -> Iterator[Connection]:
    with suppress(Undone), node.database.write() as connection:
        yield connection
        raise Undone


def _everything(connection: Connection) -> list[Any]:
    tables = (series_table, instances, slice_results, jobs_table, objects, deliveries)
    return [row for table in tables for row in connection.execute(select(table))]


@pytest.mark.parametrize("done", ACTIONS.values(), ids=ACTIONS)
def test_what_is_done_to_one_touches_no_other(node: Made, done: Callable[[Connection, Its], object]) -> None:
    with undone(node) as connection:
        its, before, beside = _its(connection), _everything(connection), _beside(connection)
        assert len(beside) > 40
        done(connection, its)
        assert _beside(connection) == beside
        assert _everything(connection) != before, "nothing was done"


@pytest.mark.parametrize("done", ACTIONS.values(), ids=ACTIONS)
def test_what_is_done_to_one_comes_out_as_if_it_were_alone(
    node: Made, done: Callable[[Connection, Its], object]
) -> None:
    def outcome(connection: Connection, its: Its) -> list[Any]:
        done(connection, its)
        beside = _beside(connection)
        return [row for row in _everything(connection) if row not in beside]

    assert _among_others(node, outcome) == _alone(node, outcome)


@pytest.mark.parametrize("asked", QUESTIONS.values(), ids=QUESTIONS)
def test_what_is_asked_of_one_is_answered_as_if_it_were_alone(
    node: Made, asked: Callable[[Connection, Its], object]
) -> None:
    answer = _among_others(node, asked)
    assert answer
    assert answer == _alone(node, asked)


def _among_others(node: Made, asked: Callable[[Connection, Its], object]) -> object:
    with undone(node) as connection:
        return asked(connection, _its(connection))


def _alone(node: Made, asked: Callable[[Connection, Its], object]) -> object:
    with undone(node) as connection:
        its = _its(connection)
        for other in (1, 3):
            purge.delete_rows(connection, other)
        return asked(connection, its)
