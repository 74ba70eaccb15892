"""The `robust` mode of brace removal: the papers' order of steps, for the cases which that treatment gets wrong.

Sizes are millimetres, the window's scale is fixed, and what is head is told by thickness: a head is thick, a holder is
a shell. A slice is decided by itself (`decide`), so that it can be classified while its series still arrives;
`retrace` goes over the finished series and names the slices where the neighbours tell otherwise: the vertex beside a
thick cup, a hand at the jaw, the holder alone. Like the papers' treatment this drops the skin where fat lies under it:
it is thinner than the disk. So pictures of both modes look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dtvit import shells
from dtvit.morphology import Fast, Mask, Morphology, Pixel, coarse, finer

LEVEL_HU = 80.0 * 4 / 255  # what the papers' "> 3 of 255" comes to on a slice that reaches from air to bone
DISK_MM = 1.5  # disk(3) on the pixels of the papers' scanners, 0.45 to 0.5 mm
THICK_MM = 5.0  # a part must be so thick somewhere: eye, muscle, jaw; not skin, ear, tube wall
VAULT_MM = 25.0  # depth of a slice in which the head is one solid piece, in a small child too
SHELL = 60.0  # area over squared depth: 3 for a disk, 10 to 60 for faces, more for shells
SIDE_PIECE = 35.0  # the same for what is added to the main part: eye, tongue, cheek, a lobe cut off by air
RIVAL = 0.05  # of the greatest weight; a compact part above it is preferred to a heavier shell
LEAST_CM2 = 0.5
SMOOTH_MM = 1.5  # noise makes dark pixels in brain, and erosion would make a sieve of it
NOISY_HU = 11.0  # from this standard deviation on, means are taken over NOISY_MM: thin slices, sharp kernels
NOISY_MM = 2.5
SMOOTH_HU = 10.0  # a pixel is no hole where its surroundings are brighter
HOLE_HU = -50.0  # unless it is as dark as fat
BONE_HU = 200.0  # denser than any clot
GAP_MM = 4.0
CELL_MM = 2.0
INSIDE = 0.8  # share of a part that lies in the convex hull of the main one
FOLLOWS = 0.5  # share of a part that lies within the neighbouring slice's head
SHELL_MM = 6.0  # half the thickness of a shell, after erosion, that no part of the head follows
DRIFT_MM = 6.0  # how far outlines move from slice to slice, tilt and growing face included

NO_HEAD = "no head found in this slice"
ONLY_A_SHELL = "only a shell was found: holder or empty skull"
SEVERAL = "the head is in several parts"
CUT = "what stands out from the head and is thin was cut away: a holder that touches it, or an ear"
FOLLOWED = "decided by the neighbouring slices"


@dataclass(frozen=True, eq=False)
class Trace:
    """What the neighbours need to know of a slice."""

    labels: npt.NDArray[np.uint8]
    """(row, column) of the parts, on cells of about CELL_MM; 0 is background."""
    cell_mm: tuple[float, float]
    depths_mm: tuple[float, ...]
    """Of part 1, 2, ...: half its greatest thickness."""
    accepted: frozenset[int]


@dataclass(frozen=True, eq=False)
class Decision:
    mask: Mask
    flags: tuple[str, ...]
    trace: Trace


@dataclass(frozen=True, eq=False)
class _Parts:
    labels: npt.NDArray[np.uint8]
    """(row, column) 1.. in falling weight; 0 elsewhere and for what is too small."""
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
    shape, window = hu.shape, _window(hu > LEVEL_HU)
    if window is None:
        empty = Trace(np.zeros((1, 1), np.uint8), pixel_mm, (), frozenset())
        return Decision(np.zeros(shape, np.bool_), (NO_HEAD,), empty)
    hu = np.ascontiguousarray(hu[window])
    visible = _visible(hu, pixel_mm, by)
    flags: list[str] = []
    parts, outline = _parts(visible, pixel_mm, by), shells.outline(hu, pixel_mm, by)
    chosen = _choose(parts, outline, by, flags)
    if chosen and outline.any():
        grown = _grown(parts, chosen, pixel_mm, by)
        arms = shells.protruding(hu, grown, outline, pixel_mm, by)
        if arms.any() and 3 * arms.sum() < grown.sum():  # else it is no arm of it
            flags.append(CUT)
            visible &= ~arms
            parts = _parts(visible, pixel_mm, by)
            chosen = _choose(parts, outline, by, flags)
    if accepted is not None and accepted != chosen:
        flags, chosen = [f for f in flags if f == CUT] + [FOLLOWED], accepted
    if not chosen:
        flags.append(NO_HEAD)
    mask = np.zeros(shape, np.bool_)
    mask[window] = _mask(parts, chosen, visible & (hu > BONE_HU), pixel_mm, by)
    return Decision(mask, tuple(dict.fromkeys(flags)), _trace(parts, chosen, pixel_mm, shape, window))


def retrace(traces: Sequence[Trace]) -> list[frozenset[int]]:
    """The parts to accept in each slice of a series, ordered along it: what follows from its thickest slice outwards.

    Nothing changes where no slice is a solid vault, or where matrix or pixels change from slice to slice.
    """
    chosen = [trace.accepted for trace in traces]
    depth = [max((t.depths_mm[i - 1] for i in t.accepted), default=0.0) for t in traces]
    if not depth or max(depth) < VAULT_MM:
        return chosen
    start = depth.index(max(depth))
    outwards = (range(start + 1, len(traces)), range(start - 1, -1, -1))
    inwards = (
        range(len(traces) - 2, start, -1),
        range(1, start),
    )  # what only the slice beyond shows to be head: a nose
    for way in outwards:
        _follow(traces, chosen, start, way, anew=True)
    for way in inwards:
        if way:
            _follow(traces, chosen, way[0] - way.step, way, anew=False)
    return chosen


def _follow(traces: Sequence[Trace], chosen: list[frozenset[int]], start: int, way: range, anew: bool) -> None:
    """Choose along `way` what follows from slice `start`: `anew`, or in addition to what was chosen."""
    before, seen = traces[start], _within(traces[start], chosen[start])
    for i in way:
        trace = traces[i]
        if trace.labels.shape != before.labels.shape or trace.cell_mm != before.cell_mm:
            return
        following = _following(trace, seen)
        if _vault(trace) and following & trace.accepted:  # a vault needs no additions
            following &= trace.accepted
        chosen[i] = following | (frozenset() if anew else chosen[i])
        if chosen[i]:
            before, seen = trace, _within(trace, chosen[i])


def _vault(trace: Trace) -> bool:
    return max((trace.depths_mm[i - 1] for i in trace.accepted), default=0.0) >= VAULT_MM


def _visible(hu: npt.NDArray[np.float32], pixel_mm: Pixel, by: Morphology) -> Mask:
    """What the window shows, noise in it mended."""
    reach_mm = NOISY_MM if _noise(hu) > NOISY_HU else SMOOTH_MM
    width = 2 * round(reach_mm / (2 * min(pixel_mm)) - 0.5) + 1
    if width < 3:
        return hu > LEVEL_HU
    around = by.smooth(np.clip(hu, -100.0, 80.0), width)
    return (hu > LEVEL_HU) | ((around > SMOOTH_HU) & (hu > HOLE_HU))


def _noise(hu: npt.NDArray[np.float32]) -> float:
    """Standard deviation of the noise in soft tissue (HU), from pixels two apart; robust against edges."""
    sample = hu[::8]
    left, right = sample[:, :-2], sample[:, 2:]
    soft = (left > 0.0) & (left < 80.0) & (right > -60.0) & (right < 140.0)
    return 1.05 * float(np.median(np.abs((left - right)[soft]))) if soft.any() else 0.0  # 1.4826 / sqrt(2)


def _window(visible: Mask) -> tuple[slice, slice] | None:
    """The part of the picture that is not empty, with a rim; None where all is."""
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    if not rows.size:
        return None
    return slice(max(0, rows[0] - 2), rows[-1] + 3), slice(max(0, columns[0] - 2), columns[-1] + 3)


def _parts(visible: Mask, pixel_mm: Pixel, by: Morphology) -> _Parts:
    """What is left of the visible after erosion, heaviest first; measured on every `step`-th pixel."""
    solid = by.erode(visible, DISK_MM, pixel_mm)
    labels, count = by.parts(solid)
    step, coarse_mm = coarse(pixel_mm)
    sampled = np.ascontiguousarray(labels[::step, ::step])
    thickness = by.depth(sampled > 0, coarse_mm) + np.float32(DISK_MM)
    where = np.flatnonzero(sampled)
    label, thickness = sampled.ravel()[where], thickness.ravel()[where]
    cm2 = coarse_mm[0] * coarse_mm[1] / 100.0
    area = np.bincount(label, minlength=count + 1) * cm2
    weight = np.bincount(label, weights=thickness * thickness, minlength=count + 1) * cm2
    thick = np.zeros(count + 1, np.bool_)
    thick[label[thickness >= THICK_MM / 2]] = True
    kept = [i for i in np.argsort(-weight) if i and thick[i] and area[i] >= LEAST_CM2][:250]
    new = np.zeros(count + 1, np.uint8)
    new[kept] = np.arange(1, len(kept) + 1)
    renamed = new[label]
    deepest = np.array([float(thickness[renamed == i].max()) for i in range(1, len(kept) + 1)])
    return _Parts(new[labels], np.asarray(area[kept], np.float64), deepest, np.asarray(weight[kept], np.float64))


def _choose(parts: _Parts, outline: Mask, by: Morphology, flags: list[str]) -> frozenset[int]:
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
        around = by.hull(head) | _touching(outline, head, by)
        every, inside = (
            np.bincount(labels, minlength=count + 1) for labels in (parts.labels.ravel(), parts.labels[around])
        )
        compact = parts.elongation < SIDE_PIECE
        chosen |= {i for i in range(1, count + 1) if inside[i] >= INSIDE * every[i] and compact[i - 1]}
        others = {int(i) + 1 for i in rivals} - chosen
        if others and parts.depth_mm[main - 1] < VAULT_MM:
            chosen |= others
            flags.append(SEVERAL)
    return frozenset(chosen)


def _touching(outline: Mask, head: Mask, by: Morphology) -> Mask:
    """Those pieces of the outline that hold some of the head."""
    labels, count = by.parts(outline)
    held = np.zeros(count + 1, np.bool_)
    held[np.unique(labels[head])] = True
    held[0] = False
    return np.asarray(held[labels])


def _mask(parts: _Parts, chosen: frozenset[int], bone: Mask, pixel_mm: Pixel, by: Morphology) -> Mask:
    """The chosen parts dilated back to size, and filled."""
    if not chosen:
        return np.zeros(parts.labels.shape, np.bool_)
    mask = by.fill(_grown(parts, chosen, pixel_mm, by))
    return mask | _enclosed(mask, pixel_mm, by) | _within_skull(mask, bone, by)


def _within_skull(mask: Mask, bone: Mask, by: Morphology) -> Mask:
    """The skull, thin walls of sinuses included, and all it encloses; nothing where most of it is not in the mask."""
    labels, count = by.parts(bone)
    sampled, head = labels[::4, ::4], mask[::4, ::4]
    every, inside = np.bincount(sampled.ravel(), minlength=count + 1), np.bincount(sampled[head], minlength=count + 1)
    inside[0] = 0
    skull = int(inside.argmax())
    if not skull or inside[skull] < INSIDE * every[skull]:
        return np.zeros(mask.shape, np.bool_)
    return by.fill(labels == skull)


def _grown(parts: _Parts, chosen: frozenset[int], pixel_mm: Pixel, by: Morphology) -> Mask:
    wanted = np.zeros(parts.labels.shape, np.bool_)
    for label in chosen:
        wanted |= parts.labels == label
    return by.dilate(wanted, DISK_MM, pixel_mm)


def _enclosed(mask: Mask, pixel_mm: Pixel, by: Morphology) -> Mask:
    """What the mask encloses but for gaps of up to twice GAP_MM: brain behind an opened sinus or a burr hole."""
    step, coarse_mm = coarse(pixel_mm)
    closed = by.fill(by.dilate(np.pad(mask[::step, ::step], 8), GAP_MM, coarse_mm))
    inner = by.erode(closed, GAP_MM + DISK_MM, coarse_mm)[8:-8, 8:-8]
    return finer(inner, step, mask.shape)


def _trace(
    parts: _Parts, chosen: frozenset[int], pixel_mm: Pixel, shape: tuple[int, ...], window: tuple[slice, slice]
) -> Trace:
    whole = np.zeros(shape, np.uint8)
    whole[window] = parts.labels
    down, across = (max(1, round(CELL_MM / mm)) for mm in pixel_mm)
    cell_mm = round(pixel_mm[0] * down, 3), round(pixel_mm[1] * across, 3)
    cells = whole[down // 2 :: down, across // 2 :: across].copy()
    return Trace(cells, cell_mm, tuple(float(d) for d in parts.depth_mm), chosen)


def _within(trace: Trace, chosen: frozenset[int]) -> Mask:
    """Where the next slice's head may be: this one's without shells, and with room for its outline to move."""
    by = Fast()
    head = np.isin(trace.labels, list(chosen))
    thick = by.erode(by.fill(head), SHELL_MM, trace.cell_mm)
    if thick.any():
        head = by.dilate(thick, SHELL_MM, trace.cell_mm)
    return by.dilate(by.fill(head), DRIFT_MM, trace.cell_mm)


def _following(trace: Trace, seen: Mask) -> frozenset[int]:
    count = len(trace.depths_mm) + 1
    every, within = np.bincount(trace.labels.ravel(), minlength=count), np.bincount(trace.labels[seen], minlength=count)
    return frozenset(i for i in range(1, count) if every[i] and within[i] >= FOLLOWS * every[i])
