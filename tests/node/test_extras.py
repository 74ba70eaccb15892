"""Besides the report: the picture, key objects, and taking a result back; who gets what."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from click.testing import CliRunner
from made import FakeClassifier, Made, Predictions, changed, head_series, made_node, peer
from PIL import ImageDraw
from test_anatomy import enhanced

from dicom_node.administering.health import health
from dicom_node.administering.retrying import retry_refused
from dicom_node.administering.withdrawing import withdraw
from dicom_node.cli import main
from dicom_node.cli.results import newest_report
from dicom_node.delivering import reporting, spooled
from dicom_node.delivering.built import Built
from dicom_node.errors import NotPossible, StoreFull, StoreUnavailable
from dicom_node.report import readback
from dicom_node.report.picture import Shown
from dicom_node.store import commitment_asked, jobs, outbox, overview, series
from dicom_node.store.spool import Spool
from dicom_node.store.tables import deliveries, instances, objects, slice_results
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import series as series_table
from dicom_node.working import extras, signs
from dicom_node.working.worker import Worker
from dtvit import ct
from dtvit.checkpoint import Checkpoint

EVERYTHING = ("report", "picture", "document", "key_objects")
PRESENT, ABSENT = 0.95, 0.02


def reported(folder: Path, *peers: Any, presence: float = PRESENT) -> Made:
    """A node that has made everything that one series owes."""
    node = made_node(folder, peers=peers)
    node.accept(*head_series())
    node.tick_after(31)
    finish(node, presence)
    return node


def finish(node: Made, presence: float = PRESENT) -> None:
    node.work(node.worker(FakeClassifier(presence)))


def owed(node: Made) -> set[tuple[str, str]]:
    kinds = {o.id: o.kind for o in node.rows(objects)}
    return {(d.destination, kinds[d.object_id]) for d in node.rows(deliveries) if d.state == "waiting"}


def deliver(node: Made, destination: str, *, commitment: bool = False) -> None:
    now = node.clock()
    with node.database.write() as connection:
        for delivery in outbox.due(connection, destination, now=now, longest_wait_s=3600.0):
            outbox.delivered(connection, delivery, 0, now=now, commitment=commitment)


def take_back(node: Made, why: str = "wrong patient on the table", checkpoint: Checkpoint | None = None) -> str:
    checkpoint = checkpoint or FakeClassifier().checkpoint
    with node.database.read() as connection:
        one = series.get(connection, 1)
    assert one is not None
    given = {"why": why, "checkpoint": checkpoint, "device_uid": "2.25.100", "now": node.clock()}
    return withdraw(node.database, node.spool, node.config, one, **given)


def test_each_destination_is_owed_the_objects_it_asked_for(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104, objects=EVERYTHING), peer(105, name="PACS2"))
    assert owed(node) == {
        ("PACS1", "report"),
        ("PACS1", "picture"),
        ("PACS1", "document"),
        ("PACS1", "key_objects"),
        ("PACS2", "report"),
    }


def test_a_worker_gives_signs_of_life_while_it_makes_what_follows_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=EVERYTHING)])
    node.accept(*head_series())
    node.tick_after(31)
    came, make = threading.Event(), reporting.summary_picture

    def long(*given: Any) -> Any:
        came.clear()
        assert came.wait(30), "no sign of life"
        return make(*given)

    monkeypatch.setattr(signs, "SIGN_S", 0.01)
    monkeypatch.setattr(reporting, "summary_picture", long)
    node.work(node.worker(alive=came.set))
    assert ("PACS1", "picture") in owed(node)


def test_the_report_is_on_its_way_before_the_picture_is_begun(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=("report", "picture"))])
    node.accept(*head_series())
    node.tick_after(31)
    worker = node.worker()
    node.makes_report(worker)
    assert owed(node) == {("PACS1", "report")}
    deliver(node, "PACS1")
    assert [job.state for job in node.rows(jobs_table)] == ["reported"]  # not delivered: a picture is owed
    worker.step()
    assert owed(node) == {("PACS1", "picture")}
    deliver(node, "PACS1")
    assert [job.state for job in node.rows(jobs_table)] == ["delivered"]


def test_the_picture_shows_the_result_and_names_nobody(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104, objects=("report", "picture")))
    made = next(o for o in node.rows(objects) if o.kind == "picture")
    ds = pydicom.dcmread(node.spool.path(made.file))
    assert (ds.Modality, ds.BurnedInAnnotation, ds.PhotometricInterpretation) == ("OT", "NO", "RGB")
    assert ds.StudyInstanceUID == head_series()[0].StudyInstanceUID
    assert ds.SeriesDescription.startswith("AI: ICH PRESENT")
    assert len(ds.pixel_array.reshape(-1, 3).max(0).nonzero()[0]) == 3  # something is drawn, in colour


class BloodInTwo(FakeClassifier):
    """Sees it in the tenth and the eleventh of the slices that it is asked for."""

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
        numbers = sum(self.asked) + np.arange(len(inputs))
        found = super().predict(inputs)
        found.presence = np.where(np.isin(numbers, (9, 10)), PRESENT, ABSENT)
        return found


def test_the_picture_shows_the_frames_that_the_result_names_and_maps_of_those_with_blood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[int, Shown] = {}
    draw = reporting.summary_picture

    def drawn(*given: Any) -> Built:
        *_, found, pictures = given
        shown.update({found.slices[index].frame: one for index, one in pictures.items()})
        return draw(*given)

    monkeypatch.setattr(reporting, "summary_picture", drawn)
    node = made_node(tmp_path, peers=[peer(104, objects=("report", "picture"))])
    node.accept(enhanced(head_series()))
    node.tick_after(31)
    node.work(node.worker(BloodInTwo()))
    image = ct.CTObject(node.spool.read(node.rows(instances)[0].file))
    assert {10, 11} < set(shown)
    for frame, one in shown.items():
        assert (one.hu == image.slice(frame - 1).hu).all()
        assert (one.relevance is not None) == (frame in (10, 11))


def test_a_picture_that_cannot_be_made_holds_up_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("dicom_node.delivering.reporting.summary_picture", broken)
    node = reported(tmp_path, peer(104, objects=("report", "picture")))
    deliver(node, "PACS1")
    assert [job.state for job in node.rows(jobs_table)] == ["delivered"]


def test_a_worker_that_dies_before_the_picture_leaves_it_to_the_next(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=("report", "picture"))])
    node.accept(*head_series())
    node.tick_after(31)
    first = node.worker()
    node.makes_report(first)
    finish(node)  # another worker
    assert [o.kind for o in node.rows(objects)] == ["report", "picture"]
    with node.database.read() as connection:
        assert jobs.next_with_extras(connection, now=node.clock(), lease_s=60.0) is None


def test_only_positive_means_that_an_absent_result_is_owed_to_nobody(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104, objects=EVERYTHING, only_positive=True), presence=ABSENT)
    assert owed(node) == set()
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("delivered", "absent")]


def test_withdrawing_cancels_what_is_undelivered_and_tells_who_has_it(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104, withdraw_by="quality"), peer(105, name="PACS2", withdraw_by="quality"))
    deliver(node, "PACS1")
    said = take_back(node)
    assert "1 deliveries cancelled" in said
    assert "PACS1 will be told" in said
    assert owed(node) == {("PACS1", "withdrawal")}
    (tmp_path / "config.toml").write_text("")
    shown = CliRunner().invoke(main, ["report", "show", "1", "--config", str(tmp_path / "config.toml")])
    assert "WITHDRAWN, no longer valid: wrong patient" in shown.output
    assert "INTRACEREBRAL HEMORRHAGE: PRESENT" in shown.output
    report, rejection = node.rows(objects)
    ds = pydicom.dcmread(node.spool.path(rejection.file))
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113001"
    named = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in named] == [report.sop_instance_uid]
    assert [job.state for job in node.rows(jobs_table)] == ["withdrawn"]
    with pytest.raises(NotPossible, match="withdrawn"):
        take_back(node)


def test_what_is_sent_while_a_withdrawal_is_built_is_named_by_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is built without holding anybody up; what it says is compared with what is so when it is stored."""
    node = reported(tmp_path, peer(104, objects=("report", "picture"), withdraw_by="quality"))
    kept, built = len(list(node.spool.stored())), reporting.withdrawal
    with node.database.read() as connection:
        first, second = outbox.due(connection, "PACS1", now=node.clock(), longest_wait_s=3600.0)
    sent = iter([first, second])

    def sends_meanwhile(*given: Any, **more: Any) -> Built:
        for delivery in sent:
            with node.database.write() as connection:  # nobody holds the lock
                outbox.delivered(connection, delivery, 0, now=node.clock())
            break
        return built(*given, **more)

    with node.database.write() as connection:
        outbox.delivered(connection, next(sent), 0, now=node.clock())
    monkeypatch.setattr(reporting, "withdrawal", sends_meanwhile)
    assert take_back(node) == "withdrawn; PACS1 will be told with a Key Object Selection"
    (rejection,) = [made for made in node.rows(objects) if made.kind == "withdrawal"]
    assert named(pydicom.dcmread(node.spool.path(rejection.file))) == {first.sop_instance_uid, second.sop_instance_uid}
    assert len(list(node.spool.stored())) == kept + 1


