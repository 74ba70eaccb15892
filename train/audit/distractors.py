"""What is dense in a head and no blood: lime, a calcified or thick falx, flecks of bone, artefacts; in phantoms.

Lime is drawn by `dtvit.phantom`; flecks and movement are made here, on HU, before the window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dtvit import phantom
from dtvit.phantom.subject import subject_of
from train.audit.heads import (
    AUDIT,
    CHANGED_HU,
    SEEN_MM2,
    Pairs,
    Shown,
    along,
    frame,
    join,
    modest,
    nearest,
    pairs,
    seen_by_node,
    shown,
)

LIME = ("pineal_hu", "choroid_hu", "ganglia_hu", "falx_hu", "vessel_hu")
PER_HEAD = 2  # slices of each kind

Change = Callable[[Shown, phantom.PhantomSpec, np.random.Generator], NDArray[np.float32]]


@dataclass(frozen=True)
class Distractor:
    what: str
    height_mm: tuple[float, ...]
    """Where to look for it, above the AC-PC line of the reference adult."""
    head: tuple[tuple[str, float, float], ...] = ()
    """Fields of `phantom.Head`, each from .. to."""
    streak_hu: float | None = None
    on_hu: Change | None = None


def _fleck(before: Shown, spec: phantom.PhantomSpec, rng: np.random.Generator) -> NDArray[np.float32]:
    """Two flecks of bone or lime, 2 to 4 mm wide, in the brain."""
    hu = before.hu.copy()
    inner = cv2.erode(
        before.brain.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=max(1, round(8 / spec.scan.pixel_mm))
    )
    places = np.argwhere(inner > 0)
    if not len(places):
        return hu
    rows, columns = np.mgrid[: hu.shape[0], : hu.shape[1]]
    for y, x in places[rng.integers(len(places), size=2)]:
        far = np.hypot(rows - y, (columns - x) * rng.uniform(0.7, 1.4)) * spec.scan.pixel_mm
        hu += np.float32(rng.uniform(150, 600)) * np.exp(-((far / rng.uniform(1.0, 2.0)) ** 2)).astype(np.float32)
    return hu


def _moved(before: Shown, spec: phantom.PhantomSpec, rng: np.random.Generator) -> NDArray[np.float32]:
    """The head turned a little during the scan: everything twice, and bright arcs along the skull."""
    shape = before.hu.shape
    middle = (shape[1] / 2, shape[0] / 2)
    turn = cv2.getRotationMatrix2D(middle, float(rng.choice((-1, 1)) * rng.uniform(2, 4)), 1.0)
    turn[:, 2] += rng.uniform(-2, 2, 2) / spec.scan.pixel_mm
    other = cv2.warpAffine(before.hu, turn, shape[::-1], borderValue=-1000.0)
    return np.asarray(0.6 * before.hu + 0.4 * other, np.float32)


DISTRACTORS: tuple[Distractor, ...] = (
    Distractor("Calcified pineal gland", (1.0,), (("pineal_hu", 150, 450),)),
    Distractor("Calcified choroid plexus", (6.0, 14.0), (("choroid_hu", 150, 400),)),
    Distractor("Calcified basal ganglia", (2.0,), (("ganglia_hu", 80, 180),)),
    Distractor("Calcified falx", (30.0, 48.0), (("falx_hu", 150, 900),)),
    Distractor("Dense falx", (30.0, 48.0), (("falx_hu", 65, 85),)),
    Distractor("Calcified arteries at the base", (-14.0,), (("vessel_hu", 150, 600),)),
    Distractor("Flecks of bone", (10.0, 35.0), on_hu=_fleck),
    Distractor("Beam hardening at the base", (-42.0, -36.0, -30.0), streak_hu=40.0),
    Distractor("Movement", (8.0, 30.0), on_hu=_moved),
)


def make(number: int, seed: int) -> Pairs:
    """Slices of one head without any lime, each with one thing added."""
    rng = np.random.default_rng([seed, AUDIT, 1, number])
    drawn = modest(phantom.draw(rng, None))
    none: Any = 0.0
    bare = replace(
        drawn, head=replace(drawn.head, **dict.fromkeys(LIME, none)), scan=replace(drawn.scan, streak_hu=2.0)
    )
    plain: dict[float, Shown] = {}
    return join([_one(kind, bare, plain, rng, number) for kind in range(len(DISTRACTORS))])


def _one(
    kind: int, bare: phantom.PhantomSpec, plain: dict[float, Shown], rng: np.random.Generator, number: int
) -> Pairs:
    """Slices of one kind in which it can be seen, the clearest first."""
    wanted, pixel_mm = DISTRACTORS[kind], bare.scan.pixel_mm
    head: dict[str, Any] = {name: float(rng.uniform(low, high)) for name, low, high in wanted.head}
    streak = wanted.streak_hu or bare.scan.streak_hu
    dense = replace(bare, head=replace(bare.head, **head), scan=replace(bare.scan, streak_hu=streak))
    found: list[tuple[float, Shown, Shown, NDArray[np.bool_]]] = []
    for position in _positions(bare, wanted.height_mm):
        if position not in plain:
            plain[position] = shown(bare, position)
        before = plain[position]
        if wanted.on_hu is None:
            after = shown(dense, position)
        else:
            after = seen_by_node(wanted.on_hu(before, bare, rng), before.blood, before.brain, pixel_mm)
        window = [np.clip(each.hu, 0, 80) for each in (before, after)]
        changed = (np.abs(window[1] - window[0]) > CHANGED_HU) & after.head
        area = float(changed.sum()) * pixel_mm**2
        if area >= SEEN_MM2:
            found.append((area, before, after, changed))
    best = sorted(found, key=lambda each: -each[0])[:PER_HEAD]
    return pairs(
        [after.picture for _, _, after, _ in best],
        [before.picture for _, before, _, _ in best],
        [frame(changed.astype(np.uint8) * 255) > 127 for _, _, _, changed in best],
        number,
        kind,
    )


def _positions(spec: phantom.PhantomSpec, heights_mm: tuple[float, ...]) -> list[float]:
    """Slices at these heights of this head."""
    subject = subject_of(spec)
    points = [subject.scanner((0.0, 10.0 * spec.head.scale[1], height * spec.head.scale[2])) for height in heights_mm]
    return nearest(spec.positions_mm, [along(spec, point) for point in points])
