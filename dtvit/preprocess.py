"""From a CT slice to the picture that the model sees; the one place for it, for training and for the node.

Fan et al. 2024, section 2.2: brain window 0..80 HU, brace removed, Resize 256, CenterCrop 224. The window has a fixed
scale: the papers' per-slice min-max is the same wherever bone reaches 80 HU, and brightens a slice where none does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from dtvit import brace
from dtvit.selection import SliceContent, classify_content

if TYPE_CHECKING:
    from dtvit.ct import CTSlice  # not at run time: training has no pydicom

WINDOW_HU = (0.0, 80.0)
SHORT_SIDE = 256
SIDE = 224

Pixel = TypeVar("Pixel", bound=np.generic)


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
    size, (left, top) = _resized(picture.shape)
    image = Image.fromarray(picture)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image)[top : top + SIDE, left : left + SIDE].copy()


def in_slice(
    of_input: npt.NDArray[np.float32],
    shape: tuple[int, int],
    orientation: tuple[float, float, float, float, float, float] | None,
) -> npt.NDArray[np.float32]:
    """A map over the model's input, (224, 224), in the geometry of its slice: (row, column) of `shape`.

    The way back through `model_input` and `upright`; bilinear, and 0 where the model saw nothing of the slice.
    """
    if of_input.shape != (SIDE, SIDE):
        raise ValueError(f"a map over the model's input has shape ({SIDE}, {SIDE}), not {of_input.shape}")
    (width, height), (left, top) = _resized(shape)
    # A pixel's centre, half a pixel from its edge, is what Resize keeps in place.
    y = (np.arange(shape[0]) + 0.5) * height / shape[0] - 0.5 - top
    x = (np.arange(shape[1]) + 0.5) * width / shape[1] - 0.5 - left
    found = ndimage.map_coordinates(of_input, np.meshgrid(y, x, indexing="ij"), np.float32, order=1, mode="nearest")
    seen = [(at >= -0.5) & (at < SIDE - 0.5) for at in (y, x)]
    return upright(np.where(np.logical_and.outer(*seen), found, np.float32(0.0)), orientation)


def shown(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of a slice of `shape` that are in the model's input; what lies beyond is cropped away."""
    (width, height), (left, top) = _resized(shape)
    rows, columns = shape
    return (
        slice(round(top * rows / height), round((top + SIDE) * rows / height)),
        slice(round(left * columns / width), round((left + SIDE) * columns / width)),
    )


def _resized(shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(columns, rows) of a (row, column) picture with its short side at 256, and the crop's (left, top) in it."""
    rows, columns = shape
    short = min(rows, columns)
    width, height = SHORT_SIDE * columns // short, SHORT_SIDE * rows // short
    return (width, height), (round((width - SIDE) / 2), round((height - SIDE) / 2))


def prepare(ct_slice: CTSlice, mode: str = "robust", parts: frozenset[int] | None = None) -> Prepared:
    """Everything that is needed of one slice before inference; about 8 ms for 512 x 512.

    `parts`: what `brace.retrace` found out from the neighbours, see `refine`.
    """
    head = brace.find_head(ct_slice.hu, ct_slice.pixel_mm, mode, parts)
    return Prepared(
        input=model_input(upright(picture(ct_slice.hu, head.mask), ct_slice.orientation)),
        content=classify_content(ct_slice.hu, head.mask, ct_slice.pixel_mm, shown(ct_slice.hu.shape)),
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
    picture: npt.NDArray[Pixel], orientation: tuple[float, float, float, float, float, float] | None
) -> npt.NDArray[Pixel]:
    """Nose up and the patient's right on the left, as the model was trained; a prone patient's picture is turned."""
    if orientation is None:
        return picture
    if orientation[4] < 0:  # columns run from back to front
        picture = picture[::-1]
    if orientation[0] < 0:  # rows run from the patient's left to the right
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)
