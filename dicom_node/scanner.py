"""A CT scanner for people who do not exist: turns a phantom into the series a modality would send.

CT Image Storage (PS3.3 A.3), Explicit VR Little Endian, one object per slice, geometry as in PS3.3 C.7.6.2.1.1: the
gantry tilt is in Gantry/Detector Tilt and in Image Orientation (Patient), Image Position (Patient) is the centre of
the first pixel. For demo and tests; nothing here is used for real patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicom_node import uids
from dtvit.phantom import Phantom

IMPLEMENTATION = "2.25.196047310982211830441829340192861720457"  # not the node's own, whose objects it leaves alone
Encoding = Literal["signed", "padded", "unsigned"]
PADDING = -2000  # stored value outside the circle of reconstruction where the encoding is "padded"


@dataclass(frozen=True)
class SyntheticPatient:
    name: str
    """As PN, ``SYNTHETIC^DEEP``."""
    patient_id: str
    sex: str = "O"
    birth_date: date | None = None
    """None: one that fits the phantom's age on the day of the scan."""


def series(
    phantom: Phantom,
    patient: SyntheticPatient,
    *,
    when: datetime,
    study_uid: str | None = None,
    series_uid: str | None = None,
    accession_number: str = "",
    series_number: int = 2,
    encoding: Encoding = "signed",
    head_first: bool = False,
) -> list[Dataset]:
    """The objects, feet to head, ready to be sent or written.

    `encoding`: "signed" 16 bits; "padded" the same with Pixel Padding Value outside the circle of reconstruction;
    "unsigned" 12 bits in 16. `head_first` numbers the slices from the vertex down. UIDs not given are made; those of
    the instances are derived from the series', so that the same call makes the same objects.
    """
    study_uid = study_uid or uids.fresh()
    series_uid = series_uid or uids.fresh()
    common = _common(phantom, patient, when, accession_number, series_number)
    common.StudyInstanceUID, common.SeriesInstanceUID = study_uid, series_uid
    common.FrameOfReferenceUID = uids.derived(series_uid, "frame of reference")
    count = len(phantom.positions_mm)
    datasets = []
    for index, position in enumerate(phantom.positions_mm):
        number = count - index if head_first else index + 1
        ds = _copy(common)
        ds.SOPInstanceUID = uids.derived(series_uid, "slice", str(index))
        ds.InstanceNumber = number
        shot = when + timedelta(seconds=number)
        ds.AcquisitionDate = ds.ContentDate = shot.strftime("%Y%m%d")
        ds.AcquisitionTime = ds.ContentTime = shot.strftime("%H%M%S")
        _geometry(ds, phantom, position)
        _pixels(ds, phantom.hu[index], encoding)
        ds.file_meta = _file_meta(str(ds.SOPInstanceUID))
        datasets.append(ds)
    return datasets


