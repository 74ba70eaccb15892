"""Odd headers: a report is made all the same, under the right patient, and never under a doubtful one."""

from __future__ import annotations

import dataclasses
import io
import logging
import struct
from pathlib import Path
from typing import Any

import dciodvfy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSNearLossless,
    generate_uid,
)
from report_cases import CT, SERIES, STUDY, context, findings, headers

from dicom_node.headers.texts import read_text
from dicom_node.report import capture, carried, keyobjects, order, provenance, readback, sr
from dicom_node.report.carried import InconsistentSeries

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom says what is wrong with the source
FOUND = findings("deep", 8)
TYPE_2 = {
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
}  # fmt: skip
"""What every report has, be it empty (PS3.3 C.7.1.1, C.7.2.1)."""

Raw = dict[str, tuple[str, bytes]]


class Asked(Dataset):  # type: ignore[misc]
    """Notes what it is asked for."""

    keywords: set[str] = set()  # noqa: RUF012 - of all of them together

    def __contains__(self, name: object) -> bool:
        self.keywords.add(str(name))
        return bool(super().__contains__(name))

    def get(self, key: Any, default: Any = None) -> Any:
        self.keywords.add(str(key))
        return super().get(key, default)


def test_of_a_header_what_is_asked_for_is_read_and_nothing_else() -> None:
    asked = [Asked(ds) for ds in headers(8)]
    for ds in asked:
        ds.RequestAttributesSequence, ds.LossyImageCompression = [Dataset()], "01"
    page = Image.new("RGB", (8, 8))
    sr.build(asked, FOUND, context())
    capture.build(page, [], asked, FOUND, context())
    capture.document(page, asked, FOUND, context())
    assert keyobjects.positive(asked, FOUND, context()) is not None
    assert {k for k in Asked.keywords if tag_for_keyword(k)} == set(carried.LOOKED_AT)


def test_a_long_value_is_left_unparsed() -> None:
    ds = received({"StudyDescription": ("UT", b"1\\" * 40_000), "PatientID": ("LO", b"P-1")})
    assert "StudyDescription" not in carried.without_long_values(ds)
    assert read_text(ds, "PatientID") == "P-1"


def received(elements: Raw, image: int = 1) -> Dataset:
    """A header as it comes off the wire: keyword -> (VR, value bytes), nothing checked, nothing decoded yet."""
    given: Raw = {
        "SOPClassUID": ("UI", CT.encode()),
        "SOPInstanceUID": ("UI", f"{SERIES}.{image}".encode()),
        "StudyInstanceUID": ("UI", STUDY.encode()),
        "SeriesInstanceUID": ("UI", SERIES.encode()),
        **elements,
    }
    return read_dataset(DicomBytesIO(encoded(given)), is_implicit_VR=False, is_little_endian=True)


def encoded(elements: Raw) -> bytes:
    """Explicit VR Little Endian."""
    stream = b""
    for tag, (vr, value) in sorted((int(tag_for_keyword(k) or 0), v) for k, v in elements.items()):
        value += b" " * (len(value) % 2)
        long = vr in ("UN", "OB", "UT", "SQ", "OW")
        head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
        stream += head + (struct.pack("<HL", 0, len(value)) if long else struct.pack("<H", len(value))) + value
    return stream


def report_on(elements: Raw) -> Dataset:
    made = sr.build([received(elements, i + 1) for i in range(8)], FOUND, context())
    return dcmread(io.BytesIO(provenance.to_bytes(made)))


def errors_of(ds: Dataset, tmp_path: Path) -> list[str]:
    file = tmp_path / "report.dcm"
    file.write_bytes(provenance.to_bytes(ds))
    return dciodvfy.errors(file, "Comprehensive3DSR")


LATIN = "M\u00fcller^J\u00f6rg"
JAPANESE = "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"
CHINESE = "Wang^XiaoDong=\u738b^\u5c0f\u4e1c"
RUSSIAN = "\u041b\u044e\u043a\u0441"
FRENCH = "Leb\u0153uf^Anne"
SIMPLIFIED = "Zhang^XiaoDong=\u5f20^\u5c0f\u4e1c"
AS_IN_ANNEX_K = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab"


