"""The worker: what it makes of a series, of what arrives late, and of what is corrected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made import STUDY, FakeClassifier, Made, changed, grey_series, head_series, made_node, peer
from working import complete, delivered, no_head, report, work

from dicom_node.administering.retrying import retry
from dicom_node.config import Model
from dicom_node.delivering import otherclass
from dicom_node.report import readback, sr, text
from dicom_node.store import jobs, outbox, series
from dicom_node.store.tables import deliveries, instances, objects, slice_results
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import series as series_table
from dtvit.findings import Outcome, SeriesFindings


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


def test_a_quiet_head_of_which_fewer_images_came_than_a_pacs_announced_is_not_called_absent(node: Made) -> None:
    complete(node)
    with node.database.write() as connection:
        connection.execute(series_table.update().values(whole=False))  # as where the announced count was not reached
    work(node, FakeClassifier(0.02))
    (job,) = node.rows(jobs_table)
    assert (job.outcome, job.reason) == ("undetermined", "the series is not known to be complete")
    assert "Reason: the series is not known to be complete" in " ".join(text.render(report(node)).split())


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
    copy = otherclass.in_other_class(report(node), sr.SR_CLASSES[2], {}).stored_in(node.spool)
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
