"""Ways to tell one head: the same pixels and places in other words, drawn together at random; each is a field here.

Sources: PS3.3 C.7.6.2 and C.7.6.3 (planes and pixels), C.11.1 (rescaling), C.7.5.1.1.2 (padding), C.7.6.16 and C.8.15
(Enhanced CT); PS3.5 6.1 and 6.2 (character sets, values, UN), 7, 8 and annex A (encoding). `retelling` tells it so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from hypothesis import strategies as st
from made import head_series
from pydicom import uid
from pydicom.dataset import Dataset

from dtvit import ct

Way = tuple[tuple[int, int], tuple[int, int]]
WAYS = [
    (row, column)
    for across, down in (((1, 0), (0, 1)), ((0, 1), (1, 0)))
    for row in (across, (-across[0], -across[1]))
    for column in (down, (-down[0], -down[1]))
]
"""Where a row and a column run to: x the patient's left, y the back. The first is upright."""
LEANS = math.radians(14.0)
PIXEL_MM = (1.9, 1.95)  # rows and columns that change places take their distance with them
ACROSS, DOWN = (1.0, 0.0, 0.0), (0.0, math.cos(LEANS), -math.sin(LEANS))
LOWEST, HIGHEST = -1024, 2000
PADS = (-712, -700)  # HU that padding would have if it were not told


def laid(upright: npt.NDArray[np.generic], way: Way) -> npt.NDArray[np.generic]:
    """The picture whose rows and columns run as `way` says, told pixel by pixel where it lies in the patient."""
    (row_x, row_y), (column_x, column_y) = way
    height, width = upright.shape
    rows, columns = (height, width) if column_y else (width, height)
    r, c = np.mgrid[:rows, :columns]
    x, y = c * row_x + r * column_x, c * row_y + r * column_y
    return upright[y - y.min(), x - x.min()]


@dataclass(frozen=True, eq=False)
class Plane:
    """A slice as it is, however it is told."""

    hu: npt.NDArray[np.int64]
    """(row, column), upright: even numbers from LOWEST to HIGHEST, none of PADS; LOWEST outside the circle of
    reconstruction."""
    corner: npt.NDArray[np.float64]
    """Centre of the first pixel in the patient, mm."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What is told: a head that is looked at, unless one of the other fields is changed."""

    planes: tuple[Plane, ...]
    """From feet to head."""
    thickness_mm: str = "9"
    kernel: str = "SOFT"
    body_part: str = "HEAD"
    unit: str = "HU"
    kind: str = "AXIAL"
    """Third value of Image Type."""
    agent: bool = False
    axes: tuple[tuple[float, float, float], tuple[float, float, float]] = (ACROSS, DOWN)
    """Where an upright row and an upright column run to in the patient."""
    pixel_mm: tuple[float, float] = PIXEL_MM


@cache
def head() -> Scan:
    """Most of a neck apart, whole; leaning, with pixels and a picture that are not square."""
    planes = []
    for ds in head_series()[4:]:
        hu = np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns)[:, 3:]
        planes.append(_plane(hu, ds))
    return Scan(tuple(planes))


def scanned(folder: Path) -> Scan:
    """A head that a scanner took, upright in its pictures; its values made even, its header left behind."""
    found = [
        (ct.read(path)[0], pydicom.dcmread(path, specific_tags=["ImagePositionPatient"])) for path in folder.iterdir()
    ]
    found.sort(key=lambda pair: pair[0].position_mm or 0.0)
    planes = [_plane(one.hu, ds) for one, ds in found]
    first = found[0][0]
    assert first.orientation is not None
    return Scan(tuple(planes), "7", axes=(first.orientation[:3], first.orientation[3:]), pixel_mm=first.pixel_mm)


def _plane(hu: npt.NDArray[Any], ds: Dataset) -> Plane:
    even = np.clip(np.where(outside(hu.shape), LOWEST, hu), LOWEST, HIGHEST).astype(np.int64) // 2 * 2
    free = np.where((even >= PADS[0]) & (even <= PADS[1]), PADS[1] + 2, even)
    return Plane(free, np.array([float(v) for v in ds.ImagePositionPatient]))


