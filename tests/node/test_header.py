"""What is read of an object's header, and what a hostile object gets."""

from __future__ import annotations

import contextlib
import random
import struct
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from made import ct, encoded, undeclared
from pydicom import uid
from pydicom.dataset import Dataset

from dicom_node.errors import InvalidObject
from dicom_node.headers import dataset, header
from dicom_node.headers.facts import Facts
from dicom_node.headers.identity import patient_digest, patient_digests
from dicom_node.headers.texts import read_text
from dicom_node.status import StoreStatus
from dtvit.reading import stepping

IMPLICIT, EXPLICIT, BIG = (
    str(s) for s in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
)


def read(ds: Dataset, *, syntax: str = EXPLICIT, data_set: bytes | None = None, **announced: str) -> header.Header:
    given = {"sop_class_uid": str(ds.SOPClassUID), "sop_instance_uid": str(ds.SOPInstanceUID)} | announced
    return header.read(encoded(ds, syntax) if data_set is None else data_set, transfer_syntax_uid=syntax, **given)


def status_of(ds: Dataset, **given: Any) -> StoreStatus:
    with pytest.raises(InvalidObject) as caught:
        read(ds, **given)
    return caught.value.status


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_the_facts_are_read_in_every_uncompressed_syntax(syntax: str) -> None:
    got = read(ct(7), syntax=syntax)
    assert (got.study_uid, got.series_uid) == (ct().StudyInstanceUID, ct().SeriesInstanceUID)
    facts = got.facts
    assert (facts.modality, facts.kernel, facts.body_part) == ("CT", "H30s", "HEAD")
    assert (facts.thickness_mm, facts.position_mm, facts.tilt_deg) == (5.0, 35.0, 0.0)
    assert (facts.instance_number, facts.frames, facts.rows, facts.columns) == (7, 1, 16, 16)
    assert Facts.from_json(facts.to_json()) == facts
    assert Facts.from_json({**facts.to_json(), "kept_by_a_later_version": [1]}) == facts


def test_the_same_pixels_have_one_digest_in_both_little_endian_syntaxes() -> None:
    implicit, explicit, other = (
        header.pixel_digest(encoded(ds, syntax), syntax)
        for ds, syntax in ((ct(1), IMPLICIT), (ct(1), EXPLICIT), (ct(2), EXPLICIT))
    )
    assert implicit == explicit
    assert explicit != other


def test_positions_grow_towards_the_head_for_prone_and_feet_first_alike() -> None:
    for orientation in ([1, 0, 0, 0, 1, 0], [-1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0], [-1, 0, 0, 0, -1, 0]):
        low, high = (read(ct(n, ImageOrientationPatient=orientation)).facts.position_mm for n in (1, 2))
        assert low is not None
        assert high is not None
        assert high > low


def test_tilt_is_the_angle_to_the_axial_plane() -> None:
    tilted = read(ct(ImageOrientationPatient=[1, 0, 0, 0, 0.8660254, -0.5])).facts.tilt_deg
    coronal = read(ct(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])).facts.tilt_deg
    assert tilted == pytest.approx(30.0, abs=0.01)
    assert coronal == pytest.approx(90.0)


def test_instances_of_one_patient_and_study_share_an_identity_and_others_do_not() -> None:
    identity = read(ct()).identity
    assert read(ct(2)).identity == identity
    others: tuple[dict[str, str], ...] = (
        *(
            {"PatientID": "P-2"},
            {"IssuerOfPatientID": "X"},
            {"PatientName": "Doe^John"},
            {"PatientBirthDate": "19510101"},
        ),
        *({"PatientSex": "O"}, {"AccessionNumber": "X"}, {"study": "1.2.3"}),
    )
    for changed in others:
        assert read(ct(2, **changed)).identity != identity
    assert "Doe" not in identity


