"""From a received object to a filed instance, and from a quiet series to a job or a refusal."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from made import (
    FakeClassifier,
    Made,
    changed,
    ct,
    encoded,
    grey_series,
    head_series,
    made_node,
    received,
    undeclared,
)
from pydicom import uid
from pydicom.dataset import Dataset

from dicom_node.administering import forgetting
from dicom_node.administering.forgetting import Whom
from dicom_node.administering.retrying import judge_again
from dicom_node.config import Completion
from dicom_node.errors import StoreFull, StoreUnavailable
from dicom_node.status import StoreStatus
from dicom_node.store import database as database_module
from dicom_node.store import jobs, purge, series
from dicom_node.store.tables import instances, slice_results
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import series as series_table


def states(node: Made) -> list[str]:
    return [row.state for row in node.rows(series_table)]


def reason(node: Made, number: int = 1) -> str:
    return str(node.rows(series_table)[number - 1].reason)


def classify(node: Made, presence: float = 0.9) -> None:
    worker = node.worker(FakeClassifier(presence))
    while worker.step():
        node.clock.advance(0.01)


def test_success_means_that_file_and_row_are_there_and_the_bytes_are_those_received(node: Made) -> None:
    got = received(ct(1))
    assert node.acceptor.accept(got) == StoreStatus.SUCCESS
    row = node.rows(instances)[0]
    assert node.spool.read(row.file) == got.meta + got.data_set
    assert row.size == len(got.meta) + len(got.data_set)


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        ({"data_set": b""}, StoreStatus.CANNOT_UNDERSTAND),
        ({"data_set": b"\x00" * 100}, StoreStatus.CANNOT_UNDERSTAND),
        ({"data_set": encoded(ct(1))[:-100]}, StoreStatus.CANNOT_UNDERSTAND),
        ({"sop_instance_uid": "1.2.3.4"}, StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
        ({"sop_instance_uid": "../../x"}, StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
        ({"sop_class_uid": str(uid.MRImageStorage)}, StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
        ({"data_set": encoded(ct(1, PixelData=None))}, StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
    ],
)
def test_what_cannot_be_parsed_or_contradicts_itself_is_refused_and_leaves_no_trace(
    node: Made, damage: dict[str, Any], status: StoreStatus
) -> None:
    assert node.acceptor.accept(received(ct(1), **damage)) == status
    assert node.files() == set()
    assert node.rows(series_table) == []
    assert node.accept(ct(1)) == [0]


def test_hostile_uids_inside_an_object_name_no_file(node: Made) -> None:
    for hostile in ("../../../../tmp/x", "/etc/passwd", "1.2/../../3", "1." + "2" * 70):
        ds = ct(1)
        ds["SOPInstanceUID"].value = hostile
        assert node.acceptor.accept(received(ds, sop_instance_uid=hostile, meta=b"")) == StoreStatus.CANNOT_UNDERSTAND
    assert node.files() == set()


def test_a_full_disk_is_out_of_resources_and_the_node_recovers(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert node.accept(ct(1)) == [StoreStatus.OUT_OF_RESOURCES]
    assert node.rows(instances) == []
    assert node.accept(ct(1)) == [0]


def test_below_the_watermark_an_object_is_out_of_resources(node: Made) -> None:
    node.spool.min_free_mib = 2**40
    assert node.accept(ct(1)) == [StoreStatus.OUT_OF_RESOURCES]
    node.spool.min_free_mib = 0
    assert node.accept(ct(1)) == [0]


def test_a_locked_database_is_out_of_resources_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    node = made_node(tmp_path)
    holder = sqlite3.connect(str(node.database.url.database), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert node.accept(ct(1)) == [StoreStatus.OUT_OF_RESOURCES]
    assert node.files() == set()
    holder.execute("ROLLBACK")
    holder.close()
    assert node.accept(ct(1)) == [0]


@pytest.mark.parametrize(
    ("images", "event"),
    [(grey_series(10), "complete"), (grey_series(2), "refused"), ([ct(1), ct(2, PatientID="P-2")], "failed")],
    ids=["complete", "refused", "failed"],
)
def test_the_log_tells_of_nothing_that_was_not_committed(
    node: Made, images: list[Dataset], event: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A restart would find the series still being received, under a line that says otherwise."""
    caplog.set_level("INFO")
    write = node.database.write

    @contextmanager
    def full() -> Iterator[Any]:
        with write() as connection:
            yield connection
            raise StoreFull("the disk of the database is full")

    node.accept(*images)
    with monkeypatch.context() as patch:
        patch.setattr(node.database, "write", full)
        with pytest.raises(StoreFull):
            node.tick_after(31)
    assert (states(node), caplog.messages) == (["receiving"], [])
    node.tick_after(1)
    assert [line.split()[0] for line in caplog.messages] == [event]


