"""The `robust` mode of brace removal: the papers' order of steps, for the cases that their treatment gets wrong.

Sizes are millimetres, the window's scale is fixed, and the head is recognised by thickness: a head is thick, a holder
is a shell. A slice is decided by itself, so that it can be classified while its series still arrives; over the finished
series `retracing` names the slices where the neighbours say otherwise. Like the papers' treatment this drops the
skin where fat lies under it: it is thinner than the disk. So pictures of both modes look alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dtvit.masking import shells
from dtvit.masking.morphology import Fast, Mask, Morphology, Pixel, coarse, finer, marked, renamed, sizes
from dtvit.masking.retracing import VAULT_MM, Trace

LEVEL_HU = 80.0 * 4 / 255  # what the papers' "> 3 of 255" amounts to on a slice that reaches from air to bone
DISK_MM = 1.5  # disk(3) on the pixels of the papers' scanners, 0.45 to 0.5 mm
THICK_MM = 5.0  # a part must be this thick somewhere: eye, muscle, jaw; not skin, ear, tube wall
SHELL = 60.0  # area over squared depth: 3 for a disk, 10 to 60 for faces, more for shells
SIDE_PIECE = 35.0  # the same for what is added to the main part: eye, tongue, cheek, a lobe cut off by air
RIVAL = 0.05  # of the greatest weight; a compact part above it is preferred to a heavier shell
LEAST_CM2 = 0.5
SMOOTH_MM = 1.5  # noise makes dark pixels in brain, and erosion would turn it into a sieve
NOISY_HU = 11.0  # from this standard deviation on, means are taken over NOISY_MM: thin slices, sharp kernels
NOISY_MM = 2.5
SMOOTH_HU = 10.0  # a pixel is not a hole if its surroundings are brighter
HOLE_HU = -50.0  # unless it is as dark as fat
BONE_HU = 200.0  # denser than any clot
GAP_MM = 4.0
CELL_MM = 2.0
RIM = 8  # cells of background, so that what is dilated by GAP_MM does not reach the edge
INSIDE = 0.8  # share of a part that lies in the convex hull of the main one
LYING_CM2 = 10.0  # each muscle, eye and ear beside a vault is smaller
LYING_IN_AIR = 0.35  # share of what surrounds a part; a muscle has skin, fat or bone on most sides
AIR_HU = -400.0

NO_HEAD = "no head found in this slice"
ONLY_A_SHELL = "only a shell was found: holder or empty skull"
SEVERAL = "the head is in several parts"
CUT = "something thin that stands out from the head was cut away: a holder that touches it, or an ear"
LYING = "something soft on the skin was kept: padding, or a swelling"
FOLLOWED = "decided by the neighbouring slices"


@dataclass(frozen=True, eq=False)
class Decision:
    mask: Mask
    flags: tuple[str, ...]
    trace: Trace


@dataclass(frozen=True, eq=False)
class _Parts:
    labels: npt.NDArray[np.uint8]
    """(row, column): 1.. by falling weight; 0 elsewhere and for what is too small."""
    area_cm2: npt.NDArray[np.float64]
    depth_mm: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]
    """Sum of squared thickness: high for a compact part, low for a shell of the same area."""

    @property
    def elongation(self) -> npt.NDArray[np.float64]:
        return np.asarray(100.0 * self.area_cm2 / self.depth_mm**2)


def decide(
    hu: npt.NDArray[np.float32],
    pixel_mm: Pixel,
    accepted: frozenset[int] | None = None,
    by: Morphology | None = None,
) -> Decision:
    """The head in one slice (row, column; HU); `accepted`: the parts that `retrace` chose for it."""
    by = by or Fast()
    bright = hu > LEVEL_HU
    shape, window = hu.shape, _window(bright)
    if window is None:
        empty = Trace(np.zeros((1, 1), np.uint8), pixel_mm, (), frozenset())
        return Decision(np.zeros(shape, np.bool_), (NO_HEAD,), empty)
    hu, bright = hu[window], bright[window]
    visible = _visible(hu, bright, pixel_mm, by)
    flags: list[str] = []
    parts, outline = _parts(visible, pixel_mm, by), shells.outline(hu, pixel_mm, by)
    chosen = _choose(parts, outline, pixel_mm, by, flags)
    grown = _grown(parts, chosen, pixel_mm, by)
    if chosen and outline.any():
        arms = shells.protruding(hu, grown, outline, pixel_mm, by)
        if arms.any() and 3 * arms.sum() < grown.sum():  # else it is not an arm
            flags.append(CUT)
            visible &= ~arms
            parts = _parts(visible, pixel_mm, by)
            chosen = _choose(parts, outline, pixel_mm, by, flags)
            grown = _grown(parts, chosen, pixel_mm, by)
    if accepted is not None and accepted != chosen:
        flags, chosen = [f for f in flags if f == CUT] + [FOLLOWED], accepted
        grown = _grown(parts, chosen, pixel_mm, by)
    if not chosen:
        flags.append(NO_HEAD)
    elif _something_lies_on(hu, parts, chosen, pixel_mm, by):
        flags.append(LYING)
    mask = np.zeros(shape, np.bool_)
    if chosen:
        mask[window] = _filled(grown, visible & (hu > BONE_HU), pixel_mm, by)
    return Decision(mask, tuple(dict.fromkeys(flags)), _trace(parts, chosen, pixel_mm, shape, window))


def _visible(hu: npt.NDArray[np.float32], bright: Mask, pixel_mm: Pixel, by: Morphology) -> Mask:
    """What the window shows (`bright`), with holes from noise filled."""
    reach_mm = NOISY_MM if _noisy(hu) else SMOOTH_MM
    width = 2 * round(reach_mm / (2 * min(pixel_mm)) - 0.5) + 1
    if width < 3:
        return bright.copy()
    clipped = np.clip(hu, -100.0, 80.0)
    return bright | ((by.smooth(clipped, width) > SMOOTH_HU) & (clipped > HOLE_HU))


def _noisy(hu: npt.NDArray[np.float32]) -> bool:
    """Whether the noise in soft tissue exceeds NOISY_HU: by the median difference of pixels two apart, which edges
    move little."""
    sample = hu[::8]
    left, right = sample[:, :-2], sample[:, 2:]
    soft = (left > 0.0) & (left < 80.0) & (right > -60.0) & (right < 140.0)
    differ = np.abs(left - right)
    limit = NOISY_HU / 1.05  # 1.4826 / sqrt(2), from the median of differences to a standard deviation
    # the median exceeds the limit where more than half do: counting is faster than sorting
    return 2 * int(np.count_nonzero(soft & (differ > limit))) > int(np.count_nonzero(soft))


def _window(visible: Mask) -> tuple[slice, slice] | None:
    """The part of the picture that is not empty, with a rim; None if all of it is."""
    import cv2

    left, top, width, height = cv2.boundingRect(visible.view(np.uint8))
    if not width:
        return None
    return slice(max(0, top - 2), top + height + 2), slice(max(0, left - 2), left + width + 2)


def _parts(visible: Mask, pixel_mm: Pixel, by: Morphology) -> _Parts:
    """What is left of the visible after erosion, heaviest first; measured on every `step`-th pixel."""
    solid = by.erode(visible, DISK_MM, pixel_mm)
    labels, count = by.parts(solid)
    step, coarse_mm = coarse(pixel_mm)
    sampled = labels[::step, ::step]
    box = _window(np.ascontiguousarray(solid[::step, ::step]))
    if box is None:
        nothing = np.zeros(0, np.float64)
        return _Parts(np.zeros(labels.shape, np.uint8), nothing, nothing, nothing)
    sampled = np.ascontiguousarray(sampled[box])  # with a rim of background; beyond it there is nothing
    thickness = by.thickness(sampled > 0, coarse_mm) + np.float32(DISK_MM)
    cm2 = coarse_mm[0] * coarse_mm[1] / 100.0
    area = sizes(sampled, count) * cm2
    area[0] = 0.0
    large = [(label, *_measured(thickness, sampled == label)) for label in np.flatnonzero(area >= LEAST_CM2)]
    kept = sorted((one for one in large if one[2] >= THICK_MM / 2), key=lambda one: -one[1])[:250]
    labels_kept = [int(label) for label, _, _ in kept]
    new = np.zeros(count + 1, np.uint8)
    new[labels_kept] = np.arange(1, len(kept) + 1)
    weight, depth = (np.array([one[i] for one in kept]) for i in (1, 2))
    return _Parts(renamed(labels, new), area[labels_kept], depth, weight * cm2)


def _measured(thickness: npt.NDArray[np.float32], where: Mask) -> tuple[float, float]:
    """Sum of the squares, and the greatest."""
    import cv2

    mask = where.view(np.uint8)
    return cv2.norm(thickness, cv2.NORM_L2SQR, mask), cv2.minMaxLoc(thickness, mask)[1]


def _choose(parts: _Parts, outline: Mask, pixel_mm: Pixel, by: Morphology, flags: list[str]) -> frozenset[int]:
    """Labels of the parts that are head, judged by this slice alone."""
    count = len(parts.weight)
    if not count:
        return frozenset()
    rivals = np.flatnonzero((parts.elongation <= SHELL) & (parts.weight >= RIVAL * parts.weight[0]))
    if not len(rivals):
        flags.append(ONLY_A_SHELL)
        return frozenset({1})
    main = int(rivals[0]) + 1
    chosen = {main}
    if count > 1:
        head = parts.labels == main
        around = by.hull(head) | _touching(outline, head, pixel_mm, by)
        every, inside = sizes(parts.labels, count), sizes(parts.labels, count, around)
        compact = parts.elongation < SIDE_PIECE
        chosen |= {i for i in range(1, count + 1) if inside[i] >= INSIDE * every[i] and compact[i - 1]}
        others = {int(i) + 1 for i in rivals} - chosen
        if others and parts.depth_mm[main - 1] < VAULT_MM:
            chosen |= others
            flags.append(SEVERAL)
    return frozenset(chosen)


def _something_lies_on(
    hu: npt.NDArray[np.float32], parts: _Parts, chosen: frozenset[int], pixel_mm: Pixel, by: Morphology
) -> bool:
    """Whether, beside a vault, a part was chosen that is large, borders on air over a good part of its outline, and
    nowhere on bone: gel moulded to the head is as dense as scalp and as thick as a cheek."""
    main = min(chosen)
    if parts.depth_mm[main - 1] < VAULT_MM:
        return False
    for i in sorted(chosen - {main}):
        if parts.area_cm2[i - 1] >= LYING_CM2:
            part = by.dilate(parts.labels == i, DISK_MM, pixel_mm)
            around = hu[by.dilate(part, 2 * DISK_MM, pixel_mm) & ~part]
            if np.mean(around < AIR_HU) >= LYING_IN_AIR and np.mean(around > BONE_HU) < 0.01:
                return True
    return False


def _touching(outline: Mask, head: Mask, pixel_mm: Pixel, by: Morphology) -> Mask:
    """Those pieces of the outline that hold some of the head."""
    step, _ = coarse(pixel_mm, shells.CELL_MM)
    labels, count = by.parts(outline)
    labels = finer(labels, step, head.shape)
    return marked(labels, sizes(labels, count, head) > 0)


def _filled(grown: Mask, bone: Mask, pixel_mm: Pixel, by: Morphology) -> Mask:
    """What was chosen and grown, with all that it encloses."""
    mask = by.fill(grown)
    return mask | _enclosed(mask, pixel_mm, by) | _within_skull(mask, bone, pixel_mm, by)


def _within_skull(mask: Mask, bone: Mask, pixel_mm: Pixel, by: Morphology) -> Mask:
    """The skull, thin walls of sinuses included, and all it encloses; nothing if most of it is not in the mask."""
    outside = bone & ~mask
    if not outside.any() or not (by.dilate(outside, 1.5 * max(pixel_mm), pixel_mm) & bone & mask).any():
        return mask  # no bone lies across its border
    labels, count = by.parts(bone)
    sampled, head = labels[::4, ::4], mask[::4, ::4]
    every, inside = sizes(sampled, count), sizes(sampled, count, head)
    inside[0] = 0
    skull = int(inside.argmax())
    if not skull or inside[skull] < INSIDE * every[skull]:
        return np.zeros(mask.shape, np.bool_)
    bones = labels == skull
    return by.fill(bones) if (bones & ~mask).any() else bones  # the mask is filled: so is what lies in it


def _grown(parts: _Parts, chosen: frozenset[int], pixel_mm: Pixel, by: Morphology) -> Mask:
    """The chosen parts dilated back to size."""
    wanted = np.zeros(len(parts.weight) + 1, np.bool_)
    wanted[list(chosen)] = True
    return by.dilate(marked(parts.labels, wanted), DISK_MM, pixel_mm)


def _enclosed(mask: Mask, pixel_mm: Pixel, by: Morphology) -> Mask:
    """What the mask encloses except for gaps of up to twice GAP_MM: brain behind an opened sinus or a burr hole."""
    step, coarse_mm = coarse(pixel_mm)
    sampled = mask[::step, ::step]
    wider = np.zeros([size + 2 * RIM for size in sampled.shape], np.bool_)
    inner = np.s_[RIM:-RIM, RIM:-RIM]
    wider[inner] = sampled
    closed = by.fill(by.dilate(wider, GAP_MM, coarse_mm))
    return finer(by.erode(closed, GAP_MM + DISK_MM, coarse_mm)[inner], step, mask.shape)


def _trace(
    parts: _Parts, chosen: frozenset[int], pixel_mm: Pixel, shape: tuple[int, ...], window: tuple[slice, slice]
) -> Trace:
    down, across = (max(1, round(CELL_MM / mm)) for mm in pixel_mm)
    cell_mm = round(pixel_mm[0] * down, 3), round(pixel_mm[1] * across, 3)
    cells = np.zeros([len(range(every // 2, size, every)) for every, size in ((down, shape[0]), (across, shape[1]))],
                     np.uint8)  # fmt: skip
    places = []
    for every, within in zip((down, across), window, strict=True):
        first = max(0, -(-(within.start - every // 2) // every))  # the first cell whose middle lies in the window
        places.append((first, every // 2 + first * every - within.start, every))
    (row, top, _), (column, left, _) = places
    seen = parts.labels[top::down, left::across]
    cells[row : row + seen.shape[0], column : column + seen.shape[1]] = seen
    return Trace(cells, cell_mm, tuple(float(d) for d in parts.depth_mm), chosen)
