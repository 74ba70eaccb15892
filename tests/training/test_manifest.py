"""The manifest: everything wrong with it is told at once, by row and column, before anything is trained."""

import pickle
import sys
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from learning import written
from listed import entries, grey, listed, table
from PIL import Image

from dtvit import phantom
from train.dataset import manifest, picturefile
from train.errors import UnusableData

TWO = [("a", "deep"), ("b", "")]


def refused(path: Path, **options: bool) -> str:
    with pytest.raises(UnusableData) as caught:
        manifest.read(path, **options)
    return str(caught.value)


def test_a_sound_manifest_is_read_with_paths_beside_it(tmp_path):
    found = listed(tmp_path, TWO, slices=2)
    first = found.rows[0]
    assert (first.line, first.path, first.patient_id, first.slice) == (2, tmp_path / "a-0.png", "a", 0)
    assert [(row.ich, row.location) for row in found.rows] == [(1, "deep"), (1, "deep"), (0, None), (0, None)]
    assert len(found.digest) == 64


def test_every_problem_is_reported_in_one_error_by_row_and_column(tmp_path):
    rows = entries([("a", "deep"), ("b", ""), ("c", "lobar"), ("d", "")], slices=2)
    rows[0]["path"] = "gone.png"
    rows[1]["ich"] = "yes"
    rows[2]["location"] = "lobar"  # of a patient without hemorrhage
    rows[3]["path"] = rows[2]["path"]
    rows[4]["location"] = "Lober"
    rows[5]["patient_id"] = ""
    rows[6]["slice"] = "third"
    rows[7]["ich"] = ""
    path = table(tmp_path, rows)
    (tmp_path / "gone.png").unlink()
    (tmp_path / rows[6]["path"]).write_text("no picture")
    text = refused(path)
    assert "9 problems" in text
    assert text.splitlines()[1:] == [
        "  row 2, path: gone.png is not there",
        "  row 3, ich: 'yes' is neither 0 (no hemorrhage) nor 1",
        "  row 4, location: 'lobar' in a row without hemorrhage (ich is 0); leave it empty",
        "  row 5, path: the same picture as in row 4; list each picture once",
        "  row 6, location: 'Lober' is none of deep, lobar, subtentorial; did you mean 'lobar'?",
        "  row 7, patient_id: empty",
        "  row 8, slice: 'third' is not a whole number (the order within the series)",
        f"  row 8, path: {rows[6]['path']} is not a readable picture",
        "  row 9, ich: empty; enter 0 or 1, or leave the row out",
    ]


def test_a_missing_or_misspelt_part_is_reported(tmp_path):
    parts = ("train", "Test", "", "train")
    rows = [row | {"split": part} for row, part in zip(entries(TWO, slices=2), parts, strict=True)]
    assert refused(table(tmp_path, rows)).splitlines()[1:] == [
        "  row 3, split: 'Test' is none of train, validation, test; did you mean 'test'?",
        "  row 4, split: empty; either every row has one of train, validation, test, or none has",
    ]


def test_more_problems_than_anyone_reads_are_counted(tmp_path):
    rows = entries(TWO, slices=15)
    path = table(tmp_path, rows)
    for row in rows:
        (tmp_path / row["path"]).unlink()
    lines = refused(path).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 10 more"


def test_a_patient_in_two_parts_is_named_by_rows_and_not_by_identity(tmp_path):
    rows = [row | {"split": "train"} for row in entries([("Doe^Jane", "deep"), ("b", "")], slices=2)]
    rows[1]["split"] = "test"
    rows[3]["split"] = ""
    text = refused(table(tmp_path, rows))
    assert "row 3, split: 'test', but the same patient is in 'train' in row 2" in text
    assert "row 5, split: empty; either every row has one of train, validation, test" in text
    assert not any("Doe" in line.replace("Doe^Jane-", "") for line in text.splitlines())


def test_hemorrhage_without_a_location_is_allowed(tmp_path):
    rows = entries(TWO, slices=1)
    rows[0]["location"] = ""
    assert manifest.read(table(tmp_path, rows)).rows[0].location is None


@pytest.mark.parametrize("shown", ["", "deep"])
def test_one_class_alone_is_refused_unless_labels_are_not_needed(tmp_path, shown):
    path = table(tmp_path, entries([("a", shown), ("b", shown)]))
    assert f"row 2, ich: only {'1' if shown else '0'} occurs in 6 rows" in refused(path)
    assert len(manifest.read(path, labels_needed=False).rows) == 6


