"""The labelled pictures that are evaluated: those of a manifest or of one part of it, and what else it says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtvit import preprocess
from dtvit.checkpoint import Checkpoint, Metadata, UnusableCheckpoint
from train import csvfile
from train.card import trained_on
from train.csvfile import Problem, UnusableTable
from train.dataset import filed, manifest, picturefile, splits
from train.dataset.manifest import Manifest, Row
from train.dataset.picturefile import UnusablePicture
from train.dataset.pictures import PARTS, Pictures
from train.dataset.splits import LEAKY, Split
from train.errors import UnusableData

ALL = "all"
TAUGHT = "patients not known to be apart: the model was trained on this manifest"
TOO_GOOD = (LEAKY, TAUGHT)
"""Labels of figures that are better than what a new patient can expect, or may be."""
MASK_SUFFIXES = (".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Cases:
    manifest: Manifest
    split: Split
    """Of all rows that have a part; those of `part` are evaluated."""
    part: str
    """One of PARTS, or "all"."""
    pictures: Pictures
    rows: tuple[Row, ...]
    """(N,): the row of the manifest that each picture comes from."""
    share: NDArray[np.float32]
    """(N,): size of the lesion as a share of the head in the picture; NaN without a mask."""

    @property
    def columns(self) -> dict[str, NDArray[np.str_]]:
        """Site and scanner of each picture, where the manifest has them."""
        texts = {"site": [row.site for row in self.rows], "scanner": [row.scanner for row in self.rows]}
        return {name: np.array(each, np.str_) for name, each in texts.items() if any(each)}

    def label(self, metadata: Metadata) -> str:
        """What must stand beside every number that this model gives here; "patients apart" only of a test part, and
        not if the model learned from this manifest by another split, or from who knows which part of it."""
        if self.split.leaky:
            return self.split.label
        if trained_on(metadata, self.manifest.digest) and not trained_on(metadata, self.split.digest):
            return TAUGHT
        if self.part == "test" and self.split.kind != "whole":
            return self.split.label
        return "no split" if self.split.kind == "whole" else f"the {self.part} part of a split"

    @property
    def patients_at_two_sites(self) -> int:
        at = {(row.patient_id, row.site) for row in self.rows if row.site}
        return sum(sites > 1 for sites in Counter(patient for patient, _ in at).values())

    def shares_patients(self, other: Cases) -> bool:
        """Whether a picture is in both, or, if both are of one manifest, a patient: ids mean nothing across two."""
        mine, others = ({row.path.resolve() for row in each.rows} for each in (self, other))
        if mine & others or self.manifest.digest != other.manifest.digest:
            return bool(mine & others)
        return bool({row.patient_id for row in self.rows} & {row.patient_id for row in other.rows})

    def path(self, index: int) -> str:
        """As the manifest names it."""
        return manifest.as_listed(self.rows[index].path, self.manifest.path.parent)


def geometry_of(checkpoint: Checkpoint) -> str:
    """Which part of a picture its model sees; see `dtvit.preprocess`. Raises UnusableCheckpoint."""
    try:
        return preprocess.geometry_of(checkpoint.metadata.preprocessing)
    except ValueError as exc:
        raise UnusableCheckpoint(checkpoint.path, str(exc), "use a checkpoint of this program's version") from exc


def gather(
    path: Path,
    part: str | None = None,
    *,
    geometry: str,
    split_file: Path | None = None,
    masks: str | None = None,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Cases:
    """`part`: one of PARTS, "all", or None for "test" if it is known which that is. `masks`: a folder with masks
    named like the pictures, or a column of the manifest that names them. Raises UnusableData.
    """
    found = manifest.read(path, labels_needed=False)
    split, chosen = _chosen(found, part, split_file)
    evaluated = _only(split, chosen)
    if not len(evaluated.rows):
        raise UnusableData(f"{split_file or path} puts no row into the {chosen} part; choose another with --part")
    order, _ = filed.arrangement(found, evaluated)
    rows = tuple(found.rows[index] for index in order.tolist())
    named = {} if masks is None else _masks(found, rows, masks)  # a slip there is reported before reading takes minutes
    pictures = filed.load(found, evaluated, geometry=geometry, tell=tell)
    share = _shares(found, rows, named)
    return Cases(found, split, chosen, pictures, rows, share)


def _chosen(found: Manifest, part: str | None, split_file: Path | None) -> tuple[Split, str]:
    if split_file is not None:
        split = splits.read(split_file, found)
    elif "split" in found.columns and part != ALL:
        split = splits.own(found)
    elif part in (None, ALL):
        return splits.whole(found), ALL
    else:
        raise UnusableData(
            f"{found.path} does not say which rows are the {part} part; give it a column split, give --split FILE, "
            "or evaluate all rows with --part all"
        )
    return split, part or "test"


def _only(split: Split, part: str) -> Split:
    rows = np.ones(len(split.rows), bool) if part == ALL else split.parts == PARTS.index(part)  # type: ignore[arg-type]
    return replace(split, rows=split.rows[rows], parts=split.parts[rows])


def _shares(found: Manifest, rows: tuple[Row, ...], masks: Mapping[int, Path]) -> NDArray[np.float32]:
    """Lesion over head, by row; NaN without a mask. Raises UnusableData."""
    problems, shares = [], np.full(len(rows), np.nan, np.float32)
    for index, row in enumerate(rows):
        path = masks.get(row.line)
        if path is None:
            continue
        try:
            mask, picture = picturefile.read(path), picturefile.read(row.path)
        except UnusablePicture as exc:
            problems.append(Problem(row.line, "mask", f"{path.name} {exc}"))
            continue
        if mask.shape != picture.shape:
            text = f"{path.name} has {mask.shape[1]} x {mask.shape[0]} pixels, its picture {picture.shape[1]} x "
            problems.append(Problem(row.line, "mask", text + f"{picture.shape[0]}; a mask must fit its picture"))
            continue
        head = picture > 0
        shares[index] = (head & (mask > 0)).sum() / max(int(head.sum()), 1)
    if problems:
        raise UnusableTable(found.path, problems)
    return shares


def _masks(found: Manifest, rows: tuple[Row, ...], masks: str) -> dict[int, Path]:
    """Mask files of the rows with hemorrhage, by row of the manifest; each checked to be a picture.

    Raises UnusableData, also if there is none at all.
    """
    bleeding = {row.line: row for row in rows if row.ich == 1}
    if not bleeding:
        raise UnusableData(f"--masks {masks}: no picture with hemorrhage is evaluated in {found.path}; leave it out")
    folder, home = Path(masks), found.path.parent
    if folder.is_dir():
        options = {line: _beside(row, home, folder) for line, row in bleeding.items()}
        named = {line: path for line, paths in options.items() if (path := next(filter(Path.is_file, paths), None))}
        first = next(iter(options.values()))[0]
        looked_for = f"such as {first}, or the same with {', '.join(MASK_SUFFIXES)}"
    else:
        column = _column(found, masks)
        named = {line: manifest.filed_as(home, column[line]) for line in bleeding if column.get(line)}
        looked_for = f"its cell is empty in all {len(bleeding)} rows"
    if not named:
        raise UnusableData(
            f"--masks {masks} has no mask for any picture with hemorrhage in {found.path} ({looked_for})"
        )
    problems = []
    for line, path in named.items():
        try:
            picturefile.look_at(path)
        except UnusablePicture as exc:
            problems.append(Problem(line, "mask", f"{path.name} {exc}"))
    if problems:
        raise UnusableTable(found.path, problems)
    return named


def _column(found: Manifest, name: str) -> dict[int, str]:
    """Its cells by row. Raises UnusableData."""
    records = csvfile.table(found.path, csvfile.content(found.path))
    if name not in records[0]:
        raise UnusableData(f"--masks {name}: neither a folder nor a column of {found.path}")
    column = records[0].index(name)
    return {number: each[column] for number, each in enumerate(records[1:], start=2) if len(each) > column}


def _beside(row: Row, home: Path, folder: Path) -> list[Path]:
    """What the mask of a picture may be called: the same relative path in `folder`, whatever its suffix."""
    relative = row.path.relative_to(home) if row.path.is_relative_to(home) else Path(row.path.name)
    names = [relative, *(relative.with_suffix(suffix) for suffix in MASK_SUFFIXES)]
    return [manifest.filed_as(folder, str(name)) for name in names]
