"""From a CT slice to the picture that the model sees; the one place for it, for training and for the node.

Fan et al. 2024, section 2.2: brain window 0..80 HU, brace removed, Resize 256, CenterCrop 224. The window has a fixed
scale: the papers' per-slice min-max is the same wherever bone reaches 80 HU, and brightens a slice where none does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from dtvit import brace
from dtvit.selection import SliceContent, classify_content

if TYPE_CHECKING:
    from dtvit.ct import CTSlice  # not at run time: training has no pydicom

WINDOW_HU = (0.0, 80.0)
SHORT_SIDE = 256
SIDE = 224


def preprocessing(mode: str = "robust") -> str:
    """The version of everything between HU and model for this brace mode; stands in checkpoint and report."""
    return f"window-0-80/{brace.VERSIONS[mode]}/resize-256-crop-224/1"


PREPROCESSING = preprocessing()


@dataclass(frozen=True, eq=False)
class Prepared:
    """One slice, ready for the model, and what is known of it without the model."""

    input: npt.NDArray[np.uint8]
    """(224, 224); 0..255 for 0..80 HU."""
    content: SliceContent
    head: brace.HeadMask
    """Mask of the slice as it came (row, column), and what its neighbours need to know."""

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(row, column) of the slice as it came: the head."""
        return self.head.mask

    @property
    def flags(self) -> tuple[str, ...]:
        """Doubts of the brace removal, in words."""
        return self.head.flags


def picture(hu: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """(row, column) 0..255 for 0..80 HU, 0 outside `mask`."""
    low, high = WINDOW_HU
    scaled = np.clip((hu - low) * (255.0 / (high - low)), 0.0, 255.0)
    return np.where(mask, np.rint(scaled), 0.0).astype(np.uint8)


def model_input(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(224, 224): short side to 256 (PIL, bilinear, antialiased, as torchvision's Resize does), then the centre."""
    rows, columns = picture.shape
    short = min(rows, columns)
    size = (SHORT_SIDE * columns // short, SHORT_SIDE * rows // short)
    image = Image.fromarray(picture)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return np.asarray(image)[top : top + SIDE, left : left + SIDE].copy()


def prepare(ct_slice: CTSlice, mode: str = "robust", parts: frozenset[int] | None = None) -> Prepared:
    """Everything that is needed of one slice before inference; about 8 ms for 512 x 512.

    `parts`: what `brace.retrace` found out from the neighbours, see `refine`.
    """
    head = brace.find_head(ct_slice.hu, ct_slice.pixel_mm, mode, parts)
    return Prepared(
        input=model_input(upright(picture(ct_slice.hu, head.mask), ct_slice.orientation)),
        content=classify_content(ct_slice.hu, head.mask, ct_slice.pixel_mm),
        head=head,
    )


def refine(slices: Sequence[CTSlice], prepared: Sequence[Prepared], mode: str = "robust") -> list[Prepared]:
    """The finished series, ordered along it, looked over once more: only where the neighbours change a mask is there a
    new `Prepared`; every other is the very object that came in, and what was inferred from it stands."""
    changes = brace.retrace([p.head for p in prepared])
    return [
        before if parts is None else prepare(ct_slice, mode, parts)
        for ct_slice, before, parts in zip(slices, prepared, changes, strict=True)
    ]


def upright(
    picture: npt.NDArray[np.uint8], orientation: tuple[float, float, float, float, float, float] | None
) -> npt.NDArray[np.uint8]:
    """Nose up and the patient's right on the left, as the model was trained; a prone patient's picture is turned."""
    if orientation is None:
        return picture
    if orientation[4] < 0:  # columns run from back to front
        picture = picture[::-1]
    if orientation[0] < 0:  # rows run from the patient's left to the right
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)
