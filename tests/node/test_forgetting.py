"""Forgetting a patient: nothing of theirs is left, whatever was in work; everybody else is untouched."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made import NOW, STUDY, FakeClassifier, Made, ct, head_series, made_node, peer, received, undeclared

from dicom_node import anatomy
from dicom_node.administering import forgetting
from dicom_node.administering.forgetting import Whom
from dicom_node.cli import main
from dicom_node.delivering import reporting
from dicom_node.delivering.built import Built
from dicom_node.errors import NotFound, StoreUnavailable
from dicom_node.store import outbox, purge
from dicom_node.store.tables import (
    commitments,
    deliveries,
    events,
    instances,
    jobs,
    metadata,
    objects,
    series,
    slice_results,
)
from dicom_node.working import extras

OTHERS = "1.2.826.0.1.3680043.10.99.8"


PACS = [peer(104), peer(105, name="PACS2")]


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A reported and delivered study of SYN-0001, and one image of P-1, in a data folder to be copied."""
    made = made_node(tmp_path_factory.mktemp("worked"), peers=PACS)
    made.accept(*head_series(), ct(1, study=OTHERS, series=f"{OTHERS}.1", PatientID="P-1"))
    made.tick_after(31)
    made.work()
    with made.database.write() as connection:
        (due,) = outbox.due(connection, "PACS1", now=made.clock(), longest_wait_s=60)
        outbox.delivered(connection, due, 0, now=made.clock())
    made.database.close()
    return made


@pytest.fixture
def node(worked: Made, tmp_path: Path) -> Made:
    """The same anew for each test."""
    shutil.copytree(worked.config.node.data_folder, tmp_path / "data")
    made = made_node(tmp_path, peers=PACS)
    made.clock.now = worked.clock.now
    return made


def erase(node: Made, patient_id: str | None = None, study_uid: str | None = None) -> forgetting.Forgotten:
    return forgetting.erase(node.database, node.spool, Whom(patient_id, study_uid), now=node.clock())


def test_of_a_forgotten_patient_no_byte_is_left_in_spool_database_and_log_of_changes(node: Made) -> None:
    uids = [row.sop_instance_uid.encode() for row in (*node.rows(instances), *node.rows(objects))]
    files = [Path(str(node.database.url.database) + end) for end in ("", "-wal")]
    assert any(uid in file.read_bytes() for uid in uids[:1] for file in files)  # or the test would look for nothing
    done = erase(node, "SYN-0001")
    assert (len(done.erased.series), done.erased.images, done.erased.objects) == (1, len(head_series()), 1)
    left = b"".join(file.read_bytes() for file in files if file.exists())
    for row in node.rows(instances):
        uids.remove(row.sop_instance_uid.encode())
    assert [uid for uid in uids if uid in left] == []
    assert STUDY.encode() not in left.replace(OTHERS.encode(), b"")
    assert node.files() == {row.file for row in node.rows(instances)}
    assert b"SYN-0001" not in b"".join(node.spool.read(name) for name in node.files())


def test_everybody_else_is_untouched(node: Made) -> None:
    erase(node, study_uid=STUDY)
    assert [row.study_uid for row in node.rows(series)] == [OTHERS]
    assert len(node.rows(instances)) == 1
    assert [node.rows(table) for table in (objects, deliveries, slice_results)] == [[], [], []]


def test_an_image_whose_counting_version_was_erased_is_filed_by_its_new_header(node: Made) -> None:
    """It came again as part of another series, of a patient who was then forgotten."""
    came = ct(1, series="1.2.9.1", study="1.2.9")
    same = {"SOPInstanceUID": came.SOPInstanceUID}
    node.accept(came, ct(1, series="1.2.9.2", study="1.2.8", PatientID="P-2", **same))
    erase(node, "P-2")
    node.accept(ct(1, series="1.2.9.1", study="1.2.7", PatientID="P-3", **same))
    rows = [row for row in node.rows(instances) if row.sop_instance_uid == came.SOPInstanceUID]
    assert [row.current for row in rows] == [False, True]
    assert node.rows(series)[-1].study_uid == "1.2.7"


