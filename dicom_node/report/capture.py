"""The summary picture as a DICOM object, for those who read no SR: RGB Secondary Capture (PS3.3 A.8), or a PDF."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage

from dicom_node.report import carried, codes, order, wording
from dicom_node.report.context import ReportContext, check_findings
from dicom_node.report.provenance import code_item, coding_scheme, file_meta, sign
from dtvit.findings import SeriesFindings, SliceFinding


def build(
    page: Image.Image,
    drawn: Sequence[SliceFinding],
    headers: Sequence[Dataset],
    findings: SeriesFindings,
    context: ReportContext,
) -> Dataset:
    """`page` (RGB, from `picture.compose`) filed under the patient and study of `headers`.

    `drawn`: the slices shown in it. UIDs and series number of `context` are those of this object, not of the SR.
    Raises `InconsistentSeries` and `UnusableFindings` as `sr.build` does.
    """
    ds = _filed(SecondaryCaptureImageStorage, "OT", "picture", headers, findings, context)
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.LossyImageCompression = "01" if carried.lossy_ratios(headers) else "00"
    ds.BodyPartExamined, ds.PatientOrientation = "HEAD", ""
    ds.DerivationDescription = f"Summary of an AI result, not for diagnosis. {wording.headline(findings)}"
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    if drawn:
        ds.SourceImageSequence = [_source(s) for s in drawn]
    _pixels(ds, page)
    return ds


def document(
    page: Image.Image, headers: Sequence[Dataset], findings: SeriesFindings, context: ReportContext
) -> Dataset:
    """The same page as Encapsulated PDF (PS3.3 A.45.1), for viewers that print or forward documents."""
    ds = _filed(EncapsulatedPDFStorage, "DOC", "document", headers, findings, context)
    ds.AcquisitionDateTime = ""
    ds.VerificationFlag = "UNVERIFIED"
    classes = {s.sop_instance_uid: s.sop_class_uid for s in findings.slices}  # one per image, however many frames
    ds.SourceInstanceSequence = [
        _reference(sop_class, instance, codes.SOURCE_OF_DOCUMENT) for instance, sop_class in classes.items()
    ]
    ds.DocumentTitle = wording.headline(findings)
    ds.ConceptNameCodeSequence = [code_item(codes.TITLE_VIEWER)]
    ds.CodingSchemeIdentificationSequence = [coding_scheme()]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    with io.BytesIO() as buffer:
        made = context.content_datetime.utctimetuple()  # not now: the same report gives the same bytes
        page.convert("RGB").save(buffer, "PDF", resolution=96, creationDate=made, modDate=made)
        content = buffer.getvalue()
    ds.EncapsulatedDocumentLength = len(content)
    ds.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return ds


def _filed(
    sop_class_uid: str,
    modality: str,
    kind: str,
    headers: Sequence[Dataset],
    findings: SeriesFindings,
    context: ReportContext,
) -> Dataset:
    """What all objects made from a page have in common."""
    check_findings(findings)
    with disable_value_validation():  # its warnings quote values, which may be names
        carried.check_one_series(headers)
        ds = carried.patient_and_study(headers[0])
        ds.update(order.of_image(headers[0], ds))
    ds.file_meta = file_meta(sop_class_uid, context.sop_instance_uid)
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, context.sop_instance_uid
    ds.Modality, ds.ConversionType = modality, "WSD"
    ds.SeriesInstanceUID, ds.SeriesNumber = context.series_instance_uid, context.series_number
    ds.SeriesDescription = f"{wording.series_description(findings, context.run)} {kind}"
    ds.InstanceNumber = 1
    ds.BurnedInAnnotation = "NO"
    sign(ds, context)
    return ds


def _reference(sop_class_uid: str, sop_instance_uid: str, purpose: codes.Concept) -> Dataset:
    """SOP Instance Reference Macro, PS3.3 table 10-11."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    item.PurposeOfReferenceCodeSequence = [code_item(purpose)]
    return item


def _source(s: SliceFinding) -> Dataset:
    item = _reference(s.sop_class_uid, s.sop_instance_uid, codes.SOURCE_FOR_MONTAGE)
    if s.frame is not None:
        item.ReferencedFrameNumber = s.frame
    return item


def _pixels(ds: Dataset, page: Image.Image) -> None:
    """Image Pixel module, PS3.3 C.7.6.3: colour by pixel, eight bits."""
    content = page.convert("RGB").tobytes()
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = page.height, page.width
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = content + b"\0" * (len(content) % 2)