@pytest.mark.parametrize("spelled", ["Doe^Jane^^^", "Doe^Jane ", "Doe^Jane^=="])
def test_delimiters_at_the_end_of_a_name_make_no_other_patient(spelled: str) -> None:
    for given in ({}, {"PatientID": ""}):
        one, other = read(ct(**given)), read(ct(PatientName=spelled, **given))
        assert (other.identity, other.patient) == (one.identity, one.patient)
    assert read(ct(PatientName="Doe^^Jane")).identity != read(ct()).identity


@pytest.mark.parametrize("name", ["Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "\u5c71\u7530^\u592a\u90ce"])
def test_a_name_is_the_same_in_whatever_character_set_it_comes(name: str) -> None:
    """One that changes sets by escape sequences is all ASCII, byte by byte."""
    escaped = ct(PatientName=name, SpecificCharacterSet=["", "ISO 2022 IR 87"])
    assert encoded(escaped).count(b"\x1b") > 1
    one, other = read(escaped), read(ct(PatientName=name, SpecificCharacterSet="ISO_IR 192"))
    assert (one.identity, one.patient) == (other.identity, other.patient)
    assert one.identity != read(ct(PatientName="Yamada^Tarou")).identity


@pytest.mark.parametrize("charset", ["none", "ISO_IR 100", "GB18030", "ISO_IR 203", "ISO 2022 IR 203"])
@pytest.mark.parametrize("syntax", [EXPLICIT, BIG])
def test_whose_an_image_is_does_not_depend_on_the_character_set_or_on_its_being_declared(
    charset: str, syntax: str
) -> None:
    """Nor on which room of the node is loaded: before, ISO_IR 203 was known to those that make reports alone."""
    who = {"PatientID": "\xe4-17", "PatientName": "M\xfcller^J\xf6rg", "IssuerOfPatientID": "Sch\xf6nau"}
    one = read(ct(**who, SpecificCharacterSet="ISO_IR 192"))
    latin = charset.replace("203", "100")  # in which these letters have the same bytes
    ds = ct(**(undeclared(**who) if charset == "none" else {**who, "SpecificCharacterSet": latin}))
    other = read(ds, syntax=syntax, data_set=encoded(ds, syntax).replace(latin.encode(), charset.encode()))
    assert (other.identity, other.patient) == (one.identity, one.patient)
    assert other.patient == patient_digest("\xe4-17")


def test_a_letter_that_latin_1_lacks_is_read_as_meant() -> None:
    ds = ct(PatientID="\xa8-17", SpecificCharacterSet="ISO_IR 100")
    data_set = encoded(ds).replace(b"ISO_IR 100", b"ISO_IR 203")
    assert read(ds, data_set=data_set).patient == patient_digest("\u0161-17")


def test_a_chinese_name_that_escape_sequences_announce_is_the_same_in_utf_8() -> None:
    """As in PS3.5 annex K."""
    escaped = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab"
    ds = ct(PatientName="X" * len(escaped), SpecificCharacterSet=["", "ISO 2022 IR 58"])
    one = read(ds, data_set=encoded(ds).replace(b"X" * len(escaped), escaped))
    name = "Zhang^XiaoDong=\u5f20^\u5c0f\u4e1c"
    assert one.identity == read(ct(PatientName=name, SpecificCharacterSet="ISO_IR 192")).identity


@pytest.mark.parametrize(
    ("vr", "value", "read_as"), [("OB", b"P-1 ", "P-1"), ("SQ", [Dataset()], ""), ("UT", "P-1", "P-1")]
)
def test_an_id_under_another_vr_is_that_id_to_everyone(vr: str, value: Any, read_as: str) -> None:
    ds = ct(PatientID=None)
    ds.add_new("PatientID", vr, value)
    assert read(ds).patient == read(ct(PatientID=read_as)).patient
    assert (read_text(ds, "PatientID") or "") == read_as


def test_digests_that_are_kept_stay_what_they_were() -> None:
    """Of plain text, whatever this program learns to read: an image that came before is nobody else's for that."""
    its = read(ct())
    assert its.patient == patient_digest("P-1") == "82988760f79ba0aea59cfd857ca63807741790cd42bd045dabe7e075914da212"
    assert its.identity == "ca0f8baeaf806198c08a57da752bb29c650f6d7919c1924f3d6b4c90f911f7bc"
    assert read(ct(PatientID="")).patient == "1b9a094e80cb5d0d087b502ab97a387f89d5a2f2207994ffb1b892517fbf6bef"


@pytest.mark.parametrize(
    ("patient_id", "before"), [("P-1", set()), ("\xc4-17", {"\xc3\x84-17", "\x1b$)A\xc4-17"}), ("\xe0", {"\xc3"})]
)
def test_a_patient_is_looked_for_as_earlier_versions_read_the_id_too(patient_id: str, before: set[str]) -> None:
    assert {patient_digest(each) for each in (patient_id, *before)} <= patient_digests(patient_id)
    assert (len(patient_digests(patient_id)) == 1) == patient_id.isascii()


def test_what_cannot_be_read_counts_as_absent_and_costs_no_slice() -> None:
    ds = ct()
    for keyword, vr, value in (
        ("SliceThickness", "LO", "thick"),
        ("InstanceNumber", "LO", "one"),
        ("ConvolutionKernel", "SQ", [Dataset()]),
        ("ImagePositionPatient", "OB", b"\xff\xff"),
        ("NumberOfFrames", "LO", "9" * 40),
    ):
        if keyword in ds:
            del ds[keyword]
        ds.add_new(keyword, vr, value)
    facts = read(ds).facts
    assert (facts.thickness_mm, facts.instance_number, facts.kernel, facts.position) == (None, None, None, None)
    assert facts.frames == 1


def test_numbers_that_no_scanner_writes_do_not_become_infinite() -> None:
    facts = read(
        ct(ImagePositionPatient=["1e300", "-1e300", "1e300"], ImageOrientationPatient=["1e200", 0, 0, 0, "1e200", 0])
    ).facts
    assert (facts.position_mm, facts.tilt_deg) == (None, None)


def test_a_place_that_no_patient_lies_at_or_lacks_its_direction_is_none() -> None:
    far = read(ct(ImagePositionPatient=[0, 0, "2e5"])).facts
    assert (far.position, far.tilt_deg) == (None, 0.0)
    assert read(ct(ImageOrientationPatient=["1.5", 0, 0, 0, "1.5", 0])).facts.orientation is None
    assert read(ct(ImageOrientationPatient=[1, 0, 0, 0, 1, 0, 0])).facts.orientation is None
    assert read(ct(ImagePositionPatient=[0, 0, 5, 9])).facts.position is None
    undirected = read(ct(ImageOrientationPatient=None)).facts
    assert (undirected.position_mm, undirected.tilt_deg) == (None, None)


@pytest.mark.parametrize("other", [{"PatientBirthDate": "19500102"}, {"PatientName": "Doe^John"}])
def test_without_an_id_patients_are_told_apart_by_name_and_birth_date(other: dict[str, str]) -> None:
    one = read(ct(PatientID=""))
    assert read(ct(2, PatientID="")).patient == one.patient
    assert read(ct(PatientID="", **other)).patient != one.patient


def test_the_time_of_day_stands_in_one_element_or_in_two() -> None:
    in_two = read(ct(AcquisitionDate="20260301", AcquisitionTime="093015.25")).facts
    in_one = read(ct(AcquisitionDateTime="20260301093015.25")).facts
    assert in_two.acquired == in_one.acquired == "2026-03-01T09:30:15"


def test_texts_are_kept_short_and_printable() -> None:
    ds = ct()
    del ds.ConvolutionKernel
    ds.add_new("ConvolutionKernel", "UT", "H30\0s\n" + "x" * 10_000)
    kernel = read(ds).facts.kernel
    assert kernel is not None
    assert kernel.startswith("H30?s?x")
    assert len(kernel) == 64


@pytest.mark.parametrize(
    "garbage", [b"", b"\0" * 7, b"DICM" * 40, b"\x08\x00\x16\x00UI\x10\x00short", bytes(range(256))]
)
def test_garbage_cannot_be_understood(garbage: bytes) -> None:
    with pytest.raises(InvalidObject) as caught:
        read(ct(), data_set=garbage)
    assert caught.value.status in (StoreStatus.CANNOT_UNDERSTAND, StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, "../../etc/passwd", "1.2.3\0", "1." + "2" * 64, "1..2", "1.2.x", "1"])
def test_an_object_that_names_no_valid_uid_is_not_understood(keyword: str, value: str | None) -> None:
    ds = ct()
    del ds[keyword]
    if value is not None:
        ds.add_new(keyword, "LT", value)
    if value == "1.2.3\0":  # a UID is padded by one NUL (PS3.5 9.1): that one is right
        assert read(ds).study_uid
    else:
        assert status_of(ds) == StoreStatus.CANNOT_UNDERSTAND


def test_an_object_that_is_not_the_one_announced_is_refused() -> None:
    assert status_of(ct(), sop_instance_uid="1.2.3") == StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS
    assert status_of(ct(), sop_class_uid="1.2.3") == StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS


def test_a_ct_image_without_pixels_is_refused_and_a_dose_report_is_not() -> None:
    assert status_of(ct(PixelData=None)) == StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS
    report = ct(PixelData=None, SOPClassUID=str(uid.XRayRadiationDoseSRStorage))
    assert read(report).facts.rows == 16
    assert header.pixel_digest(encoded(report, EXPLICIT), EXPLICIT) == ""


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_data_set_that_ends_too_early_is_refused_wherever_it_ends(syntax: str) -> None:
    whole = encoded(ct(), syntax)
    for length in range(0, len(whole) - 1, 17):
        with pytest.raises(InvalidObject):
            read(ct(), syntax=syntax, data_set=whole[:length])


def test_a_length_that_points_beyond_the_end_is_refused() -> None:
    whole = bytearray(encoded(ct(PixelData=None, SOPClassUID=str(uid.XRayRadiationDoseSRStorage)), IMPLICIT))
    at = whole.rindex(b"HU")
    whole[at - 4 : at] = (2**31).to_bytes(4, "little")
    with pytest.raises(InvalidObject):
        read(ct(), syntax=IMPLICIT, data_set=bytes(whole), sop_class_uid=str(uid.XRayRadiationDoseSRStorage))


def test_sequences_nested_without_end_are_refused() -> None:
    item = b"\x08\x00\x12\x22SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    hostile = encoded(ct(PixelData=None))[:400] + item * 2000
    with pytest.raises(InvalidObject) as caught:
        read(ct(), data_set=hostile)
    assert caught.value.status == StoreStatus.CANNOT_UNDERSTAND


def in_file_meta(syntax: str) -> bytes:
    """(0002,0010) Transfer Syntax UID, as it stands in a file."""
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    return struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize("named", [IMPLICIT, BIG, str(uid.DeflatedExplicitVRLittleEndian)])
def test_a_data_set_that_names_another_transfer_syntax_than_agreed_is_refused(syntax: str, named: str) -> None:
    """In the file it would count, and whoever reads the file would read another object, or a bomb."""
    if named != syntax:
        assert status_of(ct(), syntax=syntax, data_set=in_file_meta(named) + encoded(ct(), syntax)) == 0xC000


def test_file_meta_information_that_agrees_costs_no_slice() -> None:
    assert read(ct(), data_set=in_file_meta(EXPLICIT) + encoded(ct())) == read(ct())


@pytest.mark.parametrize("before", [b"", in_file_meta(EXPLICIT)])
def test_a_data_set_that_begins_as_a_command_set_is_refused(before: bytes) -> None:
    hiding = struct.pack("<HH2sH", 0, 0x1000, b"UI", 4) + b"1.2\0"
    assert status_of(ct(), data_set=before + hiding + encoded(ct())) == 0xC000


def many_elements(count: int) -> bytes:
    """Empty private elements, eight bytes each."""
    return b"".join(struct.pack("<HH2sH", 9, 0x1000 + number, b"LO", 0) for number in range(count))


@pytest.mark.parametrize("layout", ["usual", "unusual", "in a sequence"])
def test_an_object_made_of_elements_is_refused_before_they_fill_the_memory(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed they take forty times their size: a hundred mebibytes of them would end the receiver."""
    monkeypatch.setattr(dataset, "MOST_READS", 2000)
    monkeypatch.setattr(stepping, "_LARGE", 16_000)
    crowd = many_elements(4000)
    if layout == "unusual":
        crowd += crowd[:8]
    if layout == "in a sequence":
        begin, end = (
            b"\xfe\xff\x00\xe0" + b"\xff" * 4,
            b"\xfe\xff\x0d\xe0" + b"\0" * 4 + b"\xfe\xff\xdd\xe0" + b"\0" * 4,
        )
        crowd = struct.pack("<HH", 9, 0x1000) + b"SQ\0\0" + b"\xff" * 4 + begin + crowd + end
    whole = encoded(ct())
    behind_group_8 = whole.index(struct.pack("<HH", 0x10, 0x10))
    with pytest.raises(InvalidObject, match="more elements than any real one"):
        read(ct(), data_set=whole[:behind_group_8] + crowd + whole[behind_group_8:])


def with_element(ds: Dataset, tag: int, value: bytes, syntax: str) -> bytes:
    """The encoded data set with this element instead of its own, of a length that its VR could not have."""
    before, after = Dataset(), Dataset()
    for element in ds:
        if int(element.tag) != tag:
            (before if int(element.tag) < tag else after).add(element)
    vr = b"" if syntax == IMPLICIT else b"UN\0\0"
    element_of = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + struct.pack("<I", len(value)) + value
    return encoded(before, syntax) + element_of + encoded(after, syntax)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize(
    "tag", [0x00080005, 0x00080008, 0x00100010, 0x00200032], ids=["character set", "image type", "name", "position"]
)
def test_a_value_of_a_hundred_thousand_values_does_not_fill_the_memory(tag: int, syntax: str) -> None:
    """Of (0020,0032) each took 230 bytes: a hundred mebibytes of them would end the receiver."""
    data_set = with_element(ct(PatientName="D\xf6"), tag, b"1\\" * 2**17, syntax)
    tracemalloc.start()
    try:
        with contextlib.suppress(InvalidObject):
            read(ct(), syntax=syntax, data_set=data_set)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(data_set)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "odd",
    [
        b"".join(struct.pack("<HHI", 9, 0x1480 - number, 0) for number in range(480)),  # in no order
        struct.pack("<HHI", 0x18, 0x1210, 3840) + "\xe9\\".encode("latin-1") * 1920,  # a kernel of many values
    ],
    ids=["elements", "values"],
)
def test_what_two_thousand_frames_say_oddly_does_not_fill_the_memory(odd: bytes) -> None:
    """Nor take seconds: one of eight mebibytes took 250 MiB, and 64 associations bring them side by side."""

    def item(of: bytes) -> bytes:
        return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(of)) + of

    frames = item(struct.pack("<HHI", 0x18, 0x9314, len(item(odd))) + item(odd)) * 2000
    data_set = with_element(ct(ConvolutionKernel=None), 0x52009230, frames, IMPLICIT)
    tracemalloc.start()
    try:
        assert read(ct(), syntax=IMPLICIT, data_set=data_set).facts.kernel is None
        assert tracemalloc.get_traced_memory()[1] < 5 * len(data_set)
    finally:
        tracemalloc.stop()


def test_a_character_set_in_a_sequence_counts_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MOST_READS", 2000)
    within = struct.pack("<HHI", 8, 5, 4000) + b"X\\" * 2000
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(within)) + within + b"\xfe\xff\xdd\xe0" + b"\0" * 4
    sequence = struct.pack("<HHI", 8, 0x1110, 0xFFFFFFFF) + item
    whole = encoded(ct(), IMPLICIT)
    behind = whole.index(struct.pack("<HH", 0x10, 0x10))
    with pytest.raises(InvalidObject, match="more elements than any real one"):
        read(ct(), syntax=IMPLICIT, data_set=whole[:behind] + sequence + whole[behind:])


@pytest.mark.timeout(60)
def test_what_is_said_of_a_contrast_agent_at_length_is_read_in_no_time() -> None:
    """Whether it says "none" took as many minutes for the longest that fit as seconds for an eighth of that: four."""
    assert read(ct(ContrastBolusAgent="no" + "-" * 64_000 + "!")).facts.contrast


def test_large_headers_are_parsed_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may take 250 MiB, and 64 associations bring them at once."""
    parse, within, most = dataset._parse, list[int](), list[int]()

    def counting(*given: Any) -> Any:
        within.append(1)
        time.sleep(0.01)
        most.append(len(within))
        within.pop()
        return parse(*given)

    monkeypatch.setattr(dataset, "_parse", counting)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: read(ct(number), syntax=BIG), range(1, 9)))
    assert most == [1] * 8


