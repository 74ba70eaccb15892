"""What an image says of itself in its header, as far as the node judges it and orders it by that: no identity in it.

Optional attributes that cannot be read count as absent: an odd kernel name must not cost a slice.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from dicom_node.headers.elements import Elements

Value = TypeVar("Value")

ACQUIRED = (("AcquisitionDateTime", None), ("AcquisitionDate", "AcquisitionTime"))
# What the frames of an Enhanced CT have in common, and what each has of its own: a group is in one of these (C.7.6.16).
_SHARED, _EACH = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_RENDERED = ("VolumetricProperties", "VolumeBasedCalculationTechnique")  # of an Enhanced CT, and its frames (C.8.16.2)
_FACTS = (
    *("Modality", "ImageType", "BodyPartExamined", "ConvolutionKernel", "ContrastBolusAgent", "SliceThickness"),
    *("ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "SeriesNumber", "NumberOfFrames"),
    *("Rows", "Columns", "FrameOfReferenceUID", "ContrastBolusAgentSequence", "ContrastBolusVolume"),
    *("SamplesPerPixel", "RescaleType", "SeriesDescription", "PatientAge", "PatientBirthDate", "StudyDate"),
    *(_SHARED, _EACH, *_RENDERED),
)
_FRAME_TYPE = "CTImageFrameTypeSequence"
_KERNEL = (
    ("CTReconstructionSequence", "ConvolutionKernel"),
    ("UnassignedSharedConvertedAttributesSequence", "ConvolutionKernel"),
    ("UnassignedPerFrameConvertedAttributesSequence", "ConvolutionKernel"),
    ("CTReconstructionSequence", "ConvolutionKernelGroup"),
)
_REGION = ("FrameAnatomySequence", "AnatomicRegionSequence", "CodeMeaning")
_UNIT = ("PixelValueTransformationSequence", "RescaleType")
_THICKNESS = ("PixelMeasuresSequence", "SliceThickness")
_PLANE = ("PlaneOrientationSequence", "ImageOrientationPatient")
_OF_FRAMES = frozenset(
    {_FRAME_TYPE, "FrameType", *_REGION, *_UNIT, *_THICKNESS, *_PLANE}
    | {keyword for path in _KERNEL for keyword in path}
)
_MOST_FRAMES = 2048  # that are looked at; an object with more is not a head (`ct.MAX_FRAMES`)
KEYWORDS = frozenset({*_FACTS, *_OF_FRAMES, *(keyword for pair in ACQUIRED for keyword in pair if keyword is not None)})
"""What `read` reads."""
_LONGEST_TEXT = 64  # LO, the longest of the texts kept here; anything longer is broken, and would bloat every reason
_OLDEST_YEARS = 89  # any higher age may tell who it is
_UNITS_A_YEAR = {"D": 365, "W": 52, "M": 12, "Y": 1}
_FARTHEST_MM = 1e5  # a hundred metres from the isocentre there is no patient
_NO_AGENT = re.compile(  # in the languages in which it is written
    r"(no|non|none|nil|not|without|w/?o|ohne|keine?|sans|aucun|sin|ninguno|sem|nenhum|senza|nessuno|zonder|geen|bez|brak"
    r"|uden|uten|utan|ingen)"
    r"([ _-]*i\.?v\.?)?([ _-]*([ck]ontrast[a-z]*([ _-](agent|media|medium|given|used))?|con|agent|bolus|given|used"
    r"|injection|km|cm|mdc))?\.?"
    r"|n[./]?a\.?|unenhanced|nativ[a-z]*|plain|blanco|0(\.0+)?( ?ml)?|[-.]+",
    re.IGNORECASE,
)

# What people and workstations call calculated pictures whose Image Type does not say so; the keys are its terms. An
# underscore counts as a space between words.
_CALCULATED = {
    term: re.compile(words, re.IGNORECASE)
    for term, words in {
        "VMI": r"MONO[ _-]?(E(?![A-Z])|CHROM|ENERG)|(?<![A-Z0-9])VMI(?![A-Z0-9])|\d[ _-]?KEV(?![A-Z0-9])",
        "IODINE": r"(?<![A-Z0-9])IODINE",
        "VNC": r"(?<![A-Z0-9])VNC(?![A-Z0-9])|VIRTUAL[ _-]?NON",
        "EFF_ATOMIC_NUM": r"(?<![A-Z0-9])Z[ _-]?EFF",
        "ELECTRON_DENSITY": r"ELECTRON[ _-]?DENSITY",
        "PERFUSION": r"(?<![A-Z0-9])(CBF|CBV|MTT|TTP|TMAX)(?![A-Z0-9])",
    }.items()
}


@dataclass(frozen=True)
class Facts:
    """Kept in the database as JSON beside the instance; lengths in mm, everything optional may be None."""

    modality: str | None
    image_type: tuple[str, ...]
    """Including whatever else an Enhanced CT says about how its pixels were made."""
    body_part: str | None
    kernel: str | None
    contrast: bool
    thickness_mm: float | None
    position: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float, float, float] | None
    instance_number: int | None
    series_number: int | None
    frames: int
    rows: int | None
    columns: int | None
    # Rows of an earlier version have none of these.
    acquired: str | None = None
    """When the scanner took it, in its own time zone, as ISO 8601, to the minute at least; the same in all
    reconstructions of one scan."""
    frame_of_reference: str | None = None
    """UID of the coordinate system that positions are in (C.7.4.1)."""
    unit: str | None = None
    """Rescale Type: the unit of the rescaled values (C.11.1.1.2)."""
    coloured: bool = False
    described: tuple[str, ...] = ()
    """Terms of Image Type that Series Description implies; its own text is free text, and not kept."""
    age_years: int | None = None
    """Full years, at most 89, when the image was taken."""

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))  # `asdict` would copy the values, which nobody changes

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Facts:
        """Ignores what a later version has added: without a new schema, nothing stops anyone from going back."""
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in cls.__dataclass_fields__
        }
        return cls(**known)

    @property
    def normal(self) -> tuple[float, float, float] | None:
        """Unit normal of the slice, pointing towards the head for a patient lying in any usual position."""
        if self.orientation is None:
            return None
        a, b, c, d, e, f = self.orientation
        n = (b * f - c * e, c * d - a * f, a * e - b * d)
        length = math.sqrt(sum(v * v for v in n))
        if length < 0.5:
            return None
        sign = -1.0 if n[2] < 0 else 1.0
        return n[0] / length * sign, n[1] / length * sign, n[2] / length * sign

    @property
    def position_mm(self) -> float | None:
        """Position along the normal, growing from feet to head (PS3.3 C.7.6.2.1.1)."""
        normal = self.normal
        if normal is None or self.position is None:
            return None
        return sum(p * n for p, n in zip(self.position, normal, strict=True))

    @property
    def tilt_deg(self) -> float | None:
        """Angle between the slice and the axial plane."""
        normal = self.normal
        return None if normal is None else math.degrees(math.acos(min(1.0, abs(normal[2]))))


def read(of: Elements) -> Facts:
    """From elements read by `KEYWORDS`; where an Enhanced CT tells something frame by frame, what most frames say."""
    position = _near(of, "ImagePositionPatient", 3)
    frames = _Frames(of)
    orientation = _near(of, "ImageOrientationPatient", 6) or frames.most(
        lambda one: _near(one, _PLANE[-1], 6), *_PLANE[:-1]
    )
    if orientation is not None and max(map(abs, orientation)) > 1.01:  # direction cosines, rounded
        orientation = None
    thickness_mm = of.number("SliceThickness")
    if thickness_mm is None:
        thickness_mm = frames.most(lambda one: one.number(_THICKNESS[-1]), *_THICKNESS[:-1])
    acquired = moment(of, ACQUIRED, time_digits=4)
    return Facts(
        modality=_short(of, "Modality"),
        image_type=_image_type(of, frames),
        body_part=_kept(of.text("BodyPartExamined") or frames.text(*_REGION)),
        kernel=_kept(of.text("ConvolutionKernel") or _kernel(frames)),
        contrast=_agent_given(of),
        thickness_mm=thickness_mm,
        position=position,  # type: ignore[arg-type]
        orientation=orientation,  # type: ignore[arg-type]
        instance_number=of.integer("InstanceNumber"),
        series_number=of.integer("SeriesNumber"),
        frames=max(1, of.integer("NumberOfFrames") or 1, frames.described),
        rows=of.integer("Rows"),
        columns=of.integer("Columns"),
        acquired=None if acquired is None else acquired.isoformat(),
        frame_of_reference=_short(of, "FrameOfReferenceUID"),
        unit=_kept(of.text("RescaleType") or frames.text(*_UNIT)),
        coloured=(of.integer("SamplesPerPixel") or 1) > 1,
        described=_described(of.text("SeriesDescription") or ""),
        age_years=_age_years(of),
    )


def moment(of: Elements, named: Iterable[tuple[str, str | None]], *, time_digits: int = 0) -> datetime | None:
    """PS3.3 C.7.6.1, C.7.3.1, C.7.2.1; fractions of a second and the offset from UTC do not matter here.

    `time_digits`: how many digits the time must have; 0 where the day is enough, and missing digits count as zero.
    """
    for day, time in named:
        digits = re.match(r"\d{8}", of.text(day) or "")
        if digits is None:
            continue
        of_day = (of.text(time) or "") if time else (of.text(day) or "")[8:]
        clock = re.match(r"\d{0,6}", of_day)
        told = clock.group() if clock else ""
        if len(told) < time_digits:
            continue
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(f"{digits.group()}T{told:0<6}")
    return None


def _age_years(of: Elements) -> int | None:
    """By Patient's Age (PS3.3 C.7.2.2), or else Birth Date. No years at all stands for an age that is not known: a
    baby's is given in days, weeks or months (PS3.5 6.2, AS)."""
    told = re.fullmatch(r"(\d{3})([DWMY])", of.text("PatientAge") or "")
    if told is not None and told[0] != "000Y":
        return min(int(told[1]) // _UNITS_A_YEAR[told[2]], _OLDEST_YEARS)
    born = moment(of, (("PatientBirthDate", None),))
    on = moment(of, (*ACQUIRED, ("StudyDate", None)))
    if born is None or on is None or on < born:
        return None
    return min(on.year - born.year - ((on.month, on.day) < (born.month, born.day)), _OLDEST_YEARS)


class _Frames:
    """What the frames of an Enhanced CT say in their functional groups."""

    def __init__(self, of: Elements) -> None:
        self._shared = of.items(_SHARED, most=1)
        self._each = of.items(_EACH, most=_MOST_FRAMES)

    @property
    def described(self) -> int:
        """How many have functional groups of their own, whatever Number of Frames says."""
        return len(self._each)

    def text(self, *path: str) -> str | None:
        """As `most`; the path as for `within`."""
        *groups, keyword = path
        return self.most(lambda one: one.text(keyword), *groups)

    def most(self, ask: Callable[[Elements], Value | None], *groups: str) -> Value | None:
        """What all frames share, or else the commonest of what each says, in this functional group."""
        for source in filter(None, (self._shared, self._each)):
            found = [within for one in source if (within := one.within(*groups)) is not None]
            told = Counter(value for one in found if (value := ask(one)) is not None)
            if told:
                return told.most_common(1)[0][0]
        return None


def _image_type(of: Elements, frames: _Frames) -> tuple[str, ...]:
    said = [of.text(keyword) for keyword in ("ImageType", *_RENDERED)]
    said += [frames.text(_FRAME_TYPE, keyword) for keyword in ("FrameType", *_RENDERED)]
    return tuple(v.strip().upper() for text in said if text for v in text[:256].split("\\") if v.strip())


def _described(text: str) -> tuple[str, ...]:
    return tuple(term for term, words in _CALCULATED.items() if words.search(text[:_LONGEST_TEXT]))


def _agent_given(of: Elements) -> bool:
    """Some write NONE or NO CONTRAST where PS3.3 C.7.6.4 would leave the module out. An Enhanced CT has a sequence
    instead of text (C.7.6.4b), even if some of its frames were taken before. Some give a volume but no agent."""
    text = of.text("ContrastBolusAgent")
    if text is None:
        return of.has_items("ContrastBolusAgentSequence") or (of.number("ContrastBolusVolume") or 0.0) > 0.0
    if len(text) > _LONGEST_TEXT:  # matching takes time quadratic in the length
        return True
    return not all(_NO_AGENT.fullmatch(each.strip()) for each in text.split("\\") if each.strip())


def _kernel(frames: _Frames) -> str | None:
    """For an Enhanced CT (C.8.15.3.7), or one converted from single images, which keeps it among what has no functional
    group (C.7.6.16.2.25). The kernel group, BONE or SOFT_TISSUE, where only that is given."""
    return next((kernel for path in _KERNEL if (kernel := frames.text(*path)) is not None), None)


def _short(of: Elements, keyword: str) -> str | None:
    return _kept(of.text(keyword))


def _kept(text: str | None) -> str | None:
    """Printable (PostgreSQL stores no NUL) and no longer than DICOM allows."""
    return None if text is None else "".join(c if c.isprintable() else "?" for c in text[:_LONGEST_TEXT])


def _near(of: Elements, keyword: str, count: int) -> tuple[float, ...] | None:
    numbers = of.numbers(keyword, count)
    return numbers if numbers is not None and all(abs(n) <= _FARTHEST_MM for n in numbers) else None