@pytest.mark.parametrize("drawing", [False, True], ids=["before it is drawn", "while it is drawn"])
def test_of_a_result_that_was_withdrawn_no_picture_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawing: bool
) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=("report", "picture"))])
    node.accept(*head_series())
    node.tick_after(31)
    worker = node.worker()
    node.makes_report(worker)
    draw = reporting.summary_picture

    def drawn(*given: Any) -> Built:
        take_back(node)
        return draw(*given)

    if drawing:
        monkeypatch.setattr(reporting, "summary_picture", drawn)
    else:
        take_back(node)
    finish(node)
    assert [o.kind for o in node.rows(objects)] == ["report"]
    assert owed(node) == set()


def test_no_picture_is_made_of_a_report_by_another_model_and_nothing_waits_for_it(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=("report", "picture"))])
    node.accept(*head_series())
    node.tick_after(31)
    worker = node.worker()
    node.makes_report(worker)
    deliver(node, "PACS1")
    newer = FakeClassifier(ABSENT)
    newer.checkpoint = replace(newer.checkpoint, digest="e" * 64)
    assert node.worker(newer).step()
    assert [o.kind for o in node.rows(objects)] == ["report"]
    assert [job.state for job in node.rows(jobs_table)] == ["delivered"]


def test_withdrawing_says_who_must_be_told_by_other_means(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104))
    deliver(node, "PACS1")
    assert "PACS1 keeps what it has" in take_back(node)
    assert owed(node) == set()


