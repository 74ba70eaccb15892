"""Patients' slices made fit for training at patches and against shortcuts: traced, and enriched by counterfactuals.

Every slice labelled as bleeding is traced (`bleeds`); one without a trace may show no blood (each slice of such a
patient carries the patient's label), so its presence becomes unclear. Then rows are added (`counterfactual`): the
slice healed, its bleed in like slices of healthy patients, and shams. Everything follows from the slices alone, so
that it is made once for all splits and seeds; what may train follows from whose head and whose blood it shows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dtvit.preprocess import SIDE
from train.dataset.pictures import BLOOD_CELLS, ORIGINS, PARTS, UNCLEAR, Pictures
from train.keeping import once, version
from train.making import bleeds, counterfactual
from train.making.bleeds import Mask, Picture
from train.processes import in_processes

LIKE = 40  # of the healthy slices, those most like a slice are asked to take its bleed
RECIPIENTS = 4  # of them, drawn
FITTING = 2  # the first of those that it fits; of one alone, too few would be left whose donor trains as well
SHAM_SHARE = 0.25  # of the bleeding slices, healed where there is no blood
HEALTHY_SHAM_SHARE = 0.4  # of the healthy ones: a patch of replaced tissue must not tell that someone was healed
THUMBNAIL = 28
SEED = 0  # of what is drawn

Say = Callable[[str], None]
Trace = NDArray[np.uint8]
"""The mask of a slice's blood, eight pixels a byte."""


class WrongGeometry(ValueError):
    """Traces and counterfactuals are made in the head-box geometry alone."""


@dataclass(frozen=True, eq=False)
class Enriched:
    """All slices, and those made from them."""

    traced: Pictures
    """The same rows as were given."""
    made: Pictures
    heads: NDArray[np.int64]
    """Of `made`, (M,): the row whose head it is."""
    donors: NDArray[np.int64]
    """(M,): the row whose bleed it shows or has lost, or whose shape was taken for a sham."""

    def trains(self) -> Pictures:
        """Those made of slices that train, in head and blood."""
        part = self.traced.part == PARTS.index("train")
        return self.made.take(part[self.heads] & part[self.donors])


@dataclass(frozen=True, eq=False)
class _Job:
    row: int
    donor: int
    """Of a bleeding slice, itself; of a healthy one, the row whose trace is borrowed."""
    picture: Picture
    trace: Trace
    bleeding: bool
    recipients: tuple[tuple[int, Picture], ...] = ()
    """Of a bleeding slice: healthy slices and their rows."""


@dataclass(frozen=True, eq=False)
class _Made:
    head: int
    """The row whose head it is."""
    donor: int
    """The row whose bleed it shows or has lost."""
    origin: str
    picture: Picture
    blood: Mask
    presence: int


def enrich(pictures: Pictures, *, processes: int | None = None, say: Say = lambda text: None) -> Enriched:
    """Slices in the head-box geometry, traced, and the rows made from them. Raises WrongGeometry."""
    if pictures.pictures.shape[1:] != (SIDE, SIDE):
        raise WrongGeometry(f"counterfactuals need pictures of {SIDE} x {SIDE} in the head-box geometry")
    masks = _masks(pictures, processes, say)
    traced = _traced(pictures, masks)
    healthy = np.flatnonzero(traced.presence == 0)
    jobs = _jobs(traced.pictures, masks, healthy)
    found = [made for some in in_processes(_changed, jobs, processes, say, "changed") for made in some]
    heads, donors = (np.array([getattr(made, name) for made in found], np.int64) for name in ("head", "donor"))
    return Enriched(traced, _rows(traced, found, heads, donors), heads, donors)


def enrich_once(
    path: Path, key: str, pictures: Pictures, *, processes: int | None = None, say: Say = lambda text: None
) -> Enriched:
    """As `enrich`, and kept at `path`: read from there if it was made for the same `key`, which names the slices.

    Parts are those of `pictures`, whatever they were when it was made.
    """
    stamp = f"{key} {version(bleeds, counterfactual, sys.modules[__name__])}"
    kept = once(path, stamp, Enriched, lambda: enrich(pictures, processes=processes, say=say))
    parts = replace(kept.traced, part=pictures.part), replace(kept.made, part=pictures.part[kept.heads])
    say(f"{len(kept.made)} slices healed, transplanted into, or sham")
    return replace(kept, traced=parts[0], made=parts[1])


def trace(pictures: Pictures, *, processes: int | None = None, say: Say = lambda text: None) -> Pictures:
    """The same rows with the blood of those labelled as bleeding; presence unclear where none is seen."""
    return _traced(pictures, _masks(pictures, processes, say))


def _masks(pictures: Pictures, processes: int | None, say: Say) -> dict[int, Trace]:
    """Row and trace of each slice labelled as bleeding."""
    rows = np.flatnonzero(pictures.presence == 1)
    found = in_processes(_trace_of, [pictures.pictures[row] for row in rows], processes, say, "traced")
    return dict(zip(rows.tolist(), found, strict=True))