def test_every_storage_class_of_a_study_is_taken_and_recorded(node: Made) -> None:
    document = ct(1, series="1.2.3.1", SOPClassUID=str(uid.XRayRadiationDoseSRStorage), Modality="SR", PixelData=None)
    capture = ct(1, series="1.2.3.2", SOPClassUID=str(uid.SecondaryCaptureImageStorage), Modality="OT")
    assert node.accept(document, capture) == [0, 0]
    node.tick_after(3)
    assert states(node) == ["refused", "refused"]
    assert "SOP class" in reason(node)


def test_a_series_is_judged_only_when_it_is_quiet(node: Made) -> None:
    for ds in grey_series(10):
        node.accept(ds)
        node.tick_after(29)
    assert states(node) == ["receiving"]
    node.tick_after(2)
    assert states(node) == ["complete"]
    row = node.rows(series_table)[0]
    assert (row.rule, row.whole, row.run) == ("silence", True, 1)


def test_a_series_that_covers_the_brain_is_complete_after_a_short_settle(node: Made) -> None:
    node.accept(*head_series())
    classify(node)
    node.tick_after(1)
    assert states(node) == ["receiving"]
    node.tick_after(1.1)
    assert node.rows(series_table)[0].rule == "covered"


def test_an_open_association_of_its_sender_puts_that_off(node: Made) -> None:
    node.accept(*head_series())
    classify(node)
    node.associations_open.add("CT1")
    node.tick_after(5)
    assert states(node) == ["receiving"]
    node.associations_open.clear()
    node.arrivals.tick()
    assert states(node) == ["complete"]


