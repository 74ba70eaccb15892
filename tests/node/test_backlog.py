"""Live cases before backlog: in the queue, among the slices that arrive, while backlog is in work, and in delivery."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from made import CT, NOW, FakeClassifier, Made, ct, grey_series, head_series, made_node, peer
from pydicom import uid
from pydicom.dataset import Dataset

from dicom_node.administering.retrying import judge_again
from dicom_node.config import Backlog, Eligibility
from dicom_node.receiving.accepting import priority
from dicom_node.store import jobs, outbox, results
from dicom_node.store.tables import instances, slice_results
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import series as series_table

OLD, FRESH = {"StudyDate": "20260301"}, {"StudyDate": datetime.fromtimestamp(NOW).strftime("%Y%m%d")}  # noqa: DTZ006


@pytest.fixture
def node(tmp_path: Path) -> Made:
    return made_node(tmp_path, peers=[peer(104)], eligibility=Eligibility(min_slices=1))


def one_slice(number: int, **values: Any) -> Dataset:
    return ct(1, series=f"1.2.{number}.1", study=f"1.2.{number}", PatientID=f"P-{number}", **values)


def claimed(node: Made) -> jobs.Job:
    with node.database.write() as connection:
        job = jobs.claim(connection, owner="w", now=node.clock(), lease_s=60)
    assert job is not None
    return job


@pytest.mark.parametrize(
    ("hours_ago", "sender", "expected"),
    [
        (0.0, "CT1", jobs.LIVE),
        (23.9, "CT1", jobs.LIVE),
        (24.1, "CT1", jobs.BACKLOG),
        (-1000.0, "CT1", jobs.LIVE),  # a scanner whose clock is wrong
        (None, "CT1", jobs.LIVE),
        (0.0, "MIGRATION", jobs.BACKLOG),
    ],
)
def test_backlog_is_what_was_taken_long_ago_or_comes_from_a_sender_of_backlog(
    hours_ago: float | None, sender: str, expected: int
) -> None:
    taken = None if hours_ago is None else datetime.fromtimestamp(NOW) - timedelta(hours=hours_ago)  # noqa: DTZ006
    assert priority(taken, sender, Backlog(senders=("MIGRATION",)), now=NOW) == expected


@pytest.mark.parametrize(
    ("day", "sender", "expected"),
    [
        ("19800101", "CT1", jobs.LIVE),  # a clock that lost its battery
        ("20000101", "CT1", jobs.LIVE),
        ("20150301", "CT1", jobs.BACKLOG),
        ("20150301", "CT2", jobs.LIVE),
        ("19800101", "MIGRATION", jobs.BACKLOG),
    ],
)
def test_a_scanner_whose_clock_is_wrong_need_not_wait(day: str, sender: str, expected: int) -> None:
    rules = Backlog(senders=("MIGRATION",), live_senders=("CT2",))
    assert priority(datetime.strptime(day, "%Y%m%d"), sender, rules, now=NOW) == expected  # noqa: DTZ007


def test_a_sender_is_live_or_backlog() -> None:
    with pytest.raises(ValueError, match="'CT1' is in both senders and live_senders"):
        Backlog(senders=("CT1",), live_senders=("CT0", "CT1"))


@pytest.mark.parametrize("taken_at", [datetime(1, 1, 1), datetime(9999, 12, 31)])  # noqa: DTZ001
def test_a_date_that_no_clock_can_show_delays_nothing(taken_at: datetime) -> None:
    assert priority(taken_at, "CT1", Backlog(), now=NOW) in (jobs.LIVE, jobs.BACKLOG)


def test_with_fifty_old_series_queued_a_fresh_one_is_next(node: Made) -> None:
    node.accept(*(one_slice(number, **OLD) for number in range(1, 51)))
    node.tick_after(31)
    node.accept(one_slice(99, **FRESH))
    node.tick_after(31)
    assert len(node.rows(jobs_table)) == 51
    assert claimed(node).series_id == 51
    assert [claimed(node).series_id for _ in range(3)] == [1, 2, 3]


def test_slices_of_a_fresh_series_that_arrives_are_read_before_those_of_backlog(node: Made) -> None:
    node.accept(*grey_series(8, **OLD), one_slice(99, **FRESH))
    node.worker().step()
    (read,) = node.rows(slice_results)
    assert node.rows(instances)[read.instance_id - 1].sop_instance_uid == "1.2.99.1.1"


def test_a_fresh_series_that_arrives_goes_before_a_queue_of_backlog(node: Made) -> None:
    node.accept(*grey_series(8, **OLD))
    node.tick_after(31)
    node.accept(one_slice(99, **FRESH))
    node.worker().step()
    assert len(node.rows(slice_results)) == 1
    assert node.rows(jobs_table)[0].state == "ready"


def test_backlog_in_work_makes_way_and_goes_on_where_it_was(node: Made) -> None:
    old = head_series(StudyDate="20260301")
    node.accept(*old)
    node.tick_after(31)

    def arrives(_: int) -> None:
        if len(node.rows(series_table)) == 1:
            node.accept(one_slice(99, **FRESH))

    classifier = FakeClassifier(fails=arrives)
    worker = node.worker(classifier)
    worker.step()
    job = node.rows(jobs_table)[0]
    assert (job.state, job.tries, classifier.asked) == ("ready", 0, [4])
    worker.step()
    assert classifier.asked == [4, 1]  # the fresh one
    node.work(worker)
    assert node.rows(jobs_table)[0].state == "reported"
    assert len(node.rows(slice_results)) == len(old) + 1


def test_a_fresh_image_makes_its_whole_series_live(node: Made) -> None:
    node.accept(ct(1, AcquisitionDate="20260301"))
    assert node.rows(series_table)[0].priority == jobs.BACKLOG
    node.accept(ct(2, AcquisitionDate=FRESH["StudyDate"]), ct(3, AcquisitionDate="20260301"))
    assert node.rows(series_table)[0].priority == jobs.LIVE


def test_what_a_live_sender_sends_again_byte_for_byte_makes_its_series_live(tmp_path: Path) -> None:
    node = made_node(tmp_path, eligibility=Eligibility(min_slices=1), backlog=Backlog(senders=("MIGRATION",)))
    node.accept(one_slice(1, **FRESH), one_slice(2, **FRESH), calling="MIGRATION")
    node.tick_after(31)
    node.accept(one_slice(2, **FRESH))
    assert [row.priority for row in node.rows(series_table)] == [jobs.BACKLOG, jobs.LIVE]
    assert claimed(node).series_id == 2


def test_live_positives_are_delivered_first_and_backlog_in_small_portions(node: Made) -> None:
    node.accept(*(one_slice(number, **OLD) for number in range(1, 21)))
    node.accept(one_slice(21, **FRESH), one_slice(22, **FRESH))
    node.tick_after(31)
    outcomes = {22: "present"}
    with node.database.write() as connection:
        for number in range(1, 23):
            made = outbox.MadeObject("report", "1.2.3", f"2.25.{number}", "2.25.9", "aa/x.dcm", 1, "0" * 64)
            job = jobs_table.c.series_id == number
            job_id = connection.scalar(
                jobs_table.update().where(job).values(outcome=outcomes.get(number)).returning(jobs_table.c.id)
            )
            outbox.put(connection, job_id, [made], ["PACS1"], now=node.clock())
    with node.database.read() as connection:
        due = outbox.due(connection, "PACS1", now=node.clock(), longest_wait_s=60)
    assert [delivery.series_id for delivery in due] == [22, 21]  # no backlog on the association of a live report
    with node.database.write() as connection:
        for delivery in due:
            outbox.delivered(connection, delivery, 0, now=node.clock())
        rest = outbox.due(connection, "PACS1", now=node.clock(), longest_wait_s=60)
    assert [delivery.series_id for delivery in rest] == [1, 2, 3, 4]


def test_a_result_for_a_patient_who_was_forgotten_meanwhile_is_dropped(node: Made) -> None:
    node.accept(ct(1))
    found = [results.SliceResult(number, 0, None, None, None, content=None, left_out="a test") for number in (1, 2)]
    with node.database.write() as connection:
        results.keep(connection, found, results.Version("f" * 64, "x"), now=NOW)
    assert [row.instance_id for row in node.rows(slice_results)] == [1]


def test_two_patients_under_one_study_are_never_mixed_nor_reported(node: Made) -> None:
    node.accept(ct(1, series="1.2.1"), ct(1, series="1.2.2", PatientID="P-2"))
    node.tick_after(31)
    assert {row.state for row in node.rows(series_table)} == {"failed"}
    assert "two patients arrived under one Study Instance UID" in node.rows(series_table)[0].reason
    assert node.rows(jobs_table) == []


def test_that_a_person_asked_for_a_report_says_nothing_of_what_comes_after_it(node: Made) -> None:
    node.accept(*grey_series(10, series="1.2.1"))
    node.tick_after(31)
    node.work()
    with node.database.write() as connection:
        judge_again(connection, 1, node.config.eligibility, now=node.clock())
    node.tick_after(31)
    node.work()
    runs = [(job.run, job.series_id) for job in node.rows(jobs_table)]
    assert len(runs) == 2
    node.accept(ct(1, series="1.2.2", PatientID="P-2"), ct(11, series="1.2.1"))
    for _ in range(10):
        node.tick_after(31)
    assert {row.state for row in node.rows(series_table)} == {"failed"}
    assert [(job.run, job.series_id) for job in node.rows(jobs_table)] == runs


def test_a_localizer_of_such_a_study_is_refused_and_waits_for_nobody(node: Made) -> None:
    localizer = ct(1, series="1.2.2", PatientID="P-2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    node.accept(ct(1, series="1.2.1"), localizer)
    node.tick_after(31)
    assert [row.state for row in node.rows(series_table)] == ["failed", "refused"]


@pytest.mark.parametrize(("sop_class", "state"), [(uid.XRayRadiationDoseSRStorage, "complete"), (CT, "failed")])
def test_an_object_that_names_nobody_is_no_second_patient_but_an_image_of_a_head_is(
    node: Made, sop_class: str, state: str
) -> None:
    nobody = dict.fromkeys(("PatientID", "PatientName", "PatientBirthDate"), "")
    node.accept(ct(1, series="1.2.1"), ct(2, series="1.2.2", SOPClassUID=sop_class, **nobody))
    node.tick_after(31)
    assert node.rows(series_table)[0].state == state


def test_a_patient_who_is_corrected_series_by_series_is_not_two(node: Made) -> None:
    node.accept(ct(1, series="1.2.1"), ct(1, series="1.2.2"), ct(2, series="1.2.2"))
    node.tick_after(31)
    node.arrivals.tick()
    states = [row.state for row in node.rows(series_table)]
    node.clock.advance(3600)
    node.accept(ct(1, series="1.2.1", PatientID="P-2"))
    node.tick_after(25)
    node.accept(ct(1, series="1.2.2", PatientID="P-2"))
    node.tick_after(10)  # quiet for long enough by itself, while the other still comes
    node.accept(ct(2, series="1.2.2", PatientID="P-2"))
    node.tick_after(31)
    node.arrivals.tick()
    assert sorted(row.state for row in node.rows(series_table)) == sorted(states) == ["complete", "not chosen"]


def test_one_patient_whose_name_was_corrected_in_one_series_is_one_patient(node: Made) -> None:
    node.accept(ct(1, series="1.2.1"), ct(1, series="1.2.2", PatientName="Doe^Janet"))
    node.tick_after(31)
    node.arrivals.tick()
    assert [row.state for row in node.rows(series_table)] == ["complete", "not chosen"]
