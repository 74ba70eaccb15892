"""Forgetting a patient: nothing of theirs is left, whatever was in work; everybody else is untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import NOW, STUDY, FakeClassifier, Made, ct, grey_series, head_series, made_node, peer, received
from postgresql import empty_database, server

from dicom_node import forgetting
from dicom_node.errors import NotFound
from dicom_node.forgetting import Whom
from dicom_node.store import outbox
from dicom_node.tables import commitments, deliveries, events, instances, metadata, objects, series, slice_results

OTHERS = "1.2.826.0.1.3680043.10.99.8"


@pytest.fixture
def node(tmp_path: Path) -> Made:
    """A reported and delivered study of SYN-0001, and one image of P-1."""
    made = made_node(tmp_path, peers=[peer(104), peer(105, name="PACS2")])
    made.accept(*head_series(), ct(1, study=OTHERS, series=f"{OTHERS}.1", PatientID="P-1"))
    made.tick_after(31)
    worker = made.worker()
    while worker.step():
        made.clock.advance(1.0)
    with made.database.write() as connection:
        (due,) = outbox.due(connection, "PACS1", now=made.clock(), longest_wait_s=60)
        outbox.delivered(connection, due, 0, now=made.clock())
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


def test_what_destinations_hold_is_named(node: Made) -> None:
    report = node.rows(objects)[0]
    held = {(one.destination, one.certain, one.sop_instance_uid) for one in erase(node, "SYN-0001").held}
    assert held == {("PACS1", True, report.sop_instance_uid), ("PACS2", False, report.sop_instance_uid)}


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

    worker = node.worker(FakeClassifier(fails=forgets))
    while worker.step():
        node.clock.advance(1.0)
    assert node.files() == set()
    counts = {name: len(node.rows(table)) for name, table in metadata.tables.items()}
    assert {name for name, count in counts.items() if count} <= {"events", "node"}


def test_a_report_that_is_made_while_its_patient_is_forgotten_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = made_node(tmp_path, peers=[peer(104)])
    node.accept(*head_series())
    node.tick_after(31)
    from dicom_node import reporting

    stored = reporting.stored

    def forgets(*arguments: object) -> outbox.MadeObject:
        made = stored(*arguments)  # type: ignore[arg-type]
        with node.database.write() as connection:
            forgetting.forget.erase(connection, [1], now=NOW)
        return made

    monkeypatch.setattr(reporting, "stored", forgets)
    before = node.files()
    while node.worker().step():
        node.clock.advance(1.0)
    assert node.files() == before


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


def test_a_corrected_header_is_forgotten_under_either_patient_id(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    node.accept(ct(1, PatientID="WRONG"), ct(1, PatientID="RIGHT"))
    assert len(erase(node, "WRONG").erased.files) == 2
    assert node.files() == set()


def test_requests_to_commit_that_name_an_erased_image_go_too(node: Made) -> None:
    values = {"calling_aet": "CT1", "state": "waiting", "tries": 0, "next_at": NOW, "received_at": NOW}
    with node.database.write() as connection:
        for number, uid in enumerate((str(head_series()[0].SOPInstanceUID), f"{OTHERS}.1.1")):
            asked = {"transaction_uid": f"2.25.{number}", "asked": [["1.2", uid]]}
            connection.execute(commitments.insert().values(values | asked))
    erase(node, "SYN-0001")
    assert [row.transaction_uid for row in node.rows(commitments)] == ["2.25.1"]


def test_who_is_not_here_cannot_be_forgotten(node: Made) -> None:
    with pytest.raises(NotFound):
        erase(node, "NOBODY")
    assert len(node.rows(series)) == 2


def test_forgetting_works_on_postgresql(tmp_path: Path) -> None:
    with server(tmp_path / "pg") as url:
        node = made_node(tmp_path, database_url=empty_database(url, "forget"))
        node.accept(*grey_series(2))
        assert erase(node, "P-1").erased.images == 2
        assert node.rows(instances) == []
        node.database.close()


def test_an_image_that_is_being_stored_while_its_patient_is_forgotten_is_not_acknowledged(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = node.spool.keep

    def keep_and_forget(*parts: bytes) -> str:
        name = keep(*parts)
        erase(node, "SYN-0001")  # between the file and its row
        return name

    monkeypatch.setattr(node.spool, "keep", keep_and_forget)
    status = node.arrivals.accept(received(ct(77, PatientID="SYN-0001")))
    assert status == 0xA700
    assert all(node.spool.holds(row.file, row.size) for row in node.rows(instances))
