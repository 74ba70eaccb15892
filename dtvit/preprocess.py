"""From a CT slice to the picture that the model sees; the one place for it, for training and for the node.

Fan et al. 2024, section 2.2: brain window 0..80 HU, brace removed, Resize 256, CenterCrop 224. The window has a fixed
scale: the papers' per-slice min-max is the same wherever bone reaches 80 HU, and brightens a slice where none does.

Which part of the slice the model sees is its geometry, which belongs to the checkpoint (docs/decisions/0007). The
papers' centre crop cuts heads that lie off-centre, and gives a small head in a large field of view a quarter of the
pixels; the head's own box does neither, and tells the model nothing of the field of view.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from dtvit import brace
from dtvit.brain.selection import SliceContent, classify_content
from dtvit.turning import Orientation, as_it_came, stood_up, turn_of

if TYPE_CHECKING:
    from dtvit.ct import CTSlice  # not at run time: training has no pydicom

WINDOW_HU = (0.0, 80.0)
SHORT_SIDE = 256
SIDE = 224
PAPER_GEOMETRY = "resize-256-crop-224"
HEAD_BOX = "head-box-224"
GEOMETRIES = (PAPER_GEOMETRY, HEAD_BOX)
BOX_MARGIN = 1.04  # of the longer side of the head, so that the skull does not touch the edge


def preprocessing(mode: str = "robust", geometry: str = PAPER_GEOMETRY) -> str:
    """The version of everything between HU and model, as recorded in checkpoint and report."""
    if geometry not in GEOMETRIES:
        raise ValueError(f"a geometry is one of {', '.join(GEOMETRIES)}, not {geometry!r}")
    return f"window-0-80/{brace.VERSIONS[mode]}/{geometry}/1"


def offered(mode: str) -> list[str]:
    """All versions that this program can make with this brace mode; the checkpoint says which one to use."""
    return [preprocessing(mode, geometry) for geometry in GEOMETRIES]


def mode_for(versions: Collection[str]) -> str | None:
    """The brace mode that makes one of these versions of preprocessing, robust before paper; None if none does."""
    return next((mode for mode in reversed(brace.MODES) if set(offered(mode)) & set(versions)), None)


def geometry_of(versions: Collection[str]) -> str:
    """The one geometry that these versions of preprocessing have in common. Raises ValueError if there is none."""
    found = {part for version in versions for part in version.split("/") if part in GEOMETRIES}
    if len(found) != 1:
        raise ValueError(f"preprocessing must name one geometry of {', '.join(GEOMETRIES)}, got {', '.join(versions)}")
    return found.pop()


@dataclass(frozen=True)
class View:
    """The part of a picture that becomes the model's input, in the picture's pixels; it may reach beyond the edges."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """One slice, ready for the model, and what is known of it without the model."""

    input: npt.NDArray[np.uint8]
    """(224, 224); 0..255 for 0..80 HU."""
    content: SliceContent
    head: brace.HeadMask
    """Mask of the slice as it came (row, column), and what its neighbours need to know, of the upright slice."""
    view: View
    """Of the upright slice."""

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
    import cv2

    low, high = WINDOW_HU
    scale = 255.0 / (high - low)
    # scaled and rounded (half to even) in one step: a fifth of the time of numpy's three
    scaled = cv2.convertScaleAbs(np.clip(hu, low, high), alpha=scale, beta=-low * scale)
    return np.asarray(scaled * mask.view(np.uint8), np.uint8)


def view_of(picture: npt.NDArray[np.uint8], geometry: str = PAPER_GEOMETRY) -> View:
    """What the model sees of a (row, column) picture whose background is 0."""
    rows, columns = picture.shape
    if geometry == HEAD_BOX:
        return _head_box(picture)
    (width, height), (left, top) = _resized((rows, columns))
    y, x = rows / height, columns / width
    return View(top * y, left * x, SIDE * y, SIDE * x)


def _head_box(picture: npt.NDArray[np.uint8]) -> View:
    """A square around all that is not background, a little larger than its longer side; for an empty picture, all."""
    seen = picture > 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not len(rows):
        return View(0.0, 0.0, float(picture.shape[0]), float(picture.shape[1]))
    (top, bottom), (left, right) = ((float(at[0]), float(at[-1]) + 1.0) for at in (rows, columns))
    side = BOX_MARGIN * max(bottom - top, right - left)
    return View((top + bottom - side) / 2, (left + right - side) / 2, side, side)


def model_input(picture: npt.NDArray[np.uint8], geometry: str = PAPER_GEOMETRY) -> npt.NDArray[np.uint8]:
    """(224, 224) of an upright (row, column) picture, bilinear and antialiased.

    In the papers' geometry short side to 256 (PIL, as torchvision's Resize does it), then the centre.
    """
    if geometry == HEAD_BOX:
        return through(picture, _head_box(picture))
    size, (left, top) = _resized(picture.shape)
    image = Image.fromarray(picture)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image)[top : top + SIDE, left : left + SIDE].copy()


def through(picture: npt.NDArray[np.uint8], view: View) -> npt.NDArray[np.uint8]:
    """(224, 224): what a view shows, black beyond the picture's edges; for a mask, in the same place as its picture."""
    beyond = math.ceil(
        max(0.0, -view.top, -view.left, view.top + view.height - len(picture), view.left + view.width - len(picture[0]))
    )
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    image = Image.fromarray(np.pad(picture, beyond))
    return np.array(
        image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (tuple(edge + beyond for edge in box)))  # type: ignore[arg-type]
    )