def test_what_destinations_hold_or_may_hold_is_named(node: Made) -> None:
    report = node.rows(objects)[0]
    with node.database.write() as connection:
        outbox._owe(connection, report.id, "PACS3", now=NOW)  # to which nothing went
        (due,) = outbox.due(connection, "PACS2", now=node.clock(), longest_wait_s=60)
        outbox.begin(connection, due, now=node.clock())
    held = {(one.destination, one.certain, one.sop_instance_uid) for one in erase(node, "SYN-0001").held}
    assert held == {("PACS1", True, report.sop_instance_uid), ("PACS2", False, report.sop_instance_uid)}


def test_what_destinations_hold_is_told_though_not_everything_could_be_erased(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> None:
        raise StoreUnavailable("the database is busy")

    stuck, remove = node.rows(instances)[0].file, node.spool.remove

    def removes(name: str) -> None:
        if name == stuck:
            raise PermissionError(errno.EACCES, "denied")
        remove(name)

    monkeypatch.setattr(node.database, "compact", busy)
    monkeypatch.setattr(node.spool, "remove", removes)
    done = erase(node, "SYN-0001")
    assert done.trouble == ("a file cannot be read or removed: denied", "the database is busy")
    assert node.files() == {stuck, *(row.file for row in node.rows(instances))}
    assert [one.destination for one in done.held] == ["PACS1"]
    monkeypatch.setattr(forgetting, "erase", lambda *_, **__: done)
    (tmp_path / "config.toml").write_text("[node]\nmin_free_mib = 0\n")
    ran = CliRunner().invoke(main, ["forget", "--patient", "P-1", "--yes", "--config", str(tmp_path / "config.toml")])
    assert ran.exit_code == 1
    assert "PACS1 has a report" in ran.output
    assert "run this again" in ran.output


def test_the_history_keeps_one_line_without_identity(node: Made) -> None:
    erase(node, "SYN-0001")
    (line,) = [row for row in node.rows(events) if row.kind == "forgotten"]
    assert line.detail == f"series=1 images={len(head_series())} objects=1"
    assert line.series_id is None


def test_work_under_way_ends_without_a_trace(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104)])
    node.accept(*head_series())
    node.tick_after(31)

    def forgets(_: int) -> None:
        if node.rows(series):
            erase(node, "SYN-0001")

    node.work(node.worker(FakeClassifier(fails=forgets)))
    assert node.files() == set()
    counts = {name: len(node.rows(table)) for name, table in metadata.tables.items()}
    assert {name for name, count in counts.items() if count} <= {"events", "node"}


def test_a_report_that_is_made_while_its_patient_is_forgotten_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = made_node(tmp_path, peers=[peer(104)])
    node.accept(*head_series())
    node.tick_after(31)
    build = reporting.report

    def forgets(*arguments: Any) -> Built:
        built = build(*arguments)
        erase(node, "SYN-0001")
        return built

    monkeypatch.setattr(reporting, "report", forgets)
    while node.worker().step():
        node.clock.advance(1.0)
    assert node.files() == set()


def test_a_picture_that_is_made_while_its_patient_is_forgotten_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=("picture",))])
    node.accept(ct(1))
    monkeypatch.setattr(extras.Extras, "_shown", lambda *_: (erase(node, "P-1"), [(picture, ["PACS1"])])[1])
    picture = Built("picture", "1.2.3", "2.25.1", "2.25.2", b"of P-1")
    worker = node.worker()
    job = {"series_id": 1, "run": 1, "state": "reported", "priority": 0, "not_before": NOW, "tries": 1}
    with node.database.write() as connection:
        result = {"findings": asdict(anatomy.nothing_evaluated([], "a test")), **asdict(worker.version)}
        connection.execute(jobs.insert().values({**job, **result, "created_at": NOW, "extras_due": True}))
        connection.execute(series.update().values(state="complete", run=1))
    assert worker._extras.make_next()
    assert node.files() == set()