@pytest.mark.parametrize(
    ("charset", "name", "encoded"),
    [
        (b"ISO_IR 100", LATIN, LATIN.encode("latin-1")),
        (b"ISO_IR 192", LATIN, LATIN.encode()),
        (b"\\ISO 2022 IR 87", JAPANESE, JAPANESE.encode("iso2022_jp")),
        (b"GB18030", CHINESE, CHINESE.encode("gb18030")),
        (b"ISO_IR 144", RUSSIAN, RUSSIAN.encode("iso8859_5")),
        (None, "Plain^Ascii", b"Plain^Ascii"),
        (None, LATIN, LATIN.encode("latin-1")),
        (b"\\ISO 2022 IR 58", SIMPLIFIED, AS_IN_ANNEX_K),
        (b"ISO_IR 203", FRENCH, FRENCH.encode("iso8859_15")),
        (b"ISO 2022 IR 203", FRENCH, FRENCH.encode("iso8859_15")),
        (None, JAPANESE, JAPANESE.encode()),
        (b"ISO_IR 6", LATIN, LATIN.encode()),
        (b"utf-eight", LATIN, LATIN.encode()),
    ],
)
def test_a_name_in_any_character_set_is_carried_in_utf_8(charset: bytes | None, name: str, encoded: bytes) -> None:
    elements: Raw = {"PatientName": ("PN", encoded), "PatientID": ("LO", b"P-1")}
    if charset is not None:
        elements["SpecificCharacterSet"] = ("CS", charset)
    ds = report_on(elements)
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert str(ds.PatientName) == name
    assert name.encode() in provenance.to_bytes(ds)
    ours = Dataset()
    ours.ContentSequence = ds.ContentSequence
    assert str(ours).isascii()


@pytest.mark.parametrize("charset", [None, b"ISO_IR 100", b"\\ISO 2022 IR 100", b"\\ISO 2022 IR 87"])
def test_a_name_that_was_decoded_as_something_else_is_left_out(charset: bytes | None) -> None:
    """GB 2312, under a character set that has none of it: letters that nobody is called by."""
    elements: Raw = {"PatientName": ("PN", AS_IN_ANNEX_K), "PatientID": ("LO", b"P-1")}
    if charset is not None:
        elements["SpecificCharacterSet"] = ("CS", charset)
    ds = report_on(elements)
    assert (str(ds.PatientName), ds.PatientID) == ("", "P-1")


def test_an_undeclared_character_set_is_the_same_in_what_the_images_say_of_their_order() -> None:
    item = encoded({"RequestedProcedureDescription": ("LO", "Sch\u00e4del".encode())})
    ds = report_on({"RequestAttributesSequence": ("SQ", struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item)})
    assert ds.ReferencedRequestSequence[0].RequestedProcedureDescription == "Sch\u00e4del"


def test_what_identifies_is_carried_exactly_even_where_it_is_too_long() -> None:
    long = "X" * 80
    ds = report_on({"PatientID": ("LO", long.encode()), "AccessionNumber": ("SH", b"ACC-2025-000000000012345")})
    assert long == ds.PatientID
    assert ds.AccessionNumber == "ACC-2025-000000000012345"


def test_an_id_with_the_return_of_a_bar_code_reader_is_carried_as_the_images_have_it() -> None:
    ds = report_on({"PatientID": ("LO", b"P-1\r"), "StudyDescription": ("LO", b"CT\rhead")})
    assert ds.PatientID == "P-1\r"
    assert "StudyDescription" not in ds


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", b"female"),
        ("PatientBirthDate", b"01.01.1950"),
        ("StudyTime", b"25:00"),
        ("StudyDescription", b"d" * 90),
        ("PatientAge", b"old"),
        ("PatientWeight", b"heavy"),
        ("ReferringPhysicianName", b"A" * 70),
        ("StudyDate", b"20251301"),
    ],
)
def test_what_cannot_be_carried_is_left_out_and_named_in_the_log_without_its_value(
    keyword: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ds = report_on({keyword: (dictionary_VR(keyword), value), "PatientID": ("LO", b"P-1")})
    assert not ds.get(keyword)
    assert (keyword in ds) == (keyword in TYPE_2)
    said = [r.getMessage() for r in caplog.records]
    assert any(keyword in line for line in said)
    assert all(value.decode() not in line for line in said)


def test_undecodable_text_is_left_out_rather_than_written_with_marks() -> None:
    ds = report_on({"SpecificCharacterSet": ("CS", b"ISO_IR 192"), "PatientName": ("PN", b"M\xfcller^J\xf6rg")})
    assert str(ds.PatientName) == ""


@dciodvfy.needed
@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"PatientName": ("PN", b""), "PatientID": ("LO", b""), "StudyDate": ("DA", b"")},
        {"SpecificCharacterSet": ("CS", b"\\ISO 2022 IR 87"), "PatientName": ("PN", JAPANESE.encode("iso2022_jp"))},
        {
            "TimezoneOffsetFromUTC": ("SH", b"+0530"),
            "StudyDate": ("DA", b"20251103"),
            "StudyTime": ("TM", b"0915"),
        },
        {"PatientSex": ("CS", b"U"), "PatientWeight": ("DS", b"7e1"), "PatientBirthDate": ("DA", b"1950")},
        {"IssuerOfPatientID": ("LO", b"HOSPITAL"), "AccessionNumber": ("SH", b"A1"), "StudyID": ("SH", b"")},
    ],
    ids=["nothing", "empty", "Japanese", "time zone", "illegal", "request"],
)
def test_reports_on_odd_headers_pass_dciodvfy(elements: Raw, tmp_path: Path) -> None:
    assert errors_of(report_on(elements), tmp_path) == []


