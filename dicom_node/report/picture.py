"""The result as one picture, made to be looked at: the answer, the slices that support it, and every slice's output.

Nothing in it names the patient, and whatever a colour says is also said by words, height or hatching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw

from dicom_node.report import strip, wording
from dicom_node.report.context import check_findings
from dicom_node.report.page import DIM, GROUND, INK, MARGIN, PANEL, TALLEST, WIDTH, Colour, Page, font, wrapped
from dicom_node.report.wording import COLOURS
from dtvit.findings import Outcome, SeriesFindings, Thresholds

COLUMNS = 3  # slices shown
GAP = 12  # pixels between them
SIDE = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
WINDOW_HU = (0.0, 80.0)

WARNING = COLOURS[Outcome.UNDETERMINED]

WORD = 76  # height of the answer in pixels
# OHIF lays its player over the middle of the top: seen there from 380 to 642 across and down to 136 on a tall page.
BESIDE_PLAYER, BELOW_PLAYER = 380, 138
DARKENED = 0.3  # dark enough for the faintest purple of a map to show on bone

Array = npt.NDArray[Any]
Orientation = Sequence[float]
"""Image Orientation (Patient): direction cosines of a row, then of a column."""
OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "H": "F", "F": "H"}
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Shown:
    """A slice as the picture shows it."""

    hu: Array
    """(row, column), HU."""
    relevance: Array | None = None
    """(row, column), 0..1: where the model looked, drawn below the untouched slice, never over it."""
    orientation: Orientation | None = None
    """From which the letters at the edges are made; None where the object has none."""


def to_show(findings: SeriesFindings) -> tuple[int, ...]:
    """Indices in `findings.slices` of the images that the picture is to show: the highest outputs, highest first."""
    evaluated = [i for i, s in enumerate(findings.slices) if s.evaluated]
    return tuple(sorted(evaluated, key=lambda i: -(findings.slices[i].presence or 0.0))[:COLUMNS])


def compose(
    findings: SeriesFindings,
    pictures: Mapping[int, Shown],
    *,
    algorithm: str,
    notice: str | None,
    thresholds: Thresholds | None = None,
    run: int = 1,
    replaces: bool = False,
    series_number: str | None = None,
) -> Image.Image:
    """The page as RGB.

    `pictures`: index in `findings.slices`, one of `to_show` -> that slice. `series_number`: of the images.
    `thresholds`: those for slices, drawn as lines. `run`: from the second on, the version is on top. `replaces`: an
    earlier result was sent somewhere.
    Raises `UnusableFindings` as `sr.build` does.
    """
    check_findings(findings)
    image = Image.new("RGB", (WIDTH, TALLEST), GROUND)
    page = Page(image, ImageDraw.Draw(image))
    _banner(page, findings, run)
    if run > 1:
        page.text(f"Version {run}{': replaces the earlier result of this series' if replaces else ''}.", 21)
    for line in wording.conclusion(findings, series_number=series_number)[1:]:
        page.text(line, 21)
    page.text(wording.NOT_ASSESSED, 19, DIM)
    page.y += 12
    _slices(page, findings, pictures)
    strip.draw(page, findings, thresholds)
    if notice:
        _notice(page, notice)
    page.text(f"Not for diagnosis. {algorithm}", 17, DIM)
    return image.crop((0, 0, WIDTH, page.y + 12))


def _banner(page: Page, findings: SeriesFindings, run: int) -> None:
    """The answer, large enough to be read in a thumbnail."""
    colour = COLOURS[findings.outcome]
    ink = GROUND
    word, below = findings.outcome.value.upper(), wording.in_short(findings)
    top = 48 if MARGIN + font(WORD).getlength(word) <= BESIDE_PLAYER else BELOW_PLAYER
    second = max(top + 84, BELOW_PLAYER)
    height = second + 68 if below else top + 100
    page.draw.rectangle((0, 0, WIDTH, height), fill=colour)
    title = "Intracerebral hemorrhage on head CT, AI result" + (f", version {run}" if run > 1 else "")
    page.draw.text((MARGIN, 12), title, font=font(26), fill=ink)
    page.draw.text((MARGIN, top), word, font=font(WORD), fill=ink)
    if below:
        page.draw.text((MARGIN, second), below, font=font(52), fill=ink)
    if findings.presence is not None:
        output = wording.percent(findings.presence)
        _right(page, output, 46, 64, ink)
        _right(page, "output", 112, 22, ink)
    page.y = height + 16


def _right(page: Page, text: str, y: int, size: int, colour: Colour) -> None:
    page.draw.text((WIDTH - MARGIN - font(size).getlength(text), y), text, font=font(size), fill=colour)


def _slices(page: Page, findings: SeriesFindings, pictures: Mapping[int, Shown]) -> None:
    chosen = to_show(findings)
    if not chosen:
        return
    side = SIDE
    rows = 2 if any(one.relevance is not None for one in pictures.values()) else 1
    whole = {i: Image.fromarray(_brain_window(pictures[i].hu)) for i in chosen if i in pictures}
    cut = _cut([np.asarray(one) for one in whole.values()])
    for column, i in enumerate(chosen):
        x = MARGIN + column * (side + GAP)
        s = findings.slices[i]
        caption = f"image {wording.label(s)}: {wording.percent(s.presence or 0.0)}, {s.outcome.value}"
        page.draw.text((x, page.y), caption, font=_fitting(caption, 21, side), fill=INK)
        page.draw.rectangle((x, page.y + 30, x + side, page.y + 35), fill=COLOURS[s.outcome])
        corner = (x, page.y + 36)
        if i not in pictures:
            _leave_open(page, corner, side)
            continue
        _paste(page, whole[i].crop(cut), corner, side)
        _mark_sides(page, pictures[i].orientation, corner, side)
        if (relevance := pictures[i].relevance) is not None:
            _paste(page, _looked(relevance, whole[i]).crop(cut), (x, page.y + 36 + side + 6), side)
    page.y += 36 + side * rows + (6 if rows == 2 else 0) + 14
    if rows == 2:
        page.text(
            "Lower row: where the network looked (bright), over the same image darkened, each on its own scale; "
            "this is not the outline of a hemorrhage.",
            17,
            DIM,
        )


def _fitting(text: str, size: int, width: int) -> Any:
    """The font, smaller than `size` where the text would be wider: a position is longer than a number."""
    while font(size).getlength(text) > width:
        size -= 1
    return font(size)


def _leave_open(page: Page, corner: tuple[int, int], side: int) -> None:
    page.draw.rectangle((*corner, corner[0] + side, corner[1] + side), fill=PANEL)
    page.draw.text((corner[0] + 20, corner[1] + side // 2), "picture not available", font=font(21), fill=DIM)


def _mark_sides(page: Page, orientation: Orientation | None, corner: tuple[int, int], side: int) -> None:
    """R and L at the patient's right and left, as viewers mark them: an image may be mirrored, or the patient prone."""
    x, y = corner
    if orientation is None:
        page.draw.text((x + 6, y + side - 26), "left and right unknown", font=font(18), fill=WARNING)
        return
    along_row, down = edge(orientation[:3]), edge(orientation[3:])
    for letter, (across, height) in (
        (OPPOSITE[along_row], (6, side // 2)),
        (along_row, (side - 22, side // 2)),
        (OPPOSITE[down], (side // 2, 4)),
    ):
        page.draw.text((x + across, y + height), letter, font=font(22), fill=INK, stroke_width=2, stroke_fill=GROUND)


def edge(direction: Sequence[float]) -> str:
    """The letter for the edge that a patient direction (x, y, z) points to: PS3.3 C.7.6.1.1.1."""
    axis = max(range(3), key=lambda i: abs(direction[i]))
    return ("LPH" if direction[axis] > 0 else "RAF")[axis]


def _looked(relevance: Array, picture: Image.Image) -> Image.Image:
    """The map over its darkened slice, to show where in the slice it lies; the untouched slice is above it."""
    heat = Image.fromarray(_heat(relevance)).resize(picture.size, Image.Resampling.BILINEAR)
    dark = picture.point(lambda value: value * DARKENED).convert("RGB")
    return ImageChops.screen(heat, dark)


def _cut(pictures: Sequence[Array]) -> Box | None:
    """(left, top, right, bottom) of all that is not air in any slice, with a rim; None where they differ in size.

    One cut for all, so that they have the same scale side by side.
    """
    if not pictures or len({p.shape for p in pictures}) != 1:
        return None
    seen = np.maximum.reduce(list(pictures)) > 40
    columns, rows = (np.flatnonzero(seen.sum(axis=axis) > 2) for axis in (0, 1))  # more than a speck of noise
    if not len(columns) or not len(rows):
        return None
    height, width = seen.shape
    rim = max(seen.shape) // 50
    return (
        max(0, int(columns[0]) - rim),
        max(0, int(rows[0]) - rim),
        min(width, int(columns[-1]) + rim + 1),
        min(height, int(rows[-1]) + rim + 1),
    )


def _paste(page: Page, picture: Image.Image, corner: tuple[int, int], side: int) -> None:
    """Fit the whole picture into a square of `side`, keeping its shape."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    page.draw.rectangle((*corner, corner[0] + side - 1, corner[1] + side - 1), fill=(0, 0, 0))
    place = (corner[0] + (side - size[0]) // 2, corner[1] + (side - size[1]) // 2)
    page.image.paste(picture.resize(size, Image.Resampling.LANCZOS), place)


def _brain_window(hu: Array) -> npt.NDArray[np.uint8]:
    """(row, column) 0..255."""
    low, high = WINDOW_HU
    scaled = np.clip((np.nan_to_num(hu.astype(np.float32)) - low) / (high - low), 0.0, 1.0)
    eight: npt.NDArray[np.uint8] = np.rint(255.0 * scaled).astype(np.uint8)
    return eight


def _heat(relevance: Array) -> npt.NDArray[np.uint8]:
    """(row, column, 3): from black through purple and orange to white, ever brighter, so that it reads in grey too."""
    stops = np.array([[0, 0, 0], [87, 16, 110], [213, 94, 0], [255, 250, 200]], dtype=np.float32)
    place = np.clip(np.nan_to_num(relevance.astype(np.float32)), 0.0, 1.0) * (len(stops) - 1)
    grid = np.arange(len(stops), dtype=np.float32)
    bands = [np.interp(place, grid, stops[:, c]).astype(np.uint8) for c in range(3)]
    return np.stack(bands, axis=-1)


def _notice(page: Page, notice: str) -> None:
    lines = wrapped(notice, 22, WIDTH - 4 * MARGIN)
    height = round(1.35 * 22) * len(lines) + 16
    page.draw.rectangle((MARGIN, page.y, WIDTH - MARGIN, page.y + height), outline=WARNING, width=2)
    page.y += 8
    page.text(notice, 22, WARNING, 2 * MARGIN, WIDTH - 4 * MARGIN)
    page.y += 16