def in_slice(
    of_input: npt.NDArray[np.float32],
    view: View,
    shape: tuple[int, int],
    orientation: Orientation | None,
) -> npt.NDArray[np.float32]:
    """A map over the model's input, (224, 224), in the geometry of its slice: (row, column) of `shape`.

    The way back through `model_input` and `upright`; bilinear, and 0 where the model saw nothing of the slice.
    """
    from scipy import ndimage  # imported here to spare those who draw no map a quarter of a second

    if of_input.shape != (SIDE, SIDE):
        raise ValueError(f"a map over the model's input has shape ({SIDE}, {SIDE}), not {of_input.shape}")
    rows, columns = shape[::-1] if turn_of(orientation).exchanged else shape
    # A pixel's centre, half a pixel from its edge, is what resampling keeps in place.
    y = (np.arange(rows) + 0.5 - view.top) * SIDE / view.height - 0.5
    x = (np.arange(columns) + 0.5 - view.left) * SIDE / view.width - 0.5
    found = ndimage.map_coordinates(of_input, np.meshgrid(y, x, indexing="ij"), np.float32, order=1, mode="nearest")
    seen = [(at >= -0.5) & (at < SIDE - 0.5) for at in (y, x)]
    return as_it_came(np.where(np.logical_and.outer(*seen), found, np.float32(0.0)), orientation)


def shown(shape: tuple[int, ...], geometry: str = PAPER_GEOMETRY) -> tuple[slice, slice]:
    """Rows and columns of a slice of `shape` that may reach the model's input; what lies beyond is cropped away."""
    if geometry == HEAD_BOX:
        return slice(None), slice(None)  # the box holds all that the picture shows of the head
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


def prepare(
    ct_slice: CTSlice,
    mode: str = "robust",
    parts: frozenset[int] | None = None,
    *,
    geometry: str = PAPER_GEOMETRY,
    slab: npt.NDArray[np.float32] | None = None,
) -> Prepared:
    """Everything that is needed from one slice before inference; about 4 ms for 512 x 512.

    `parts`: what `brace.retrace` found from the neighbours, see `refine`. `slab`: HU (row, column) that the model sees
    in place of the slice's own, within the slice's own head (`dtvit.slabs`).
    """
    hu, pixel_mm = stood_up(ct_slice)
    head = brace.find_head(hu, pixel_mm, mode, parts)
    if slab is not None:
        hu, _ = stood_up(replace(ct_slice, hu=slab))
    seen = picture(hu, head.mask)
    return Prepared(
        input=model_input(seen, geometry),
        content=classify_content(hu, head.mask, pixel_mm, shown(hu.shape, geometry)),
        head=replace(head, mask=as_it_came(head.mask, ct_slice.orientation)),
        view=view_of(seen, geometry),
    )


def refine(
    slices: Sequence[CTSlice],
    prepared: Sequence[Prepared],
    mode: str = "robust",
    *,
    geometry: str = PAPER_GEOMETRY,
) -> list[Prepared]:
    """The finished series, in order, gone over once more: only where the neighbours change a mask is there a new
    `Prepared`; every other is the same object that came in, and what was inferred from it stands."""
    changes = brace.retrace([p.head for p in prepared])
    return [
        before if parts is None else prepare(ct_slice, mode, parts, geometry=geometry)
        for ct_slice, before, parts in zip(slices, prepared, changes, strict=True)
    ]
