"""`prepare`: from DICOM to pictures and a manifest that training reads; what is done once is not done again."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import numpy as np
import pytest
from click.testing import CliRunner
from made import encoded, grey_series, head_series, part10, undeclared
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicom_node import received
from dicom_node.cli import main
from dicom_node.errors import NotFound, NotPossible
from dicom_node.preparing import drawing, prepare, records
from dicom_node.preparing import preparing as preparing_module
from dtvit import ct, preprocess
from dtvit.brace import MODES, VERSIONS
from dtvit.reading.headervalues import UnreadableSlice
from train.dataset import manifest

REPOSITORY = Path(__file__).resolve().parents[2]
IDENTITY = ("Doe", "Jane", "P-1", "SYN-0001", "SYNTHETIC", "ACC-1", "1.2.")


def filed(folder: Path, datasets: Sequence[Dataset]) -> Path:
    """The objects as Part 10 files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, ds in enumerate(datasets):
        (folder / f"{ds.SeriesInstanceUID}-{number:03}.dcm").write_bytes(part10(ds))
    return folder


def patient(number: int, **values: Any) -> list[Dataset]:
    return head_series(study=f"1.2.{number}.1", series=f"1.2.{number}.1.1", **{"PatientID": f"P-{number}"} | values)


def labels(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def documented(name: str, *arguments: Path) -> None:
    """Run the script that docs/data.md shows under this name."""
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "data.md").read_text(), re.DOTALL)
    (script,) = (block for block in blocks if block.startswith(f'"""python {name}'))
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dicom")
    filed(folder / "a", patient(1, Manufacturer="Maker", ManufacturerModelName="One", InstitutionName="Clinic of Doe"))
    return filed(folder / "b", patient(2)).parent


def test_a_patient_is_one_whether_or_not_the_character_set_is_declared(tmp_path: Path) -> None:
    """Or both training and test would have the head."""
    filed(tmp_path / "a", patient(1, PatientID="\xc4-17", SpecificCharacterSet="ISO_IR 192"))
    filed(tmp_path / "a", patient(2, **undeclared(PatientID="\xc4-17")))
    table = labels(tmp_path / "labels.csv", "PatientID,ich,location\n\xc4-17,1,deep\n")
    done = prepare(tmp_path / "a", tmp_path / "out", labels=table)
    assert (done.series, done.patients, done.unlabelled) == (2, 1, 0)
    assert {line["location"] for line in lines(tmp_path / "out")} == {"deep"}


def test_the_manifest_is_one_that_training_reads(two: Path, tmp_path: Path) -> None:
    table = labels(tmp_path / "labels.csv", "PatientID,ich,location\nP-1,1,deep\nP-2,0,\n")
    done = prepare(two, tmp_path / "out", labels=table)
    found = manifest.read(tmp_path / "out" / "manifest.csv")
    assert (done.patients, done.series, done.made, done.slices) == (2, 2, 2, len(found.rows))
    assert {(row.ich, row.location) for row in found.rows} == {(1, "deep"), (0, None)}
    assert {row.scanner for row in found.rows} >= {"Maker One"}
    assert done.bleeding_by_series == sum(row.ich == 1 for row in found.rows)
    assert [line.split(" slices ")[1].split(",")[0] for line in done.troubles] == [
        "count as bleeding because their whole series"
    ]


def test_a_picture_is_the_slice_as_the_node_cleans_it(two: Path, tmp_path: Path) -> None:
    prepare(two, tmp_path / "out")
    slices = ct.order([s for path in (two / "b").iterdir() for s in ct.read(path)])
    ready = preprocess.refine(slices, [preprocess.prepare(s) for s in slices])
    inputs = [one.input for one in ready]
    second = [
        line for line in lines(tmp_path / "out") if line["patient_id"] == lines(tmp_path / "out")[-1]["patient_id"]
    ]
    pictures = [np.asarray(Image.open(tmp_path / "out" / line["path"])) for line in second]
    assert 10 <= len(pictures) < len(slices)
    at = [next(i for i, seen in enumerate(inputs) if (seen == preprocess.model_input(p)).all()) for p in pictures]
    assert at == list(range(at[0], at[0] + len(at)))
    assert [line["slice"] for line in second] == [str(n + 1) for n in range(len(second))]