def test_a_series_that_waits_is_not_read_again_until_something_changed(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of thousands of slices would take half a processor, four times a second until it is silent."""
    slices = head_series()
    node.accept(*slices[:9], *slices[10:])
    read, instances_of = [], series.instances_of
    monkeypatch.setattr(series, "instances_of", lambda *given, **more: read.append(1) or instances_of(*given, **more))
    node.tick_after(3)
    for _ in range(5):
        node.tick_after(0.25)
    assert len(read) == 1
    classify(node)
    read.clear()
    node.tick_after(0.25)
    node.tick_after(0.25)
    assert len(read) == 1
    node.accept(slices[9])
    classify(node)
    node.tick_after(2.1)
    assert [row.rule for row in node.rows(series_table)] == ["covered"]


def test_a_series_that_waits_is_read_again_where_a_result_was_made_anew(node: Made) -> None:
    """As of an image that could not be read, and came again: there are as many results as before."""
    node.accept(*head_series())
    classify(node)
    with node.database.write() as connection:
        unread = connection.scalar(sa.select(sa.func.max(slice_results.c.instance_id)))
        of_it = slice_results.c.instance_id == unread
        content = connection.scalar(sa.select(slice_results.c.content).where(of_it))
        connection.execute(
            slice_results.update().where(of_it).values(left_out="x", content={**content, "content": None})
        )
    node.tick_after(3)
    assert states(node) == ["receiving"]
    with node.database.write() as connection:
        connection.execute(slice_results.delete().where(of_it))
    classify(node)
    node.tick_after(0.25)
    assert [row.rule for row in node.rows(series_table)] == ["covered"]


def test_a_hole_waits_for_long_silence(node: Made) -> None:
    slices = head_series()
    node.accept(*slices[:9], *slices[10:])
    classify(node)
    node.tick_after(10)
    assert states(node) == ["receiving"]
    node.tick_after(25)
    assert node.rows(series_table)[0].rule == "silence"


def test_an_announced_count_completes_at_once_and_a_shortfall_is_not_whole(node: Made) -> None:
    node.accept(*grey_series(10))
    with node.database.write() as connection:
        connection.execute(series_table.update().values(expected=10))
    node.tick_after(0.25)
    assert node.rows(series_table)[0].rule == "count"
    node.accept(*grey_series(9, series="1.2.3.2", study="1.2.4"))
    with node.database.write() as connection:
        connection.execute(series_table.update().where(series_table.c.id == 2).values(expected=10))
    node.tick_after(31)
    assert (node.rows(series_table)[1].rule, node.rows(series_table)[1].whole) == ("silence", False)


def test_a_series_that_is_hopeless_by_its_headers_is_refused_soon(node: Made) -> None:
    node.accept(*grey_series(10, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    node.tick_after(2.5)
    assert states(node) == ["refused"]
    assert node.rows(jobs_table) == []


def test_a_localizer_first_in_a_series_does_not_cost_what_follows(node: Made) -> None:
    node.accept(ct(1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    node.tick_after(3)
    assert states(node) == ["refused"]
    node.accept(*grey_series(10)[1:])
    node.tick_after(31)
    assert states(node) == ["complete"]


def test_instances_that_disagree_about_the_patient_are_not_reported(node: Made) -> None:
    slices = grey_series(10)
    slices[4] = changed(slices[4], PatientID="P-2")
    node.accept(*slices)
    node.tick_after(31)
    assert states(node) == ["failed"]
    assert "disagree" in reason(node)
    assert node.rows(jobs_table) == []


@pytest.mark.parametrize(
    ("different", "about"),
    [
        ({"PatientID": "P-2"}, "PatientID"),
        ({"AccessionNumber": "77-SECRET"}, "AccessionNumber"),
        ({"PatientName": "Secret^Name", "PatientSex": "O"}, "PatientName, PatientSex"),
    ],
)
def test_in_what_they_disagree_is_named_but_no_value(node: Made, different: dict[str, str], about: str) -> None:
    slices = grey_series(10)
    node.accept(*slices[:4], *(changed(ds, **different) for ds in slices[4:]))
    node.tick_after(31)
    assert f"disagree about the patient or the study ({about}); no report" in reason(node)
    assert not any(value in reason(node) for value in different.values() if len(value) > 1)


def test_where_the_files_are_gone_it_is_still_said_that_they_disagree(node: Made) -> None:
    slices = grey_series(10)
    node.accept(*slices[:4], *(changed(ds, PatientID="P-2") for ds in slices[4:]))
    for row in node.rows(instances):
        node.spool.remove(row.file)
    node.tick_after(31)
    assert "disagree about the patient or the study; no report" in reason(node)


WHO = {"PatientID": "\xc4-17", "PatientName": "M\xfcller^J\xf6rg"}


def test_a_series_agrees_about_its_patient_even_if_only_some_images_declare_their_character_set(node: Made) -> None:
    declared = grey_series(10, **WHO, SpecificCharacterSet="ISO_IR 192")
    node.accept(*declared[::2], *grey_series(10, **undeclared(**WHO))[1::2])
    node.tick_after(31)
    assert states(node) == ["complete"]


def test_sending_the_corrected_instance_mends_that(node: Made) -> None:
    slices = grey_series(10)
    node.accept(*slices[:4], changed(slices[4], PatientID="P-2"), *slices[5:])
    node.tick_after(31)
    node.accept(slices[4])
    node.tick_after(31)
    assert states(node) == ["complete"]


def test_of_several_series_of_a_study_the_best_gives_the_result(node: Made) -> None:
    node.accept(
        *grey_series(30, series="1.2.3.1", SliceThickness="1"),
        *grey_series(10, series="1.2.3.2", SliceThickness="5"),
        *grey_series(10, series="1.2.3.3", ConvolutionKernel="H60s"),
    )
    node.tick_after(31)
    node.arrivals.tick()
    assert states(node) == ["not chosen", "complete", "refused"]
    assert "dicom-node retry 1" in reason(node)
    assert [job.series_id for job in node.rows(jobs_table)] == [2]


def test_a_better_series_still_arriving_is_waited_for(node: Made) -> None:
    node.accept(*grey_series(30, series="1.2.3.1", SliceThickness="1"))
    node.clock.advance(20)
    node.accept(*grey_series(4, series="1.2.3.2"))
    node.tick_after(15)
    assert states(node) == ["receiving", "receiving"]
    node.accept(*grey_series(10, series="1.2.3.2"))
    node.tick_after(31)
    node.arrivals.tick()
    assert states(node) == ["not chosen", "complete"]


def test_a_better_series_that_never_becomes_eligible_is_not_waited_for_longer_than_silence(node: Made) -> None:
    node.accept(*grey_series(30, series="1.2.3.1", SliceThickness="1"))
    node.accept(*grey_series(4, series="1.2.3.2"))
    node.tick_after(31)
    node.arrivals.tick()
    assert states(node) == ["complete", "refused"]


@pytest.mark.parametrize(
    ("values", "of_all", "waits"),
    [
        ({}, True, True),
        ({"AcquisitionTime": "113000"}, True, False),
        ({"ContrastBolusAgent": "OMNIPAQUE"}, True, False),
        ({"ImageType": "DERIVED\\SECONDARY\\MPR\\MIP"}, False, True),
    ],
    ids=["better", "of a scan three hours later", "with contrast", "with one projection among its images"],
)
def test_only_a_series_that_may_give_the_result_of_the_same_scan_is_waited_for(
    node: Made, values: dict[str, str], of_all: bool, waits: bool
) -> None:
    """Else a scan after an operation, or a contrast series, would hold up the answer about the first one."""
    taken = {"AcquisitionDate": "20260301", "AcquisitionTime": "083000"}
    node.accept(*grey_series(30, series="1.2.3.1", SliceThickness="1", **taken))
    node.clock.advance(20)
    first, *rest = grey_series(4, series="1.2.3.2", **taken)
    node.accept(changed(first, **values), *(changed(ds, **values) if of_all else ds for ds in rest))
    node.tick_after(15)
    assert states(node)[0] == ("receiving" if waits else "complete")


def test_one_that_comes_after_the_choice_is_not_chosen_unless_a_person_wants_it(node: Made) -> None:
    node.accept(*grey_series(10, series="1.2.3.1", SliceThickness="1"))
    node.tick_after(31)
    node.accept(*grey_series(10, series="1.2.3.2"))
    node.tick_after(31)
    assert states(node) == ["complete", "not chosen"]
    with node.database.write() as connection:
        judge_again(connection, 2, node.config.eligibility, now=node.clock())
    node.tick_after(31)
    assert [job.series_id for job in node.rows(jobs_table)] == [1, 2]


@pytest.mark.parametrize(
    ("at", "states"),
    [
        ("083500", ["complete", "not chosen"]),
        ("113000", ["complete", "complete"]),
        ("", ["complete", "not chosen"]),
        (None, ["complete", "not chosen"]),
    ],
    ids=["a reconstruction", "a scan three hours later", "known by the day", "unknown"],
)
def test_a_later_scan_of_the_same_study_has_a_result_of_its_own(node: Made, at: str | None, states: list[str]) -> None:
    """As before and after an operation: "absent" of the first must not be all that is said of the second."""
    taken = {"AcquisitionDate": "20260301"}
    node.accept(*grey_series(**taken, AcquisitionTime="083000"))
    node.tick_after(31)
    later = {} if at is None else {**taken, "AcquisitionTime": at}
    node.accept(*grey_series(series="1.2.9", SeriesNumber=5, **later))
    node.tick_after(31)
    assert [s.state for s in node.rows(series_table)] == states


CHOSEN, PASSED_OVER = "1.2.3.1", "1.2.3.2"
FIRST_SCAN = {"AcquisitionDate": "20260301", "AcquisitionTime": "083000"}
ELSEWHERE = {"SeriesInstanceUID": "1.2.9.1", "StudyInstanceUID": "1.2.9", "PatientID": "P-2"}


def corrected(**values: str) -> list[Dataset]:
    """The images of the chosen series under other headers."""
    return [changed(ds, **values) for ds in grey_series(10, series=CHOSEN, **FIRST_SCAN)]


@pytest.fixture
def chosen(node: Made) -> Made:
    """A node with two series of one scan: the first has a result, and the second was passed over for it."""
    node.accept(*corrected())
    node.tick_after(31)
    with node.database.write() as connection:
        connection.execute(jobs_table.update().values(state="delivered", outcome="absent"))
    node.accept(*grey_series(10, series=PASSED_OVER, **FIRST_SCAN))
    node.tick_after(31)
    assert states(node) == ["complete", "not chosen"]
    return node


def test_where_all_images_of_the_chosen_series_go_elsewhere_one_that_was_passed_over_waits_for_a_person(
    chosen: Made, caplog: pytest.LogCaptureFixture
) -> None:
    """Until its own correction a report of it could be about the wrong patient; or it needs none, and had no result."""
    chosen.clock.advance(1e6)
    chosen.accept(*corrected(**ELSEWHERE))
    chosen.tick_after(5)
    assert states(chosen) == ["failed", "failed", "receiving"]
    assert reason(chosen, 2) == (
        "series 1, chosen in its place, has no image left. If this one is right, have it reported: dicom-node retry 2"
    )
    assert chosen.rows(series_table)[1].last_at == chosen.clock()  # for a day `status --check` tells of it
    chosen.tick_after(31)
    assert sum(line.startswith("failed series=2") for line in caplog.messages) == 1


def test_a_series_whose_result_was_withdrawn_needs_nobody_when_its_images_are_corrected(chosen: Made) -> None:
    """But what was passed over for it has no result, and nobody was told of that."""
    with chosen.database.write() as connection:
        jobs.withdraw(connection, 1, reason="wrong patient", now=chosen.clock())
    chosen.accept(*corrected(**ELSEWHERE))
    chosen.tick_after(5)
    assert states(chosen) == ["complete", "failed", "receiving"]


@pytest.mark.parametrize("went", [ELSEWHERE, {"StudyInstanceUID": "1.2.9"}], ids=["in another series", "with its own"])
def test_a_correction_that_is_undone_leaves_the_choice_as_it_was(chosen: Made, went: dict[str, str]) -> None:
    chosen.accept(*corrected(**went))
    chosen.tick_after(31)
    assert states(chosen)[1] == "failed"
    chosen.accept(*corrected())
    chosen.tick_after(61)
    chosen.tick_after(5)
    assert states(chosen)[:2] == ["complete", "not chosen"]
    assert "dicom-node retry 2" in reason(chosen, 2)


def test_a_chosen_series_that_is_forgotten_leaves_the_choice_open(chosen: Made) -> None:
    chosen.accept(*corrected(PatientID="P-2"))
    forgetting.erase(chosen.database, chosen.spool, Whom(patient_id="P-2"), now=chosen.clock())
    chosen.tick_after(31)
    chosen.tick_after(31)
    assert states(chosen) == ["complete"]


def test_a_chosen_series_that_turns_out_to_be_another_scan_leaves_the_choice_open(chosen: Made) -> None:
    chosen.accept(*corrected(AcquisitionTime="113000"))
    for _ in range(3):
        chosen.tick_after(61)
    assert states(chosen) == ["complete", "complete"]


def received_again(node: Made) -> None:
    """The chosen series, whose result nobody was told of, is to be judged again, as after a late slice."""
    with node.database.write() as connection:
        series.receive_again(connection, 1, now=node.clock(), why="a test")


@pytest.mark.parametrize(
    ("went", "left"),
    [
        ({**ELSEWHERE, "PatientID": "P-1"}, "failed"),
        ({"SeriesInstanceUID": "1.2.9.1", "ContrastBolusAgent": "OMNIPAQUE"}, "complete"),
    ],
    ids=["to another study", "to a series of the study that is refused"],
)
def test_where_the_chosen_series_is_refused_as_it_has_no_image_left_it_matters_where_they_are(
    chosen: Made, went: dict[str, str], left: str
) -> None:
    """In another study: then a report of the other series could be about the wrong patient until its own correction."""
    received_again(chosen)
    chosen.accept(*corrected(**went))
    for _ in range(3):
        chosen.tick_after(31)
    assert states(chosen)[:2] == ["refused", left]


def test_another_choice_waits_for_no_worse_one_that_is_still_arriving(chosen: Made) -> None:
    chosen.accept(*corrected(ContrastBolusAgent="OMNIPAQUE"))
    chosen.tick_after(61)
    chosen.accept(*grey_series(10, series="1.2.3.3", **FIRST_SCAN, SliceThickness="1"))
    chosen.tick_after(5)
    chosen.tick_after(1)
    assert states(chosen) == ["refused", "complete", "receiving"]


def test_a_late_slice_of_the_chosen_series_changes_nothing_for_the_others(chosen: Made) -> None:
    chosen.accept(ct(11, series=CHOSEN, **FIRST_SCAN))
    chosen.tick_after(61)
    chosen.tick_after(31)
    assert [job.series_id for job in chosen.rows(jobs_table)] == [1, 1]
    assert states(chosen) == ["complete", "not chosen"]


def test_a_chosen_series_that_can_no_longer_be_evaluated_leaves_the_choice_open(chosen: Made) -> None:
    with chosen.database.write() as connection:
        connection.execute(jobs_table.update().values(outcome="not evaluated"))
    chosen.tick_after(5)
    chosen.tick_after(5)
    assert states(chosen) == ["complete", "complete"]


@pytest.mark.parametrize("ends", ["failed", "withdrawn", "deleted by age"])
def test_a_result_that_a_person_knows_of_or_had_for_its_time_leaves_the_choice_as_it_was(
    chosen: Made, ends: str
) -> None:
    with chosen.database.write() as connection:
        if ends == "failed":
            series.hold(connection, 1, "because", now=chosen.clock())
        elif ends == "withdrawn":
            jobs.withdraw(connection, 1, reason="because", now=chosen.clock())
        else:
            assert purge.delete(connection, 1, quiet_since=chosen.clock()) is not None
    chosen.tick_after(31)
    assert states(chosen)[-1] == "not chosen"


def test_other_studies_do_not_matter_to_a_choice(node: Made) -> None:
    node.accept(*grey_series(10, series="1.2.3.1", study="1.2.8"), *grey_series(10, series="1.2.3.2", study="1.2.9"))
    node.tick_after(31)
    assert states(node) == ["complete", "complete"]


def test_everything_a_decision_goes_by_survives_a_restart(tmp_path: Path) -> None:
    before = made_node(tmp_path)
    before.accept(*grey_series(10))
    before.database.close()
    after = made_node(tmp_path)
    after.tick_after(31)
    assert states(after) == ["complete"]


@pytest.mark.parametrize("back_s", [60.0, 1e6])
def test_a_clock_put_back_costs_one_more_silence_and_no_more(node: Made, back_s: float) -> None:
    node.accept(*grey_series(10))
    node.tick_after(-back_s)
    node.tick_after(31)
    assert states(node) == ["complete"]
    node.accept(ct(11))
    node.tick_after(-back_s)
    node.tick_after(61)
    assert [job.run for job in node.rows(jobs_table)] == [1, 2]


def test_an_image_that_comes_just_after_the_clock_was_put_back_does_not_hide_that(node: Made) -> None:
    node.accept(*grey_series(10))
    node.tick_after(31)
    node.accept(ct(11))
    node.clock.advance(-1e6)
    node.accept(ct(12))
    node.tick_after(61)
    assert [job.run for job in node.rows(jobs_table)] == [1, 2]


def test_an_instance_filed_while_the_clock_is_read_is_no_leap_of_the_clock(
    node: Made, caplog: pytest.LogCaptureFixture
) -> None:
    node.accept(*grey_series(10))
    node.clock.advance(-0.01)
    node.arrivals.tick()
    assert "clock_put_back" not in caplog.text
    assert node.rows(series_table)[0].last_at > node.clock()


@pytest.mark.parametrize(
    ("fault", "of"), [({"ContrastBolusAgent": "OMNIPAQUE"}, 10), ({"AccessionNumber": "ACC-2"}, 5)]
)
def test_what_a_person_asked_for_is_done_once_it_is_judged_whatever_comes_of_it(
    node: Made, fault: dict[str, str], of: int
) -> None:
    """Later, another patient may be in the study, of whom that person knew nothing."""
    images = grey_series(10)
    node.accept(*(changed(ds, **fault) for ds in images[:of]), *images[of:])
    node.tick_after(31)
    with node.database.write() as connection:
        judge_again(connection, 1, node.config.eligibility, now=node.clock())
    node.tick_after(31)
    assert states(node)[0] in ("refused", "failed")
    node.accept(*images, *grey_series(10, series="1.2.3.2", PatientID="P-2"))
    node.tick_after(61)
    assert states(node) == ["failed", "failed"]
    assert "two patients" in reason(node)


def test_one_series_that_cannot_be_judged_does_not_hold_up_the_others(node: Made) -> None:
    node.accept(*grey_series(10, series="1.2.3.1", study="1.2.8"), *grey_series(10, series="1.2.3.2", study="1.2.9"))
    with node.database.write() as connection:
        connection.execute(instances.update().where(instances.c.series_id == 1).values(facts={"from": "the future"}))
    node.tick_after(31)
    assert states(node) == ["failed", "complete"]
    assert "could not be judged" in reason(node)


def test_a_database_that_is_away_ends_the_tick_and_fails_no_series(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    node.accept(*grey_series(10))
    with monkeypatch.context() as patch:
        patch.setattr(series, "instances_of", away)
        with pytest.raises(StoreUnavailable):
            node.tick_after(31)
    assert states(node) == ["receiving"]


def tick_after_31_s_while(node: Made, happens: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """It happens when the series has been looked at, and before anything is decided about it."""
    from dicom_node.receiving import completion

    decide = completion.decide

    def decides(**given: Any) -> Any:
        happens()
        return decide(**given)

    with monkeypatch.context() as patch:
        patch.setattr(completion, "decide", decides)
        node.tick_after(31)


def test_what_arrives_between_the_look_and_the_decision_is_seen(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    node.accept(*grey_series(10))
    tick_after_31_s_while(node, lambda: node.accept(ct(11)), monkeypatch)
    assert states(node) == ["receiving"]
    node.tick_after(31)
    assert states(node) == ["complete"]


def test_a_correction_between_the_look_and_the_decision_is_seen_whatever_its_time(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have the time of the image before, and there are as many images as before it."""

    def corrected() -> None:
        node.clock.advance(-31)
        node.accept(changed(ct(1), AccessionNumber="ACC-2"))
        node.clock.advance(31)

    node.accept(*grey_series(10))
    tick_after_31_s_while(node, corrected, monkeypatch)
    assert states(node) == ["receiving"]
    node.tick_after(31)
    assert states(node) == ["failed"]


def test_what_is_completed_between_the_look_and_the_decision_is_completed_once(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dicom_node.receiving import completion

    decide = completion.decide

    def decides(**given: Any) -> Any:
        monkeypatch.setattr(completion, "decide", decide)
        node.arrivals.tick()  # as another receiver's, on the same database
        return decide(**given)

    monkeypatch.setattr(completion, "decide", decides)
    node.accept(*grey_series(10))
    node.tick_after(31)
    assert [(row.run, row.state) for row in node.rows(jobs_table)] == [(1, "ready")]


def test_settings_are_honoured(tmp_path: Path) -> None:
    node = made_node(tmp_path, completion=Completion(settle_s=1, silence_s=5))
    node.accept(*grey_series(10))
    node.tick_after(5)
    assert states(node) == ["complete"]