@dciodvfy.needed
def test_order_issuer_and_procedure_are_taken_over(tmp_path: Path) -> None:
    order, issuer, procedure, study = Dataset(), Dataset(), Dataset(), Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", "1.2.3.4.5"
    order.RequestedProcedureID, order.RequestedProcedureDescription = "RP7", "CT Sch\u00e4del nativ"
    issuer.LocalNamespaceEntityID = "RIS"
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = (
        "30799-1",
        "LN",
        "CT Head WO contrast",
    )
    order.RequestedProcedureCodeSequence = [procedure]
    source = headers(
        RequestAttributesSequence=[order],
        ReferencedStudySequence=[study, Dataset()],
        IssuerOfAccessionNumberSequence=[issuer],
        ProcedureCodeSequence=[procedure],
        PlacerOrderNumberImagingServiceRequest="PL1",
    )
    ds = sr.build(source, findings("deep"), context())
    request = ds.ReferencedRequestSequence[0]
    assert (request.RequestedProcedureID, request.RequestedProcedureDescription) == ("RP7", "CT Sch\u00e4del nativ")
    assert (request.AccessionNumber, request.PlacerOrderNumberImagingServiceRequest) == ("ACC1", "PL1")
    assert [one.ReferencedSOPInstanceUID for one in request.ReferencedStudySequence] == ["1.2.3.4.5"]
    assert request.RequestedProcedureCodeSequence[0].CodeValue == "30799-1"
    assert ds.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS"
    reported = [i.ConceptCodeSequence[0].CodeValue for i in ds.ContentSequence if i.ValueType == "CODE"]
    assert "30799-1" in reported
    assert errors_of(ds, tmp_path) == []


def asked_for(procedure_id: str, **more: Any) -> Dataset:
    """An item of Request Attributes Sequence."""
    order = Dataset()
    for keyword, value in {"RequestedProcedureID": procedure_id, **more}.items():
        setattr(order, keyword, value)
    return order


@dciodvfy.needed
def test_of_head_and_neck_scanned_at_once_every_order_is_named_with_its_own_number(tmp_path: Path) -> None:
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "RIS"
    head = asked_for("RP1", AccessionNumber="HEAD", IssuerOfAccessionNumberSequence=[issuer])
    again = asked_for("RP1", AccessionNumber="HEAD", IssuerOfAccessionNumberSequence=[issuer])
    head.ScheduledProcedureStepID, again.ScheduledProcedureStepID = "SPS1", "SPS2"  # two steps of one procedure
    neck = asked_for("RP2", AccessionNumber="NECK")
    source = headers(
        AccessionNumber="", RequestAttributesSequence=[head, again, neck], PlacerOrderNumberImagingServiceRequest="PL1"
    )
    ds = sr.build(source, findings("deep"), context())
    told = [(one.RequestedProcedureID, one.AccessionNumber) for one in ds.ReferencedRequestSequence]
    assert told == [("RP1", "HEAD"), ("RP2", "NECK")]
    first, second = ds.ReferencedRequestSequence
    assert first.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS"
    assert "IssuerOfAccessionNumberSequence" not in second
    assert {one.PlacerOrderNumberImagingServiceRequest for one in (first, second)} == {""}  # of which of the two?
    assert ds.AccessionNumber == ""  # as that of the images, beside which a PACS files it
    assert errors_of(ds, tmp_path) == []
    page = capture.build(Image.new("RGB", (4, 4)), [], source, findings("deep"), context())
    assert [(one.RequestedProcedureID, one.AccessionNumber) for one in page.RequestAttributesSequence] == told