def test_with_a_result_go_those_that_it_superseded(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104, withdraw_by="quality")])
    slices = head_series()
    for part in (slices[:-1], slices[-1:]):
        node.accept(*part)
        node.tick_after(100)
        finish(node)
        deliver(node, "PACS1")
    first, second = node.rows(objects)
    (tmp_path / "config.toml").write_text("[node]\nmin_free_mib = 0\n")
    assert newest_report("1", tmp_path / "config.toml") == node.spool.read(second.file)
    assert "PACS1 will be told" in take_back(node)
    named = str(pydicom.dcmread(node.spool.path(node.rows(objects)[2].file)).CurrentRequestedProcedureEvidenceSequence)
    assert first.sop_instance_uid in named
    assert second.sop_instance_uid in named
    assert [job.state for job in node.rows(jobs_table)] == ["withdrawn", "withdrawn"]


def test_a_result_can_be_withdrawn_with_a_reason_and_as_long_as_any_image_is_there(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104, withdraw_by="quality"))
    deliver(node, "PACS1")
    with pytest.raises(NotPossible, match="say why"):
        take_back(node, why=" ")
    files = [node.spool.path(row.file) for row in node.rows(instances)]
    for file in files[1:-1]:
        file.unlink()
    files[0].write_bytes(b"no longer what it was")
    assert "PACS1 will be told" in take_back(node)


@pytest.mark.parametrize("back", [False, True], ids=["", "and back"])
def test_a_result_whose_images_came_again_as_another_patients_is_told_of_and_can_be_withdrawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, back: bool
) -> None:
    """Under another Series Instance UID: no newer run would ever supersede it."""
    node = reported(tmp_path, peer(104, withdraw_by="patient-safety"))
    deliver(node, "PACS1")
    other = {"PatientID": "SYN-0002", "StudyInstanceUID": "1.2.3.9", "SeriesInstanceUID": "1.2.3.9.1"}
    node.accept(*[changed(ds, **other) for ds in head_series()])
    if back:
        node.accept(*head_series())
    states = [row.state for row in node.rows(series_table)]
    assert states == (["receiving", "failed"] if back else ["failed", "receiving"])
    assert sum("failed series=" in line for line in caplog.messages) == (2 if back else 1)
    assert "under another patient or study" in node.rows(series_table)[states.index("failed")].reason
    if not back:
        assert "PACS1 will be told" in take_back(node)
        rejection = pydicom.dcmread(node.spool.path(node.rows(objects)[1].file))
        assert rejection.PatientID == "SYN-0001"


def test_of_a_series_that_goes_to_another_patient_nothing_is_reported_any_more(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104)])
    node.accept(*head_series())
    node.tick_after(31)
    node.accept(*[changed(ds, PatientID="SYN-0002", SeriesInstanceUID="1.2.3.9.1") for ds in head_series()[:5]])
    finish(node)
    assert [job.state for job in node.rows(jobs_table)] == ["cancelled"]
    assert node.rows(objects) == []


def test_what_waits_for_a_pacs_is_not_sent_once_its_images_are_in_another_study(tmp_path: Path) -> None:
    """It would lie where its images are not, and the withdrawal that goes with its successor would come before it."""
    node = reported(tmp_path, peer(104, withdraw_by="quality"))
    node.accept(*[changed(ds, StudyInstanceUID="1.2.3.9") for ds in head_series()])
    node.tick_after(100)
    finish(node)
    assert [row.state for row in node.rows(deliveries)] == ["cancelled", "waiting"]


