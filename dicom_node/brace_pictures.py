"""Before and after: what brace removal does to a folder of CT, for people (`dicom-node brace FOLDER --out DIR`).

One PNG per slice, numbered from feet to head, one folder per series: the slice in the brain window, and beside it what
the model would see, before scaling. File names hold no identity, but pictures can show a recognizable face: guard DIR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
from pydicom.errors import InvalidDicomError

if TYPE_CHECKING:
    from dtvit.ct import CTSlice
    from dtvit.preprocess import Prepared


@dataclass(frozen=True)
class Pictured:
    """What was written, and what could not be."""

    series: int
    pictures: int
    flagged: int
    """Slices whose mask was not found in the usual way; the picture says how."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """File (relative to the folder) and reason."""


def write(folder: Path, out: Path, mode: str = "robust", tell: Callable[[str], None] = lambda _: None) -> Pictured:
    """Draw every CT slice below `folder` into `out`, which is created; `tell` gets one line per series.

    Raises NotADirectoryError where there is no folder; a file that cannot be used is skipped and named.
    """
    from dtvit import ct, preprocess

    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    members: dict[str, list[CTSlice]] = {}
    unreadable = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            members.setdefault(_series(path), []).extend(ct.read(path))
        except ct.UnreadableSlice as exc:
            unreadable[str(path.relative_to(folder))] = str(exc)
    pictures = flagged = 0
    for number, found in enumerate(filter(None, members.values()), start=1):
        slices = ct.order(found)
        prepared = preprocess.refine(slices, [preprocess.prepare(s, mode) for s in slices], mode)
        target = out / f"series-{number}"
        target.mkdir(parents=True, exist_ok=True)
        for index, (one, ready) in enumerate(zip(slices, prepared, strict=True), start=1):
            _draw(one, ready, target / f"{index:03}.png", mode)
        pictures += len(slices)
        flagged += sum(bool(ready.flags) for ready in prepared)
        tell(f"{target}: {len(slices)} slices")
    return Pictured(sum(bool(m) for m in members.values()), pictures, flagged, unreadable)


def _series(path: Path) -> str:
    """Series Instance UID, empty where it cannot be read; `ct.read` says what is wrong with such a file."""
    try:
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        return str(header.get("SeriesInstanceUID", ""))
    except (InvalidDicomError, OSError, ValueError, KeyError, AttributeError, NotImplementedError):
        return ""


def _draw(one: CTSlice, ready: Prepared, path: Path, mode: str) -> None:
    import numpy as np
    from PIL import Image, ImageDraw

    from dtvit.preprocess import picture

    before = picture(one.hu, np.ones(one.hu.shape, np.bool_))
    both = Image.fromarray(np.hstack([before, picture(one.hu, ready.mask)]))
    pen = ImageDraw.Draw(both)
    pen.text((6, 6), "before", fill=255)
    pen.text((before.shape[1] + 6, 6), "\n".join((f"after ({mode})", *ready.flags)), fill=255)
    both.save(path)