def test_steps_of_one_procedure_keep_what_the_image_says_of_their_order() -> None:
    head, again = asked_for("RP1", ScheduledProcedureStepID="SPS1"), asked_for("RP1", ScheduledProcedureStepID="SPS2")
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", "1.2.3.4.5"
    source = headers(
        RequestAttributesSequence=[head, again],
        PlacerOrderNumberImagingServiceRequest="PL1",
        ReferencedStudySequence=[study],
    )
    (request,) = sr.build(source, FOUND, context()).ReferencedRequestSequence
    assert request.PlacerOrderNumberImagingServiceRequest == "PL1"
    assert [one.ReferencedSOPInstanceUID for one in request.ReferencedStudySequence] == ["1.2.3.4.5"]


@pytest.mark.timeout(60)
def test_an_image_that_names_thousands_of_orders_holds_up_no_report() -> None:
    """Comparing each with each took minutes, by which the worker was taken for dead."""
    source = headers(RequestAttributesSequence=[asked_for(f"RP{number}") for number in range(6000)])
    assert len(sr.build(source, FOUND, context()).ReferencedRequestSequence) == order.MOST_ITEMS


def test_an_order_without_a_number_of_its_own_has_that_of_the_study() -> None:
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "RIS"
    source = headers(
        RequestAttributesSequence=[asked_for("RP1"), asked_for("RP2", AccessionNumber="OTHER")],
        IssuerOfAccessionNumberSequence=[issuer],
    )
    first, second = sr.build(source, FOUND, context()).ReferencedRequestSequence
    assert (first.AccessionNumber, second.AccessionNumber) == ("ACC1", "OTHER")
    assert first.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS"
    assert "IssuerOfAccessionNumberSequence" not in second  # it may be another's


@pytest.mark.parametrize(
    "keyword",
    [
        *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate"),
        *("StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber"),
    ],
)
def test_a_series_that_disagrees_about_patient_or_study_gets_no_report(keyword: str) -> None:
    source = headers()
    other = "20000101" if keyword == "PatientBirthDate" else generate_uid() if "UID" in keyword else "Other"
    setattr(source[5], keyword, other)
    with pytest.raises(InconsistentSeries, match=keyword) as caught:
        sr.build(source, findings("deep"), context())
    assert other not in str(caught.value)
    assert "ller" not in str(caught.value)


def test_the_same_name_spelled_with_more_delimiters_is_the_same_name() -> None:
    source = headers()
    source[3].PatientName = "M\u00fcller^J\u00f6rg^^^"
    assert readback.parse(sr.build(source, findings("deep"), context())).location == "deep"


@pytest.mark.parametrize("broken", ["", "1.2.x", None])
def test_an_image_that_cannot_be_named_gets_no_report(broken: str | None) -> None:
    source = headers()
    source[4].StudyInstanceUID = broken
    with pytest.raises(InconsistentSeries, match="no valid StudyInstanceUID"):
        sr.build(source, findings("deep"), context())


def test_findings_on_an_image_that_was_not_received_are_refused() -> None:
    with pytest.raises(InconsistentSeries, match="header was not given"):
        sr.build(headers(11), findings("deep"), context())
    with pytest.raises(InconsistentSeries, match="at least one"):
        sr.build([], findings("deep"), context())


KEYWORDS = (
    *carried.TYPE_2, *carried.TYPE_3, "TimezoneOffsetFromUTC", "RequestedProcedureID", "RequestedProcedureDescription",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
)  # fmt: skip
SEQUENCES = {
    "RequestAttributesSequence": KEYWORDS[-4:],
    "ProcedureCodeSequence": ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"),
    "IssuerOfAccessionNumberSequence": ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType"),
    "IssuerOfPatientIDQualifiersSequence": ("UniversalEntityID", "UniversalEntityIDType"),
}
CHARSETS = (b"", b"ISO_IR 6", b"ISO_IR 100", b"ISO_IR 192", b"GB18030", b"\\ISO 2022 IR 87", b"ISO_IR 999", b"\\\\")
ODD = (b"", b" ", b"\\", b"\\\\a", b"^^", b"==", b"\x00", b"\x1b$B", b"1e999", b"+1400", b"20250230")


def odd_value(keyword: str) -> st.SearchStrategy[tuple[str, bytes]]:
    values = st.one_of(
        st.binary(max_size=40),
        st.text(max_size=90).map(str.encode),
        st.sampled_from(ODD),
        st.integers(min_value=0, max_value=300).map(lambda n: b"9" * n),
    )
    vrs = st.sampled_from([dictionary_VR(keyword)] * 6 + ["UN", "LO", "US", "FD", "DS", "IS", "DA", "PN", "UT", "AT"])
    return st.tuples(vrs, values)