@pytest.mark.parametrize("elsewhere", [{}, {"SeriesInstanceUID": "1.2.3.9.1"}], ids=["", "in another series"])
def test_what_waits_for_a_pacs_is_not_sent_once_its_images_are_another_patients(
    tmp_path: Path, elsewhere: dict[str, str]
) -> None:
    node = reported(tmp_path, peer(104, objects=EVERYTHING))
    assert len(owed(node)) == 4
    corrected = [changed(ds, PatientID="SYN-0002", **elsewhere) for ds in head_series()]
    node.accept(corrected[0])
    assert owed(node) == set()
    node.accept(*corrected[1:])
    node.tick_after(100)
    finish(node)
    sent = {row.object_id for row in node.rows(deliveries) if row.state == "waiting"}
    made = [pydicom.dcmread(node.spool.path(row.file)) for row in node.rows(objects) if row.id in sent]
    assert [ds.PatientID for ds in made] == ["SYN-0002"] * 4
    assert not any("PredecessorDocumentsSequence" in ds for ds in made)  # nobody has seen what it would replace


@pytest.mark.parametrize("elsewhere", [{}, {"SeriesInstanceUID": "1.2.3.9.1"}], ids=["", "in another series"])
def test_a_report_that_a_pacs_has_no_more_is_not_sent_again_once_its_images_are_another_patients(
    tmp_path: Path, elsewhere: dict[str, str]
) -> None:
    """As where somebody has deleted it there, because it was about the wrong one."""
    node = reported(tmp_path, peer(104, commitment=True))
    deliver(node, "PACS1", commitment=True)
    with node.database.write() as connection:
        asked = commitment_asked.due(connection, "PACS1", now=node.clock(), longest_wait_s=3600.0, limit=9)
        commitment_asked.ask(connection, asked, "1.2.3", again_at=node.clock() + 3600.0)
    node.accept(*[changed(ds, PatientID="SYN-0002", **elsewhere) for ds in head_series()])
    with node.database.write() as connection:
        lost = {one.sop_instance_uid: 0x0112 for one in asked}
        commitment_asked.settle(connection, "1.2.3", (), lost, now=node.clock(), wait_s=lambda _: 1.0)
    assert owed(node) == set()


def test_a_result_is_taken_back_in_the_name_of_the_patient_that_it_was_about_last(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104, withdraw_by="patient-safety"))
    node.accept(*[changed(ds, PatientID="SYN-0002") for ds in head_series()])
    node.tick_after(100)
    finish(node)
    deliver(node, "PACS1")
    node.accept(*[changed(ds, PatientID="SYN-0003", SeriesInstanceUID="1.2.3.9.1") for ds in head_series()])
    take_back(node)
    assert pydicom.dcmread(node.spool.path(node.rows(objects)[-1].file)).PatientID == "SYN-0002"


@pytest.mark.parametrize("moved", [{"PatientID": "SYN-0002"}, {"StudyInstanceUID": "1.2.3.9"}])
def test_a_result_is_taken_back_where_it_was_filed_whatever_its_images_say_by_now(
    tmp_path: Path, moved: dict[str, str]
) -> None:
    node = reported(tmp_path, peer(104, withdraw_by="patient-safety"))
    deliver(node, "PACS1")
    node.accept(*[changed(ds, **moved) for ds in head_series()])
    take_back(node)
    first, rejection = (pydicom.dcmread(node.spool.path(row.file)) for row in node.rows(objects))
    assert spooled.place(rejection) == spooled.place(first)
    assert named(rejection) == {first.SOPInstanceUID}


def test_results_that_were_filed_in_two_places_are_taken_back_in_each(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104, withdraw_by="patient-safety"))
    deliver(node, "PACS1")
    second = arrives(node, [changed(ds, PatientID="SYN-0002") for ds in head_series()])
    deliver(node, "PACS1")
    first = node.rows(objects)[0].sop_instance_uid
    before = len(node.rows(objects))
    take_back(node)
    made = [pydicom.dcmread(node.spool.path(row.file)) for row in node.rows(objects)[before:]]
    assert {ds.PatientID: named(ds) for ds in made} == {
        "SYN-0001": {first},
        "SYN-0002": {second["report"].SOPInstanceUID},
    }