def test_names_and_ids_carry_no_identity(two: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(two, out, labels=labels(tmp_path / "labels.csv", "StudyInstanceUID,ich\n1.2.1.1,1\n1.2.2.1,0\n"))
    names = [str(path.relative_to(out)) for path in out.rglob("*")]
    texts = [path.read_text() for path in out.rglob("*") if path.suffix in (".csv", ".json")]
    assert len(texts) == 3
    assert not [(word, text) for word in IDENTITY for text in (*names, *texts) if word in text]
    assert all(re.fullmatch(r"images/P[0-9a-f]{12}/S[0-9a-f]{12}/\d{3}\.png", line["path"]) for line in lines(out))
    for path in (out / ".prepare").iterdir():
        assert path.name == "lock" or path.stat().st_mode & 0o077 == 0


def test_another_folder_gives_the_same_patient_another_id(two: Path, tmp_path: Path) -> None:
    prepare(two, tmp_path / "here")
    prepare(two, tmp_path / "there")
    assert not {x["patient_id"] for x in lines(tmp_path / "here")} & {
        x["patient_id"] for x in lines(tmp_path / "there")
    }


def test_the_key_tells_whose_they_are_to_its_owner_alone(two: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.csv"
    prepare(two, tmp_path / "out", key=key)
    assert key.stat().st_mode & 0o777 == 0o600
    with key.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [line["path"] for line in lines(tmp_path / "out")]
    assert {(row["PatientID"], row["StudyInstanceUID"]) for row in rows} == {("P-1", "1.2.1.1"), ("P-2", "1.2.2.1")}


@pytest.mark.parametrize("mode", MODES)
def test_the_manifest_says_what_removed_the_head_holder(tmp_path: Path, mode: str) -> None:
    prepare(filed(tmp_path / "in", patient(1)), tmp_path / "out", mode=mode)
    assert {line["brace_removal"] for line in lines(tmp_path / "out")} == {VERSIONS[mode]}
    assert manifest.read(tmp_path / "out" / "manifest.csv", labels_needed=False).brace_removal == {VERSIONS[mode]}


def test_the_key_may_not_lie_among_the_pictures(two: Path, tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="keep it elsewhere"):
        prepare(two, tmp_path / "out", key=tmp_path / "out" / "key.csv")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The series that are made, by UID."""
    made: list[str] = []
    draw = drawing.draw

    def watched(instances: Any, mode: str) -> Any:
        made.append(instances[0].header.series_uid)
        return draw(instances, mode)

    monkeypatch.setattr(drawing, "draw", watched)
    return made


def test_a_second_call_makes_only_what_is_new(tmp_path: Path, drawn: list[str]) -> None:
    folder, out = filed(tmp_path / "in", patient(1)), tmp_path / "out"
    prepare(folder, out)
    before = lines(out)
    filed(folder, patient(2))
    done = prepare(folder, out)
    assert drawn == ["1.2.1.1.1", "1.2.2.1.1"]
    assert (done.series, done.made) == (2, 1)
    assert lines(out)[: len(before)] == before


def test_another_preprocessing_makes_all_of_it_again(two: Path, tmp_path: Path, drawn: list[str]) -> None:
    prepare(two, tmp_path / "out")
    assert prepare(two, tmp_path / "out", mode="paper").made == 2
    assert prepare(two, tmp_path / "out", mode="paper").made == 0
    assert len(drawn) == 4


def test_a_changed_series_and_one_whose_pictures_are_gone_are_made_again(tmp_path: Path, drawn: list[str]) -> None:
    folder, out = filed(tmp_path / "in", patient(1)), tmp_path / "out"
    prepare(folder, out)
    (out / lines(out)[0]["path"]).unlink()
    assert prepare(folder, out).made == 1
    next(iter(folder.iterdir())).unlink()
    assert prepare(folder, out).made == 1
    manifest.read(out / "manifest.csv", labels_needed=False)


def test_a_stop_between_two_series_costs_only_the_unfinished_one(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[str]
) -> None:
    out = tmp_path / "out"
    replace, calls = records.os.replace, []

    def full(source: Any, target: Any) -> None:
        calls.append(target)
        if "images" in str(target) and sum("images" in str(t) for t in calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(records.os, "replace", full)
        with pytest.raises(preparing_module.StoreUnavailable, match="No space left on device"):
            prepare(two, out)
    assert not (out / "manifest.csv").exists()
    assert prepare(two, out).made == 1
    assert not list((out / ".prepare").glob("making-*"))


def test_two_at_once_are_not_let_into_one_folder(two: Path, tmp_path: Path) -> None:
    with records.open_records(tmp_path / "out"), pytest.raises(NotPossible, match="another prepare is writing"):
        prepare(two, tmp_path / "out")


def test_the_most_exact_label_counts(tmp_path: Path) -> None:
    folder, out = filed(tmp_path / "in", patient(1)), tmp_path / "out"
    sop = str(patient(1)[len(patient(1)) // 2].SOPInstanceUID)
    text = f"sop_instance_uid,patient_id,ich,location\n{sop},P-1,1,lobar\n,P-1,0,\n,P-9,1,\n"
    done = prepare(folder, out, labels=labels(tmp_path / "labels.csv", text))
    assert sorted(line["location"] for line in lines(out) if line["ich"] == "1") == ["lobar"]
    assert sum(line["ich"] == "0" for line in lines(out)) == done.slices - 1
    assert done.troubles == ["1 rows of the labels name nothing here: 4"]


def test_a_table_may_name_files_and_folders(tmp_path: Path) -> None:
    folder, out = filed(tmp_path / "in" / "case 1", patient(1)).parent, tmp_path / "out"
    filed(folder / "case 2", patient(2))
    middle = sorted((folder / "case 1").glob("*.dcm"))[len(patient(1)) // 2].name
    text = f"path,PatientID,ich,location\ncase 1\\{middle},,1,deep\n./case 1/,,0,\n,P-1,1,lobar\n,P-2,1,\n"
    done = prepare(folder, out, labels=labels(tmp_path / "labels.csv", text))
    of = {line["patient_id"]: [] for line in lines(out)}  # type: ignore[var-annotated]
    for line in lines(out):
        of[line["patient_id"]].append((line["ich"], line["location"]))
    first, second = sorted(of.values(), key=lambda each: ("1", "") in each)
    assert (first.count(("1", "deep")), set(first)) == (1, {("1", "deep"), ("0", "")})
    assert set(second) == {("1", "")}
    assert done.unused_rows == (4,)  # that patient's folder is named, which says more
    assert done.bleeding_by_series == len(second)


@pytest.mark.parametrize(("listed_as", "filed_as"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_accent_may_be_written_otherwise_in_the_table_than_in_the_name_of_the_folder(
    tmp_path: Path, listed_as: Literal["NFC", "NFD"], filed_as: Literal["NFC", "NFD"]
) -> None:
    folder = filed(tmp_path / "in" / normalize(filed_as, "Schädel"), patient(1)).parent
    table = labels(tmp_path / "labels.csv", f"path,ich\n{normalize(listed_as, 'Schädel')},0\n")
    assert prepare(folder, tmp_path / "out", labels=table).unused_rows == ()


def test_labelled_images_that_get_no_picture_are_counted(tmp_path: Path) -> None:
    made = patient(1)
    folder, out = filed(tmp_path / "in", made), tmp_path / "out"
    neck, vertex = made[0].SOPInstanceUID, made[-1].SOPInstanceUID
    rows = "".join(f"{ds.SOPInstanceUID},{int(ds.SOPInstanceUID == vertex)}\n" for ds in made)
    done = prepare(folder, out, labels=labels(tmp_path / "labels.csv", f"SOPInstanceUID,ich\n{rows}1.2.9,1\n"))
    last = len(made) + 1
    assert (done.lost, done.lost_bleeding) == (len(made) - done.slices, (last,))
    assert done.unused_rows == (last + 1,)
    assert "labelled as bleeding: rows " + str(last) in done.troubles[0]
    assert neck not in " ".join(done.troubles)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_files_are_prepared_as_de_identification_left_them(tmp_path: Path) -> None:
    """RSNA 2019: SOP class and a UID in the File Meta Information alone, names for UIDs, little else."""
    kept = {*("Modality", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "Rows", "Columns"),
            *("PhotometricInterpretation", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelData"),
            *("PixelRepresentation", "RescaleIntercept", "RescaleSlope")}  # fmt: skip
    folder = tmp_path / "in"
    folder.mkdir()
    for number, ds in enumerate(patient(1)):
        for element in list(ds):
            if element.keyword not in kept:
                del ds[element.tag]
        ds.SOPInstanceUID, ds.PatientID = f"ID_{number:09x}", "ID_449c4fda"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "ID_dfea6a40ad", "ID_eb6fb35fc2"
        file_meta = received.file_meta(str(CTImageStorage), f"1.2.840.4267.{number}", str(ExplicitVRLittleEndian))
        (folder / f"{ds.SOPInstanceUID}.dcm").write_bytes(file_meta + encoded(ds))
    kinds = ("epidural", "intraparenchymal", "any")
    shows = {len(patient(1)) // 2: "011", len(patient(1)) // 2 + 1: "101"}  # by slice; the others show nothing
    rows = [
        f"ID_{number:09x}_{kind},{shown}\n"
        for number in range(len(patient(1)))
        for kind, shown in zip(kinds, shows.get(number, "000"), strict=True)
    ]
    table = labels(tmp_path / "stage_2_train.csv", f"ID,Label\n{''.join(rows)}")
    documented("rsna.py", table, tmp_path / "labels.csv")
    done = prepare(folder, tmp_path / "out", labels=tmp_path / "labels.csv")
    assert (done.patients, done.series, done.unlabelled, done.bleeding_by_series) == (1, 1, 1, 0)
    assert [line["ich"] for line in lines(tmp_path / "out")].count("1") == 1
    plain = prepare(filed(tmp_path / "plain", patient(1)), tmp_path / "same")
    assert plain.slices == done.slices + done.unlabelled > 5


def test_labels_of_scans_are_made_from_what_three_readers_say(tmp_path: Path) -> None:
    said = {"P-1": "1,1,1,1,0,0", "P-2": "0,0,0,0,1,1", "P-3": "1,0,1,0,0,0"}  # any and intracerebral, by each reader
    rows = "".join(f"{name},{each}\n" for name, each in said.items())
    reads = labels(tmp_path / "reads.csv", f"name,R1:ICH,R1:IPH,R2:ICH,R2:IPH,R3:ICH,R3:IPH\n{rows}")
    documented("cq500.py", reads, tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_text().split() == ["PatientID,ich", "P-1,1", "P-2,0"]


def test_slices_without_a_label_are_counted_and_left_out(two: Path, tmp_path: Path) -> None:
    done = prepare(
        two, tmp_path / "out", labels=labels(tmp_path / "labels.csv", "SeriesInstanceUID,ich\n1.2.1.1.1,1\n")
    )
    assert (done.patients, done.series) == (1, 2)
    assert done.unlabelled > 0
    assert {line["ich"] for line in lines(tmp_path / "out")} == {"1"}


def test_wrong_labels_are_told_before_anything_is_read(two: Path, tmp_path: Path) -> None:
    text = "PatientID,ich,location\nP-1,2,\n,1,deep\nP-2,0,deep\nP-3,0,\nP-3,1,\nP-4\n"
    with pytest.raises(NotPossible) as caught:
        prepare(two, tmp_path / "out", labels=labels(tmp_path / "labels.csv", text))
    assert [line.strip().split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "row 2, ich", "row 3", "row 4, location", "row 6, ich", "row 7",
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_labels_without_a_column_to_join_by_are_refused(two: Path, tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="row 1: needs ich and one or more of path, SOPInstanceUID"):
        prepare(two, tmp_path / "out", labels=labels(tmp_path / "labels.csv", "name,ich\nx,1\n"))


def test_an_id_that_is_no_text_does_no_harm(tmp_path: Path) -> None:
    folder = filed(tmp_path / "in", patient(1, PatientID="P\x1b[31m-1", ManufacturerModelName="Ör\x7f"))
    prepare(folder, tmp_path / "out", key=tmp_path / "key.csv")
    assert "P?[31m-1" in (tmp_path / "key.csv").read_text()
    assert lines(tmp_path / "out")[0]["scanner"].isprintable()


def test_pictures_made_below_the_folder_are_not_looked_at_again(tmp_path: Path) -> None:
    folder = filed(tmp_path / "in", patient(1))
    prepare(folder, folder / "out")
    again = prepare(folder, folder / "out")
    assert (again.made, again.unreadable) == (0, {})


def test_what_cannot_be_used_is_named_and_costs_itself_alone(tmp_path: Path) -> None:
    folder = filed(tmp_path / "in", patient(1))
    filed(folder / "grey", grey_series(10, series="1.2.7", study="1.2.70"))
    filed(folder / "few", grey_series(3, series="1.2.8", study="1.2.80"))
    (folder / "notes.txt").write_text("no CT")
    broken = sorted(folder.glob("*.dcm"))[0]
    broken.write_bytes(broken.read_bytes()[:600])
    done = prepare(folder, tmp_path / "out")
    assert done.series == 1
    assert done.unreadable.keys() == {broken.name, "notes.txt"}
    assert done.refused.keys() == {"grey/1.2.7-000.dcm", "few/1.2.8-000.dcm"}
    assert done.made == 1  # nothing was made of what was looked at and left out
    assert "not a head by content" in done.refused["grey/1.2.7-000.dcm"]
    assert "only 3 slices" in done.refused["few/1.2.8-000.dcm"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filed(tmp_path / "in", patient(1))
    (folder / "locked").mkdir()
    listed = os.scandir

    def scandir(path: str) -> object:
        if Path(path) == folder / "locked":  # whoever runs the tests may be allowed everything
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    done = prepare(folder, tmp_path / "out")
    assert (done.series, done.unreadable) == (1, {"locked": "cannot be read (Permission denied)"})


def test_a_slice_whose_pixels_cannot_be_decoded_is_named_also_by_a_second_call(tmp_path: Path) -> None:
    made = patient(1)
    made[4].RescaleSlope = 0
    folder = filed(tmp_path / "in", made)
    first, second = prepare(folder, tmp_path / "out"), prepare(folder, tmp_path / "out")
    assert first.unreadable == second.unreadable
    assert "Rescale Slope" in first.unreadable["1.2.1.1.1-004.dcm"]
    assert second.made == 0


def test_what_could_not_be_read_is_tried_again_at_each_call(
    tmp_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = filed(tmp_path / "in", patient(1)), tmp_path / "out"
    missing = UnreadableSlice("Transfer Syntax 1.2.840.10008.1.2.4.201: no decoder is installed")
    read, tried, told = drawing.ct.CTObject, [], []

    def without_decoder(path: Path) -> Any:
        tried.append(path.name)
        if path.name.endswith("-008.dcm"):
            raise missing
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(drawing.ct, "CTObject", without_decoder)
        first = prepare(folder, out)
        tried.clear()
        second = prepare(folder, out, tell=told.append)
    assert first.unreadable == second.unreadable == {"1.2.1.1.1-008.dcm": str(missing)}
    assert (second.made, tried) == (0, ["1.2.1.1.1-008.dcm"])  # the others are not read again
    assert "1 images tried again" in told[-1]
    third = prepare(folder, out)
    assert (third.made, third.unreadable, third.slices) == (1, {}, first.slices + 1)
    assert prepare(folder, out).made == 0
    assert len(drawn) == 2


def test_a_repaired_file_is_read_again(tmp_path: Path) -> None:
    broken, whole = patient(1), patient(1)
    broken[8].RescaleSlope = 0
    folder, out = filed(tmp_path / "in", broken), tmp_path / "out"
    before = prepare(folder, out)
    filed(folder, whole)
    after = prepare(folder, out)
    assert (after.made, after.unreadable, after.slices) == (1, {}, before.slices + 1)


def test_copies_of_a_file_count_once_and_contradictions_leave_the_series_out(tmp_path: Path) -> None:
    folder = filed(tmp_path / "in", patient(1))
    once = prepare(folder, tmp_path / "once").slices
    filed(folder / "again", patient(1))
    assert prepare(folder, tmp_path / "twice").slices == once
    filed(folder / "other", [patient(1, PatientID="P-2")[0]])
    done = prepare(folder, tmp_path / "contradicting")
    assert done.slices == 0
    assert "two different objects have the same SOP Instance UID" in next(iter(done.refused.values()))


def test_objects_of_a_patient_without_an_id_belong_together_by_study(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in (1, 2):
        filed(folder, patient(number, PatientID="", PatientName="", PatientBirthDate=""))
    assert prepare(folder, tmp_path / "out").patients == 2


def test_the_command_fails_only_where_nothing_came_out(two: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no CT")
    nothing = runner.invoke(main, ["prepare", str(tmp_path / "empty"), "--out", str(tmp_path / "none")])
    assert nothing.exit_code == 1
    assert "notes.txt: not a DICOM file" in nothing.output
    assert "nothing came out" in nothing.output
    some = runner.invoke(main, ["prepare", str(two), "--out", str(tmp_path / "out"), "--config", str(tmp_path / "no")])
    assert some.exit_code == 0
    assert "slices of 2 patients in 2 series, 2 of them new" in some.output
    assert not [word for word in IDENTITY[:6] if word in some.output]


def test_no_folder_is_an_error_and_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not a folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out")


def test_a_record_that_is_damaged_has_its_series_made_again(tmp_path: Path) -> None:
    folder, out = filed(tmp_path / "in", patient(1)), tmp_path / "out"
    prepare(folder, out)
    (state,) = (out / ".prepare").glob("S*.json")
    for damage in ("", json.dumps({"made_by": 1})):
        state.write_text(damage)
        assert prepare(folder, out).made == 1


def test_real_series_are_prepared(shared_data: Path, tmp_path: Path) -> None:
    done = prepare(shared_data / "head-ct" / "ge_hispeed_human_28", tmp_path / "out")
    assert 18 <= done.slices <= 28
    assert not done.unreadable
    manifest.read(done.manifest, labels_needed=False)


def test_encoded_identity_of_a_made_patient_is_there_to_be_found(two: Path) -> None:
    assert b"P-1" in encoded(patient(1)[0])  # or the tests above would look for nothing
