"""When the chosen series of a scan gives no result, or no longer: what comes of the others, and of what was said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made import FakeClassifier, Made, changed, head_series, made_node, peer
from pydicom.dataset import Dataset
from working import complete, delivered, no_head, report, work

from dicom_node.administering import forgetting
from dicom_node.administering.forgetting import Whom
from dicom_node.report import readback, text
from dicom_node.store import jobs
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import objects
from dicom_node.store.tables import series as series_table


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
