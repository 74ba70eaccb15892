"""Phantoms for an audit: slices of heads that never lived, with a bleed or a look-alike and without, truth known.

Each head is made once and kept in a file of its own (`dtvit.phantom`, brace removal and window as the node does them);
the folder's name tells by which version of the phantoms. The seeds are those of no training: `train.making.synthetic`
draws from [seed, number], an audit from [seed, AUDIT, number].
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dtvit import brace, phantom, preprocess
from dtvit.findings import LOCATIONS
from dtvit.phantom.subject import subject_of
from dtvit.wholefile import write_whole
from train.audit.figures import Tell
from train.audit.material import FRAME
from train.making.synthetic import BLOOD_SHARE, CONTRAST_HU, VISIBLE_MM2, phantom_version

AUDIT = 0xA0D17
VOLUMES_ML = ((0.5, 2), (2, 5), (5, 15), (15, 80))
"""Each bin is drawn as often as each other."""
PIXELS = 512  # at most; 1024 take four times as long and are 256 in the end
CHANGED_HU = 12.0  # a look-alike is seen where it changes the slice by more
SEEN_MM2 = 6.0


@dataclass(frozen=True, eq=False)
class Pairs:
    """N slices with something in them, and the same N without it."""

    with_it: NDArray[np.uint8]
    """(N, 256, 256)"""
    without: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    """(N, 256, 256): where it is to be seen."""
    head: NDArray[np.int32]
    kind: NDArray[np.int8]
    """(N,): index into LOCATIONS, or into `DISTRACTORS`."""
    volume_ml: NDArray[np.float32]
    """(N,): of the bleed; 0 for a look-alike."""
    density_hu: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.head)

    def take(self, chosen: NDArray[np.bool_]) -> Pairs:
        return Pairs(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})


def join(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(**{each.name: np.concatenate([getattr(p, each.name) for p in parts]) for each in fields(Pairs)})


@dataclass(frozen=True, eq=False)
class Shown:
    picture: NDArray[np.uint8]
    head: NDArray[np.bool_]
    hu: NDArray[np.float32]
    blood: NDArray[np.float32]
    brain: NDArray[np.bool_]


def made(folder: Path, name: str, count: int, seed: int, make: Callable[[int, int], Pairs], tell: Tell) -> Pairs:
    """`count` heads, made or read again. A file that is cut short is made anew."""
    folder = folder / f"{phantom_version()}-{_version()}-{preprocess.preprocessing().replace('/', '-')}"
    parts = []
    for number in range(count):
        path = folder / f"{name}-{seed}-{number:04d}.npz"
        found = _read(path)
        if found is None:
            found = make(number, seed)
            _write(path, found)
        parts.append(found)
        tell(f"synthetic heads, {name}", number + 1, count)
    return join(parts)


def _version() -> str:
    """Eight digits that change with this program, so that nothing that an older one made is taken for its own."""
    digest = hashlib.sha256()
    for name in ("heads.py", "distractors.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:8]


def bleeding(number: int, seed: int) -> Pairs:
    """Up to three slices of a bleed: through its middle and towards both ends."""
    rng = np.random.default_rng([seed, AUDIT, number])
    location = number % len(LOCATIONS)
    low, high = VOLUMES_ML[number // len(LOCATIONS) % len(VOLUMES_ML)]
    spec = _drawn(rng, LOCATIONS[location], low, high)
    bleed, clot = spec.bleed, subject_of(spec).hematoma
    assert bleed is not None
    assert clot is not None
    middle = along(spec, subject_of(spec).scanner(clot.centre))
    radius = (bleed.volume_ml * 1000 * 3 / (4 * math.pi)) ** (1 / 3)
    pictures, healthy, masks = [], [], []
    for position in nearest(spec.positions_mm, [middle + radius * step for step in (0.0, -0.6, 0.6)]):
        first, second = shown(spec, position), shown(phantom.without_bleed(spec), position)
        seen = (first.blood > BLOOD_SHARE) & (first.hu - second.hu > CONTRAST_HU) & first.head
        if seen.sum() * spec.scan.pixel_mm**2 >= VISIBLE_MM2:
            pictures.append(first.picture)
            healthy.append(second.picture)
            masks.append(frame(seen.astype(np.uint8) * 255) > 127)
    return pairs(pictures, healthy, masks, number, location, bleed.volume_ml, bleed.density_hu)


def _drawn(rng: np.random.Generator, location: str, low: float, high: float) -> phantom.PhantomSpec:
    """A phantom as training would draw it, whose bleed has a volume between the two, ml, and finds room."""
    while True:
        spec = modest(phantom.draw(rng, location))
        if spec.bleed is not None and low <= spec.bleed.volume_ml < high:
            try:
                subject_of(spec)
            except ValueError:  # no room for the bleed
                continue
            return spec


def modest(spec: phantom.PhantomSpec) -> phantom.PhantomSpec:
    return replace(spec, scan=replace(spec.scan, matrix=min(spec.scan.matrix, PIXELS)))


def along(spec: phantom.PhantomSpec, point: tuple[float, float, float]) -> float:
    """Position (mm) of the slice through a point in the scanner."""
    tilt = math.radians(spec.scan.tilt_deg)
    return point[2] * math.cos(tilt) + point[1] * math.sin(tilt)


def nearest(positions: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """For each wanted position the nearest that there is, none twice."""
    return list(dict.fromkeys(min(positions, key=lambda p: abs(p - w)) for w in wanted))


def shown(spec: phantom.PhantomSpec, position: float) -> Shown:
    one = phantom.render_slice(spec, position)
    return seen_by_node(one.hu, one.blood, one.brain, spec.scan.pixel_mm)


def seen_by_node(
    hu: NDArray[np.float32], blood: NDArray[np.float32], brain: NDArray[np.bool_], pixel_mm: float
) -> Shown:
    head = brace.find_head(hu, (pixel_mm, pixel_mm)).mask
    return Shown(frame(preprocess.picture(hu, head)), head, hu, blood, brain)


def frame(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A square picture at 256 x 256, as Resize makes it."""
    return np.asarray(Image.fromarray(picture).resize((FRAME, FRAME), Image.Resampling.BILINEAR))


def pairs(
    pictures: Sequence[NDArray[np.uint8]],
    healthy: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.bool_]],
    head: int,
    kind: int,
    volume_ml: float = 0.0,
    density_hu: float = 0.0,
) -> Pairs:
    count = len(pictures)
    return Pairs(
        with_it=np.array(pictures, np.uint8).reshape(-1, FRAME, FRAME),
        without=np.array(healthy, np.uint8).reshape(-1, FRAME, FRAME),
        mask=np.array(masks, bool).reshape(-1, FRAME, FRAME),
        head=np.full(count, head, np.int32),
        kind=np.full(count, kind, np.int8),
        volume_ml=np.full(count, volume_ml, np.float32),
        density_hu=np.full(count, density_hu, np.float32),
    )


def _read(path: Path) -> Pairs | None:
    try:
        with np.load(path) as arrays:
            return Pairs(**{each.name: arrays[each.name] for each in fields(Pairs)})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(path: Path, found: Pairs) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{each.name: getattr(found, each.name) for each in fields(Pairs)})
    write_whole(path, buffer.getvalue())
