"""Training pictures of heads that never lived: phantoms through the node's own preprocessing, truth known.

Each head comes with its bleed and without, in the same scanner down to the noise, so that only blood tells the two
apart. A slice counts as showing blood by what can be seen in it: a large enough area where blood stands out from what
would be there without it. Slices with a smaller one count as neither, and do not train presence.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtvit import brace, phantom, preprocess
from dtvit.brain.regions import assign_regions
from dtvit.brain.selection import SliceContent, classify_content
from dtvit.findings import LOCATIONS, Region
from train.dataset.pictures import (
    BLOOD_CELLS,
    ORIGINS,
    PARTS,
    UNCLEAR,
    Pictures,
    freeze,
    frozen,
    part_of,
    shard,
    write_shard,
)
from train.errors import UnusableData
from train.processes import LostProcess, pool
from train.progress import SAY_EVERY_S, Say
from train.turns import in_turn

CONTRAST_HU = 8.0  # blood that differs by less from the same slice without it is not visible
VISIBLE_MM2 = 20.0  # a disk of 5 mm across; a bleed of 0.4 ml measures 9 mm
BLOOD_SHARE = 0.2  # of a voxel
TRAINING_POSITIVES = 5  # slices with blood per training head; neighbours are too alike to be worth more
TRAINING_OTHERS = 5  # slices without blood of the head that bleeds
MEASURED_MM = 4.0  # validation and test heads are whole series; in thinner slices they would take minutes each
MIXED = "mixed"  # half of the heads in each mode of brace removal, so that a model serves both
FAILURES = 0.05  # share of heads that may fail before the making is given up


@dataclass(frozen=True)
class Way:
    """How a slice becomes a picture."""

    mode: str
    """Of brace removal."""
    geometry: str = preprocess.PAPER_GEOMETRY


Maker = Callable[[int, int, Way], Pictures]
"""Takes the number of the head and the seed of the run; runs in a process of its own."""
_Job = tuple[Maker, Path, int, int, Way]
"""What makes which head, for which folder: the arguments of `_make_and_write`."""


@dataclass(frozen=True)
class _Row:
    picture: NDArray[np.uint8]
    content: SliceContent
    blood: NDArray[np.uint8]
    presence: int
    area_mm2: float


def make(
    folder: Path,
    heads: int,
    seed: int,
    mode: str,
    say: Say,
    *,
    geometry: str = preprocess.PAPER_GEOMETRY,
    processes: int | None = None,
    minutes: float | None = None,
    maker: Maker | None = None,
) -> None:
    """Make heads 0 .. `heads` - 1, or as many as the time allows; those already in the folder are kept.

    Raises UnusableData if the folder holds other data, if too many heads fail, or if the time allows so few that a part
    has none; those made are kept for the next call. Raises UnguardedScript.
    """
    ways = preprocessings(mode, geometry)
    source = {"phantom": phantom_version(), "preprocessing": ways, "mode": mode, "seed": seed}
    with in_turn(folder):
        finished = _finished(folder, source)
        if finished is not None:
            fewer = f", fewer than {heads}: name another folder for more"
            say(f"{folder} holds {finished} finished heads{fewer if finished < heads else ''}")
            return
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        have = {number for number in range(heads) if shard(folder, number).exists()}
        jobs = [
            (maker or make_head, folder, number, seed, Way(mode_of(number, mode), geometry))
            for number in range(heads)
            if number not in have
        ]
        say(f"making {len(jobs)} synthetic heads; {len(have)} are there already")
        have |= _made(jobs, heads, processes, minutes, say)
        if minutes is not None and {part_of(number) for number in have} < set(PARTS):
            raise UnusableData(
                f"only {len(have)} of {heads} heads are made, too few to validate and to test with; they are kept: "
                "allow more --phantom-minutes"
            )
        freeze(folder, sorted(have), source)
        say(f"{len(have)} heads in {(time.monotonic() - started) / 60:.1f} minutes")


def _finished(folder: Path, source: Mapping[str, Any]) -> int | None:
    """How many heads a finished folder holds; None for an unfinished one. Raises UnusableData if they are others."""
    done = frozen(folder)
    if done is None:
        return None
    if done["source"] != source:
        before = done["source"]
        differing = ", ".join(
            f"{key} {before.get(key)!r}, not {wanted!r}" for key, wanted in source.items() if before.get(key) != wanted
        )
        raise UnusableData(
            f"{folder} holds pictures made differently ({differing}); choose another folder with --phantoms"
        )
    return len(done["heads"])


def _made(jobs: Sequence[_Job], heads: int, processes: int | None, minutes: float | None, say: Say) -> set[int]:
    """Numbers of the heads that succeeded; reports those that failed. `heads`: with those that were there before.

    Raises UnusableData if too many fail.
    """
    started = said_at = time.monotonic()
    made: set[int] = set()
    failed: list[str] = []
    for number, problem in _in_processes(jobs, processes, minutes):
        if problem:
            failed.append(f"head {number}: {problem}")
            if len(failed) > max(3, FAILURES * heads):
                raise UnusableData("too many phantoms fail: " + "; ".join(failed[:3]))
        else:
            made.add(number)
        if time.monotonic() - said_at > SAY_EVERY_S:
            said_at = time.monotonic()
            there = heads - len(jobs) + len(made)
            say(f"{there} of {heads} heads, {len(made) / (said_at - started):.2f} per second")
    for each in failed:
        say(f"left out {each}")
    return made


def _in_processes(
    jobs: Sequence[_Job], processes: int | None, minutes: float | None
) -> Iterator[tuple[int, str | None]]:
    """Each head as it is done, with what went wrong; stops asking for more when the time is up."""
    deadline = time.monotonic() + minutes * 60 if minutes else None
    count = processes or multiprocessing.cpu_count()
    try:
        with pool(count, initializer=_as_worker, initargs=(os.getpid(),)) as executor:
            futures = {executor.submit(_make_and_write, *job): job[2] for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()
                if deadline is not None and time.monotonic() > deadline:
                    return
    except LostProcess as exc:
        raise UnusableData(
            f"a process that makes synthetic heads {exc}; those made are kept: run again with fewer --processes"
        ) from exc


def _as_worker(parent: int) -> None:
    """One thread of OpenCV each; and no worker outlives the run, however that ended."""
    import cv2

    cv2.setNumThreads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make_and_write(maker: Maker, folder: Path, number: int, seed: int, way: Way) -> str | None:
    """What went wrong, if anything did: one phantom in a thousand that cannot be made must not cost the others."""
    try:
        pictures = maker(number, seed, way)
    except Exception as exc:  # noqa: BLE001 - the outermost line of a job; counted, told, and too many end the run
        return f"{type(exc).__name__}: {exc}"
    write_shard(shard(folder, number), pictures)
    return None


def preprocessings(mode: str, geometry: str) -> list[str]:
    """The versions of `dtvit.preprocess` that pictures made so have gone through."""
    return [preprocess.preprocessing(each, geometry) for each in (brace.MODES if mode == MIXED else (mode,))]


def mode_of(number: int, mode: str) -> str:
    """Mixed: twenty heads, of all parts, in one mode, then twenty in the next."""
    return brace.MODES[number // 20 % len(brace.MODES)] if mode == MIXED else mode


def make_head(number: int, seed: int, way: Way) -> Pictures:
    """A head with its bleed and without: some slices to train on, or two whole series to measure on."""
    rng = np.random.default_rng([seed, number])
    location = int(rng.integers(len(LOCATIONS)))
    spec = phantom.draw(rng, LOCATIONS[location])
    if part_of(number) == "train":
        bleeding, healthy = _some_slices(spec, rng, way)
    else:
        if spec.scan.thickness_mm < MEASURED_MM:
            spec = phantom.draw(spec.seed, LOCATIONS[location], thickness_mm=5.0, spacing_mm=5.0)
        bleeding, healthy = _whole_series(spec, way)
    rows = bleeding + healthy
    presence = np.array([row.presence for row in rows], np.int8)
    series = [2 * number] * len(bleeding) + [2 * number + 1] * len(healthy)
    volume = [spec.bleed.volume_ml if spec.bleed else 0.0] * len(bleeding) + [0.0] * len(healthy)
    return Pictures(
        pictures=np.array([row.picture for row in rows], np.uint8).reshape(-1, preprocess.SIDE, preprocess.SIDE),
        blood=np.array([row.blood for row in rows], np.uint8).reshape(-1, BLOOD_CELLS, BLOOD_CELLS),
        presence=presence,
        location=np.where(presence == 1, location, UNCLEAR).astype(np.int8),
        traced=np.ones(len(rows), bool),
        patient=np.full(len(rows), number, np.int32),
        series=np.array(series, np.int32),
        part=np.full(len(rows), PARTS.index(part_of(number)), np.int8),
        origin=np.full(len(rows), ORIGINS.index("phantom"), np.int8),
        volume_ml=np.array(volume, np.float32),
        area_mm2=np.array([row.area_mm2 for row in rows], np.float32),
    )


def _whole_series(spec: phantom.PhantomSpec, way: Way) -> tuple[list[_Row], list[_Row]]:
    """Every slice that the node would evaluate, feet to head."""
    pairs = [_pair(spec, position, way) for position in spec.positions_mm]
    columns = [pair[0] for pair in pairs], [pair[1] or pair[0] for pair in pairs]
    with_bleed, without = (
        [
            row
            for row, region in zip(rows, assign_regions([row.content for row in rows]), strict=True)
            if region is Region.BRAIN
        ]
        for rows in columns
    )
    return with_bleed, without


def _some_slices(spec: phantom.PhantomSpec, rng: np.random.Generator, way: Way) -> tuple[list[_Row], list[_Row]]:
    """Slices with blood, the same ones without it, and others, from feet to head; renders as few as will do."""
    positions = [position for position in spec.positions_mm if position > _neck_mm(spec)]
    seen: dict[int, _Row] = {}
    healed: dict[int, _Row] = {}
    waiting = _spread_out(len(positions), rng)
    while waiting and (len(healed) < TRAINING_POSITIVES or len(seen) - len(healed) < TRAINING_OTHERS):
        index = waiting.pop(0)
        bleeding, healthy = _pair(spec, positions[index], way)
        if not bleeding.content.may_show_brain:
            continue
        if healthy is None:
            if len(seen) - len(healed) < TRAINING_OTHERS:
                seen[index] = bleeding
        elif len(healed) < TRAINING_POSITIVES:
            seen[index], healed[index] = bleeding, healthy
            near = [i for i in waiting if abs(positions[i] - positions[index]) < 12.0]
            waiting = near + [i for i in waiting if i not in near]
    return [seen[i] for i in sorted(seen)], [healed[i] for i in sorted(healed)]


def _neck_mm(spec: phantom.PhantomSpec) -> float:
    """Position below which no slice shows brain: 70 mm below the AC-PC line, along the slice normal."""
    _, y, z = spec.head.centre_mm
    tilt = math.radians(spec.scan.tilt_deg)
    return z * math.cos(tilt) + y * math.sin(tilt) - 70.0


def _spread_out(count: int, rng: np.random.Generator) -> list[int]:
    """Every index once, each as far as possible from those before it, from a random start."""
    start = int(rng.integers(count))
    order = sorted(range(count), key=lambda i: int(f"{i:010b}"[::-1], 2))
    return [(i + start) % count for i in order]


def _pair(spec: phantom.PhantomSpec, position_mm: float, way: Way) -> tuple[_Row, _Row | None]:
    """The slice with its bleed, and without; None if it shows no blood, and the two would be the same."""
    bleeding = phantom.render_slice(spec, position_mm)
    if bleeding.blood_mm3 <= 0.0:
        return _row(bleeding, spec, way, None), None
    healthy = phantom.render_slice(phantom.without_bleed(spec), position_mm)
    return _row(bleeding, spec, way, bleeding.hu - healthy.hu), _row(healthy, spec, way, None)


def _row(made: phantom.PhantomSlice, spec: phantom.PhantomSpec, way: Way, change: NDArray[Any] | None) -> _Row:
    """`change`: HU that the bleed added, same noise; None if there is no blood."""
    pixel_mm = (spec.scan.pixel_mm, spec.scan.pixel_mm)
    head = brace.find_head(made.hu, pixel_mm, way.mode)
    whole = preprocess.picture(made.hu, head.mask)
    picture = preprocess.model_input(whole, way.geometry)
    content = classify_content(made.hu, head.mask, pixel_mm)
    if change is None:
        return _Row(picture, content, np.zeros((BLOOD_CELLS, BLOOD_CELLS), np.uint8), 0, 0.0)
    visible = (made.blood > BLOOD_SHARE) & (change > CONTRAST_HU) & head.mask
    area = float(visible.sum()) * spec.scan.pixel_mm**2
    side = preprocess.SIDE // BLOOD_CELLS
    shown = preprocess.through(visible.astype(np.uint8) * 255, preprocess.view_of(whole, way.geometry))
    cells = shown.reshape(BLOOD_CELLS, side, BLOOD_CELLS, side)
    return _Row(picture, content, cells.mean((1, 3)).astype(np.uint8), 1 if area >= VISIBLE_MM2 else UNCLEAR, area)


def phantom_version() -> str:
    """Twelve digits that change with the program that makes phantoms, so that pictures of two are never mixed."""
    digest = hashlib.sha256()
    for path in sorted(Path(phantom.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