def test_a_delivery_that_is_answered_after_its_patient_was_forgotten_changes_nothing(node: Made) -> None:
    with node.database.read() as connection:
        (due,) = outbox.due(connection, "PACS2", now=node.clock(), longest_wait_s=60)
    erase(node, "SYN-0001")
    with node.database.write() as connection:
        assert not outbox.delivered(connection, due, 0, now=node.clock())
        outbox.give_up(connection, due, now=node.clock(), status=None, error="gone")
        outbox.postpone(connection, due, until=NOW, status=None, error="gone")
    assert node.rows(deliveries) == []


def test_files_that_a_crash_left_without_a_row_go_too(node: Made) -> None:
    theirs, others = (received(ct(7, PatientID=patient)) for patient in ("SYN-0001", "P-9"))
    names = [node.spool.keep(one.meta, one.data_set) for one in (theirs, others)]
    broken = node.spool.keep(b"no DICOM at all")
    assert erase(node, "SYN-0001").orphans == 1
    assert names[0] not in node.files()
    assert {names[1], broken} <= node.files()


def test_files_without_a_row_go_by_their_study_too_and_be_they_all_there_is(node: Made) -> None:
    theirs, others = (received(ct(7, study=study)) for study in ("1.2.3", "1.2.4"))
    names = [node.spool.keep(one.meta, one.data_set) for one in (theirs, others)]
    assert erase(node, study_uid="1.2.3").orphans == 1
    assert names[0] not in node.files()
    assert names[1] in node.files()


@pytest.mark.parametrize("filed", ["now", "without a row"])
def test_a_patient_is_forgotten_by_the_id_that_people_read_even_if_its_character_set_is_not_declared(
    tmp_path: Path, filed: str
) -> None:
    node, image = made_node(tmp_path), ct(1, **undeclared(PatientID="\xc4-17"))
    if filed == "without a row":
        node.spool.keep(received(image).meta, received(image).data_set)
    else:
        node.accept(image)
    erase(node, "\xc4-17")
    assert node.files() == set()