@pytest.mark.parametrize("elsewhere", [{}, {"SeriesInstanceUID": "1.2.3.9.1"}], ids=["", "in another series"])
@pytest.mark.parametrize("sent", [False, True], ids=["it waits", "it is sent"])
def test_to_a_report_whose_images_are_another_patients_no_picture_is_made(
    tmp_path: Path, elsewhere: dict[str, str], sent: bool
) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=EVERYTHING)])
    node.accept(*head_series())
    node.tick_after(31)
    node.makes_report(node.worker(FakeClassifier(PRESENT)))
    if sent:
        deliver(node, "PACS1")
    node.accept(changed(head_series()[0], PatientID="SYN-0002", **elsewhere))
    finish(node)
    assert owed(node) == set()
    assert [job.state for job in node.rows(jobs_table)] == ["delivered"]


@pytest.mark.parametrize("elsewhere", [{}, {"SeriesInstanceUID": "1.2.3.9.1"}], ids=["", "in another series"])
def test_a_run_ends_without_a_report_where_its_images_are_another_patients_by_then(
    tmp_path: Path, elsewhere: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = made_node(tmp_path, peers=[peer(104)])
    node.accept(*head_series())
    node.tick_after(31)
    read = spooled.headers

    def corrected_right_after(*given: Any) -> Any:
        headers = read(*given)
        monkeypatch.setattr(spooled, "headers", read)
        node.accept(*[changed(ds, PatientID="SYN-0002", **elsewhere) for ds in head_series()])
        return headers

    monkeypatch.setattr(spooled, "headers", corrected_right_after)
    finish(node)
    assert node.rows(objects) == []
    node.tick_after(100)
    finish(node)
    assert [job.state for job in node.rows(jobs_table)] == ["cancelled", "reported"]
    (made,) = node.rows(objects)
    assert pydicom.dcmread(node.spool.path(made.file)).PatientID == "SYN-0002"


MOVED: dict[str, dict[str, str]] = {
    "another patient": {"PatientID": "SYN-0002"},
    "another study": {"StudyInstanceUID": "1.2.3.9"},
}


@pytest.mark.parametrize("moved", MOVED.values(), ids=MOVED)
def test_a_result_that_lies_with_another_patient_or_study_than_its_images_by_now_is_told_of_and_taken_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, moved: dict[str, str]
) -> None:
    """In the same series: the newer report names the older one, but is not beside it."""
    node = reported(tmp_path, peer(104, withdraw_by="patient-safety"), peer(105, name="PACS2"))
    deliver(node, "PACS1")
    deliver(node, "PACS2")
    made = arrives(node, [changed(ds, **moved) for ds in head_series()])
    assert sum("left_behind series=1 run=2" in line for line in caplog.messages) == 1
    with node.database.read() as connection:
        found = overview.overview(connection, now=node.clock())
    assert found.left_behind == (1,)
    assert any("a result of series 1 was sent" in line for line in health(found, no_room=None, destinations=[])[1])
    first = pydicom.dcmread(node.spool.path(node.rows(objects)[0].file))
    rejection = made["withdrawal"]
    assert (rejection.PatientID, rejection.StudyInstanceUID) == (first.PatientID, first.StudyInstanceUID)
    (study,) = rejection.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == first.StudyInstanceUID
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert owed(node) == {("PACS1", "report"), ("PACS2", "report"), ("PACS1", "withdrawal")}