def write(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """One file per object, ``IM0001.dcm`` by instance number, in `folder`, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ds in datasets:
        path = folder / f"IM{int(ds.InstanceNumber):04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _copy(common: Dataset) -> Dataset:
    ds = Dataset()
    ds.update(common)
    return ds


def _common(
    phantom: Phantom, patient: SyntheticPatient, when: datetime, accession_number: str, series_number: int
) -> Dataset:
    """What all objects of the series share: patient, study, series, equipment and technique."""
    spec = phantom.spec
    age = int(spec.head.age)
    born = patient.birth_date or date(when.year - age - 1, 7, 1)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.SeriesDate = when.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = when.strftime("%H%M%S")
    ds.AccessionNumber = accession_number
    ds.Modality = "CT"
    ds.Manufacturer = "Phantom"
    ds.ManufacturerModelName = "Synthetic head CT"
    ds.InstitutionName = "Synthetic"
    ds.StationName = "PHANTOM"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "1"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "CT HEAD WITHOUT CONTRAST (SYNTHETIC)"
    ds.SeriesDescription = f"HEAD {spec.scan.thickness_mm:g} MM"
    ds.PatientName = patient.name
    ds.PatientID = patient.patient_id
    ds.PatientBirthDate = born.strftime("%Y%m%d")
    ds.PatientSex = patient.sex
    ds.PatientAge = f"{min(_years(born, when.date()), 999):03d}Y"
    ds.BodyPartExamined = "HEAD"
    ds.ProtocolName = "HEAD ROUTINE"
    ds.ScanOptions = "AXIAL MODE"
    ds.SliceThickness = _decimal(spec.scan.thickness_mm)
    ds.KVP = 120
    ds.DataCollectionDiameter = 500
    ds.ReconstructionDiameter = _decimal(spec.scan.fov_mm)
    ds.DistanceSourceToDetector = 1000
    ds.DistanceSourceToPatient = 570
    ds.GantryDetectorTilt = _decimal(spec.scan.tilt_deg)
    ds.TableHeight = 150
    ds.RotationDirection = "CW"
    ds.ExposureTime = 1000
    ds.XRayTubeCurrent = 240
    ds.Exposure = 240
    ds.FilterType = "HEAD"
    ds.GeneratorPower = 29
    ds.FocalSpots = 1.2
    ds.ConvolutionKernel = ("SOFT", "STANDARD", "STND+")[min(int(spec.scan.kernel * 3), 2)]
    ds.PatientPosition = "HFS"
    ds.StudyID = "1"
    ds.SeriesNumber = series_number
    ds.AcquisitionNumber = 1
    ds.PositionReferenceIndicator = "OM"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = ds.Columns = spec.scan.matrix
    ds.PixelSpacing = [_decimal(v) for v in phantom.pixel_mm]
    ds.WindowCenter, ds.WindowWidth = 40, 80
    ds.RescaleSlope = 1
    ds.RescaleType = "HU"
    return ds


def _geometry(ds: Dataset, phantom: Phantom, position_mm: float) -> None:
    spec = phantom.spec
    tilt = math.radians(spec.scan.tilt_deg)
    cos, sin = math.cos(tilt), math.sin(tilt)
    half = (spec.scan.fov_mm - spec.scan.pixel_mm) / 2
    across = spec.head.centre_mm[0] + spec.scan.off_centre_mm[0] - half
    down = spec.head.centre_mm[1] + spec.scan.off_centre_mm[1] - half
    table = position_mm / cos
    ds.ImageOrientationPatient = [1, 0, 0, 0, _decimal(cos), _decimal(-sin)]
    ds.ImagePositionPatient = [_decimal(v) for v in (across, down * cos, table - down * sin)]
    ds.SliceLocation = _decimal(table)


def _pixels(ds: Dataset, hu: np.ndarray, encoding: Encoding) -> None:
    """`hu`: (rows, columns). Stored value = HU - intercept."""
    signed = encoding != "unsigned"
    intercept = 0 if encoding == "signed" else -1024
    stored = np.rint(hu) - intercept
    if encoding == "padded":
        rows, columns = stored.shape
        y, x = np.ogrid[:rows, :columns]
        outside = np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2) > rows / 2
        stored[outside] = PADDING
        ds.add_new("PixelPaddingValue", "SS", PADDING)
    stored = np.clip(stored, -32768, 32767) if signed else np.clip(stored, 0, 4095)
    ds.BitsAllocated = 16
    ds.BitsStored = 16 if signed else 12
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(signed)
    ds.RescaleIntercept = intercept
    ds.add_new("PixelData", "OW", stored.astype("<i2" if signed else "<u2").tobytes())


def _file_meta(instance_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    return meta


def _years(born: date, today: date) -> int:
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


def _decimal(value: float) -> str:
    """A DS of at most 16 characters (PS3.5 6.2), good to a hundredth of a micrometre."""
    text = f"{value:.7f}".rstrip("0").rstrip(".")
    return text if text not in ("-0", "") else "0"
