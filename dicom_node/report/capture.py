"""The summary picture as a DICOM object: RGB Secondary Capture (PS3.3 A.8), for whoever looks at no SR."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.report import codes, header, wording
from dicom_node.report.context import ReportContext, check_findings
from dicom_node.report.provenance import code_item, file_meta, sign
from dtvit.findings import SeriesFindings, SliceFinding

SERIES_NUMBER = 9002


def build(
    page: Image.Image,
    drawn: Sequence[SliceFinding],
    headers: Sequence[Dataset],
    findings: SeriesFindings,
    context: ReportContext,
) -> Dataset:
    """`page` (RGB, from `picture.compose`) filed under the patient and study of `headers`.

    `drawn`: the slices that can be seen in it. UIDs and series number of `context` are those of this object, not of
    the SR. Raises `InconsistentSeries` and `UnusableFindings` as `sr.build` does.
    """
    check_findings(findings)
    with disable_value_validation():  # its warnings quote values, which may be names
        header.check_one_series(headers)
        ds = header.patient_and_study(headers[0])
    ds.file_meta = file_meta(SecondaryCaptureImageStorage, context.sop_instance_uid)
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, context.sop_instance_uid
    ds.Modality, ds.ConversionType = "OT", "WSD"
    ds.SeriesInstanceUID, ds.SeriesNumber = context.series_instance_uid, context.series_number
    ds.SeriesDescription = f"{wording.series_description(findings)} picture"
    ds.InstanceNumber = 1
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.BodyPartExamined, ds.PatientOrientation = "HEAD", ""
    ds.BurnedInAnnotation = "NO"
    ds.DerivationDescription = f"Summary of an AI result, not for diagnosis. {wording.headline(findings)}"
    sign(ds, context)
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    if drawn:
        ds.SourceImageSequence = [_source(s) for s in drawn]
    _pixels(ds, page)
    return ds


def _source(s: SliceFinding) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = s.sop_class_uid, s.sop_instance_uid
    if s.frame is not None:
        item.ReferencedFrameNumber = s.frame
    item.PurposeOfReferenceCodeSequence = [code_item(codes.SOURCE_FOR_MONTAGE)]
    return item


def _pixels(ds: Dataset, page: Image.Image) -> None:
    """Image Pixel module, PS3.3 C.7.6.3: colour by pixel, eight bits."""
    content = page.convert("RGB").tobytes()
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = page.height, page.width
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.LossyImageCompression = "00"
    ds.PixelData = content + b"\0" * (len(content) % 2)