def test_what_a_correction_left_behind_is_taken_back_by_a_later_run_where_the_one_that_told_of_it_had_no_time_to(
    tmp_path: Path,
) -> None:
    """Jobs go before what else one owes, and the patient's name is corrected a minute after the ID."""
    node = reported(tmp_path, peer(104, withdraw_by="patient-safety"))
    deliver(node, "PACS1")
    moved = [changed(ds, PatientID="SYN-0002") for ds in head_series()]
    node.accept(*moved)
    node.tick_after(100)
    worker = node.worker()
    while len(node.rows(objects)) == 1:
        assert worker.step()
    deliver(node, "PACS1")
    made = arrives(node, [changed(ds, PatientName="SYNTHETIC^OTHER") for ds in moved])
    assert made["withdrawal"].PatientID == "SYN-0001"
    (study,) = made["withdrawal"].CurrentRequestedProcedureEvidenceSequence
    (withdrawn,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert withdrawn.ReferencedSOPInstanceUID == node.rows(objects)[0].sop_instance_uid


def left_behind(folder: Path) -> tuple[Made, Worker]:
    """A result that is out, and its images corrected to be another patient's: the report of that is made, no more."""
    node = reported(folder, peer(104, objects=("report", "picture"), withdraw_by="patient-safety"))
    deliver(node, "PACS1")
    node.accept(*[changed(ds, PatientID="SYN-0002") for ds in head_series()])
    node.tick_after(100)
    worker, made = node.worker(FakeClassifier(PRESENT)), len(node.rows(objects))
    while len(node.rows(objects)) == made:
        assert worker.step()
    return node, worker


def taken_back(node: Made) -> bool:
    return ("PACS1", "withdrawal") in owed(node)


def test_a_picture_that_cannot_be_made_costs_no_withdrawal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, worker = left_behind(tmp_path)

    def fails(*_: object) -> Built:
        raise ValueError("no font")

    monkeypatch.setattr(reporting, "summary_picture", fails)
    assert worker.step()
    assert taken_back(node)


def test_a_picture_that_ends_the_worker_costs_no_withdrawal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        """As kill -9 is: nothing is tidied."""

    node, worker = left_behind(tmp_path)

    def ends(*_: object) -> Built:
        raise Ended

    monkeypatch.setattr(reporting, "summary_picture", ends)
    for _ in range(extras.EXTRAS_TRIES):
        with pytest.raises(Ended):
            worker.step()
        node.clock.advance(node.config.results.lease_s + 1.0)
    assert worker.step()
    assert taken_back(node)


def test_a_model_that_was_changed_meanwhile_costs_the_picture_and_no_withdrawal(tmp_path: Path) -> None:
    node, _ = left_behind(tmp_path)
    with node.database.write() as connection:
        connection.execute(jobs_table.update().values(model_digest="0" * 64))
    assert node.worker(FakeClassifier(PRESENT)).step()
    assert taken_back(node)
    assert ("PACS1", "picture") not in owed(node)


def test_a_withdrawal_that_was_refused_can_be_sent_again_whatever_has_been_reported_since(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104, withdraw_by="quality"))
    deliver(node, "PACS1")
    take_back(node)
    with node.database.write() as connection:
        connection.execute(deliveries.update().where(deliveries.c.state == "waiting").values(state="failed"))
    node.accept(*[changed(ds, StudyID="78") for ds in head_series()])
    node.tick_after(100)
    finish(node)
    deliver(node, "PACS1")
    assert [row.state for row in node.rows(deliveries)] == ["delivered", "failed", "delivered"]
    with node.database.write() as connection:
        retry_refused(connection, now=node.clock())
    assert [row.state for row in node.rows(deliveries)] == ["delivered", "waiting", "delivered"]


def test_what_was_taken_back_at_a_destination_is_not_taken_back_there_again(tmp_path: Path) -> None:
    """Each later run said it anew, of all runs before it."""
    node = reported(tmp_path, peer(104, objects=("report", "picture"), withdraw_by="patient-safety"))
    deliver(node, "PACS1")
    moved = [changed(ds, PatientID="SYN-0002") for ds in head_series()]
    second = arrives(node, moved)
    assert named(second["withdrawal"]) == {made.sop_instance_uid for made in node.rows(objects)[:2]}
    for _ in range(3):  # what is owed of a kind goes in order
        deliver(node, "PACS1")
    assert not owed(node)
    third = arrives(node, [changed(ds, PatientName="SYNTHETIC^OTHER") for ds in moved])
    assert named(third["withdrawal"]) == {second["picture"].SOPInstanceUID}


def named(selection: pydicom.Dataset) -> set[str]:
    """SOP Instance UIDs that it is about."""
    of_series = [
        one for study in selection.CurrentRequestedProcedureEvidenceSequence for one in study.ReferencedSeriesSequence
    ]
    return {str(each.ReferencedSOPInstanceUID) for one in of_series for each in one.ReferencedSOPSequence}


def test_a_series_that_is_split_is_still_the_same_patients(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104))
    node.accept(*[changed(ds, SeriesInstanceUID="1.2.3.9.1") for ds in head_series()[:5]])
    assert [row.state for row in node.rows(series_table)] == ["complete", "receiving"]


def test_what_waits_is_not_sent_either_once_its_images_are_another_patients_by_way_of_another_series(
    tmp_path: Path,
) -> None:
    node = reported(tmp_path, peer(104))
    split = [changed(ds, SeriesInstanceUID="1.2.3.9.1") for ds in head_series()]
    node.accept(*split)
    assert len(owed(node)) == 1
    node.accept(*[changed(ds, PatientID="SYN-0002") for ds in split])
    assert owed(node) == set()
    assert node.rows(series_table)[0].state == "failed"


def test_a_report_that_waits_is_not_sent_once_an_image_comes_back_as_another_patients(tmp_path: Path) -> None:
    """By way of another series, so that the one it comes back to no longer counts it when it comes."""
    node = reported(tmp_path, peer(104))
    image = head_series()[3]
    node.accept(changed(image, SeriesInstanceUID="1.2.3.9.1"))
    assert len(owed(node)) == 1
    node.accept(changed(image, PatientID="SYN-0002"))
    assert owed(node) == set()