def _traced(pictures: Pictures, masks: Mapping[int, Trace]) -> Pictures:
    blood, presence, location = pictures.blood.copy(), pictures.presence.copy(), pictures.location.copy()
    for row, trace in masks.items():
        blood[row] = _cells(_mask(trace))
        if not blood[row].any():
            presence[row] = location[row] = UNCLEAR
    known = pictures.traced | (presence == 0) | (pictures.presence == 1)
    known &= presence != UNCLEAR  # where a bleed is too faint to trace, patches would learn that it is none
    return replace(pictures, blood=blood, presence=presence, location=location, traced=known)


def _trace_of(picture: Picture) -> Trace:
    return np.packbits(bleeds.traced(picture))


def _mask(trace: Trace) -> Mask:
    return np.unpackbits(trace).reshape(SIDE, SIDE).astype(np.bool_)


def _cells(mask: Mask) -> NDArray[np.uint8]:
    side = SIDE // BLOOD_CELLS
    return np.asarray(mask.reshape(BLOOD_CELLS, side, BLOOD_CELLS, side).mean((1, 3)) * 255, np.uint8)


def _jobs(pictures: NDArray[np.uint8], masks: Mapping[int, Trace], healthy: NDArray[np.intp]) -> Iterator[_Job]:
    bleeding = [row for row, trace in masks.items() if trace.any()]
    if not len(bleeding) or not len(healthy):
        return
    known = np.stack([_thumbnail(pictures[row]) for row in healthy])
    rng = np.random.default_rng((SEED, 3))
    for row in bleeding:
        like = np.argsort(-(known @ _thumbnail(pictures[row])))[:LIKE]
        chosen = healthy[rng.choice(like, min(RECIPIENTS, len(like)), replace=False)]
        yield _Job(row, row, pictures[row], masks[row], True, tuple((int(each), pictures[each]) for each in chosen))
    for row in rng.choice(healthy, round(HEALTHY_SHAM_SHARE * len(healthy)), replace=False):
        donor = int(rng.choice(bleeding))
        yield _Job(int(row), donor, pictures[row], masks[donor], False)


def _thumbnail(picture: Picture) -> NDArray[np.float32]:
    """Its layout of bone and brain as a vector of length 1."""
    small = cv2.resize(picture, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6), np.float32)


def _changed(job: _Job) -> list[_Made]:
    """What is made of one slice."""
    rng = np.random.default_rng((SEED, 4, job.row))
    inside = bleeds.brain(job.picture)
    if not job.bleeding:
        return _sham(job, _mask(job.trace) & inside, np.zeros_like(inside), inside, 0, rng)
    mask = _mask(job.trace)
    healed = counterfactual.heal(job.picture, mask, inside, rng)
    made = [_Made(job.row, job.row, "healed", healed, np.zeros_like(mask), 0)]
    bleed = counterfactual.lift(job.picture, mask, inside)
    for row, picture in job.recipients:
        fitted = counterfactual.transplant(picture, counterfactual.varied(bleed, rng), bleeds.brain(picture), rng)
        if fitted is not None:
            changed, where, clear = fitted
            made.append(_Made(row, job.row, "transplanted", changed, where, 1 if clear else UNCLEAR))
        if len(made) > FITTING:
            break
    if rng.random() < SHAM_SHARE:
        made += _sham(job, counterfactual.elsewhere(mask, inside, rng), mask, inside, 1, rng)
    return made


def _sham(job: _Job, where: Mask, blood: Mask, inside: Mask, presence: int, rng: np.random.Generator) -> list[_Made]:
    if where.sum() < bleeds.LEAST_AREA:
        return []
    healed = counterfactual.heal(job.picture, where, inside, rng)
    return [_Made(job.row, job.donor, "sham", healed, blood, presence)]


def _rows(pictures: Pictures, found: Sequence[_Made], heads: NDArray[np.int64], donors: NDArray[np.int64]) -> Pictures:
    """As rows of the patient whose head it is; each slice that was changed is a series of its own."""
    presence = np.array([made.presence for made in found], np.int8)
    cells = np.array([_cells(made.blood) for made in found], np.uint8)
    return replace(
        pictures.take(heads),
        pictures=np.array([made.picture for made in found], np.uint8).reshape(-1, SIDE, SIDE),
        blood=cells.reshape(-1, BLOOD_CELLS, BLOOD_CELLS),
        traced=presence != UNCLEAR,
        presence=presence,
        location=np.where(presence == 1, pictures.location[donors], UNCLEAR).astype(np.int8),
        series=np.arange(len(found), dtype=np.int32) + int(pictures.series.max(initial=-1)) + 1,
        origin=np.array([ORIGINS.index(made.origin) for made in found], np.int8),
        volume_ml=np.full(len(found), np.nan, np.float32),
        area_mm2=np.full(len(found), np.nan, np.float32),
    )
