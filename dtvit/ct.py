"""CT objects to Hounsfield units: with `dtvit.reading`, the only part of this package that knows DICOM.

No header is trusted. A false one (sizes, bit depth, sign, padding) costs its own slice and no more: sizes are bounded
before anything is allocated, and a compressed frame's own size is read before a decoder sees it. Sources: PS3.3 C.8.2
(CT Image), C.8.15 (Enhanced CT), C.7.6.2 (Image Plane), C.11.1 (Modality LUT), C.7.5.1.1.2 (padding); PS3.5 8.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid

from dtvit.reading import headervalues as values
from dtvit.reading.headervalues import UnreadableSlice
from dtvit.reading.parsing import BROKEN, SINGLE_FRAME, parse
from dtvit.reading.pixels import Pixels
from dtvit.reading.storedvalues import as_stored

__all__ = ["CTObject", "CTSlice", "UnreadableSlice", "order", "read"]

MULTI_FRAME = frozenset({uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage})

MAX_SIDE = 2048  # the largest matrix any CT scanner reconstructs; 4 mebipixels bound what one slice may cost
MAX_FRAMES = 2048  # a head at 0.1 mm; beyond that the number is false, or this is not a head
MAX_READ_PIXELS = 512 * 1024 * 1024  # `read` returns all frames at once: 2 GiB as float32
# Said of a frame whose pixels are not a slice of what was scanned, by Frame Type (C.8.16.1) or by how it was made
# (C.8.16.2). An axial reformat is a slice (MPR, RESAMPLED), and so is a mean.
NO_SLICE = frozenset({"LOCALIZER", "MIP", "MINIP", "MAX_IP", "MIN_IP", "MAXIMUM", "MINIMUM", "SAMPLED", "DISTORTED"})
AIR_HU = -1024.0
HIGHEST_PADDING_HU = -300.0  # a padding value above this would blank tissue: the header is wrong, the pixels are kept


@dataclass(frozen=True, eq=False)
class CTSlice:
    """One axial (or other) CT plane as it stands in the object, rows and columns untouched."""

    sop_class_uid: str
    sop_instance_uid: str
    instance_number: int | None
    frame: int | None
    """1-based frame of a multi-frame object, None for a single-frame one."""
    hu: npt.NDArray[np.float32]
    """(row, column), Hounsfield units, padding and everything below air at -1024."""
    pixel_mm: tuple[float, float]
    """Distance between rows, between columns (C.7.6.3.1.7)."""
    thickness_mm: float | None
    position_mm: float | None
    """Image Position (Patient) projected on the slice normal, growing from feet to head; None without geometry."""
    orientation: tuple[float, float, float, float, float, float] | None
    """Direction cosines of a row and of a column (C.7.6.2.1.1); None if they are missing or not unit vectors."""
    tilt_deg: float | None
    """Gantry/Detector Tilt, or the angle between slice and axial plane; for people: nothing is computed from it."""
    corner_mm: tuple[float, float, float] | None = None
    """Image Position (Patient): where the first pixel lies."""

    @property
    def normal(self) -> tuple[float, float, float] | None:
        """Unit normal of the slice, towards the head; None without orientation."""
        if self.orientation is None:
            return None
        x, y, z = values.headward(self.orientation)
        return float(x), float(y), float(z)

    @property
    def axial(self) -> bool | None:
        """Whether the plane lies within 45 degrees of axial; None without orientation."""
        return None if self.orientation is None else bool(abs(values.normal(self.orientation)[2]) > math.sqrt(0.5))


def read(source: Path | bytes | BinaryIO) -> tuple[CTSlice, ...]:
    """All slices of one object: one for a CT Image, one per frame of an Enhanced CT Image, in frame order.

    Raises UnreadableSlice when the object, or any frame of it, cannot be used; `CTObject` gives frame by frame.
    """
    image = CTObject(source)
    if image.frames * image.rows * image.columns > MAX_READ_PIXELS:
        raise UnreadableSlice(f"{image.frames} frames of {image.rows} x {image.columns} are too much to read at once")
    return tuple(image)


def order(slices: Sequence[CTSlice]) -> list[CTSlice]:
    """From feet to head; equal positions by instance number, slices without position last. None is dropped."""

    def key(s: CTSlice) -> tuple[bool, float, float, int, str]:
        number = math.inf if s.instance_number is None else s.instance_number
        return s.position_mm is None, s.position_mm or 0.0, number, s.frame or 0, s.sop_instance_uid

    return sorted(slices, key=key)


class CTObject:
    """One CT object, parsed and bounded but not yet decoded; iterate for its slices or ask `slice` for one frame.

    Raises UnreadableSlice if it is not a CT image, cannot be parsed, or says something impossible.
    """

    def __init__(self, source: Path | bytes | BinaryIO) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            try:
                self._dataset = parse(source)
                self._check()
            except BROKEN as exc:
                raise UnreadableSlice(f"the object cannot be parsed as DICOM ({type(exc).__name__})") from exc

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[CTSlice]:
        return (self.slice(index) for index in range(self.frames))

    def _check(self) -> None:
        ds = self._dataset
        self._sop_class = str(ds.get("SOPClassUID", ""))
        if self._sop_class not in SINGLE_FRAME | MULTI_FRAME:
            # a UID that the dictionary does not know may be any text, a patient's name among them
            kind = uid.UID(self._sop_class).name if self._sop_class in uid.UID_dictionary else "an unknown SOP class"
            raise UnreadableSlice(f"{kind} is not a CT image")
        if not ds.get("SOPInstanceUID"):
            raise UnreadableSlice("SOP Instance UID is missing")
        self._multi = self._sop_class in MULTI_FRAME
        self._syntax = ds.file_meta.TransferSyntaxUID
        self.rows, self.columns = values.integer(ds, "Rows"), values.integer(ds, "Columns")
        self.frames = max(values.integer(ds, "NumberOfFrames", 1), self._described())
        for name, value, limit in (("Rows", self.rows, MAX_SIDE), ("Columns", self.columns, MAX_SIDE)):
            if not 16 <= value <= limit:
                raise UnreadableSlice(f"{name} is {value}, but a CT slice has 16 to {limit}")
        if not 1 <= self.frames <= MAX_FRAMES or (self.frames > 1 and not self._multi):
            raise UnreadableSlice(f"Number of Frames is {self.frames}, which this kind of object cannot have")
        self._pixels = Pixels(ds, rows=self.rows, columns=self.columns, frames=self.frames)

    def _described(self) -> int:
        """How many frames of an Enhanced CT have functional groups: none of them is passed over for a false number."""
        groups = self._dataset.get("PerFrameFunctionalGroupsSequence") if self._multi else None
        return len(groups) if isinstance(groups, pydicom.Sequence) else 0

    def slice(self, index: int) -> CTSlice:
        """Decode the frame with this 0-based index; raises UnreadableSlice for this frame alone."""
        frame = index + 1 if self._multi else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return self._slice(index, frame)
            except UnreadableSlice as exc:
                exc.frame = frame
                raise
            except BROKEN as exc:
                name = self._syntax.name
                raise UnreadableSlice(f"{name} pixels cannot be decoded ({type(exc).__name__})", frame) from exc

    def _slice(self, index: int, frame: int | None) -> CTSlice:
        ds = self._dataset
        groups = _Groups(ds, index if self._multi else None)
        if self._multi:
            _check_kind(groups)
        orientation = values.orientation(groups.get("PlaneOrientationSequence", "ImageOrientationPatient"))
        corner = values.position(groups.get("PlanePositionSequence", "ImagePositionPatient"))
        thickness = values.number(groups.get("PixelMeasuresSequence", "SliceThickness"))
        return CTSlice(
            sop_class_uid=self._sop_class,
            sop_instance_uid=str(ds.SOPInstanceUID),
            instance_number=values.optional_integer(ds.get("InstanceNumber")),
            frame=frame,
            hu=self._hounsfield(groups, index),
            pixel_mm=values.pixel_mm(groups.get("PixelMeasuresSequence", "PixelSpacing"), self.rows, self.columns),
            thickness_mm=thickness if thickness is not None and 0 < thickness <= 100 else None,
            position_mm=None
            if orientation is None or corner is None
            else float(np.dot(values.headward(orientation), corner)),
            orientation=orientation,
            tilt_deg=values.tilt(groups.get("CTAcquisitionDetailsSequence", "GantryDetectorTilt"), orientation),
            corner_mm=corner,
        )

    def _hounsfield(self, groups: _Groups, index: int) -> npt.NDArray[np.float32]:
        slope = values.number(groups.get("PixelValueTransformationSequence", "RescaleSlope"))
        intercept = values.number(groups.get("PixelValueTransformationSequence", "RescaleIntercept"))
        kind = str(groups.get("PixelValueTransformationSequence", "RescaleType") or "").strip().upper()
        if slope is None or intercept is None or slope == 0:
            raise UnreadableSlice("Rescale Slope and Intercept are missing or unusable: no Hounsfield units")
        if kind not in values.HU_TYPES:
            raise UnreadableSlice("Rescale Type says that the values are not Hounsfield units")
        stored = self._pixels.stored(index)
        hu: npt.NDArray[np.float32] = np.multiply(stored, np.float32(slope), dtype=np.float32, casting="unsafe")
        hu += np.float32(intercept)
        padded = self._padded(stored, slope, intercept)
        if padded is not None:
            np.copyto(hu, np.float32(AIR_HU), where=padded)
        if not np.isfinite(hu).all():
            raise UnreadableSlice("the rescaled values are not finite numbers")
        return np.clip(hu, np.float32(AIR_HU), np.float32(np.inf), out=hu)  # a quarter of np.maximum's time

    def _padded(self, stored: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[np.bool_] | None:
        """Where the stored values are padding; a padding value that would blank tissue is not believed."""
        ds = self._dataset
        low = values.optional_integer(ds.get("PixelPaddingValue"))
        if low is None:
            return None
        high = values.optional_integer(ds.get("PixelPaddingRangeLimit"))
        low, high = (as_stored(v, stored.dtype) for v in (low, low if high is None else high))
        low, high = min(low, high), max(low, high)
        if max(low * slope, high * slope) + intercept > HIGHEST_PADDING_HU:
            return None
        return stored == low if low == high else (stored >= low) & (stored <= high)


def _check_kind(groups: _Groups) -> None:
    """An image whose frames are of several kinds says MIXED, and each frame says its own."""
    for keyword in ("FrameType", "VolumetricProperties", "VolumeBasedCalculationTechnique"):
        said = groups.get("CTImageFrameTypeSequence", keyword)
        for value in [said] if isinstance(said, str) else said or ():
            if str(value).strip().upper() in NO_SLICE:
                raise UnreadableSlice(f"it is not a slice of the volume: {keyword} says {str(value).strip().upper()}")


class _Groups:
    """Attributes of a slice: plain in a CT Image, in per-frame, then shared functional groups of an Enhanced one."""

    def __init__(self, ds: pydicom.Dataset, index: int | None) -> None:
        self._sources: list[pydicom.Dataset] = []
        if index is not None:
            per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
            shared = ds.get("SharedFunctionalGroupsSequence") or []
            self._sources = [*per_frame[index : index + 1], *shared[:1]]
        self._plain = None if index is not None else ds

    def get(self, group: str, keyword: str) -> Any:
        if self._plain is not None:
            return self._plain.get(keyword)
        for source in self._sources:
            items = source.get(group)
            if items and items[0].get(keyword) is not None:
                return items[0].get(keyword)
        return None