def test_a_series_whose_images_went_to_another_study_waits_for_a_person_if_it_was_reported(tmp_path: Path) -> None:
    """Under another Series Instance UID, so that no newer run of it would ever tell that they are elsewhere."""
    node = reported(tmp_path, peer(104))
    moved = {"StudyInstanceUID": "1.2.3.9", "SeriesInstanceUID": "1.2.3.9.1"}
    node.accept(*[changed(ds, **moved) for ds in head_series()])
    first, second = node.rows(series_table)
    assert (first.state, second.state) == ("failed", "receiving")
    assert "under another patient or study" in first.reason


def test_a_corrected_name_fails_no_series_that_the_image_left_before(tmp_path: Path) -> None:
    node = reported(tmp_path, peer(104))
    node.accept(*[changed(ds, PatientID="P-2") for ds in head_series()])
    moved = changed(head_series()[3], PatientID="P-2", SeriesInstanceUID="1.2.3.77")
    node.accept(moved)
    states = [row.state for row in node.rows(series_table)]
    node.accept(changed(moved, PatientName="Corrected^Name"))
    assert [row.state for row in node.rows(series_table)] == states == ["receiving", "receiving"]


def test_who_is_still_owed_a_report_is_owed_the_one_that_supersedes_it_though_not_configured_meanwhile(
    tmp_path: Path,
) -> None:
    node = reported(tmp_path, peer(104), peer(105, name="PACS2"))
    node.config = node.config.model_copy(update={"peers": (peer(104),)})
    node.accept(*[changed(ds, StudyID="78") for ds in head_series()])
    node.tick_after(100)
    finish(node)
    assert [(row.object_id, row.destination) for row in node.rows(deliveries)] == [
        *((1, name) for name in ("PACS1", "PACS2")),
        *((2, name) for name in ("PACS1", "PACS2")),
    ]


def made_with(ds: pydicom.Dataset) -> set[str]:
    """What an object says of the model: names of what the result was made with."""
    said = ds.ContributingEquipmentSequence[0].ContributionDescription
    return {line.partition(" = ")[0] for line in said.split("; ")}


def test_a_withdrawal_says_nothing_of_a_model_that_did_not_make_the_result(tmp_path: Path) -> None:
    """Who updates the model, and then finds a result of the former one wrong."""
    node = reported(tmp_path, peer(104, withdraw_by="quality"))
    deliver(node, "PACS1")
    own = FakeClassifier().checkpoint
    newer = replace(own, digest="0" * 64, metadata=replace(own.metadata, name="NEWER"))
    take_back(node, checkpoint=newer)
    rejection = pydicom.dcmread(node.spool.path(node.rows(objects)[-1].file))
    assert made_with(rejection) == {"weights sha256", "preprocessing"}
    assert "f" * 64 in rejection.ContributingEquipmentSequence[0].ContributionDescription


@pytest.mark.parametrize("updated", [False, True])
def test_so_does_one_of_what_a_newer_result_of_another_model_supersedes(tmp_path: Path, updated: bool) -> None:
    node, _ = left_behind(tmp_path)
    model = FakeClassifier(PRESENT)
    if updated:
        model.checkpoint = replace(model.checkpoint, digest="0" * 64)
    assert node.worker(model).step()
    made = next(row for row in node.rows(objects) if row.kind == "withdrawal")
    said = made_with(pydicom.dcmread(node.spool.path(made.file)))
    assert said >= {"weights sha256", "preprocessing"}
    assert ("checkpoint" in said) is not updated
    assert "precision" not in said  # nothing was computed for it


def test_there_must_be_a_result_to_withdraw(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104)])
    node.accept(*head_series())
    with pytest.raises(NotPossible, match="no result"):
        take_back(node)


def test_a_newer_result_withdraws_the_old_picture_where_that_is_wanted(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=EVERYTHING, withdraw_by="patient-safety")])
    slices = head_series()
    first = arrives(node, slices[:-2])
    deliver(node, "PACS1")
    arrives(node, slices[-2:-1])  # nothing of this run is delivered when the next is there, not even what it withdraws
    third = arrives(node, slices[-1:])
    rejection = third["withdrawal"]
    assert rejection.ConceptNameCodeSequence[0].CodeValue == "113037"
    named = str(rejection.CurrentRequestedProcedureEvidenceSequence)
    for kind in ("picture", "document", "key_objects"):
        assert first[kind].SOPInstanceUID in named
    assert first["report"].SOPInstanceUID not in named, "the report itself says what it replaces"
    assert rejection.SeriesDescription == "AI: WITHDRAWN older version", "not the version that stands"


def arrives(node: Made, slices: list[pydicom.Dataset]) -> dict[str, pydicom.Dataset]:
    """Slices come and are reported on; the objects that this run made, by kind."""
    before = len(node.rows(objects))
    node.accept(*slices)
    node.tick_after(100)
    finish(node)
    return {o.kind: pydicom.dcmread(node.spool.path(o.file)) for o in node.rows(objects)[before:]}