def test_labels_may_be_missing_where_they_are_not_needed(tmp_path):
    rows = [{"path": "a.png", "patient_id": "a"}]
    found = manifest.read(table(tmp_path, rows), labels_needed=False)
    assert (found.rows[0].ich, found.rows[0].location) == (None, None)
    assert "row 1, ich: this column is missing" in refused(found.path)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("path,ich,location", "row 1, patient_id: this column is missing; the header is path, ich, location"),
        ("path,PatientID,ich,location", "row 1, PatientID: no such column; if it is 'patient_id', name it so"),
        ("path,patient_id,ich,Location", "row 1, Location: no such column; if it is 'location', name it so"),
        ("path,patient_id,ich,ich", "row 1, ich: there are two columns of this name"),
        ("path;patient_id;ich;location", "row 1: its columns are not separated by commas"),
        ("path,patient_id,ich,", "row 1: column 4 has no name; name it, or delete it"),
    ],
)
def test_a_wrong_header_is_named(tmp_path, header, told):
    path = tmp_path / "manifest.csv"
    path.write_text(header + "\n")
    assert told in refused(path)


def test_extra_columns_do_no_harm(tmp_path):
    rows = [row | {"age": "70", "side": "left", "series_id": "1"} for row in entries(TWO)]
    assert len(manifest.read(table(tmp_path, rows)).rows) == 6


def test_a_row_of_another_length_is_named(tmp_path):
    path = table(tmp_path, entries(TWO, slices=1))
    path.write_text(path.read_text() + "x.png,c\n")
    assert "row 4: 2 cells where the header has 5" in refused(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("path,patient_id,ich\nä.png,ä,1\n".encode("latin-1"), "row 2, path: not UTF-8: '?.png'"),
        ("path,patient_id,ich\n".encode("utf-16"), "is UTF-16; save it as CSV in UTF-8"),
        (b"path,patient_id,ich\na\0.png,a,1\n", "holds zero bytes"),
        ("path,patient_id,ich\n".encode("utf-16-le"), "holds zero bytes, as UTF-16"),
        (b"", "is empty"),
        (b"path,patient_id,ich\n", "lists no picture"),
        (b'path,patient_id,ich\n"a.png,b,1\n', "row 2: is not valid CSV"),
    ],
)
def test_a_file_that_is_not_a_utf8_table_is_refused(tmp_path, content, told):
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    assert told in refused(path)


def test_a_byte_order_mark_blank_lines_and_spaces_are_forgiven(tmp_path):
    path = table(tmp_path, entries(TWO, slices=1))
    lines = path.read_text().replace(",a,", ", a ,").splitlines()
    path.write_bytes(("\ufeff" + "\r\n\r\n".join(lines) + "\r\n").encode())
    found = manifest.read(path)
    assert [(row.line, row.patient_id) for row in found.rows] == [(3, "a"), (5, "b")]


def test_what_spreadsheets_leave_behind_is_forgiven(tmp_path):
    path = table(tmp_path, entries(TWO, slices=1))
    header, first, second = path.read_text().replace(",0,1", ",0.0,1.0").replace(",0,0", ",0.0,0.0").splitlines()
    path.write_text("\n".join([header, ",,,,", first, " , ,,,", "   ", second, ",,,,,,", ""]))
    assert [(row.line, row.ich, row.slice) for row in manifest.read(path).rows] == [(3, 1, 0), (6, 0, 0)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P07", "p07"),
        ("00123", "123"),
        ("A 7", "A07"),
        ("Mü", "Mu\u0308"),
        ("ID-7", "ID\u20137"),
        ("ID 8", "ID 8\u200b"),
    ],
)
def test_a_patient_spelt_in_two_ways_is_not_taken_for_two(tmp_path, one, other):
    rows = [row | {"patient_id": spelt} for row, spelt in zip(entries(TWO, slices=1), (one, other), strict=True)]
    text = refused(table(tmp_path, rows))
    assert "row 3, patient_id: as in row 2 except for case, spaces, dashes or leading zeros" in text
    assert one not in text
    assert other not in text


def test_patients_who_differ_in_more_are_two(tmp_path):
    ids = ["7", "70", "700", "0", "1-1", "11", "P1", "P10", "P100", "1 23", "12 3", "ID_a01b1", "ID_a1b01"]
    found = manifest.read(table(tmp_path, entries([(each, "deep" if n % 2 else "") for n, each in enumerate(ids)])))
    assert len(found.rows) == 3 * len(ids)