def test_a_large_header_of_few_elements_is_read() -> None:
    ds = ct()
    ds.add_new(0x00091010, "OB", b"\1" * (stepping._LARGE + 2))
    assert read(ds).facts == read(ct()).facts


def test_reading_warns_of_nothing_as_a_warning_would_quote_the_value(tmp_path: Path) -> None:
    (tmp_path / "data_set").write_bytes(encoded(ct(study="1.2.3.45.678")).replace(b"1.2.3.45.678", b"Doe^Jane.Ann"))
    code = (
        "import sys, pathlib; from dicom_node import errors; from dicom_node.headers import header\n"
        "try: header.read(pathlib.Path(sys.argv[1]).read_bytes(), transfer_syntax_uid=sys.argv[2],"
        " sop_class_uid=sys.argv[3], sop_instance_uid=sys.argv[4])\n"
        "except errors.InvalidObject as exc: print(exc)"
    )
    arguments = [str(tmp_path / "data_set"), EXPLICIT, str(ct().SOPClassUID), str(ct().SOPInstanceUID)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("Study Instance UID is missing or not a UID\n", "")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_whatever_is_broken_in_an_object_it_is_read_or_refused(syntax: str) -> None:
    """Any other exception would be answered as our own failure, and the object tried again for ever."""
    rng = random.Random(7)
    whole = encoded(ct(AnatomicRegionSequence=[_item()]), syntax)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(600):
        broken = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(broken))
            broken[at : at + rng.choice((0, 1, 1, 1, 6))] = rng.randbytes(rng.choice((1, 1, 1, 0, 5)))
        try:
            read(ct(), syntax=syntax, data_set=bytes(broken))
            outcomes["read"] += 1
        except InvalidObject:
            outcomes["refused"] += 1
    assert outcomes["read"] > 40
    assert outcomes["refused"] > 40