def outside(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The pixels outside the circle of reconstruction."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return np.asarray(np.hypot(y[:, None], x) > shape[0] / 2)


@dataclass(frozen=True)
class Stored:
    """How a stored value says its Hounsfield units."""

    bits: int = 16
    signed: bool = True
    rescales: tuple[tuple[float, float], ...] = ((1.0, 0.0),)
    """Slope and intercept; several take turns from slice to slice."""
    allocated: int = 16
    raised: int = 0
    """Bits by which High Bit lies above its usual place."""
    unused: str = "clean"
    """What is in the bits above the stored ones: "clean", an "overlay", or a sign that was not "extended"."""
    padding: str | None = None
    """VR in which Pixel Padding Value is told; None where the pixels outside the circle are air. Only with one rescale:
    the frames of an image share their padding."""
    padding_range: bool = False
    """Pixels outside the circle take several padding values, and Pixel Padding Range Limit is told."""
    upside_down: bool = False
    """MONOCHROME1: how it is to be shown, which changes no value."""

    @property
    def kind(self) -> np.dtype[Any]:
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.allocated // 8}")

    @property
    def range(self) -> tuple[int, int]:
        return (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)

    @property
    def pads(self) -> tuple[int, int]:
        """The lowest and the highest of the padding values."""
        (slope, intercept), *_ = self.rescales
        low, high = sorted(int((hu - intercept) / slope) for hu in PADS)
        return (low, high) if self.padding_range else (low, low)

    def fits(self) -> bool:
        """Whether every value can be stored."""
        low, high = self.range
        ends = [(hu - intercept) / slope for slope, intercept in self.rescales for hu in (LOWEST, HIGHEST)]
        return low <= min(ends) and max(ends) <= high and all(end == int(end) for end in ends)


BITS = [
    *(
        (16, True, 16),
        (16, False, 16),
        (12, False, 16),
        (12, True, 16),
        (13, True, 16),
        (14, False, 16),
        (15, True, 16),
    ),
    *((32, True, 32), (16, True, 32)),
]
"""Bits Stored, whether signed, and Bits Allocated."""
RESCALES = [
    (slope, intercept)
    for slope in (1.0, 2.0, 0.5, -1.0)
    for intercept in (0.0, -1024.0, -2048.0, -8192.0, -32768.0, 1000.0, 1024.0)
]


@dataclass(frozen=True)
class Telling:
    """One way; each field by itself leaves the head as it is."""

    stored: Stored = Stored()
    syntax: str = uid.ExplicitVRLittleEndian
    fragments: int = 1
    offsets: str = "none"
    """Of encapsulated frames: "none", in the "basic" or in the "extended" table."""
    lies: tuple[Way, ...] = (WAYS[0],)
    """Where rows and columns run to; several take turns."""
    moved_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the scanner has the origin of its coordinates."""
    number: str = "{:.6f}"
    """How decimals are written (DS, PS3.5 6.2)."""
    excess: int = 0
    """Bytes behind the pixels of uncompressed Pixel Data."""
    numbered: str = "upwards"
    order: int = 0
    """Seed of the order in which the objects come; 0 for that of their positions."""
    associations: int = 1
    again: int = 0
    """So many objects come a second time,"""
    again_in: str | None = None
    """in this transfer syntax, as from a PACS; None for the same bytes."""
    early: bool = False
    """Slices are looked at while others have yet to come."""
    parts: int = 0
    """Objects of an Enhanced CT; 0 for one object a slice."""
    per_frame: bool = False
    """Every functional group is told with each frame."""
    concatenated: bool = False
    """The parts are told to be those of a concatenation."""
    unknown: tuple[str, ...] = ()
    """Elements that were passed on by one who did not know them, as UN (PS3.5 6.2.2), where there are such."""
    group_lengths: bool = False
    undefined: bool = False
    """Sequences and their items end with delimiters instead of having lengths."""
    private: tuple[str, ...] = ()
    """Elements that mean nothing here: "front", "between", "behind" the pixels, "trailing" padding."""
    names: tuple[str | None, ...] = ("ISO_IR 100",)
    """Character sets of the patient's name, which take turns from object to object; None for Latin-1 that is not
    declared, UNDECLARED_UTF_8."""
    delimiters: tuple[str, ...] = ("",)
    """Behind the patient's name; several take turns."""
    odd: tuple[str, ...] = ()
    """What must not matter: keys of ODD."""
    beside: tuple[str, ...] = ()
    """What else lies in the study: of BESIDE."""


ODD: dict[str, dict[str, Any]] = {
    "window": {"WindowCenter": [-9999, 1e6], "WindowWidth": [0, 1]},
    "no window": {"WindowCenter": None, "WindowWidth": None},
    "zone": {"TimezoneOffsetFromUTC": "+1245"},
    "derived": {"DerivationDescription": "lossless", "LossyImageCompression": "00"},
    "clock": {"AcquisitionDate": "20300317", "AcquisitionTime": "235959.999999", "ContentTime": "0000"},
    "no clock": {"AcquisitionDate": None, "AcquisitionTime": None, "ContentDate": None, "ContentTime": None},
    "table": {"TableHeight": "-3000.5", "DataCollectionDiameter": "1"},
    "gantry": {"GantryDetectorTilt": "14"},
    "no gantry": {"GantryDetectorTilt": None},
    "location": {"SliceLocation": "-12345.678"},
    "patient": {"PatientPosition": "FFDL"},
    "shape": {"PixelAspectRatio": ["1", "1"], "LossyImageCompression": "00"},
    "limits": {"SmallestImagePixelValue": 0, "LargestImagePixelValue": 1},
    "spacing": {"SpacingBetweenSlices": "0.5", "ReconstructionDiameter": "1"},
    "unit": {"RescaleType": "US"},
    "no unit": {"RescaleType": None},
}
KNOWN = ("RescaleSlope", "RescaleIntercept", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
KNOWN += ("InstanceNumber", "PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SliceThickness")
KNOWN += ("SOPInstanceUID", "Rows", "BitsStored", "PixelRepresentation", "ConvolutionKernel", "ImageType")
KNOWN += ("FrameOfReferenceUID", "BodyPartExamined", "NumberOfFrames", "RescaleType", "SeriesNumber")
KNOWN += ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ContrastBolusAgentSequence")
KNOWN += ("PixelPaddingValue", "PixelPaddingRangeLimit", "HighBit", "ContrastBolusAgent")
IN_GROUPS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "ConvolutionKernel")
IN_GROUPS += ("RescaleSlope", "RescaleIntercept", "RescaleType", "GantryDetectorTilt", "SliceLocation")
BESIDE = ("localizer", "dose report", "bone", "screen")
NUMBERED = ("upwards", "downwards", "alike", "not", "empty", "across a thousand", "at random", "below zero")
COMPRESSED = (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1)
UNCOMPRESSED = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian)
SYNTAXES = (*UNCOMPRESSED, *COMPRESSED)
NAME = "M\xfcller^J\xf6rg"
FLIPS = [way for way in WAYS if way[1][1]]  # which leave rows and columns as many as they were
UNDECLARED_UTF_8 = "undeclared"
CHARACTER_SETS = (
    None,
    UNDECLARED_UTF_8,
    "ISO_IR 100",
    "ISO_IR 192",
    "GB18030",
    "\\ISO 2022 IR 100",
    "ISO 2022 IR 6\\ISO 2022 IR 100",
)


