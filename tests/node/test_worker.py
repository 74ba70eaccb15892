"""The worker: what it makes of a series, and what happens when something fails or it dies."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from made import SERIES, STUDY, FakeClassifier, Made, changed, grey_series, head_series, made_node, peer
from pydicom.dataset import Dataset

from dicom_node.administering import forgetting
from dicom_node.administering.forgetting import Whom
from dicom_node.administering.retrying import retry
from dicom_node.config import Model
from dicom_node.delivering import reporting, spooled
from dicom_node.errors import ModelFailed
from dicom_node.report import readback, sr, text
from dicom_node.store import jobs, outbox, series
from dicom_node.store.tables import deliveries, instances, objects, slice_results
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import series as series_table
from dicom_node.working import signs
from dtvit.findings import Outcome, SeriesFindings


class Killed(BaseException):
    """The process ends here: nothing behind this line runs."""


def complete(node: Made, datasets: list[Dataset] | None = None) -> list[Dataset]:
    datasets = head_series() if datasets is None else datasets
    assert set(node.accept(*datasets)) == {0}
    node.tick_after(31)
    return datasets


def work(node: Made, classifier: Any = None, *, limit: int = 200) -> None:
    worker = node.worker(classifier)
    for _ in range(limit):
        if not worker.step():
            return
        node.clock.advance(1.0)
    raise AssertionError(f"still at work after {limit} steps")


def report(node: Made, number: int = -1) -> pydicom.Dataset:
    return pydicom.dcmread(node.spool.path(node.rows(objects)[number].file))


def no_head() -> list[Dataset]:
    return grey_series(10, PatientID="SYN-0001")


def test_slices_are_classified_while_their_series_still_arrives(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104)], model=Model(brace_removal="paper"))
    node.accept(*head_series())
    classifier = FakeClassifier()
    work(node, classifier)
    assert len(node.rows(slice_results)) == len(head_series()) == sum(classifier.asked)
    assert node.rows(jobs_table) == []
    node.tick_after(31)
    work(node, classifier)
    assert sum(classifier.asked) == len(head_series())  # none a second time
    assert [job.state for job in node.rows(jobs_table)] == ["reported"]


def test_slices_that_arrive_are_classified_window_after_window_until_something_goes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = made_node(tmp_path, peers=[peer(104)], model=Model(brace_removal="paper", batch=1))
    node.accept(*head_series())
    worker = node.worker()
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(jobs, "is_due", lambda *_, **__: len(node.rows(slice_results)) > 2)
        worker._classifying.next_slices(None, lambda: None, at_most=jobs.BACKLOG)
        assert len(node.rows(slice_results)) == 3
    with monkeypatch.context() as nothing_else:
        nothing_else.setattr(jobs, "is_due", lambda *_, **__: False)
        worker._classifying.next_slices(None, lambda: None, at_most=jobs.BACKLOG)
    assert len(node.rows(slice_results)) == len(head_series())
    assert {row.tries for row in node.rows(instances)} == {1}


def test_old_slices_that_go_on_arriving_do_not_hold_up_the_job_of_an_old_series(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104)], model=Model(brace_removal="paper", batch=1))
    old = {"StudyDate": "20100101", "SeriesDate": "20100101", "AcquisitionDate": "20100101", "ContentDate": "20100101"}
    node.accept(*head_series(**old))
    node.clock.advance(25.0)
    node.accept(*head_series(study="1.2.4", series="1.2.4.1", PatientID="SYN-0002", **old))
    worker = node.worker(Completing(node, of=3))
    while worker.step() and not node.rows(objects):
        pass
    assert [(job.priority, job.state) for job in node.rows(jobs_table)] == [(jobs.BACKLOG, "reported")]
    of_second = [row for row in node.rows(slice_results) if row.instance_id > len(head_series())]
    assert not of_second, "slices that only arrive went before the job"


class Completing(FakeClassifier):
    """With the slice `of`, the series that has been silent for long enough becomes whole."""

    def __init__(self, node: Made, *, of: int) -> None:
        super().__init__()
        self._node, self._of = node, of

    def predict(self, inputs: Any) -> Any:
        if sum(self.asked) == self._of:
            self._node.tick_after(6.0)
        return super().predict(inputs)


def test_a_positive_series_ends_with_its_report_in_the_outbox(node: Made) -> None:
    complete(node)
    work(node)
    job = node.rows(jobs_table)[0]
    assert (job.state, job.outcome, job.tries) == ("reported", "present", 1)
    assert job.findings["location"] == "deep"
    made, owed = node.rows(objects)[0], node.rows(deliveries)
    assert [(d.destination, d.state) for d in owed] == [("PACS1", "waiting")]
    parsed = readback.parse(report(node))
    assert parsed.outcome == "present"
    assert "precision = fp32" in str(report(node))
    assert made.sop_instance_uid == str(report(node).SOPInstanceUID)


def test_a_whole_head_without_blood_is_absent_and_with_a_hole_undetermined(tmp_path: Path) -> None:
    for name, leave_out, outcome in (("whole", None, "absent"), ("hole", 9, "undetermined")):
        node = made_node(tmp_path / name)
        complete(node, [ds for ds in head_series() if ds.InstanceNumber != leave_out])
        work(node, FakeClassifier(0.01))
        assert node.rows(jobs_table)[0].outcome == outcome


def test_a_reader_is_told_that_the_images_were_lossy_and_absent_stays_absent(node: Made) -> None:
    told = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "10"}
    complete(node, head_series(**told))
    work(node, FakeClassifier(0.01))
    count = len(head_series())
    said = f"{count} of {count} images were lossily compressed (ratio 10)"
    assert node.rows(jobs_table)[0].outcome == "absent"
    assert f"Limits: {said}." in readback.parse(report(node)).conclusion
    kept = SeriesFindings.from_json(node.rows(jobs_table)[0].findings)
    assert kept.limits == (said,)  # of which picture and key objects are made


def test_a_reader_is_told_that_the_patient_is_a_child(node: Made) -> None:
    complete(node, head_series(PatientAge="011Y"))
    work(node, FakeClassifier(0.01))
    said = "Limits: the patient is under 18 years old, and the model was not assessed on children."
    assert said in readback.parse(report(node)).conclusion
    assert node.rows(jobs_table)[0].outcome == "absent"


def test_without_a_destination_a_report_is_delivered_as_soon_as_it_is_made(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    complete(node)
    work(node)
    assert node.rows(jobs_table)[0].state == "delivered"


def test_what_is_no_head_is_refused_and_nothing_is_sent(node: Made) -> None:
    complete(node, no_head())
    work(node)
    job = node.rows(jobs_table)[0]
    assert job.state == "refused"
    assert "not a head" in job.reason
    assert node.rows(objects) == []


def test_a_refusal_by_content_tells_what_was_not_looked_at(node: Made) -> None:
    bone = [changed(ds, ConvolutionKernel="BONE") if ds.InstanceNumber > 12 else ds for ds in head_series()]
    complete(node, bone)
    work(node)
    reason = node.rows(jobs_table)[0].reason
    assert "not a head by content" in reason
    assert reason.endswith("; 10 of 22 images were not looked at: not a soft-tissue kernel: BONE")


def test_when_the_chosen_series_is_no_head_one_that_was_passed_over_is_judged(node: Made) -> None:
    thin = head_series(series="1.2.3.2", SliceThickness="2", SeriesNumber=3)
    node.accept(*no_head(), *thin)
    node.tick_after(31)
    node.arrivals.tick()
    assert [s.state for s in node.rows(series_table)] == ["complete", "not chosen"]
    work(node)
    node.tick_after(5)
    node.tick_after(1)
    work(node)
    assert [(job.series_id, job.state) for job in node.rows(jobs_table)] == [(1, "refused"), (2, "reported")]


def delivered(node: Made) -> None:
    """The stand-in for a sender: PACS1 takes all that it is owed."""
    with node.database.write() as connection:
        for delivery in outbox.due(connection, "PACS1", now=node.clock(), longest_wait_s=3600.0):
            outbox.delivered(connection, delivery, 0, now=node.clock())


CORRECTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "by header": ({"ContrastBolusAgent": "OMNIPAQUE"}, "contrast agent given"),
    "by thickness": ({"SliceThickness": "12"}, "slices are 12 mm thick"),
    "by content": ({"RescaleIntercept": "1000"}, "its values are about 1024 HU too high"),
}


@pytest.mark.parametrize(("values", "reason"), CORRECTIONS.values(), ids=CORRECTIONS)
def test_what_was_said_of_a_series_that_is_refused_after_a_correction_does_not_go_on_standing(
    node: Made, values: dict[str, Any], reason: str
) -> None:
    complete(node)
    work(node, FakeClassifier(0.02))
    delivered(node)
    complete(node, [changed(ds, **values) for ds in head_series()])
    node.tick_after(100)
    work(node, FakeClassifier(0.02))
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [
        ("delivered", "absent"),
        ("refused", "not evaluated"),
    ]
    assert reason in node.rows(jobs_table)[1].reason
    ds = report(node)
    assert ds.SeriesDescription == "AI v2: NOT EVALUATED"
    replaced = ds.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert replaced.ReferencedSOPInstanceUID == node.rows(objects)[0].sop_instance_uid
    assert f"Reason: {reason}" in " ".join(text.render(ds).split())
    delivered(node)
    complete(node, [changed(ds, **values, StudyID="78") for ds in head_series()])  # it is said once
    node.tick_after(100)
    work(node)
    assert len(node.rows(objects)) == 2


def test_a_correction_that_goes_on_coming_is_waited_for_before_the_result_is_taken_back(node: Made) -> None:
    complete(node)
    work(node)
    delivered(node)
    corrected = [changed(ds, ContrastBolusAgent="OMNIPAQUE") for ds in head_series()]
    node.accept(*corrected)
    node.clock.advance(100)
    node.accept(changed(corrected[0], StudyID="78"))
    node.tick_after(3)
    assert [s.state for s in node.rows(series_table)] == ["receiving"]
    node.tick_after(31)
    assert [s.state for s in node.rows(series_table)] == ["complete"]


def test_of_a_series_whose_result_was_withdrawn_or_sent_to_nobody_a_refusal_is_told_to_nobody(tmp_path: Path) -> None:
    for folder, peers in (("alone", ()), ("withdrawn", [peer(104)])):
        node = made_node(tmp_path / folder, peers=peers)
        complete(node)
        work(node)
        delivered(node)
        if peers:
            with node.database.write() as connection:
                jobs.withdraw(connection, 1, reason="a test", now=node.clock())
        complete(node, [changed(ds, ContrastBolusAgent="OMNIPAQUE") for ds in head_series()])
        node.tick_after(100)
        work(node)
        assert [s.state for s in node.rows(series_table)] == ["refused"]
        assert len(node.rows(objects)) == 1


def test_where_a_correction_refuses_the_chosen_series_one_that_was_passed_over_gives_the_result(node: Made) -> None:
    complete(node)
    work(node)
    delivered(node)
    node.accept(*head_series(series="1.2.3.2", SliceThickness="2", SeriesNumber=3))
    node.tick_after(31)
    assert [s.state for s in node.rows(series_table)] == ["complete", "not chosen"]
    complete(node, [changed(ds, ContrastBolusAgent="OMNIPAQUE") for ds in head_series()])
    node.tick_after(100)
    work(node)
    node.tick_after(5)
    node.tick_after(1)
    work(node)
    assert [(job.series_id, job.state) for job in node.rows(jobs_table)] == [
        (1, "delivered"),
        (1, "refused"),
        (2, "reported"),
    ]


def test_that_holds_too_where_nobody_was_told_of_the_result(tmp_path: Path) -> None:
    """As of "absent" where only positive results go: else nothing would ever be said of the scan."""
    node = made_node(tmp_path, peers=[peer(104, only_positive=True)])
    complete(node)
    work(node, FakeClassifier(0.02))
    node.accept(*head_series(series="1.2.3.2", SliceThickness="2", SeriesNumber=3))
    node.tick_after(31)
    assert [s.state for s in node.rows(series_table)] == ["complete", "not chosen"]
    node.accept(*[changed(ds, ContrastBolusAgent="OMNIPAQUE") for ds in head_series()])
    node.tick_after(100)
    node.tick_after(5)
    node.tick_after(1)
    work(node)
    assert [s.state for s in node.rows(series_table)] == ["refused", "complete"]
    assert [(job.series_id, job.outcome) for job in node.rows(jobs_table)] == [(1, "absent"), (2, "present")]


def unreadable(**given: Any) -> list[Dataset]:
    """Whole by its headers, and none of its pixels can be decoded."""
    given = {"SliceThickness": "5"} | given
    return [changed(ds, BitsAllocated=12, BitsStored=12, HighBit=11) for ds in head_series(**given)]


THIN = {"series": "1.2.3.2", "SliceThickness": "2", "SeriesNumber": 3}


def goes_on(node: Made) -> None:
    """Until each choice has been asked for again, and what came of it is done."""
    for _ in range(3):
        node.tick_after(5)
        node.tick_after(1)
        work(node)


@pytest.fixture
def left_to_another(node: Made) -> Made:
    """A node with two series of one scan: none of the first could be evaluated, and the second gave the result."""
    node.accept(*unreadable(), *head_series(**THIN))
    node.tick_after(31)
    node.arrivals.tick()
    assert [s.state for s in node.rows(series_table)] == ["complete", "not chosen"]
    work(node)
    goes_on(node)
    return node


def test_when_nothing_of_the_chosen_series_can_be_evaluated_one_that_was_passed_over_is_judged(
    left_to_another: Made,
) -> None:
    assert [(job.series_id, job.state, job.outcome) for job in left_to_another.rows(jobs_table)] == [
        (1, "refused", None),
        (2, "reported", "present"),
    ]
    assert "another series of the study" in left_to_another.rows(jobs_table)[0].reason
    assert left_to_another.rows(series_table)[0].reason == (
        "none of its images could be evaluated; series 2 gives the scan's result; to have this one reported: "
        "dicom-node retry 1"
    )
    assert [s.state for s in left_to_another.rows(series_table)] == ["not chosen", "complete"]


def test_if_that_one_is_forgotten_what_could_not_be_evaluated_is_said(left_to_another: Made) -> None:
    node = left_to_another
    node.accept(*[changed(ds, PatientID="P-2") for ds in head_series(**THIN)])
    forgetting.erase(node.database, node.spool, Whom(patient_id="P-2"), now=node.clock())
    goes_on(node)
    assert [(job.series_id, job.state, job.outcome) for job in node.rows(jobs_table)] == [
        (1, "refused", None),
        (1, "reported", "not evaluated"),
    ]


def test_if_a_correction_refuses_that_one_what_could_not_be_evaluated_is_said(left_to_another: Made) -> None:
    node = left_to_another
    node.accept(*[changed(ds, ContrastBolusAgent="OMNIPAQUE") for ds in head_series(**THIN)])
    node.tick_after(100)
    work(node)
    goes_on(node)
    assert [(job.series_id, job.state, job.outcome) for job in node.rows(jobs_table)][2:] == [
        (2, "refused", "not evaluated"),
        (1, "reported", "not evaluated"),
    ]


def test_if_that_one_goes_to_another_study_a_person_is_told(left_to_another: Made) -> None:
    node = left_to_another
    node.accept(*[changed(ds, StudyInstanceUID="1.2.3.9") for ds in head_series(**THIN)])
    node.tick_after(5)
    left = node.rows(series_table)[0]
    assert left.state == "failed"
    assert left.reason.startswith("series 2, chosen in its place, belongs to another study now.")


def test_a_late_slice_gives_a_series_that_could_not_be_evaluated_another_chance_if_the_scan_has_no_result(
    left_to_another: Made,
) -> None:
    node = left_to_another
    with node.database.write() as connection:
        connection.execute(jobs_table.update().where(jobs_table.c.id == 2).values(outcome="not evaluated"))
    goes_on(node)
    assert [s.state for s in node.rows(series_table)] == ["not chosen", "complete"]  # the scan was told of once
    node.accept(changed(unreadable()[0], SOPInstanceUID="1.2.3.1.99"))
    node.tick_after(100)
    work(node)
    assert [(job.series_id, job.run) for job in node.rows(jobs_table)] == [(1, 1), (2, 1), (1, 2)]


def test_of_three_series_the_only_one_that_can_be_evaluated_gives_the_result(node: Made) -> None:
    other = {"series": "1.2.3.3", "SliceThickness": "3", "SeriesNumber": 4}
    node.accept(*unreadable(), *unreadable(**other), *head_series(**THIN))
    node.tick_after(31)
    node.arrivals.tick()
    work(node)
    for _ in range(2):
        goes_on(node)
    assert [(job.series_id, job.run, job.state) for job in node.rows(jobs_table)] == [
        (1, 1, "refused"),
        (2, 1, "refused"),
        (3, 1, "reported"),
    ]
    assert [s.state for s in node.rows(series_table)] == ["not chosen", "not chosen", "complete"]


def test_nothing_is_left_to_a_series_whose_scan_had_its_result(node: Made) -> None:
    """What it was passed over for was deleted by its age: it is not judged again."""
    node.accept(*unreadable(), *head_series(**THIN))
    node.tick_after(31)
    node.arrivals.tick()
    with node.database.write() as connection:
        connection.execute(series_table.update().values(passed_over_for=None))
    work(node)
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("reported", "not evaluated")]


def test_a_series_that_gets_another_image_while_it_is_left_to_another_is_judged_with_it(node: Made) -> None:
    node.accept(*unreadable(), *head_series(**THIN))
    node.tick_after(31)
    node.arrivals.tick()
    node.accept(changed(unreadable()[0], SOPInstanceUID="1.2.3.1.99"))
    work(node)
    assert [s.state for s in node.rows(series_table)] == ["receiving", "not chosen"]


def test_what_was_found_in_the_chosen_series_is_reported_whatever_was_passed_over(node: Made) -> None:
    node.accept(*head_series(SliceThickness="5"), *head_series(series="1.2.3.2", SliceThickness="2", SeriesNumber=3))
    node.tick_after(31)
    node.arrivals.tick()
    assert [s.state for s in node.rows(series_table)] == ["complete", "not chosen"]
    work(node)
    assert [(job.series_id, job.state, job.outcome) for job in node.rows(jobs_table)] == [(1, "reported", "present")]


def test_a_result_that_holds_no_longer_is_superseded_though_another_series_was_passed_over(node: Made) -> None:
    node.accept(*head_series(SliceThickness="5"), *head_series(series="1.2.3.2", SliceThickness="2", SeriesNumber=3))
    node.tick_after(31)
    node.arrivals.tick()
    work(node)
    delivered(node)
    complete(node, unreadable())
    node.tick_after(100)
    work(node)
    assert [(job.series_id, job.state, job.outcome) for job in node.rows(jobs_table)] == [
        (1, "delivered", "present"),
        (1, "reported", "not evaluated"),
    ]


def test_a_study_of_which_nothing_can_be_evaluated_is_told_so_once(node: Made) -> None:
    node.accept(*unreadable(), *unreadable(series="1.2.3.2", SliceThickness="2", SeriesNumber=3))
    node.tick_after(31)
    node.arrivals.tick()
    for _ in range(3):
        work(node)
        node.tick_after(31)
    assert [(job.series_id, job.state) for job in node.rows(jobs_table)] == [(1, "refused"), (2, "reported")]
    assert readback.parse(report(node)).outcome == "not evaluated"


def test_a_series_that_comes_after_one_of_which_nothing_could_be_evaluated_gets_a_result(node: Made) -> None:
    complete(node, unreadable())
    work(node)
    complete(node, head_series(series="1.2.3.2", SliceThickness="2", SeriesNumber=3))
    work(node)
    assert [job.outcome for job in node.rows(jobs_table)] == ["not evaluated", "present"]


def test_a_failing_model_leads_to_not_evaluated_after_the_last_try(node: Made) -> None:
    def fails(_: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    complete(node)
    died = 0
    for _ in range(10):
        try:
            if not node.worker(FakeClassifier(fails=fails)).step():
                break
        except ModelFailed:
            died += 1
        node.clock.advance(400)
    job = node.rows(jobs_table)[0]
    assert died == 3
    assert (job.state, job.outcome) == ("failed", "not evaluated")
    told = readback.parse(report(node))
    assert (told.outcome, told.partial_because) == ("not evaluated", "no image could be evaluated")
    assert node.rows(slice_results) == []  # a fault of the model is no fault of a slice
    assert {i.tries for i in node.rows(instances)} == {0}
    assert len(node.rows(deliveries)) == 1


def test_a_model_that_recovers_evaluates_every_slice(node: Made) -> None:
    failures = iter([True, True])

    def fails(_: int) -> None:
        if next(failures, False):
            raise RuntimeError("out of memory")

    complete(node)
    classifier = FakeClassifier(fails=fails)
    for _ in range(2):
        with pytest.raises(ModelFailed):
            node.worker(classifier).step()
        node.clock.advance(400)
    work(node, classifier)
    job = node.rows(jobs_table)[0]
    assert (job.state, job.outcome) == ("reported", "present")
    assert [r.left_out for r in node.rows(slice_results) if r.left_out] == []


@pytest.mark.parametrize("which", ["presence", "location"])
def test_a_probability_that_is_no_number_is_never_reported(node: Made, which: str) -> None:
    class Once(FakeClassifier):
        """Of the first slice alone."""

        def predict(self, inputs: Any) -> Any:
            found = super().predict(inputs)
            getattr(found, which)[0] = float("nan")
            return found

    complete(node)
    with pytest.raises(ModelFailed):
        node.worker(Once()).step()
    assert node.rows(slice_results) == []
    assert node.rows(objects) == []


def dying_at(node: Made, monkeypatch: pytest.MonkeyPatch, *poison: str) -> None:
    """Whoever reads these files dies of it, as of a decoder that crashes."""
    read = node.spool.read

    def reads(name: str) -> bytes:
        if name in poison:
            raise Killed
        return read(name)

    monkeypatch.setattr(node.spool, "read", reads)


def restart_until_idle(node: Made, classifier: Any = None) -> int:
    """As the supervisor does: a new worker for each that dies; returns how many died."""
    died = 0
    for number in range(40):
        try:
            while node.worker(classifier, owner=f"worker-{number}").step():
                node.clock.advance(1.0)
        except Killed:
            died += 1
            with node.database.write() as connection:
                jobs.free(connection, owner=f"worker-{number}", now=node.clock())
            node.clock.advance(1.0)
        else:
            return died
    raise AssertionError("it dies for ever")


def test_a_slice_that_kills_the_worker_twice_is_left_out_and_the_others_get_through(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(node)
    dying_at(node, monkeypatch, node.rows(instances)[9].file)
    assert restart_until_idle(node) == 2
    left_out = [r for r in node.rows(slice_results) if r.left_out]
    assert [r.instance_id for r in left_out] == [10]
    job = node.rows(jobs_table)[0]
    assert (job.state, job.outcome) == ("reported", "present")
    assert "left out" in job.reason


def test_several_such_slices_do_not_cost_the_series(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(node)
    dying_at(node, monkeypatch, *(node.rows(instances)[n].file for n in (6, 9, 11, 12, 13)))
    restart_until_idle(node)
    assert [r.instance_id for r in node.rows(slice_results) if r.left_out] == [7, 10, 12, 13, 14]
    assert node.rows(jobs_table)[0].state == "reported"


def test_retry_looks_again_at_what_was_left_out(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(node)
    with monkeypatch.context() as patch:
        dying_at(node, patch, node.rows(instances)[9].file)
        restart_until_idle(node)
    with node.database.write() as connection:
        series.receive_again(connection, 1, now=node.clock(), why="by command", forced=True)
    node.tick_after(31)
    work(node)
    assert [r for r in node.rows(slice_results) if r.left_out] == []
    assert [job.state for job in node.rows(jobs_table)] == ["reported", "reported"]


def test_a_file_lost_from_the_spool_costs_its_slice_alone(node: Made) -> None:
    complete(node)
    lost = node.rows(instances)[8]
    node.spool.remove(lost.file)
    work(node, FakeClassifier(0.01))
    result = next(r for r in node.rows(slice_results) if r.instance_id == lost.id)
    assert result.left_out == "its file is missing from the spool"
    assert [(job.state, job.outcome, job.reason) for job in node.rows(jobs_table)] == [
        ("reported", "undetermined", "1 slice inside the brain left out")
    ]
    assert str(lost.sop_instance_uid) in str(report(node))
    (left_out,) = [one for one in node.rows(jobs_table)[0].findings["slices"] if one["left_out"] == result.left_out]
    assert left_out["instance_number"] == head_series()[8].InstanceNumber  # by which a reader finds it


def test_a_series_whose_files_are_all_gone_fails_at_once_and_says_what_to_do(node: Made) -> None:
    complete(node)
    for one in node.rows(instances):
        node.spool.remove(one.file)
    work(node, FakeClassifier(0.01))
    assert [(job.state, job.tries, job.reason) for job in node.rows(jobs_table)] == [
        ("failed", 1, "every image of it is gone from the spool, or damaged; send it again, then: dicom-node retry 1")
    ]


def test_a_series_whose_images_all_went_to_another_says_so_and_leaves_the_result_to_that_one(node: Made) -> None:
    """A correction gave them another Series Instance UID; the run that was to supersede the result has none left."""
    complete(node)
    work(node)
    delivered(node)
    with node.database.write() as connection:
        one = series.get(connection, 1)
        assert one is not None
        retry(connection, one, node.config.eligibility, again=True, keep=None, now=node.clock())
    node.accept(*[changed(ds, SeriesInstanceUID="1.2.3.2") for ds in head_series()])
    for _ in range(3):
        node.tick_after(100)
        work(node)
    assert [(job.series_id, job.run, job.state) for job in node.rows(jobs_table)] == [
        (1, 1, "delivered"),
        (1, 2, "failed"),
        (2, 1, "reported"),
    ]
    assert node.rows(jobs_table)[1].reason == (
        "all its images came again in other series; to take back what was reported of it: dicom-node withdraw 1"
    )


def test_a_series_waits_for_a_spool_that_is_away(node: Made) -> None:
    node.accept(*head_series())
    work(node, FakeClassifier(0.01))  # each slice has its result, before the disk goes
    away = node.spool.folder.rename(node.spool.folder.with_name("away"))
    node.tick_after(31)
    work(node, FakeClassifier(0.01))
    assert node.rows(jobs_table)[0].state == "ready"
    away.rename(node.spool.folder)
    node.clock.advance(3600)
    work(node, FakeClassifier(0.01))
    assert node.rows(jobs_table)[0].state == "reported"


def test_a_file_on_a_bad_sector_costs_its_slice_alone(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(node)
    bad, read = node.spool.path(node.rows(instances)[8].file), Path.read_bytes

    def reads(path: Path) -> bytes:
        if path == bad:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", reads)
    work(node, FakeClassifier(0.01))
    assert [r.left_out for r in node.rows(slice_results) if r.instance_id == 9] == ["the disk cannot read its file"]
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("reported", "undetermined")]


@pytest.mark.parametrize("classified", [False, True])
def test_a_series_waits_for_a_disk_that_fails(node: Made, monkeypatch: pytest.MonkeyPatch, classified: bool) -> None:
    """No report must say NOT EVALUATED of a head because a cable was loose."""

    def fails(*_: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    node.accept(*head_series())
    if classified:
        work(node, FakeClassifier(0.01))
    node.tick_after(31)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fails)
        patch.setattr(Path, "read_bytes", fails)
        patch.setattr("pydicom.filereader.open", fails, raising=False)
        worker = node.worker(FakeClassifier(0.01))
        for _ in range(20):
            worker.step()
            node.clock.advance(10)
    assert [job.state for job in node.rows(jobs_table)] == ["ready"]
    assert [row.left_out for row in node.rows(slice_results) if row.left_out] == []
    work(node, FakeClassifier(0.01))
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("reported", "absent")]


@pytest.mark.parametrize("content", [b"", b"no longer what it was" * 100])
def test_a_file_damaged_in_the_spool_costs_its_slice_alone(node: Made, content: bytes) -> None:
    complete(node)
    damaged = node.rows(instances)[8]
    node.spool.path(damaged.file).write_bytes(content)
    work(node, FakeClassifier(0.01))
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("reported", "undetermined")]
    assert str(damaged.sop_instance_uid) in str(report(node))


def test_a_spool_that_is_not_there_makes_the_job_wait_and_costs_no_try(node: Made) -> None:
    complete(node)
    away = node.spool.folder.with_name("away")
    node.spool.folder.rename(away)
    worker = node.worker()
    for _ in range(5):
        assert worker.step()
        node.clock.advance(10)
    job = node.rows(jobs_table)[0]
    assert (job.state, job.tries) == ("ready", 0)
    assert node.rows(slice_results) == []
    away.rename(node.spool.folder)
    work(node)
    assert node.rows(jobs_table)[0].state == "reported"


def test_a_job_whose_report_cannot_be_made_ends_and_says_so(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        raise KeyError("DOE^JANE")

    complete(node)
    monkeypatch.setattr(sr, "build", breaks)
    worker = node.worker()
    for _ in range(10):
        worker.step()
        node.clock.advance(400)
    job = node.rows(jobs_table)[0]
    assert (job.state, job.outcome) == ("failed", None)
    assert "No report could be made" in job.reason
    assert "DOE" not in json.dumps([job.reason])
    assert worker.step() is False


def test_a_job_of_which_each_report_ends_the_worker_holds_up_no_other(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(node)
    headers = spooled.headers

    def killing(of: list[series.Instance], *rest: Any) -> Any:
        if of[0].series_id == 1:
            raise Killed
        return headers(of, *rest)

    monkeypatch.setattr(spooled, "headers", killing)
    complete(node, head_series(study=f"{STUDY}1", series=f"{SERIES}1"))
    assert restart_until_idle(node) == 5  # three tries, and two to say that they failed
    first, other = node.rows(jobs_table)
    assert (first.state, other.state) == ("failed", "reported")
    assert "No report could be made" in first.reason


def test_a_worker_that_lost_its_lease_writes_nothing(node: Made) -> None:
    complete(node)

    def another_takes_over(_: int) -> None:
        node.clock.advance(61)
        with node.database.write() as connection:
            assert jobs.claim(connection, owner="worker-2", now=node.clock(), lease_s=60) is not None

    node.worker(FakeClassifier(fails=another_takes_over)).step()
    job = node.rows(jobs_table)[0]
    assert (job.state, job.lease_owner, job.outcome) == ("running", "worker-2", None)
    assert node.rows(objects) == []


def test_a_report_and_the_end_of_its_job_are_one_transaction(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from dicom_node.store import outbox

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    complete(node)
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "put", dies)
        with pytest.raises(Killed):
            work(node)
    assert node.rows(jobs_table)[0].state == "running"
    assert node.rows(objects) == []
    node.clock.advance(61)
    work(node)
    assert [job.state for job in node.rows(jobs_table)] == ["reported"]
    assert len(node.rows(objects)) == 1


def test_a_late_slice_makes_a_report_that_supersedes_the_first(node: Made) -> None:
    slices = head_series()
    complete(node, slices[:-1])
    work(node)
    node.accept(slices[-1])
    node.tick_after(100)
    work(node)
    first, second = (report(node, n) for n in (0, 1))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    named = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert [job.run for job in node.rows(jobs_table)] == [1, 2]


def test_a_report_replaces_the_one_built_first_and_no_copy_of_it_in_another_class(node: Made) -> None:
    slices = head_series()
    complete(node, slices[:-1])
    work(node)
    first = node.rows(objects)[0]
    copy = reporting.stored(reporting.in_other_class(report(node), sr.SR_CLASSES[2], {}), node.spool)
    with node.database.write() as connection:
        outbox.put(connection, first.job_id, [copy], ["OTHER"], now=node.clock())
    node.accept(slices[-1])
    node.tick_after(100)
    work(node)
    assert readback.parse(report(node, 2)).predecessor == first.sop_instance_uid


def test_a_slice_that_arrives_during_the_run_does_no_harm(node: Made) -> None:
    slices = head_series()
    late = iter(slices[-1:])

    def one_more(_: int) -> None:
        node.accept(*[ds for ds in [next(late, None)] if ds is not None])

    complete(node, slices[:-1])
    work(node, FakeClassifier(fails=one_more))
    job = node.rows(jobs_table)[0]
    assert (job.state, job.tries) == ("reported", 1)
    assert len(job.findings["slices"]) == len(slices)


@pytest.mark.parametrize("running", [False, True], ids=["while its job waits", "while it runs"])
def test_what_contradicts_itself_is_not_reported(node: Made, running: bool) -> None:
    slices = head_series()
    other = changed(slices[9], PixelData=slices[9].PixelData[::-1])
    late = iter([other])

    def one_more(_: int) -> None:
        node.accept(*[ds for ds in [next(late, None)] if ds is not None])

    complete(node, slices)
    if running:
        work(node, FakeClassifier(fails=one_more))
    else:
        node.accept(other)
        work(node)
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("cancelled", None)]
    assert [row.state for row in node.rows(series_table)] == ["failed"]
    assert node.rows(objects) == []
    with node.database.write() as connection:
        retry(
            connection, series.get(connection, 1), node.config.eligibility, again=False, keep="first", now=node.clock()
        )
    node.tick_after(100)
    work(node)
    assert [job.state for job in node.rows(jobs_table)] == ["cancelled", "reported"]
    assert len(node.rows(jobs_table)[1].findings["slices"]) == len(slices)


def test_a_header_corrected_during_the_run_is_the_one_reported_on(node: Made) -> None:
    slices = head_series()
    corrected = iter([[changed(ds, PatientName="SYNTHETIC^OTHER") for ds in slices]])

    def correct(_: int) -> None:
        node.accept(*next(corrected, []))

    complete(node, slices)
    work(node, FakeClassifier(fails=correct))
    assert str(report(node).PatientName) == "SYNTHETIC^OTHER"


def test_a_series_belongs_to_the_study_that_it_was_corrected_to(node: Made) -> None:
    """As where a PACS gives a scan without an order the Study Instance UID of the order that it was for."""
    slices, ordered = head_series(), "1.2.3.9"
    complete(node, head_series(study=ordered, series=f"{ordered}.1"))
    complete(node, slices)
    work(node)
    delivered(node)
    node.accept(*[changed(ds, StudyInstanceUID=ordered) for ds in slices])
    node.tick_after(100)
    work(node)
    assert [row.study_uid for row in node.rows(series_table)] == [ordered, ordered]
    first, second = report(node, 1), report(node, 2)
    assert (first.StudyInstanceUID, second.StudyInstanceUID) == (STUDY, ordered)
    (named,) = second.PredecessorDocumentsSequence  # it supersedes the first, also where the study has a result already
    assert named.StudyInstanceUID == STUDY
    assert named.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    node.accept(*grey_series(10, study=ordered, series=f"{ordered}.2", PatientID="P-2"))
    node.tick_after(31)
    assert "two patients" in node.rows(series_table)[2].reason


def test_what_was_passed_over_for_a_series_that_then_goes_to_another_study_waits_for_its_own_correction_or_a_person(
    node: Made, caplog: pytest.LogCaptureFixture
) -> None:
    """A correction comes series by series: until its own, a report of it could be about the wrong patient."""
    complete(node)
    work(node)
    node.accept(*head_series(series="1.2.3.2", SliceThickness="2", SeriesNumber=3))
    node.tick_after(31)
    elsewhere = {"StudyInstanceUID": "1.2.3.9", "PatientID": "SYN-0002"}
    node.accept(*[changed(ds, **elsewhere) for ds in head_series()])
    node.tick_after(5)
    left = node.rows(series_table)[1]
    assert left.state == "failed"
    assert left.reason == (
        "series 1, chosen in its place, belongs to another study now. If this one is right, have it reported: "
        "dicom-node retry 2"
    )
    assert sum(line.startswith("failed series=2") for line in caplog.messages) == 1
    node.accept(*head_series(series="1.2.3.2", SliceThickness="2", SeriesNumber=3, **elsewhere))
    node.tick_after(100)
    assert [(row.state, row.study_uid) for row in node.rows(series_table)] == [
        ("complete", "1.2.3.9"),
        ("not chosen", "1.2.3.9"),
    ]


def test_a_series_that_was_not_the_chosen_one_leaves_the_study_without_a_word(node: Made) -> None:
    complete(node)
    work(node)
    node.accept(
        *head_series(series="1.2.3.2", SliceThickness="2"),
        *grey_series(10, series="1.2.3.3", ImageType="LOCALIZER", PatientID="SYN-0001"),
    )
    node.tick_after(31)
    node.accept(*grey_series(10, series="1.2.3.3", study="1.2.3.9", ImageType="LOCALIZER", PatientID="SYN-0001"))
    assert node.rows(series_table)[1].state == "not chosen"


def test_a_header_that_lies_costs_its_slice_and_no_more(node: Made) -> None:
    slices = head_series()
    slices[9].Rows = 65535
    slices[10].Columns = 65535
    slices[11].BitsAllocated = 12
    complete(node, slices)
    work(node)
    assert [r.instance_id for r in node.rows(slice_results) if r.left_out] == [10, 11, 12]
    assert node.rows(jobs_table)[0].outcome == "present"


def test_a_result_rests_on_slices_of_one_model_alone(node: Made) -> None:
    """As where the file of the checkpoint is replaced while images arrive, and the worker is started again."""
    node.accept(*head_series())
    work(node, FakeClassifier(0.95))
    node.tick_after(31)
    newer = FakeClassifier(0.02)
    newer.checkpoint = replace(newer.checkpoint, digest="e" * 64)
    work(node, newer)
    told = readback.parse(report(node))
    assert told.outcome is Outcome.ABSENT
    assert {s.outcome for s in told.slices} == {Outcome.ABSENT, Outcome.NOT_EVALUATED}
    assert "e" * 64 in text.render(report(node))


def test_a_worker_told_to_stop_gives_the_job_back_without_using_up_a_try(tmp_path: Path) -> None:
    node = made_node(tmp_path, model=Model(batch=4))
    complete(node)
    node.worker(stopping=lambda: True).step()
    job = node.rows(jobs_table)[0]
    assert (job.state, job.tries, job.lease_owner) == ("ready", 0, None)
    assert len(node.rows(slice_results)) == 4


@pytest.mark.parametrize("failed", [False, True])
def test_a_report_that_takes_longer_than_a_lease_costs_the_worker_neither_its_life_nor_its_job(
    node: Made, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    complete(node)
    lease_s = node.config.results.lease_s
    again, came = threading.Event(), threading.Event()
    make = reporting.report

    def long(*given: Any) -> Any:
        for _ in range(8):  # twice a lease
            node.clock.advance(lease_s / 4)
            came.clear()
            again.set()
            assert came.wait(30), "no sign of life"
            with node.database.read() as connection:
                assert not jobs.is_due(connection, now=node.clock(), lease_s=lease_s), "another could take it"
        return make(*given)

    def alive() -> None:
        came.set()

    monkeypatch.setattr(signs, "SIGN_S", 0.01)
    monkeypatch.setattr(reporting, "report", long)
    fails = FakeClassifier(fails=lambda _: (_ for _ in ()).throw(RuntimeError())) if failed else FakeClassifier(0.01)
    worker = node.worker(fails, alive=alive)
    for _ in range(node.config.results.tries + 1):
        with suppress(ModelFailed):
            worker.step()
        if again.is_set():
            break
        node.clock.advance(60)
    (job,) = node.rows(jobs_table)
    assert (job.state, job.outcome) == (("failed", "not evaluated") if failed else ("reported", "absent"))


def test_a_report_that_never_ends_gives_no_signs_of_life_for_ever(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the service ends this worker, and a try is counted."""
    complete(node)
    given: list[float] = []
    silent = threading.Event()

    def never_ends(*_: Any) -> Any:
        while not given or time.monotonic() - given[-1] < 0.5:
            assert time.monotonic() - begun < 60
        silent.set()
        raise RuntimeError

    begun = time.monotonic()
    monkeypatch.setattr(signs, "SIGN_S", 0.01)
    monkeypatch.setattr(signs, "SLOWEST_S", 0.01)
    monkeypatch.setattr(reporting, "report", never_ends)
    node.worker(FakeClassifier(0.01), alive=lambda: given.append(time.monotonic())).step()
    assert silent.is_set()


