"""What is bright and no blood, and heads with nothing to see: slices that a model must call by the brain alone.

Lime in the basal ganglia, plaques and density of the falx, flecks, and spurs of bone are painted into slices, mostly of
the healthy, and into some that bleed, so that lime speaks neither for blood nor against it. And the inside of the skull
is *blanked* in slices of both groups alike: skull and outline then tell nothing, whoever was scanned where. The audit
draws its look-alikes in three dimensions (`dtvit.phantom`) and blanks in its own way, so that a model cannot know its
from here.
All pictures are in the head-box geometry, (224, 224) uint8, 0..80 HU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from train.dataset.pictures import ORIGINS, UNCLEAR, Pictures
from train.making import bleeds
from train.making.bleeds import Mask, Picture, Values, blurred
from train.making.counterfactual import GREY_PER_HU
from train.processes import Say, in_processes

BLANKED_SHARE = 0.2  # of the slices of each group
DECOYS_IN_HEALTHY, DECOYS_IN_BLEEDING = 0.35, 0.12
FAINTEST_HU, BRIGHTEST_HU = 62.0, 400.0  # of lime; as partial volume shows it
FALX_HU = (48.0, 78.0)
AWAY = 6  # pixels between a decoy and blood that is traced
LEAST_INSIDE = 2500  # pixels; slices with less brain are left as they are


@dataclass(frozen=True, eq=False)
class Lookalikes:
    """Slices made from others."""

    made: Pictures
    heads: NDArray[np.int64]
    """(M,): the row that each was made from."""


def lookalikes(
    traced: Pictures, seed: int = 0, *, processes: int | None = 1, say: Say = lambda text: None
) -> Lookalikes:
    """Rows made from those whose blood is known (`train.making.enriching.trace`), of the patients whose heads they are.

    Each is a series of its own. What was painted counts as no blood; blood that was there still does, unless blanked.
    """
    rng = np.random.default_rng((seed, 5))
    bleeding = np.flatnonzero((traced.presence == 1) & traced.blood.any((1, 2)))
    healthy = np.flatnonzero(traced.presence == 0)
    wanted = (
        [("blanked", row) for group in (bleeding, healthy) for row in _some(group, BLANKED_SHARE, rng)]
        + [("decoy", row) for row in _some(healthy, DECOYS_IN_HEALTHY, rng)]
        + [("decoy", row) for row in _some(bleeding, DECOYS_IN_BLEEDING, rng)]
    )
    jobs = (_Job(origin, seed, row, traced.pictures[row], traced.blood[row]) for origin, row in wanted)
    made = in_processes(_changed, jobs, processes, say, "painted or blanked")
    kept = [(*which, picture) for which, picture in zip(wanted, made, strict=True) if picture is not None]
    return Lookalikes(_rows(traced, kept), np.array([row for _, row, _ in kept], np.int64))


@dataclass(frozen=True, eq=False)
class _Job:
    origin: str
    seed: int
    row: int
    picture: Picture
    blood: NDArray[np.uint8]


def blanked(picture: Picture, inside: Mask, rng: np.random.Generator) -> Picture:
    """The inside of the skull as one grey, a slow drift, or noise: what is left of a head without a brain."""
    grey: Values = np.full(picture.shape, rng.uniform(70, 150), np.float32)
    if rng.random() < 0.5:
        grey = grey + blurred(rng.normal(size=picture.shape), 30) * np.float32(rng.uniform(200, 1200))
    if rng.random() < 0.6:
        grain = rng.choice([0.0, 0.7, 1.3])
        noise = rng.normal(size=picture.shape).astype(np.float32)
        noise = blurred(noise, grain) if grain else noise
        grey = grey + noise / noise.std() * np.float32(rng.uniform(2, 8) * GREY_PER_HU)
    edge = blurred(inside, rng.uniform(0.5, 1.5)) * inside
    return _as_picture(picture * (1 - edge) + grey * edge)


def with_decoys(picture: Picture, inside: Mask, blood: Mask, rng: np.random.Generator) -> Picture | None:
    """`picture` with one or two kinds of what is bright and no blood, away from `blood`; None where none fits."""
    kinds = [_ganglia, _plaques, _dense_falx, _flecks, _spurs]
    free = inside & ~cv2.dilate(blood.astype(np.uint8), bleeds.disk(AWAY)).astype(np.bool_)
    values = picture.astype(np.float32)
    painted = False
    for which in rng.choice(len(kinds), int(rng.integers(1, 3)), replace=False, p=(0.25, 0.15, 0.1, 0.2, 0.3)):
        for shape, hu in kinds[which](inside, rng):
            share = shape * free
            if share.max() < 0.5:
                continue
            painted = True
            values = np.maximum(values, values * (1 - share) + np.float32(hu * GREY_PER_HU) * share)
    return _as_picture(values) if painted else None


Painted = list[tuple[Values, float]]
"""(224, 224), 0..1: how much of a pixel is it; and its HU."""


def _ganglia(inside: Mask, rng: np.random.Generator) -> Painted:
    """Like lumps on both sides of the midline, ragged, seldom quite alike; faint ones are as dense as blood."""
    middle = _midline(inside)
    half = float(np.percentile(inside.sum(1)[inside.any(1)], 80)) / 2
    row = middle.row(rng.uniform(0.34, 0.6))
    away, size = half * rng.uniform(0.22, 0.42), rng.uniform(2.0, 7.5)
    hu = math.exp(rng.uniform(math.log(FAINTEST_HU), math.log(220.0)))
    shape = _lump(inside.shape, size, rng)
    sides = (1, -1) if rng.random() < 0.85 else (1,)
    return [
        (
            _placed(shape[:, ::side], middle.column(row) + side * away, row + rng.uniform(-3, 3)),
            hu * rng.uniform(0.8, 1.2),
        )
        for side in sides
    ]


def _plaques(inside: Mask, rng: np.random.Generator) -> Painted:
    """Lime in the falx: one to three short strokes on the midline."""
    middle = _midline(inside)
    tops = [
        middle.row(rng.choice((rng.uniform(0.03, 0.3), rng.uniform(0.65, 0.92)))) for _ in range(rng.integers(1, 4))
    ]
    return [
        (_stroke(inside.shape, middle, top, top + rng.uniform(4, 22), rng.uniform(1.0, 4.0)), _lime(rng))
        for top in tops
    ]


def _dense_falx(inside: Mask, rng: np.random.Generator) -> Painted:
    """The whole falx, thin and a little denser than brain, before and behind."""
    middle = _midline(inside)
    hu, width = rng.uniform(*FALX_HU), rng.uniform(1.0, 3.0)
    ends = ((0.0, rng.uniform(0.2, 0.4)), (rng.uniform(0.6, 0.8), 1.0))
    return [(_stroke(inside.shape, middle, middle.row(a), middle.row(b), width), hu) for a, b in ends]


def _flecks(inside: Mask, rng: np.random.Generator) -> Painted:
    """Bone or lime a few pixels across, anywhere: plexus, vessels, old scars, clips."""
    places = np.argwhere(inside)
    return [
        (_placed(_lump(inside.shape, rng.uniform(0.8, 3.0), rng), float(column), float(row)), _lime(rng))
        for row, column in places[rng.integers(len(places), size=int(rng.integers(1, 6)))]
    ]


def _spurs(inside: Mask, rng: np.random.Generator) -> Painted:
    """Bone that a slice just touches: tongues from the skull inwards and islands before it, as at the orbital roof, the
    wing of the sphenoid and the petrous ridge, most of all where the head lies askew."""
    rim = np.argwhere(inside & (cv2.erode(inside.astype(np.uint8), bleeds.disk(2)) == 0))
    middle = np.argwhere(inside).mean(0)
    painted: Painted = []
    for row, column in rim[rng.integers(len(rim), size=int(rng.integers(1, 5)))]:
        inwards = math.atan2(middle[0] - row, middle[1] - column) + rng.uniform(-0.9, 0.9)
        if rng.random() < 0.5:
            shape = _tongue(inside.shape, (column, row), inwards, rng)
        else:
            away = rng.uniform(1, 14)
            place = column + away * math.cos(inwards), row + away * math.sin(inwards)
            shape = _placed(_lump(inside.shape, rng.uniform(1.5, 6.0), rng), *place)
        painted.append((shape, _lime(rng)))
    return painted


def _tongue(shape: tuple[int, ...], root: tuple[float, float], angle: float, rng: np.random.Generator) -> Values:
    """A wedge from `root` (column, row); its edge is soft, as partial volume makes it."""
    length, half = rng.uniform(4, 24), rng.uniform(1.5, 5.0)
    along, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    tip = half * rng.uniform(0.1, 0.6)
    corners = [
        root + across * half,
        root + along * length + across * tip,
        root + along * length - across * tip,
        root - across * half,
    ]
    drawn = np.zeros(shape, np.float32)
    cv2.fillConvexPoly(drawn, np.rint(np.array(corners) * 16).astype(np.int32), 1.0, cv2.LINE_AA, 4)
    return blurred(drawn, rng.uniform(0.6, 1.6))


def _lime(rng: np.random.Generator) -> float:
    return math.exp(rng.uniform(math.log(90.0), math.log(BRIGHTEST_HU)))


@dataclass(frozen=True)
class _Midline:
    """Where left and right meet, as a straight line over the rows that show brain."""

    start: float
    slope: float
    top: int
    bottom: int

    def column(self, row: float) -> float:
        return self.start + self.slope * row

    def row(self, share: float) -> float:
        """0 in front, 1 behind."""
        return self.top + share * (self.bottom - self.top)


def _midline(inside: Mask) -> _Midline:
    rows = np.flatnonzero(inside.sum(1) > 12)
    columns = np.arange(inside.shape[1])
    centres = [float(columns[inside[row]].mean()) for row in rows]
    slope, start = np.polyfit(rows, centres, 1)
    return _Midline(float(start), float(slope), int(rows[0]), int(rows[-1]))


def _lump(shape: tuple[int, ...], size: float, rng: np.random.Generator) -> Values:
    """A ragged, somewhat oblong spot in the middle of a picture; its edge is soft, as partial volume makes it."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    turned, ratio = rng.uniform(0, math.pi), rng.uniform(1.0, 2.2)
    dy, dx = y - shape[0] / 2, x - shape[1] / 2
    along = dx * math.cos(turned) + dy * math.sin(turned)
    across = -dx * math.sin(turned) + dy * math.cos(turned)
    ragged = blurred(rng.normal(size=shape), 2.0) * 4.0 * size * 0.5
    far = np.hypot(along / math.sqrt(ratio), across * math.sqrt(ratio)) + ragged
    return blurred((far < size).astype(np.float32), rng.uniform(0.5, 1.2))


