"""Pictures to learn from and to measure on, as arrays in memory; and phantoms on disk, one file per synthetic head.

A patient is in one part only (training, validation or test), with all their series, unless a split was made otherwise
on purpose. A phantom's part follows from its number alone, so that adding heads never moves those already there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dtvit.wholefile import replacing, write_whole
from train.errors import UnusableData

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
ORIGINS = ("phantom", "patient", "healed", "transplanted", "sham", "blanked", "decoy")
"""Where a picture comes from; after `patient`, what `train.making` makes of those."""
UNCLEAR = -1  # presence: too little blood to call either way; location: none known
BLOOD_CELLS = 56  # the map of visible blood has cells of 4 x 4 pixels
CROP = BLOOD_CELLS * 4  # pixels of the middle that a model sees
MADE = "made.json"
APART = "patients apart"
"""The label of numbers that were measured on patients who trained nothing."""


@dataclass(frozen=True)
class Pictures:
    """N slices, those of a series together, and from feet to head where that is known."""

    pictures: NDArray[np.uint8]
    """(N, S, S), S = 224 or larger: 0 for 0 HU or less and outside of the head, 255 for 80 HU or more. Training moves
    and turns them at this size; a model sees the middle 224 x 224.
    """
    blood: NDArray[np.uint8]
    """(N, 56, 56): share of each cell of the middle 224 x 224 that shows blood, 255 for all of it."""
    traced: NDArray[np.bool_]
    """(N,): is `blood` known for this slice? Where it is not, patches are not taught."""
    presence: NDArray[np.int8]
    """(N,): 1 shows blood, 0 shows none, UNCLEAR."""
    location: NDArray[np.int8]
    """(N,): index into `dtvit.findings.LOCATIONS`, UNCLEAR where presence is not 1."""
    patient: NDArray[np.int32]
    """(N,): a patient, or a synthetic head; intervals are drawn over these."""
    series: NDArray[np.int32]
    """(N,): a number of its own for each series; a synthetic head with its bleed and without is two."""
    part: NDArray[np.int8]
    """(N,): index into PARTS."""
    origin: NDArray[np.int8]
    """(N,): index into ORIGINS."""
    volume_ml: NDArray[np.float32]
    """(N,): of the bleed of the series, 0 without one, NaN where unknown."""
    area_mm2: NDArray[np.float32]
    """(N,): visible blood in the slice, NaN where unknown."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if len(getattr(self, each.name)) != len(self.pictures):
                raise ValueError(f"{each.name} has {len(getattr(self, each.name))} rows, pictures {len(self.pictures)}")

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, chosen: NDArray[Any]) -> Pictures:
        """The rows that a mask or an index selects."""
        return Pictures(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})

    def of_part(self, part: Part) -> Pictures:
        return self.take(self.part == PARTS.index(part))


def stack(parts: Sequence[Pictures]) -> Pictures:
    """Concatenated, patients and series keeping their numbers: a number means the same in all of them.

    Smaller pictures get a black margin on all sides, so that the middle stays the middle.
    """
    side = max(each.pictures.shape[1] for each in parts)
    columns = {each.name: np.concatenate([getattr(p, each.name) for p in parts]) for each in fields(Pictures)[1:]}
    return Pictures(pictures=np.concatenate([_framed(each.pictures, side) for each in parts]), **columns)


def join(parts: Sequence[Pictures]) -> Pictures:
    """As `stack`, for unrelated sets: numbers are shifted, so that no two patients become one."""
    apart, patients, series = [], 0, 0
    for each in parts:
        apart.append(replace(each, patient=each.patient + patients, series=each.series + series))
        if len(each):
            patients, series = int(apart[-1].patient.max()) + 1, int(apart[-1].series.max()) + 1
    return stack(apart)


def _framed(pictures: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    before = (side - pictures.shape[1]) // 2
    after = side - pictures.shape[1] - before
    return np.pad(pictures, ((0, 0), (before, after), (before, after))) if after else pictures


def part_of(head: int) -> Part:
    """Of every twenty synthetic heads eighteen train, one validates, one tests."""
    return {18: "validation", 19: "test"}.get(head % 20, "train")  # type: ignore[return-value]


def shard(folder: Path, head: int) -> Path:
    return folder / f"head-{head:06d}.npz"


def write_shard(path: Path, pictures: Pictures) -> None:
    with replacing(path) as file:
        np.savez(file, **{each.name: getattr(pictures, each.name) for each in fields(Pictures)})


def read_shard(path: Path) -> Pictures:
    try:
        with np.load(path) as arrays:
            return Pictures(**{each.name: arrays[each.name] for each in fields(Pictures)})
    except (OSError, ValueError, KeyError) as exc:
        raise UnusableData(f"{path} is not a file of training pictures ({exc}); remove it and run again") from exc


def freeze(folder: Path, heads: Sequence[int], source: dict[str, Any]) -> None:
    """Mark the folder as finished: from now on these heads, made this way, are the data of every run on it."""
    write_whole(folder / MADE, json.dumps({"source": source, "heads": sorted(heads)}, indent=1).encode())


def frozen(folder: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads((folder / MADE).read_text())
    except FileNotFoundError:
        return None
    except ValueError as exc:
        raise UnusableData(f"{folder / MADE} is not readable JSON ({exc}); remove the folder and run again") from exc
    return content


def load(folder: Path) -> tuple[Pictures, dict[str, Any]]:
    """All pictures of a finished folder, and where they come from."""
    made = frozen(folder)
    if made is None or not made["heads"]:
        raise UnusableData(
            f"{folder} holds no finished set of training pictures; run python -m train fit --recipe phantom"
        )
    pictures = stack([read_shard(shard(folder, head)) for head in made["heads"]])
    for part in PARTS:
        labels = pictures.of_part(part).presence
        if not ((labels == 1).any() and (labels == 0).any()):
            raise UnusableData(
                f"{folder}: the {part} heads lack slices with blood, or slices without; name another folder with "
                "--phantoms, and make more heads there (--set phantom_heads=N)"
            )
    return pictures, made["source"]