@st.composite
def odd_sequence(draw: st.DrawFn, keywords: tuple[str, ...]) -> tuple[str, bytes]:
    """Bytes that are no items, or items with odd elements."""
    if draw(st.booleans()):
        return draw(st.sampled_from(["SQ", "UN", "LO"])), draw(st.binary(max_size=40))
    items = draw(st.lists(st.lists(st.sampled_from(keywords), unique=True), max_size=2))
    content = [encoded({keyword: draw(odd_value(keyword)) for keyword in item}) for item in items]
    return "SQ", b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item for item in content)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_no_header_stops_a_report(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(KEYWORDS), unique=True, max_size=8))
    elements: Raw = {keyword: data.draw(odd_value(keyword)) for keyword in chosen}
    for keyword in data.draw(st.lists(st.sampled_from(sorted(SEQUENCES)), unique=True, max_size=2)):
        elements[keyword] = data.draw(odd_sequence(SEQUENCES[keyword]))
    elements["SpecificCharacterSet"] = ("CS", data.draw(st.sampled_from(CHARSETS)))
    ds = report_on(elements)
    assert all(keyword in ds for keyword in TYPE_2)
    told = readback.parse(ds)
    assert (told.study_instance_uid, told.location) == (STUDY, "deep")
    for element in ds:
        text: Any = element.value  # every element can be decoded
        assert "\ufffd" not in str(text)


@pytest.mark.parametrize("folder", ["ge_hispeed_human_28", "philips_phantom_5mm_28"])
@dciodvfy.needed
def test_headers_of_real_scanners_make_a_valid_report(shared_data: Path, folder: str, tmp_path: Path) -> None:
    files = sorted(p for p in (shared_data / "head-ct" / folder).rglob("*") if p.is_file())
    source = []
    for file in files:
        try:
            source.append(dcmread(file, stop_before_pixels=True))
        except InvalidDicomError:
            continue  # a licence or a note beside the images
    assert len(source) == 28
    found = findings("deep", 28)
    slices = [
        dataclasses.replace(s, sop_class_uid=str(ds.SOPClassUID), sop_instance_uid=str(ds.SOPInstanceUID))
        for s, ds in zip(found.slices, source, strict=True)
    ]
    ds = sr.build(source, dataclasses.replace(found, slices=tuple(slices)), context())
    assert errors_of(ds, tmp_path) == []
    assert ds.PatientID == source[0].PatientID


def test_uids_with_leading_zeros_as_some_devices_write_them_are_carried() -> None:
    source = headers(StudyInstanceUID="1.2.0034.5")
    assert (
        readback.parse(provenance.to_bytes(sr.build(source, findings("deep"), context()))).study_instance_uid
        == "1.2.0034.5"
    )


@pytest.mark.parametrize(
    ("told", "syntax", "ratio"),
    [
        ({"LossyImageCompression": "01", "LossyImageCompressionRatio": "10"}, None, 10.0),
        ({"LossyImageCompression": "01", "LossyImageCompressionRatio": ["8.5", "12"]}, None, 12.0),  # twice
        ({"LossyImageCompression": "01"}, ExplicitVRLittleEndian, None),  # once lossy, always lossy
        ({"LossyImageCompression": "01", "LossyImageCompressionRatio": "-1"}, None, None),
        ({}, JPEGBaseline8Bit, None),
        ({"LossyImageCompression": "00"}, JPEGLSNearLossless, None),
        ({}, JPEG2000, None),
    ],
)
def test_an_image_that_was_lossy_is_known_by_its_header_or_its_transfer_syntax(
    told: dict[str, Any], syntax: str | None, ratio: float | None
) -> None:
    (ds,) = headers(1, **told)
    ds.file_meta = FileMetaDataset()
    if syntax is not None:
        ds.file_meta.TransferSyntaxUID = syntax
    assert carried.lossy_ratios([ds]) == {ds.SOPInstanceUID: ratio}


@pytest.mark.parametrize(
    ("told", "syntax"), [({}, JPEG2000Lossless), ({"LossyImageCompression": "00"}, JPEG2000), ({}, None)]
)
def test_an_image_that_was_not_lossy_is_none(told: dict[str, Any], syntax: str | None) -> None:
    (ds,) = headers(1, **told)
    if syntax is not None:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
    assert carried.lossy_ratios([ds]) == {}