def _placed(shape: Values, column: float, row: float) -> Values:
    """A shape from the middle of a picture, moved there."""
    matrix = np.array([[1, 0, column - shape.shape[1] / 2], [0, 1, row - shape.shape[0] / 2]], np.float32)
    return np.asarray(cv2.warpAffine(np.ascontiguousarray(shape), matrix, shape.shape[::-1]), np.float32)


def _stroke(shape: tuple[int, ...], middle: _Midline, top: float, bottom: float, width: float) -> Values:
    """Along the midline from row to row."""
    drawn = np.zeros(shape, np.float32)
    ends = [(round(16 * middle.column(row)), round(16 * row)) for row in (top, bottom)]  # 4 binary digits of a pixel
    cv2.line(drawn, ends[0], ends[1], 1.0, max(1, round(width)), cv2.LINE_AA, 4)
    return blurred(drawn, 0.7)


def _some(rows: NDArray[np.intp], share: float, rng: np.random.Generator) -> list[int]:
    return [int(row) for row in rng.choice(rows, round(share * len(rows)), replace=False)]


def _changed(job: _Job) -> Picture | None:
    rng, picture = np.random.default_rng((job.seed, 6, job.row)), job.picture
    inside = bleeds.brain(picture)
    if inside.sum() < LEAST_INSIDE:
        return None
    if job.origin == "blanked":
        return blanked(picture, inside, rng)
    blood = cv2.resize(job.blood, picture.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return with_decoys(picture, inside, np.asarray(blood, np.bool_), rng)


def _rows(pictures: Pictures, made: Sequence[tuple[str, int, Picture]]) -> Pictures:
    heads = pictures.take(np.array([row for _, row, _ in made], np.int64))
    empty = np.array([origin == "blanked" for origin, _, _ in made], np.bool_)
    return replace(
        heads,
        pictures=np.array([picture for _, _, picture in made], np.uint8).reshape(-1, *pictures.pictures.shape[1:]),
        blood=np.where(empty[:, None, None], 0, heads.blood).astype(np.uint8),
        presence=np.where(empty, 0, heads.presence).astype(np.int8),
        location=np.where(empty, UNCLEAR, heads.location).astype(np.int8),
        series=np.arange(len(made), dtype=np.int32) + int(pictures.series.max(initial=-1)) + 1,
        origin=np.array([ORIGINS.index(origin) for origin, _, _ in made], np.int8),
        volume_ml=np.full(len(made), np.nan, np.float32),
        area_mm2=np.full(len(made), np.nan, np.float32),
    )


def _as_picture(values: NDArray[np.floating]) -> Picture:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
