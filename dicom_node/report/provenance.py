"""What the node says about itself in every object that it makes: file meta, equipment, times. PS3.3 C.7.5, C.12.1."""

from __future__ import annotations

import io
from collections.abc import Iterable

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node import uids
from dicom_node.report import carried, codes, wording
from dicom_node.report.context import Reference, ReportContext


def file_meta(sop_class_uid: str, sop_instance_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class_uid
    meta.MediaStorageSOPInstanceUID = sop_instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uids.IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = uids.IMPLEMENTATION_VERSION_NAME
    return meta


def sign(ds: Dataset, context: ReportContext) -> None:
    """Add who made `ds`, and when. Patient and study must already be in it: our times use the time zone of theirs."""
    algorithm = context.algorithm
    ds.Manufacturer = algorithm.manufacturer
    ds.ManufacturerModelName = algorithm.name
    ds.SoftwareVersions = algorithm.version
    ds.DeviceSerialNumber = context.device_uid
    ds.ContributingEquipmentSequence = [_equipment(context)]
    when = context.content_datetime.astimezone(
        carried.zone(ds.get("TimezoneOffsetFromUTC")) or context.content_datetime.tzinfo
    )
    ds.ContentDate = ds.SeriesDate = ds.InstanceCreationDate = when.strftime("%Y%m%d")
    ds.ContentTime = ds.SeriesTime = ds.InstanceCreationTime = when.strftime("%H%M%S.%f")


def to_bytes(ds: Dataset) -> bytes:
    """A complete Part 10 file, Explicit VR Little Endian; the same dataset gives the same bytes."""
    with io.BytesIO() as buffer:
        dcmwrite(buffer, ds, enforce_file_format=True)
        return buffer.getvalue()


def references(named: Iterable[Reference]) -> list[Dataset]:
    """Hierarchical SOP Instance Reference Macro, PS3.3 table C.17-3: an item for each study."""
    studies: dict[str, Dataset] = {}
    for earlier in named:
        instance = Dataset()
        instance.ReferencedSOPClassUID = earlier.sop_class_uid
        instance.ReferencedSOPInstanceUID = earlier.sop_instance_uid
        series = Dataset()
        series.SeriesInstanceUID = earlier.series_instance_uid
        series.ReferencedSOPSequence = [instance]
        study = studies.setdefault(earlier.study_instance_uid, Dataset())
        study.StudyInstanceUID = earlier.study_instance_uid
        study.ReferencedSeriesSequence = [*study.get("ReferencedSeriesSequence", []), series]
    return list(studies.values())


def code_item(concept: codes.Concept) -> Dataset:
    """Basic Code Sequence Macro, PS3.3 table 8.8-1."""
    item = Dataset()
    item.CodeValue = concept.value
    item.CodingSchemeDesignator = concept.scheme
    item.CodeMeaning = concept.meaning
    return item


def coding_scheme() -> Dataset:
    """Declares the project's own codes (PS3.3 C.12.1, Coding Scheme Identification Sequence)."""
    item = Dataset()
    item.CodingSchemeDesignator = codes.SCHEME
    item.CodingSchemeUID = codes.SCHEME_UID
    item.CodingSchemeName = codes.SCHEME_NAME
    item.CodingSchemeResponsibleOrganization = codes.SCHEME_OWNER
    return item


def _equipment(context: ReportContext) -> Dataset:
    """AIR asks for the maker of a result here, with its Device UID and the strings of TID 4019."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(codes.PROCESSING_EQUIPMENT)]
    item.Manufacturer = context.algorithm.manufacturer
    item.ManufacturerModelName = context.algorithm.name
    item.SoftwareVersions = context.algorithm.version
    item.StationName = context.device_name
    item.DeviceUID = context.device_uid
    item.ContributionDateTime = context.content_datetime.strftime("%Y%m%d%H%M%S.%f%z")
    item.ContributionDescription = wording.plain("; ".join(context.algorithm.parameter_lines()))[:1024]
    return item