def test_a_picture_that_ends_the_worker_twice_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def deadly(*_: Any, **__: Any) -> None:
        raise Killed

    node = made_node(tmp_path, peers=[peer(104, objects=("report", "picture"))])
    node.accept(*head_series())
    node.tick_after(31)
    monkeypatch.setattr("dicom_node.delivering.reporting.summary_picture", deadly)
    for _ in range(2):
        with pytest.raises(Killed):
            finish(node)
        with node.database.write() as connection:  # as `serve` does when its worker has ended
            jobs.free(connection, now=node.clock())
    finish(node)
    deliver(node, "PACS1")
    assert [job.state for job in node.rows(jobs_table)] == ["delivered"]


def test_who_was_told_of_hemorrhage_is_told_that_it_is_not_there_after_all(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104, only_positive=True)])
    slices = head_series()
    node.accept(*slices[:-1])
    node.tick_after(31)
    finish(node, PRESENT)
    deliver(node, "PACS1")
    with node.database.write() as connection:  # as after a change of the model, which says otherwise
        connection.execute(slice_results.delete())
    node.accept(slices[-1])
    node.tick_after(100)
    finish(node, ABSENT)
    assert [job.outcome for job in node.rows(jobs_table)] == ["present", "absent"]
    assert owed(node) == {("PACS1", "report")}


@pytest.mark.parametrize("only_positive", [True, False])
def test_a_picture_says_as_the_report_does_whether_an_earlier_result_went_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_positive: bool
) -> None:
    drawn: list[str] = []
    node = made_node(tmp_path, peers=[peer(104, objects=("report", "picture"), only_positive=only_positive)])
    slices = head_series()
    node.accept(*slices[:-1])
    node.tick_after(31)
    finish(node, ABSENT)
    deliver(node, "PACS1")
    with node.database.write() as connection:  # as after a change of the model, which says otherwise
        connection.execute(slice_results.delete())
    node.accept(slices[-1])
    node.tick_after(100)
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, xy, text, **__: drawn.append(text))
    finish(node, PRESENT)
    (newest,) = (o for o in node.rows(objects) if o.kind == "report" and o.job_id == 2)
    said = readback.parse(node.spool.read(newest.file)).conclusion[1]
    assert said.startswith("Version 2")
    assert ("replaces" in said) is not only_positive
    assert [("replaces" in line) for line in drawn if line.startswith("Version 2")] == [not only_positive]


@pytest.mark.parametrize(
    ("fails", "how"),
    [("keep", StoreFull("the disk of the spool is full")), ("read", StoreUnavailable("the spool is away"))],
    ids=["full", "away"],
)
def test_a_disk_that_is_full_or_away_postpones_pictures_and_costs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, how: Exception
) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=("report", "picture"))])
    node.accept(*head_series())
    node.tick_after(31)
    worker = node.worker(FakeClassifier(PRESENT))
    node.makes_report(worker)

    def failing(*_: object) -> None:
        raise how

    with monkeypatch.context() as disk:
        disk.setattr(Spool, fails, failing)
        for _ in range(extras.EXTRAS_TRIES + 1):
            with pytest.raises(type(how)):
                worker.step()
    while worker.step():
        pass
    assert owed(node) == {("PACS1", "report"), ("PACS1", "picture")}


def test_pictures_that_another_worker_is_at_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=("report", "picture"))])
    node.accept(*head_series())
    node.tick_after(31)
    first, *others = (node.worker(FakeClassifier(PRESENT), owner=name) for name in ("one", "two", "three"))
    node.makes_report(first)
    draw, idle = reporting.summary_picture, []

    def drawn(*given: Any) -> Built:
        idle.extend(not other.step() for other in others)
        return draw(*given)

    monkeypatch.setattr(reporting, "summary_picture", drawn)
    first.step()
    assert idle == [True, True]
    assert owed(node) == {("PACS1", "report"), ("PACS1", "picture")}
    assert node.rows(jobs_table)[0].lease_owner is None


def test_pictures_of_a_worker_that_died_are_made_by_another(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104, objects=("report", "picture"))])
    node.accept(*head_series())
    node.tick_after(31)
    worker = node.worker(FakeClassifier(PRESENT))
    node.makes_report(worker)
    until = node.clock() + node.config.results.lease_s
    with node.database.write() as connection:
        assert jobs.begin_extras(connection, 1, tries=0, owner="dead", until=until)
        assert not jobs.begin_extras(connection, 1, tries=0, owner="late", until=until)
    assert not worker.step()
    with node.database.write() as connection:
        jobs.free(connection, owner="dead", now=node.clock())
    assert worker.step()
    assert owed(node) == {("PACS1", "report"), ("PACS1", "picture")}