def test_a_series_that_was_corrected_is_its_present_patients(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    node.accept(ct(1, PatientID="WRONG"), ct(1, PatientID="RIGHT"))
    with node.database.write() as connection:
        job = {"series_id": 1, "state": "reported", "priority": 0, "not_before": NOW, "tries": 1, "created_at": NOW}
        for run, patient in enumerate(("WRONG", "RIGHT"), 1):
            job_id = connection.scalar(jobs.insert().values(job | {"run": run}).returning(jobs.c.id))
            header = received(ct(run, PatientID=patient))
            file = node.spool.keep(header.meta, header.data_set)
            made = outbox.MadeObject("report", "1.2.3", f"2.25.{run}", "2.25.9", file, 1, "0" * 64)
            outbox.put(connection, job_id, [made], ["PACS1"], now=NOW)
    done = erase(node, "WRONG")
    assert (done.erased.series, done.erased.former, done.erased.images, done.erased.objects) == ((), (1,), 1, 1)
    assert [row.current for row in node.rows(instances)] == [True]
    assert [row.sop_instance_uid for row in node.rows(objects)] == ["2.25.2"]
    assert [row.object_id for row in node.rows(deliveries)] == [2]
    assert b"WRONG" not in b"".join(node.spool.read(name) for name in node.files())
    assert erase(node, "RIGHT").erased.series == (1,)
    assert node.files() == set()


def test_a_series_that_lost_its_images_to_another_goes_with_their_patient(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    node.accept(ct(1, PatientID="P-2"), ct(1, PatientID="P-2", series="1.2.9", SOPInstanceUID=ct(1).SOPInstanceUID))
    assert len(node.rows(series)) == 2
    erase(node, "P-2")
    assert node.rows(series) == []


def test_all_copies_go_with_the_present_patient(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    node.accept(ct(1, PatientID="WRONG"), ct(1, PatientID="RIGHT"), ct(2, PatientID="RIGHT"))
    assert erase(node, "RIGHT").erased.images == 3
    assert node.files() == set()


def test_what_a_crash_left_half_written_goes_too(node: Made) -> None:
    theirs, others = received(ct(7, PatientID="SYN-0001")), received(ct(7, PatientID="P-9"))
    kept = [node.spool.keep(one.meta + one.data_set[:-100]) for one in (theirs, others)]
    assert erase(node, "SYN-0001").orphans == 1
    assert kept[0] not in node.files()
    assert kept[1] in node.files()


def test_what_comes_in_meanwhile_is_new_and_told(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = node.spool.remove
    again = [head_series()[0]]

    def removes(name: str) -> None:
        remove(name)
        if again:
            node.accept(again.pop())

    monkeypatch.setattr(node.spool, "remove", removes)
    assert erase(node, "SYN-0001").came == 1
    assert all(node.spool.holds(row.file, row.size) for row in node.rows(instances))


def test_an_image_whose_row_is_written_after_files_without_one_were_listed_is_kept(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is acknowledged by then."""
    without_rows = purge.without_rows

    def meanwhile(*given: Any) -> Iterator[str]:
        listed = list(without_rows(*given))
        node.accept(head_series()[0])
        yield from [*listed, node.rows(instances)[-1].file]

    monkeypatch.setattr(purge, "without_rows", meanwhile)
    forgotten = erase(node, "SYN-0001")
    assert (forgotten.came, forgotten.orphans) == (1, 0)
    assert all(node.spool.holds(row.file, row.size) for row in node.rows(instances))


def asked_to_commit_to(node: Made, *uids: str) -> None:
    """A request for each; their Transaction UIDs are 2.25.0 and so on."""
    values = {"calling_aet": "CT1", "state": "waiting", "tries": 0, "next_at": NOW, "received_at": NOW}
    with node.database.write() as connection:
        for number, uid in enumerate(uids):
            asked = {"transaction_uid": f"2.25.{number}", "asked": [["1.2", "1.2.3"], ["1.2", uid]]}
            connection.execute(commitments.insert().values(values | asked))


def test_requests_to_commit_that_name_an_erased_image_go_too(node: Made) -> None:
    asked_to_commit_to(node, str(head_series()[0].SOPInstanceUID), f"{OTHERS}.1.1")
    erase(node, "SYN-0001")
    assert [row.transaction_uid for row in node.rows(commitments)] == ["2.25.1"]


def test_of_a_series_with_images_of_two_patients_requests_to_commit_go_by_whose_the_image_is(tmp_path: Path) -> None:
    """The third one came as the patient's, and is another's since it was corrected."""
    node = made_node(tmp_path)
    node.accept(
        *(ct(number, PatientID=patient) for number, patient in ((1, "P-2"), (2, "P-3"), (3, "P-2"), (3, "P-3")))
    )
    asked_to_commit_to(node, *(str(ct(number).SOPInstanceUID) for number in (1, 2, 3)))
    assert erase(node, "P-2").erased.former == (1,)
    assert [row.transaction_uid for row in node.rows(commitments)] == ["2.25.1", "2.25.2"]


def test_who_is_not_here_cannot_be_forgotten(node: Made) -> None:
    with pytest.raises(NotFound):
        erase(node, "NOBODY")
    assert len(node.rows(series)) == 2


def test_an_image_that_is_being_stored_while_its_patient_is_forgotten_is_not_acknowledged(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = node.spool.keep

    def keep_and_forget(*parts: bytes) -> str:
        name = keep(*parts)
        erase(node, "SYN-0001")  # between the file and its row
        return name

    monkeypatch.setattr(node.spool, "keep", keep_and_forget)
    status = node.acceptor.accept(received(ct(77, PatientID="SYN-0001")))
    assert status == 0xA700
    assert all(node.spool.holds(row.file, row.size) for row in node.rows(instances))