def test_a_worker_gives_signs_of_life_and_keeps_its_lease_through_a_long_batch(node: Made) -> None:
    signs: list[float] = []
    lease_s = node.config.results.lease_s

    def alive() -> None:
        signs.append(node.clock())
        with node.database.read() as connection:
            assert not jobs.is_due(connection, now=node.clock(), lease_s=lease_s), "another could take it"
        node.clock.advance(lease_s / 6)

    complete(node)
    worker = node.worker(alive=alive)
    worker.step()
    assert len(signs) >= len(head_series())
    assert node.rows(jobs_table)[0].state == "reported"


@pytest.mark.parametrize("queued", [False, True], ids=["came later", "was queued"])
def test_a_report_that_is_made_again_after_an_older_database_came_back_is_no_second_content_of_the_first(
    tmp_path: Path, queued: bool
) -> None:
    """The PACS has the first one under its UID: it would drop the newer, and say that it has it."""

    def last_slice(of: Made) -> None:
        of.accept(slices[-1])
        of.tick_after(100)

    node = made_node(tmp_path, peers=[peer(104)])
    slices = head_series()
    complete(node, slices[:-1])
    work(node, FakeClassifier(0.01))
    if queued:
        last_slice(node)
    backup, live = tmp_path / "backup.sqlite", Path(str(node.database.url.database))
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    if not queued:
        last_slice(node)
    work(node, FakeClassifier(0.01))
    before = report(node)
    node.database.close()
    for of_the_other in live.parent.glob("node.sqlite-*"):
        of_the_other.unlink()
    backup.replace(live)
    restored = made_node(tmp_path, peers=[peer(104)])
    restored.clock.advance(node.clock() - restored.clock() + 60)
    if not queued:
        last_slice(restored)
    work(restored, FakeClassifier(0.01))
    after = report(restored)
    assert (
        readback.parse(after).predecessor
        == readback.parse(before).predecessor
        == str(report(restored, 0).SOPInstanceUID)
    )
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert after.SeriesInstanceUID != before.SeriesInstanceUID
