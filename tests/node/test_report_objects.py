"""What may go out beside the SR: the picture as a Secondary Capture, key objects, and the withdrawal of a result."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import dciodvfy
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage
from report_cases import NOTICE, SERIES, STUDY, context, findings, headers

from dicom_node.report import capture, codes, keyobjects, picture, provenance, sr
from dicom_node.report.context import Reference

OLD = (
    Reference(STUDY, "2.25.301", sr.SR_CLASSES[0], "2.25.300"),
    Reference(STUDY, "2.25.303", "1.2.840.10008.5.1.4.1.1.7", "2.25.302"),
)


def check(ds: Dataset, kind: str, tmp_path: Path) -> Dataset:
    """Written and read again, and without an Error from dciodvfy."""
    file = tmp_path / "object.dcm"
    file.write_bytes(provenance.to_bytes(ds))
    if dciodvfy.PROGRAM is not None:
        said = dciodvfy.said(file, kind)
        assert [line for line in said if line.startswith("Error")] == []
        foreign = [line for line in said if "not present in standard DICOM IOD" in line]
        assert [line for line in foreign if "/DeviceUID" not in line] == []  # which is younger than dciodvfy
    return dcmread(io.BytesIO(provenance.to_bytes(ds)))


@pytest.mark.parametrize("kind", ["lobar", "absent", "not evaluated"])
def test_the_picture_becomes_a_secondary_capture_with_the_same_pixels(kind: str, tmp_path: Path) -> None:
    found = findings(kind)
    page = picture.compose(found, {}, algorithm="dtvit 0.1.0", notice=NOTICE)
    drawn = [found.slices[i] for i in picture.to_show(found)]
    made = capture.build(page, drawn, headers(), found, context(series_number=9002))
    ds = check(made, "SCImage", tmp_path)
    assert (ds.pixel_array == np.asarray(page)).all()
    assert ds.BurnedInAnnotation == "NO"
    assert (ds.PatientID, ds.StudyInstanceUID, ds.StudyDescription) == ("P-1", STUDY, "CT Sch\u00e4del")
    assert ds.SeriesDescription.startswith("AI: ")
    assert len(ds.get("SourceImageSequence", [])) == len(drawn)


@pytest.mark.parametrize(("source", "picture"), [("01", "01"), ("00", "00"), ("", "00")])
def test_a_picture_of_images_that_were_lossy_says_so(source: str, picture: str) -> None:
    page = Image.new("RGB", (4, 4))
    found = findings("absent")
    ds = capture.build(page, [], headers(LossyImageCompression=source), found, context())
    assert ds.LossyImageCompression == picture


def test_picture_and_pdf_name_the_order_in_the_attributes_that_they_may_have(tmp_path: Path) -> None:
    order = Dataset()
    order.RequestedProcedureID, order.RequestedProcedureDescription = "RP7", "CT Sch\u00e4del nativ"
    asked, found, page = headers(RequestAttributesSequence=[order]), findings("absent"), Image.new("RGB", (4, 4))
    for made, kind in (
        (capture.build(page, [], asked, found, context()), "SCImage"),
        (capture.document(page, asked, found, context()), "EncapsulatedPDF"),
    ):
        ds = check(made, kind, tmp_path)
        (request,) = ds.RequestAttributesSequence
        assert (request.RequestedProcedureID, request.AccessionNumber) == ("RP7", "ACC1")
        assert "ReferencedRequestSequence" not in ds
    assert "RequestAttributesSequence" not in capture.build(page, [], headers(), found, context())


def test_an_odd_number_of_pixels_is_padded(tmp_path: Path) -> None:
    page = Image.new("RGB", (3, 3), (1, 2, 3))
    ds = check(capture.build(page, [], headers(), findings("absent"), context()), "SCImage", tmp_path)
    assert (ds.pixel_array == (1, 2, 3)).all()


def test_the_same_page_is_had_as_a_pdf(tmp_path: Path) -> None:
    found = findings("absent")
    page = picture.compose(found, {}, algorithm="dtvit 0.1.0", notice=NOTICE)
    made = capture.document(page, headers(), found, context(series_number=9004))
    ds = check(made, "EncapsulatedPDF", tmp_path)
    content = ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength]
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    assert ds.DocumentTitle == "INTRACEREBRAL HEMORRHAGE: ABSENT"
    assert ds.VerificationFlag == "UNVERIFIED"
    sources = [source.ReferencedSOPInstanceUID for source in ds.SourceInstanceSequence]
    assert sources == [header.SOPInstanceUID for header in headers()]
    assert provenance.to_bytes(capture.document(page, headers(), found, context())) == provenance.to_bytes(
        capture.document(page, headers(), found, context())
    )


def test_key_objects_are_the_positive_images_highest_output_first(tmp_path: Path) -> None:
    found = findings("deep")
    made = keyobjects.positive(headers(), found, context())
    assert made is not None
    ds = check(made, "KeyObjectSelectionDocument", tmp_path)
    listed = [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in ds.ContentSequence if i.ValueType == "IMAGE"]
    assert sorted(listed) == sorted(s.sop_instance_uid for s in found.positive)
    assert ds.ConceptNameCodeSequence[0].CodeValue == codes.OF_INTEREST.value
    assert "PRESENT, DEEP" in next(
        i.TextValue for i in ds.ContentSequence if i.ValueType == "TEXT" and "INTRA" in i.TextValue
    )
    assert ds.PatientID == "P-1"


def test_key_objects_carry_the_same_warnings_as_the_report() -> None:
    """A viewer that lists key images shows this text, and no report beside it."""
    made = keyobjects.positive(headers(), findings("deep"), context())
    assert made is not None
    (said,) = (i.TextValue for i in made.ContentSequence if i.ValueType == "TEXT" and "INTRA" in i.TextValue)
    assert NOTICE in said
    assert "Does not exclude subdural" in said


@pytest.mark.parametrize("sop_class", [EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage])
def test_of_a_multi_frame_image_the_positive_frames_are_key_objects(sop_class: str, tmp_path: Path) -> None:
    found = findings("deep")
    uid = f"{SERIES}.1"
    frames = tuple(
        dataclasses.replace(s, sop_class_uid=str(sop_class), sop_instance_uid=uid, instance_number=1, frame=i)
        for i, s in enumerate(found.slices, 1)
    )
    made = keyobjects.positive(headers(1, SOPClassUID=sop_class), dataclasses.replace(found, slices=frames), context())
    assert made is not None
    (image,) = [
        i for i in check(made, "KeyObjectSelectionDocument", tmp_path).ContentSequence if i.ValueType == "IMAGE"
    ]
    (reference,) = image.ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == uid
    assert list(reference.ReferencedFrameNumber) == [6, 7, 8]


@pytest.mark.parametrize("kind", ["absent", "undetermined", "not evaluated"])
def test_without_a_positive_image_there_are_no_key_objects(kind: str) -> None:
    assert keyobjects.positive(headers(), findings(kind), context()) is None


@pytest.mark.parametrize("title", list(keyobjects.Rejection))
def test_a_withdrawal_names_every_object_and_the_reason(title: keyobjects.Rejection, tmp_path: Path) -> None:
    made = keyobjects.rejection(OLD, headers()[0], context(), "One more image arrived.", title)
    ds = check(made, "KeyObjectSelectionDocument", tmp_path)
    assert ds.ConceptNameCodeSequence[0].CodeValue == title.value
    referenced = {
        (i.ValueType, i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for i in ds.ContentSequence
        if "ReferencedSOPSequence" in i
    }
    assert referenced == {("COMPOSITE", "2.25.300"), ("IMAGE", "2.25.302")}
    evidence = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {s.SeriesInstanceUID for s in evidence} == {"2.25.301", "2.25.303"}
    assert "One more image arrived." in [i.get("TextValue") for i in ds.ContentSequence]
