"""Manifests for tests: small grey pictures in a folder, and the CSV that lists them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from train.dataset import manifest
from train.dataset.manifest import Manifest

SIDE = 32  # pixels; the least that is taken


def grey(path: Path, value: int = 100, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """A picture of one grey, (columns, rows) large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def entries(patients: Sequence[tuple[str, str]], slices: int = 3) -> list[dict[str, str]]:
    """Rows of a manifest for (patient, what is shown): "" for no hemorrhage, or a location."""
    return [
        {
            "path": f"{patient}-{number}.png",
            "patient_id": patient,
            "slice": str(number),
            "ich": "1" if shown else "0",
            "location": shown,
        }
        for patient, shown in patients
        for number in range(slices)
    ]


def many(normal: int = 10, deep: int = 10, lobar: int = 5, subtentorial: int = 3) -> list[tuple[str, str]]:
    """Patients for `entries`."""
    counts = {"": normal, "deep": deep, "lobar": lobar, "subtentorial": subtentorial}
    return [(f"{shown or 'normal'}{n}", shown) for shown, count in counts.items() for n in range(count)]


def table(folder: Path, rows: Sequence[Mapping[str, str]], *, draw: Callable[[Path], object] = grey) -> Path:
    """The CSV of `rows`, and each picture that it names and that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        if not (folder / row["path"]).exists():
            draw(folder / row["path"])
    return path


def listed(folder: Path, patients: Sequence[tuple[str, str]] | None = None, slices: int = 3) -> Manifest:
    """A manifest read, of patients as `many` gives them; each picture has a grey of its own."""
    value = iter(range(10**6))
    rows = entries(many() if patients is None else patients, slices)
    return manifest.read(table(folder, rows, draw=lambda path: grey(path, next(value) % 256)))


def noise(seed: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns)).astype(np.uint8)
