"""Training pictures, packed: one file per synthetic head, and all of them as arrays in memory.

A head is in one part only (training, validation or test), with all its series: the same head with and without its
bleed. Which part follows from the head's number alone, so that more heads never move those that are there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dtvit.checkpoint import write_whole

Part = Literal["train", "validation", "test"]
UNCLEAR = -1  # presence: too little blood to call either way; location: none to be told
BLOOD_CELLS = 56  # the map of visible blood has cells of 4 x 4 pixels
MADE = "made.json"


class UnusableData(Exception):
    """The folder holds no training pictures, or not those of this run; the text says which and what to do."""


@dataclass(frozen=True)
class Pictures:
    """N slices, those of a series together and from feet to head."""

    pictures: NDArray[np.uint8]
    """(N, 224, 224), as the node gives them to the model."""
    blood: NDArray[np.uint8]
    """(N, 56, 56): share of each cell that shows blood, 255 for all of it."""
    presence: NDArray[np.int8]
    """(N,): 1 shows blood, 0 shows none, UNCLEAR."""
    location: NDArray[np.int8]
    """(N,): index into `dtvit.findings.LOCATIONS`, UNCLEAR where presence is not 1."""
    head: NDArray[np.int32]
    series: NDArray[np.int32]
    """(N,): a number of its own for each head with its bleed and without."""
    volume_ml: NDArray[np.float32]
    """(N,): of the bleed of the series, 0 without one."""
    area_mm2: NDArray[np.float32]
    """(N,): visible blood in the slice."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if len(getattr(self, each.name)) != len(self.pictures):
                raise ValueError(f"{each.name} has {len(getattr(self, each.name))} rows, pictures {len(self.pictures)}")

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, chosen: NDArray[Any]) -> Pictures:
        """The rows of a mask or of an index."""
        return Pictures(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})

    def part(self, part: Part) -> Pictures:
        return self.take(np.array([part_of(int(head)) == part for head in self.head], bool))


def join(parts: Sequence[Pictures]) -> Pictures:
    return Pictures(**{each.name: np.concatenate([getattr(p, each.name) for p in parts]) for each in fields(Pictures)})


def part_of(head: int) -> Part:
    """Of every twenty heads eighteen train, one validates, one tests."""
    return {18: "validation", 19: "test"}.get(head % 20, "train")  # type: ignore[return-value]


def shard(folder: Path, head: int) -> Path:
    return folder / f"head-{head:06d}.npz"


def write_shard(path: Path, pictures: Pictures) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{each.name: getattr(pictures, each.name) for each in fields(Pictures)})
    write_whole(path, buffer.getvalue())


def read_shard(path: Path) -> Pictures:
    try:
        with np.load(path) as arrays:
            return Pictures(**{each.name: arrays[each.name] for each in fields(Pictures)})
    except (OSError, ValueError, KeyError) as exc:
        raise UnusableData(f"{path} is no file of training pictures ({exc}); remove it and run again") from exc


def freeze(folder: Path, heads: Sequence[int], source: dict[str, Any]) -> None:
    """Say that the making is over: these heads, made so, are the data of every run on this folder from now on."""
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
    """All pictures of a folder whose making is over, and where they come from."""
    made = frozen(folder)
    if made is None or not made["heads"]:
        raise UnusableData(f"{folder} holds no finished set of training pictures; run python -m train --synthetic")
    pictures = join([read_shard(shard(folder, head)) for head in made["heads"]])
    for part in ("train", "validation", "test"):
        labels = pictures.part(part).presence
        if not ((labels == 1).any() and (labels == 0).any()):
            raise UnusableData(
                f"{folder}: the {part} heads lack slices with blood, or slices without; make more heads (--heads)"
            )
    return pictures, made["source"]