@pytest.mark.parametrize(("listed_as", "filed_as"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_accent_may_be_written_otherwise_in_the_table_than_in_the_name_of_the_file(tmp_path, listed_as, filed_as):
    """As macOS, and archives made there, write names."""
    rows = entries(TWO, slices=1)
    path = table(tmp_path, rows)
    (tmp_path / normalize(filed_as, "Köpfe")).mkdir()
    name = normalize(filed_as, "Köpfe/é.png")
    (tmp_path / "a-0.png").rename(tmp_path / name)
    path.write_text(path.read_text().replace("a-0.png", normalize(listed_as, "Köpfe/é.png")))
    assert manifest.read(path).rows[0].path == tmp_path / name
    path.write_text(path.read_text() + normalize(filed_as, path.read_text().splitlines()[1]) + "\n")
    assert "the same picture as in row 2" in refused(path)


def test_a_path_that_is_too_long_for_a_file_is_told_by_its_row(tmp_path):
    path = table(tmp_path, entries(TWO, slices=1))
    path.write_text(path.read_text().replace("a-0.png", "ü" * 300))
    assert "row 2, path: " in refused(path)


def test_a_path_with_backslashes_gets_a_hint(tmp_path):
    rows = entries(TWO, slices=1)
    path = table(tmp_path, rows)
    path.write_text(path.read_text().replace("a-0.png", "images\\a-0.png"))
    assert "row 2, path: images\\a-0.png is not there; separate folders by / on every system" in refused(path)


def test_a_word_for_no_location_gets_a_hint(tmp_path):
    rows = entries(TWO, slices=1)
    rows[1]["location"] = "none"
    assert "'none' is none of deep, lobar, subtentorial; without hemorrhage (ich is 0) leave it empty" in refused(
        table(tmp_path, rows)
    )


def test_problems_come_back_from_another_process(tmp_path):
    with pytest.raises(UnusableData) as caught:
        manifest.read(table(tmp_path, entries([("a", "Deep")])))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.problems) == (str(caught.value), caught.value.problems)


def test_a_missing_file_gives_no_traceback(tmp_path):
    assert "cannot be read (No such file or directory)" in refused(tmp_path / "manifest.csv")


def deep_grey(path: Path) -> None:
    Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(path)


def several(path: Path) -> None:
    one = Image.new("L", (40, 40))
    one.save(path, save_all=True, append_images=[Image.new("L", (40, 40), 9)])


@pytest.mark.parametrize(
    ("name", "draw", "told"),
    [
        ("deep.png", deep_grey, "has more than 8 bits per pixel"),
        ("deep.tif", deep_grey, "has more than 8 bits per pixel"),
        ("float.tif", lambda path: Image.new("F", (40, 40)).save(path), "has more than 8 bits per pixel"),
        ("cmyk.jpg", lambda path: Image.new("CMYK", (40, 40)).save(path), "is in colour (mode CMYK)"),
        ("several.tif", several, "holds more than one picture"),
        ("tiny.png", lambda path: grey(path, size=(40, 8)), "is 40 x 8 pixels"),
        ("folder.png", lambda path: path.mkdir(), "is not a readable picture (Is a directory)"),
        (
            "slice.dcm",
            lambda path: path.write_bytes(bytes(128) + b"DICM"),
            "is not a readable picture, but DICOM; dicom-node prepare",
        ),
    ],
)
def test_a_file_that_is_not_an_8_bit_picture_is_refused_with_the_manifest(tmp_path, name, draw, told):
    rows = entries(TWO, slices=1)
    rows[1]["path"] = name
    draw(tmp_path / name)
    assert f"row 3, path: {name} {told}" in refused(table(tmp_path, rows))


def test_pictures_of_another_window_with_the_holder_in_them_are_brought_into_form(tmp_path, monkeypatch):
    spec = phantom.draw(910002, "deep")
    one = phantom.render_slice(spec, spec.positions_mm[len(spec.positions_mm) * 2 // 3])
    (tmp_path / "in" / "a").mkdir(parents=True)
    wide = (np.clip((one.hu + 35) / 150, 0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(wide).save(tmp_path / "in" / "a" / "1.png")
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "in"), str(tmp_path / "out"), "-35", "115"])
    exec(written("data.md", '"""python into_form.py'), {})
    made = picturefile.read(tmp_path / "out" / "a" / "1.png")
    inside = one.brain & (one.hu > 5) & (one.hu < 75)
    assert np.abs(made[inside] / 255 * 80 - one.hu[inside]).max() < 0.5  # HU: a step of the wide window and one of ours
    assert (one.holder & (one.hu > 5)).sum() > 500
    assert not made[one.holder & ~one.head].any()