@st.composite
def stored(draw: st.DrawFn) -> Stored:
    bits, signed, allocated = draw(st.sampled_from(BITS))
    plain = Stored(bits, signed, allocated=allocated)
    fitting = [one for one in RESCALES if replace(plain, rescales=(one,)).fits()]
    most = draw(st.sampled_from([1, 1, 2, 3]))
    chosen = tuple(draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=most, unique=True)))
    spare = allocated - bits
    raised = draw(st.integers(0, spare))
    unused = draw(
        st.sampled_from(
            ["clean", *(["overlay"] if raised < spare else []), *(["extended"] if signed and spare else [])]
        )
    )
    one = replace(plain, rescales=chosen, raised=raised, unused=unused, upside_down=draw(st.booleans()))
    if allocated > 16 or len(chosen) > 1:
        return one
    return replace(one, padding=draw(st.sampled_from([None, "US", "SS"])), padding_range=draw(st.booleans()))


def _can_be_compressed(values: Stored) -> bool:
    return values.allocated == 16 and values.unused == "clean" and not values.raised


@st.composite
def tellings(draw: st.DrawFn) -> Telling:
    syntax = draw(st.sampled_from(SYNTAXES))
    values = draw(stored())
    if syntax in COMPRESSED and not _can_be_compressed(values):
        values = replace(values, unused="clean", raised=0) if values.allocated == 16 else Stored()
    parts = draw(st.sampled_from([0, 0, 1, 2, 3]))
    some = lambda of, most: tuple(draw(st.lists(st.sampled_from(of), unique=True, max_size=most)))  # noqa: E731
    return Telling(
        stored=values,
        syntax=syntax,
        fragments=1 if syntax == uid.RLELossless else draw(st.sampled_from([1, 1, 3])),
        offsets=draw(st.sampled_from(["none", "basic", "extended"])),
        lies=tuple(draw(st.lists(st.sampled_from(WAYS if not parts else FLIPS), min_size=1, max_size=3))),
        moved_mm=draw(
            st.sampled_from([(0.0, 0.0, 0.0), (0.0, 0.0, -5000.0), (-1500.5, 4000.25, 9000.125), (1.0, -2.0, -80.0)])
        ),
        number=draw(st.sampled_from(["{:.6f}", "{:.4f}", "{:.8e}", "{:+.5f}", " {:.5f} "])),
        excess=draw(st.sampled_from([0, 0, 2, 126])),
        numbered=draw(st.sampled_from(NUMBERED)),
        order=draw(st.integers(0, 5)),
        associations=draw(st.integers(1, 4)),
        again=draw(st.integers(0, 3)),
        again_in=draw(st.sampled_from([None, *(SYNTAXES if _can_be_compressed(values) else UNCOMPRESSED)])),
        early=draw(st.booleans()),
        parts=parts,
        per_frame=draw(st.booleans()),
        concatenated=draw(st.booleans()),
        unknown=some(KNOWN, 6),
        group_lengths=draw(st.booleans()),
        undefined=draw(st.booleans()),
        private=some(("front", "between", "behind", "trailing"), 4),
        names=tuple(draw(st.lists(st.sampled_from(CHARACTER_SETS), min_size=1, max_size=3))),
        delimiters=some(("", "^", "^^^", "^^^=", "^^^=^^^^=^^^^"), 3) or ("",),
        odd=some(sorted(ODD), 4),
        beside=some(BESIDE, 2),
    )
