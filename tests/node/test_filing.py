"""Filing: what an instance is beside those that came before, and when a series is open again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from made import NOW, Made, changed, ct, encoded, grey_series, received, undeclared
from pydicom import uid
from pydicom.dataset import Dataset

from dicom_node.store import jobs, purge, series
from dicom_node.store.tables import instances, slice_results
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import series as series_table

EXPLICIT, IMPLICIT = str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian)
JPEG_LS = str(uid.JPEGLSLossless)


def series_row(node: Made, number: int = 1) -> Any:
    return node.rows(series_table)[number - 1]


def current(node: Made) -> list[bool]:
    return [row.current for row in node.rows(instances)]


def reported(node: Made) -> None:
    """As after a first run: the series is complete and its job done."""
    with node.database.write() as connection:
        series.complete(connection, 1, rule="silence", whole=True, now=node.clock(), priority=0)
        connection.execute(jobs_table.update().values(state="delivered"))


def test_the_same_bytes_are_acknowledged_again_and_kept_once(node: Made) -> None:
    node.accept(ct(1))
    reported(node)
    before, files = node.rows(instances), node.files()
    assert node.accept(ct(1), ct(1)) == [0, 0]
    assert node.rows(instances) == before
    assert node.files() == files
    assert series_row(node).state == "complete"


@pytest.mark.parametrize(
    ("again", "syntax"),
    [(ct(1), EXPLICIT), (ct(1), IMPLICIT), (changed(ct(1), PixelData=bytes(512)), EXPLICIT)],
    ids=["the same bytes", "recoded", "other pixels"],
)
def test_what_comes_again_is_kept_for_the_whole_retention_again(node: Made, again: Dataset, syntax: str) -> None:
    """And a failure is told of by the day on which it came about."""
    node.accept(ct(1))
    reported(node)
    node.clock.advance(1e6)
    node.accept(again, syntax=syntax)
    assert series_row(node).last_at == node.clock()


@pytest.mark.parametrize("damaged", [False, True], ids=["lost", "damaged"])
def test_a_repeat_takes_the_place_of_a_file_that_was_lost_or_damaged(node: Made, damaged: bool) -> None:
    node.accept(ct(1))
    lost = node.rows(instances)[0].file
    if damaged:  # as long as before
        path = node.spool.path(lost)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        node.spool.remove(lost)
    assert node.accept(ct(1)) == [0]
    mended = node.rows(instances)[0]
    assert mended.file != lost
    assert node.spool.read(mended.file).endswith(encoded(ct(1)))
    assert node.files() == {mended.file}  # who sends the spool to the node again sends no damaged image as another


def test_what_was_found_out_about_a_damaged_copy_does_not_hold_for_the_one_that_replaces_it(node: Made) -> None:
    node.accept(ct(1))
    path = node.spool.path(node.rows(instances)[0].file)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    node.worker().step()
    assert "cut short" in node.rows(slice_results)[0].left_out
    path.write_bytes(content[:-1] + b"?")
    node.accept(ct(1, PatientName="Doe^Janet"))  # its pixels are compared with the damaged ones
    assert node.accept(ct(1)) == [0]
    assert node.rows(instances)[0].pixel_sha256 is None
    assert node.rows(slice_results) == []


def test_the_same_pixels_under_a_corrected_header_count_and_reopen_the_series(node: Made) -> None:
    node.accept(ct(1), ct(2))
    reported(node)
    assert node.accept(ct(1, PatientName="Doe^Janet"), ct(2, PatientName="Doe^Janet")) == [0, 0]
    assert current(node) == [False, False, True, True]
    assert series_row(node).state == "receiving"


def test_other_pixels_under_the_same_uid_are_both_kept_and_a_person_decides(node: Made) -> None:
    other = changed(ct(1), PixelData=bytes(512))
    assert node.accept(ct(1), other) == [0, 0]
    assert current(node) == [True, True]
    assert series_row(node).state == "failed"
    assert "dicom-node retry" in series_row(node).reason
    assert len(node.files()) == 2
    node.accept(ct(2))
    assert series_row(node).state == "failed"  # until somebody decides


def test_what_a_person_set_aside_does_not_count_by_coming_again(node: Made) -> None:
    node.accept(ct(1), changed(ct(1), PixelData=bytes(512)))
    with node.database.write() as connection:
        series.decide_for(connection, 1, "last")
    assert node.accept(ct(1)) == [0]
    assert current(node) == [False, True]


def test_a_contradiction_with_another_series_waits_for_a_person_too(node: Made) -> None:
    node.accept(*grey_series(10))
    node.tick_after(31)
    collides = changed(
        ct(1, series="1.2.3.2", study="1.2.3"), SOPInstanceUID=ct(1).SOPInstanceUID, PixelData=bytes(512)
    )
    assert node.accept(collides, *grey_series(10, series="1.2.3.2", study="1.2.3")[1:]) == [0] * 10
    node.tick_after(31)
    assert [row.state for row in node.rows(series_table)] == ["complete", "failed"]
    with node.database.write() as connection:
        assert (series.contradicted(connection, 1), len(series.contradicted(connection, 2))) == ([], 1)
        series.decide_for(connection, 2, "first")
        assert series.contradicted(connection, 2) == []
    assert current(node) == [True] * 10 + [False] + [True] * 9


def test_an_earlier_copy_that_was_lost_contradicts_nothing(node: Made) -> None:
    node.accept(ct(1))
    node.spool.remove(node.rows(instances)[0].file)
    assert node.accept(changed(ct(1), PixelData=bytes(512))) == [0]
    assert current(node) == [False, True]
    assert series_row(node).state == "receiving"


def test_an_earlier_copy_that_is_damaged_contradicts_nothing(node: Made) -> None:
    node.accept(ct(1))
    damaged = node.spool.path(node.rows(instances)[0].file)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert node.accept(changed(ct(1), PixelData=bytes(512))) == [0]
    assert current(node) == [False, True]


def test_pixels_are_compared_by_what_is_noted_of_them_even_where_the_file_was_lost(node: Made) -> None:
    node.accept(ct(1), ct(1, PatientName="Doe^Janet"))
    assert [row.pixel_sha256 is None for row in node.rows(instances)] == [False, True]
    node.accept(ct(1, PatientName="Doe^Janette"))
    noted = node.rows(instances)[1]
    assert noted.pixel_sha256 == node.rows(instances)[0].pixel_sha256
    node.accept(ct(1, PatientName="Doe^Janet"))  # taken back
    node.spool.remove(noted.file)
    node.accept(changed(ct(1), PixelData=bytes(512)))
    assert series_row(node).state == "failed"


def compressed(node: Made, **values: Any) -> int:
    """The status for the image of `ct(1)` as a PACS stores it."""
    ds = changed(ct(1), **values, PixelData=b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\4\0\0\0\1\2\3\4")
    data_set = encoded(ds).replace(b"OW\0\0\x14\0\0\0", b"OB\0\0\xff\xff\xff\xff") + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return node.acceptor.accept(received(ct(1), syntax=JPEG_LS, data_set=data_set))


def test_the_same_image_in_another_transfer_syntax_is_no_contradiction_and_no_news(node: Made) -> None:
    """A scanner sends it uncompressed, and a PACS routes the same study here in its own way of storing it."""
    node.accept(ct(1))
    reported(node)
    assert node.accept(ct(1), syntax=IMPLICIT) == [0]
    assert compressed(node) == 0
    assert current(node) == [True, False, False]
    assert series_row(node).state == "complete"
    assert len(node.files()) == 3  # acknowledged, and so kept


def test_a_compressed_copy_of_an_image_that_an_earlier_version_filed_is_no_contradiction(node: Made) -> None:
    """Which kept less of the header, as the plane of an Enhanced CT."""
    node.accept(ct(1))
    reported(node)
    kept = node.rows(instances)[0].facts | {"orientation": None}
    with node.database.write() as connection:
        connection.execute(instances.update().values(facts=kept))
    assert compressed(node) == 0
    assert current(node) == [True, False]
    assert series_row(node).state == "complete"


@pytest.mark.parametrize(
    "other",
    [
        {"Rows": 8},
        {"Columns": 8},
        {"NumberOfFrames": 2},
        {"ImagePositionPatient": [-40, -40, 60]},
        {"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_compressed_image_of_another_size_or_place_is_no_copy(node: Made, other: dict[str, Any]) -> None:
    """Bytes in two encodings cannot be compared; size and place tell that one is not the other."""
    node.accept(ct(1))
    reported(node)
    assert compressed(node, **other) == 0
    assert (series_row(node).state, current(node)) == ("failed", [True, True])


FRAMES = Dataset()
FRAMES.CTReconstructionSequence = [Dataset()]
FRAMES.CTReconstructionSequence[0].ConvolutionKernel = "STANDARD"


@pytest.mark.parametrize(
    ("image", "kept_less"),
    [
        ({"AcquisitionDateTime": "20260301083000"}, {"acquired": None}),
        ({"FrameOfReferenceUID": "1.2.3.4"}, {"frame_of_reference": None}),
        ({"VolumetricProperties": "VOLUME"}, {"image_type": ["ORIGINAL", "PRIMARY", "AXIAL"]}),
        ({"ConvolutionKernel": None, "PerFrameFunctionalGroupsSequence": [FRAMES]}, {"kernel": None}),
    ],
)
def test_a_recoded_copy_of_an_image_that_an_earlier_version_filed_is_no_news(
    node: Made, image: dict[str, Any], kept_less: dict[str, Any]
) -> None:
    """Which kept less of a header; every result would be reported again where a PACS sends its archive once more."""
    node.accept(ct(1, **image))
    reported(node)
    of_later_versions = ("acquired", "frame_of_reference")
    filed = node.rows(instances)[0].facts | kept_less
    kept = {key: value for key, value in filed.items() if value is not None or key not in of_later_versions}
    assert kept != node.rows(instances)[0].facts
    with node.database.write() as connection:
        connection.execute(instances.update().values(facts=kept))
    assert node.accept(ct(1, **image), syntax=IMPLICIT) == [0]
    assert current(node) == [True, False]
    assert series_row(node).state == "complete"


WHO = {"PatientID": "\xc4-17", "PatientName": "M\xfcller^J\xf6rg"}


def test_a_recoded_copy_whose_character_set_is_declared_is_no_news(node: Made) -> None:
    """As a PACS declares it that stores in a character set of its own."""
    node.accept(ct(1, **undeclared(**WHO)))
    reported(node)
    assert node.accept(ct(1, **WHO, SpecificCharacterSet="ISO_IR 192"), syntax=IMPLICIT) == [0]
    assert current(node) == [True, False]
    assert series_row(node).state == "complete"


def test_a_header_that_declares_its_character_set_names_no_other_patient(node: Made) -> None:
    """Nothing is held back for it; the same series is judged by its newest header."""
    node.accept(ct(1, **undeclared(**WHO)), ct(2, **undeclared(**WHO)))
    reported(node)
    declared = ct(1, **WHO, SpecificCharacterSet="ISO_IR 192", series="1.2.9.1")
    node.accept(changed(declared, SOPInstanceUID=ct(1).SOPInstanceUID))
    assert [row.state for row in node.rows(series_table)] == ["complete", "receiving"]


@pytest.mark.parametrize("corrected", [{"ContrastBolusAgent": "Iomeprol"}, {"ConvolutionKernel": "H60s"}])
def test_a_recoded_copy_that_says_something_else_of_the_image_counts(node: Made, corrected: dict[str, Any]) -> None:
    node.accept(ct(1))
    node.accept(ct(1, **corrected), syntax=IMPLICIT)
    assert current(node) == [False, True]


def test_another_transfer_syntax_counts_where_the_first_copy_was_lost(node: Made) -> None:
    """Who lost the spool sends it again from the PACS, which sends as it stores."""
    node.accept(ct(1))
    node.spool.remove(node.rows(instances)[0].file)
    reported(node)
    assert node.accept(ct(1), syntax=IMPLICIT) == [0]
    assert current(node) == [False, True]
    assert series_row(node).state == "receiving"


def test_another_transfer_syntax_with_a_corrected_header_counts(node: Made) -> None:
    node.accept(ct(1))
    node.accept(ct(1, PatientName="Doe^Janet"), syntax=IMPLICIT)
    assert current(node) == [False, True]


def test_another_transfer_syntax_with_other_pixels_contradicts(node: Made) -> None:
    node.accept(ct(1))
    node.accept(changed(ct(1), PixelData=bytes(512)), syntax=IMPLICIT)
    assert series_row(node).state == "failed"


def test_a_document_that_comes_again_with_other_content_contradicts_nothing(node: Made) -> None:
    document = ct(1, PixelData=None, SOPClassUID=str(uid.XRayRadiationDoseSRStorage))
    node.accept(document, changed(document, InstanceNumber=7))
    assert series_row(node).state == "receiving"
    assert current(node) == [False, True]


def test_the_first_instances_of_a_series_over_many_associations_never_collide(node: Made) -> None:
    answers: list[int] = []
    barrier = threading.Barrier(12)

    def send(number: int) -> None:
        barrier.wait()
        answers.extend(node.accept(ct(number)))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0] * 12
    assert len(node.rows(series_table)) == 1
    assert len(node.rows(instances)) == 12


def test_a_late_instance_reopens_and_waits_out_the_minute(node: Made) -> None:
    node.accept(*grey_series(10))
    node.tick_after(31)
    assert [job.run for job in node.rows(jobs_table)] == [1]
    first_run_at = node.clock()
    node.accept(ct(11))
    node.tick_after(31)
    assert [job.run for job in node.rows(jobs_table)] == [1]
    node.tick_after(29)
    assert [job.run for job in node.rows(jobs_table)] == [1, 2]
    assert node.clock() - first_run_at == node.config.completion.reopen_wait_s


def test_a_run_not_begun_when_more_arrived_is_cancelled(node: Made) -> None:
    node.accept(*grey_series(10))
    node.tick_after(31)
    node.accept(ct(11))
    node.tick_after(61)
    assert [job.state for job in node.rows(jobs_table)] == ["cancelled", "ready"]


@pytest.mark.parametrize("state", ["refused", "not chosen", "failed"])
def test_what_ended_without_a_job_is_judged_again_at_once_when_more_arrives(node: Made, state: str) -> None:
    node.accept(ct(1))
    with node.database.write() as connection:
        connection.execute(series_table.update().values(state=state, reason="because"))
    node.accept(ct(2))
    row = series_row(node)
    assert (row.state, row.reason, row.not_before) == ("receiving", None, None)


def test_a_clock_put_back_before_a_late_instance_keeps_nobody_waiting(node: Made) -> None:
    node.accept(*grey_series(10))
    node.tick_after(31)
    node.clock.advance(-86400)
    node.accept(ct(11))
    assert series_row(node).not_before == node.clock() + node.config.completion.reopen_wait_s


def test_a_series_is_found_by_its_uid_and_by_that_of_its_study(node: Made) -> None:
    node.accept(ct(1), ct(1, series="1.2.3.9"))
    with node.database.read() as connection:
        assert [s.id for s in series.find(connection, "1.2.3.9")] == [2]
        assert [s.id for s in series.find(connection, str(ct().StudyInstanceUID))] == [1, 2]
        assert series.get(connection, 99) is None
        assert jobs.newest(connection, 1) is None


def test_a_correction_that_is_taken_back_counts_again(node: Made) -> None:
    before = ct(1)
    corrected = changed(before, PatientID="CORRECTED")
    node.accept(before, ct(2))
    node.accept(corrected)
    assert current(node) == [False, True, True]
    node.accept(before)
    assert current(node) == [True, True, False]


def test_what_comes_again_counts_where_nothing_counts_any_longer(node: Made) -> None:
    """Its correction belonged to another series, which was deleted when its retention ended."""
    node.accept(ct(1), ct(2), changed(ct(1), SeriesInstanceUID="1.2.3.9"))
    with node.database.write() as connection:
        purge.delete_rows(connection, 2)
    node.accept(ct(1))
    assert current(node) == [True, True]


@pytest.mark.parametrize(("verb", "left"), [("complete", "running"), ("hold", "cancelled")])
def test_what_is_done_stays_done_and_what_waits_is_not_begun(node: Made, verb: str, left: str) -> None:
    """And what is under way has no lease any more where its result must not come."""
    node.accept(ct(1))
    with node.database.write() as connection:
        for run, state in enumerate(("delivered", "running", "ready"), 1):
            leased = {"lease_owner": "w1", "lease_until": NOW + 60} if state == "running" else {}
            job = {"series_id": 1, "run": run, "state": state, "priority": 0, "not_before": NOW, "tries": 1}
            connection.execute(jobs_table.insert().values(job | {"created_at": NOW} | leased))
        connection.execute(series_table.update().values(run=3))
        if verb == "hold":
            series.hold(connection, 1, "because", now=NOW)
        else:
            series.complete(connection, 1, rule="silence", whole=True, now=NOW, priority=0)
    found = [(row.state, row.lease_owner) for row in node.rows(jobs_table)[:3]]
    assert found == [("delivered", None), (left, "w1" if left == "running" else None), ("cancelled", None)]


def test_an_image_that_another_began_to_read_meanwhile_is_left_to_it(node: Made) -> None:
    """Else two that read it, each alive, would count as two that it ended."""
    node.accept(ct(1), ct(2))
    with node.database.write() as connection:
        assert series.begin_reading(connection, [1], tries=0) == {1}
        assert series.begin_reading(connection, [1, 2], tries=0) == {2}
    assert [row.tries for row in node.rows(instances)] == [1, 1]


def test_a_try_that_ended_well_takes_back_itself_alone(node: Made) -> None:
    node.accept(ct(1))
    with node.database.write() as connection:
        series.begin_reading(connection, [1], tries=0)  # of this one nobody came back
        series.begin_reading(connection, [1], tries=1)
        series.end_reading(connection, [1])
    assert node.rows(instances)[0].tries == 1


@pytest.mark.parametrize(("keep", "counts"), [("first", [False, True, False]), ("last", [False, False, True])])
def test_the_first_of_two_that_contradict_each_other_is_not_what_was_corrected_before(
    node: Made, keep: str, counts: list[bool]
) -> None:
    corrected = changed(ct(1), PatientID="CORRECTED")
    node.accept(ct(1), corrected, changed(corrected, PixelData=bytes(512)))
    assert current(node) == [False, True, True]
    with node.database.write() as connection:
        assert len(series.contradicted(connection, 1)) == 1
        series.decide_for(connection, 1, keep)
    assert current(node) == counts