ODD = [
    "",
    " ",
    " A ",
    "A\\B ",
    "A \\ B",
    "Müller",
    "=x",
    "a=b=c",
    "^^^",
    "5.0",
    "+5",
    "1e3",
    "nan",
    "9" * 40,
    "x\0y",
    "1\\\\2",
]


SEQUENCE = "ContrastBolusAgentSequence"  # the one that is no text and no number


@pytest.mark.parametrize("odd", [b"", b"Omnipaque 350 as text ", b"\xfe\xff\x00\xe0" * 8])
def test_a_text_where_a_sequence_belongs_holds_no_items(odd: bytes) -> None:
    ds = ct(3)
    ds.add_new(SEQUENCE, "OB", odd)
    assert not read(ds).facts.contrast


@pytest.mark.parametrize("undefined", [False, True], ids=["defined length", "undefined length"])
@pytest.mark.parametrize("said", ["", "X"])
def test_an_agent_sequence_names_an_agent_if_its_item_holds_anything(said: str, undefined: bool) -> None:
    """The shortest that can be: a code of two bytes."""
    ds, item = ct(3), Dataset()
    if said:
        item.CodeValue = said
    item.is_undefined_length_sequence_item = undefined
    setattr(ds, SEQUENCE, [item])
    ds[SEQUENCE].is_undefined_length = undefined
    assert read(ds).facts.contrast is bool(said)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_what_is_read_without_pydicom_is_what_pydicom_reads(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, find, plain = random.Random(8), stepping.find, 0

    def unusual(*_: Any) -> None:
        raise stepping.Unusual

    def outcome(data_set: bytes) -> header.Header | str:
        try:
            return read(ct(3), syntax=syntax, data_set=data_set)
        except InvalidObject as exc:
            return str(exc)

    for number in range(120):
        ds = ct(3, AnatomicRegionSequence=[_item()])
        ds["AnatomicRegionSequence"].is_undefined_length = number % 2 == 0
        ds.AnatomicRegionSequence[0].is_undefined_length_sequence_item = number % 4 == 0
        for keyword in rng.sample(sorted(header._READ - {"SOPClassUID", "SOPInstanceUID", SEQUENCE}), 2):
            ds.pop(keyword, None)
            ds.add_new(keyword, rng.choice(("LO", "CS", "UI", "PN", "SH", "UT", "DA")), rng.choice(ODD))
        data_set = bytearray(encoded(ds, syntax))
        if number % 3 == 0:
            at = rng.randrange(len(data_set) - 512)
            data_set[at : at + 1] = rng.randbytes(rng.choice((0, 1, 2)))
        mine = outcome(bytes(data_set))
        with monkeypatch.context() as patch:
            patch.setattr(stepping, "find", unusual)
            assert mine == outcome(bytes(data_set))
        with contextlib.suppress(stepping.Unusual, struct.error):
            find(bytes(data_set), syntax == IMPLICIT, frozenset())
            plain += 1
    assert plain > 60


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("beyond", [0, 4, 40])
def test_an_item_with_an_element_that_reaches_beyond_it_is_pydicoms_to_judge(syntax: str, beyond: int) -> None:
    """Stepped over by its length, it would be followed by other elements than those behind the one it holds."""
    length = struct.pack("<L" if syntax == IMPLICIT else "<2sH", *([] if syntax == IMPLICIT else [b"LO"]), 4 + beyond)
    element = struct.pack("<HH", 8, 0x0104) + length + b"Head"
    begin = struct.pack("<HH", 8, 0x2218) + (b"" if syntax == IMPLICIT else b"SQ\0\0") + b"\xff" * 4
    item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(element)) + element
    whole = encoded(ct(), syntax)
    behind_group_8 = whole.index(struct.pack("<HH", 0x10, 0x10))
    data_set = whole[:behind_group_8] + begin + item + b"\xfe\xff\xdd\xe0" + b"\0" * 4 + whole[behind_group_8:]
    if beyond:
        with pytest.raises(stepping.Unusual):
            stepping.find(data_set, syntax == IMPLICIT, frozenset())
    else:
        assert stepping.find(data_set, syntax == IMPLICIT, frozenset())[1] is not None


def test_a_header_of_many_elements_is_read_without_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_parse", None)
    assert read(ct(7)).facts.instance_number == 7


def _item() -> Dataset:
    inner = Dataset()
    inner.CodeValue = "T-A0100"
    outer = Dataset()
    outer.CodeMeaning = "Head"
    outer.AnatomicRegionModifierSequence = [inner]
    return outer
