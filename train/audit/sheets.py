"""Pictures for a person to look at: sheets of slices with their probability, and bars with intervals. As PNG.

A sheet of patients' slices is as confidential as the slices are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dtvit.wholefile import replacing
from train.audit.figures import Figure
from train.audit.tissue import Picture

TILE = 200  # pixels
LABEL = 16
MARK = (255, 90, 60)
COLOUR = "#30618c"


def write(path: Path, columns: Mapping[str, Sequence[tuple[Picture, str]]]) -> Path:
    """A column for each name, of grey (row, column) or colour pictures with a line of text below each."""
    rows = max(len(tiles) for tiles in columns.values())
    sheet = Image.new("RGB", (len(columns) * (TILE + 4), LABEL + rows * (TILE + LABEL)), "black")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, (name, tiles) in enumerate(columns.items()):
        left = column * (TILE + 4)
        pen.text((left + 2, 1), name[:38], "white", font)
        for row, (picture, text) in enumerate(tiles):
            top = LABEL + row * (TILE + LABEL)
            sheet.paste(Image.fromarray(_tile(picture)), (left, top))
            pen.text((left + 2, top + TILE + 1), text[:38], "white", font)
    with replacing(path) as file:
        sheet.save(file, "PNG")
    return path


def few(rows: Any, most: int = 8) -> Any:
    """At most `most` of them, evenly spaced, to be shown; an array or a sequence."""
    return rows[:: max(1, -(-len(rows) // most))]


def changed(
    chosen: Any, of: Iterable[Any], pictures: NDArray[np.uint8], presence: NDArray[np.float64]
) -> list[tuple[Picture, str]]:
    """A column of the same few of `chosen` each time: how those that could be changed, `of`, look now, the head filling
    its tile, with their new probability; an empty tile for the others."""
    made = dict(zip(of, zip(pictures, presence, strict=True), strict=True))
    tiles = []
    for each in few(chosen):
        picture, found = made.get(each, (np.zeros((8, 8), np.uint8), None))
        tiles.append((picture[cut_out(picture)], "no room" if found is None else f"p {found:.2f}"))
    return tiles


def outlined(picture: Picture, mask: NDArray[np.bool_]) -> Picture:
    """In colour, with the border of `mask`."""
    colour = np.repeat(picture[..., None], 3, 2)
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.ascontiguousarray(colour), lines, -1, MARK, 1), np.uint8)


def warmed(picture: Picture, relevance: NDArray[np.float32]) -> Picture:
    """In colour, redder where more relevant (0..1)."""
    heat = np.clip(relevance, 0, 1)[..., None]
    return np.asarray(picture[..., None] * (1 - 0.6 * heat) + heat * 0.6 * np.array((255, 40, 0)), np.uint8)


def cut_out(picture: Picture) -> tuple[slice, slice]:
    """The square that holds the head, so that it fills a tile."""
    used = np.argwhere(picture > 0)
    if not len(used):
        return slice(0, picture.shape[0]), slice(0, picture.shape[1])
    top, left = used.min(0)
    side = int(min(max(used.max(0) - used.min(0)) + 1, *picture.shape[:2]))
    top, left = (int(np.clip(v, 0, size - side)) for v, size in zip((top, left), picture.shape[:2], strict=True))
    return slice(top, top + side), slice(left, left + side)


def _tile(picture: Picture) -> Picture:
    colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
    return np.asarray(
        cv2.resize(colour, (TILE, TILE), interpolation=cv2.INTER_AREA if len(colour) > TILE else cv2.INTER_LINEAR)
    )


def bars(
    path: Path,
    groups: Mapping[str, Sequence[tuple[str, Figure]]],
    axis: str,
    *,
    goal: float | None = None,
    chance: float | None = None,
) -> Path:
    """Horizontal bars with their intervals, group by group, from top to bottom; a dotted line at the goal."""
    from matplotlib.figure import Figure as Chart

    labels: list[str] = []
    figures: list[Figure] = []
    for group, members in groups.items():
        labels += [f"{group}, {word}" if word else group for word, _ in members]
        figures += [figure for _, figure in members]
    values = np.array([figure.value for figure in figures])
    reach = np.abs(np.array([[f.value - f.low, f.high - f.value] for f in figures])).T
    chart = Chart(figsize=(8, 0.6 + 0.26 * len(labels)), layout="constrained")
    axes: Any = chart.subplots()
    axes.barh(np.arange(len(labels)), values, xerr=np.nan_to_num(reach), color=COLOUR, ecolor="#888", height=0.7)
    axes.set_yticks(np.arange(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(axis, fontsize=9)
    for at, style in ((goal, ":"), (chance, "-")):
        if at is not None:
            axes.axvline(at, color="#b03a2e", linestyle=style, linewidth=1)
    with replacing(path) as file:
        chart.savefig(file, format="png", dpi=110)
    return path
