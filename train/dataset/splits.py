"""Which pictures of a manifest train, which validate, which test: by patient, stratified, seeded, kept on disk.

A patient is in one part, with every slice, whatever its labels. The one exception is `paper`: the split of Fan et al.
2024, section 2.2, which replicates slices and then deals out slices, so that near copies of what is tested were trained
on. It is there to repeat the papers' numbers; whatever it yields must be labelled `LEAKY`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtvit.wholefile import write_whole
from train import csvfile
from train.csvfile import Problem, UnusableTable
from train.dataset.manifest import Manifest, Row, as_listed
from train.dataset.pictures import APART, PARTS
from train.errors import UnusableData

SHARES = (0.8, 0.1, 0.1)
"""Shares of the training, the validation and the test part; Fan et al. 2024, section 2.2."""
REPLICAS = {"normal": 3, "deep": 1, "lobar": 3, "subtentorial": 12, "unknown": 1, "unlabelled": 1}
"""Copies of a slice in `paper`, by what it shows; from Fan et al. 2024, whose slices all have a location."""
LEAKY = "slices mixed: the same patients train and test"
MIXED = ("paper", "slices")
RARER_FIRST = ("subtentorial", "lobar", "deep", "unknown", "normal", "unlabelled")
HEADER = ["row", "path", "part"]


@dataclass(frozen=True, eq=False)
class Split:
    kind: str
    """`patient`, `fold 2/5`, `given` (the manifest's own column), `whole` (everything tests), `all` (everything
    trains), `paper` or `slices`."""
    seed: int
    rows: NDArray[np.int32]
    """(N,): index into `Manifest.rows`; in `paper` an index may occur many times, and in several parts."""
    parts: NDArray[np.int8]
    """(N,): index into `train.dataset.pictures.PARTS`."""
    manifest: str
    """Digest of the manifest that was split."""

    @property
    def leaky(self) -> bool:
        """Whether the same patients train and test, on purpose."""
        return self.kind in MIXED

    @property
    def label(self) -> str:
        """What must stand beside every number that this split yields."""
        return LEAKY if self.leaky else APART

    @property
    def digest(self) -> str:
        """SHA-256 of manifest and division: the same for the same division, whatever seed or name led to it."""
        stream = hashlib.sha256(self.manifest.encode())
        stream.update(self.rows.astype("<i4").tobytes())
        stream.update(self.parts.astype("i1").tobytes())
        return stream.hexdigest()

    def count(self, part: str) -> int:
        return int((self.parts == PARTS.index(part)).sum())  # type: ignore[arg-type]


def by_patient(manifest: Manifest, seed: int) -> Split:
    """Patients dealt out so that each part has its share of every kind of patient, and at least one if there are three.
    Raises UnusableData if a part is left without patients of one class."""
    random = np.random.default_rng((seed, 1))
    part_of: dict[str, int] = {}
    for patients in _strata(manifest).values():
        random.shuffle(patients)
        sizes = _sizes(len(patients), random)
        part_of |= dict(zip(patients, np.repeat(range(3), sizes).tolist(), strict=True))
    return _of_patients(manifest, "patient", seed, part_of)


def folds(manifest: Manifest, count: int, seed: int) -> list[Split]:
    """`count` splits; each patient tests in one of them and validates in the next one. Raises UnusableData."""
    if count < 3:
        raise ValueError(f"{count} folds do not give a training, a validation and a test part; ask for 3 or more")
    random = np.random.default_rng((seed, 2))
    group_of: dict[str, int] = {}
    dealt = 0  # goes on through the strata, so that the remainders do not all fall to the first group
    for patients in _strata(manifest).values():
        random.shuffle(patients)
        for patient in patients:
            group_of[patient] = dealt % count
            dealt += 1
    made = []
    for fold in range(count):
        part_of = {
            patient: 2 if group == fold else 1 if group == (fold + 1) % count else 0
            for patient, group in group_of.items()
        }
        made.append(_of_patients(manifest, f"fold {fold + 1}/{count}", seed, part_of))
    return made


def repeated(manifest: Manifest, count: int, repeats: int, seed: int) -> list[Split]:
    """`repeats` times `count` folds, each time dealt anew. Raises UnusableData."""
    return [split for repeat in range(repeats) for split in folds(manifest, count, seed + repeat)]


def given(manifest: Manifest) -> Split:
    """The manifest's own column `split`. Raises UnusableData if it has none, or a part lacks a class."""
    if "split" not in manifest.columns:
        raise UnusableData(f"{manifest.path} has no column split; add one ({', '.join(PARTS)}), or let it be split")
    problems = _one_sided(manifest)
    if problems:
        raise UnusableTable(manifest.path, problems)
    return own(manifest)


def own(manifest: Manifest) -> Split:
    """By the manifest's own column `split`, which it has, whatever a part lacks."""
    parts = np.array([PARTS.index(row.split) for row in manifest.rows], np.int8)  # type: ignore[arg-type]
    return replace(whole(manifest), kind="given", parts=parts)


def whole(manifest: Manifest) -> Split:
    """Every picture in the test part: a manifest that is only measured on."""
    count = len(manifest.rows)
    return Split("whole", 0, np.arange(count, dtype=np.int32), np.full(count, 2, np.int8), manifest.digest)


def all_train(manifest: Manifest) -> Split:
    """Every picture in the training part: for the last training, whose worth was measured in others."""
    return replace(whole(manifest), kind="all", parts=np.zeros(len(manifest.rows), np.int8))


def paper(manifest: Manifest, seed: int, *, replicate: bool = True) -> Split:
    """Slices replicated, shuffled and dealt out 8:1:1, patients mixed; LEAKY on purpose.

    Without `replicate`, the papers' runs "without augmentation", of kind `slices`: no copies of what is tested are
    trained on, but its neighbours are.
    """
    times = [REPLICAS[kind(row)] if replicate else 1 for row in manifest.rows]
    copies = np.random.default_rng((seed, 3)).permutation(np.repeat(np.arange(len(manifest.rows)), times))
    ends = np.rint(np.cumsum(SHARES)[:2] * len(copies)).astype(int)
    parts = np.searchsorted(ends, np.arange(len(copies)), side="right")
    return Split(MIXED[not replicate], seed, copies.astype(np.int32), parts.astype(np.int8), manifest.digest)


def kind(row: Row) -> str:
    """What a slice shows, for sharing out: `normal`, a location, `unknown` (location) or `unlabelled`."""
    if row.ich is None:
        return "unlabelled"
    return (row.location or "unknown") if row.ich else "normal"


def write(path: Path, split: Split, manifest: Manifest) -> None:
    """`as_csv` on disk, whole or not at all. Raises OSError."""
    write_whole(path, as_csv(split, manifest))


def as_csv(split: Split, manifest: Manifest) -> bytes:
    """The split as CSV below three lines that say what it is."""
    said = f"# kind: {split.kind}\n# seed: {split.seed}\n# manifest: {split.manifest}\n"
    rows = ((manifest.rows[index], part) for index, part in zip(split.rows.tolist(), split.parts.tolist(), strict=True))
    lines = ((row.line, as_listed(row.path, manifest.path.parent), PARTS[part]) for row, part in rows)
    return said.encode() + csvfile.encoded([HEADER, *lines])


def read(path: Path, manifest: Manifest) -> Split:
    """A split that was written for this very manifest. Raises UnusableData."""
    records = csvfile.table(path, csvfile.content(path))
    head = dict(_said(record) for record in records[:3])
    if (
        set(head) != {"kind", "seed", "manifest"}
        or len(records) < 4
        or records[3] != HEADER
        or not head["seed"].isdigit()
    ):
        raise UnusableData(f"{path} is not a split file as a training run writes it; let a run make one")
    if head["manifest"] != manifest.digest:
        raise UnusableData(
            f"{path} is a split of another manifest than {manifest.path}, or of an older state of it; split again"
        )
    index_of = {row.line: index for index, row in enumerate(manifest.rows)}
    rows, parts, problems = [], [], []
    for number, record in enumerate(records[4:], start=5):
        line, _, part = record if len(record) == 3 else ("", "", "")
        if not line.isdigit() or int(line) not in index_of:
            problems.append(Problem(number, "row", f"{line!r} is not a row of the manifest"))
        elif part not in PARTS:
            problems.append(Problem(number, "part", f"{part!r}, of manifest row {line}, is none of {', '.join(PARTS)}"))
        else:
            rows.append(index_of[int(line)])
            parts.append(PARTS.index(part))
    split = Split(head["kind"], int(head["seed"]), np.array(rows, np.int32), np.array(parts, np.int8), manifest.digest)
    if not split.leaky:
        problems += _shared(manifest, split, first=5)
    if problems:
        raise UnusableTable(path, problems)
    if not split.leaky and sorted(rows) != list(range(len(manifest.rows))):
        raise UnusableData(f"{path} lacks or repeats rows of {manifest.path}: it was cut short or edited; split again")
    return split


def _one_sided(manifest: Manifest) -> list[Problem]:
    """Parts of the manifest's own column that are empty, or lack a class that others have; at their first row."""
    problems = []
    for part in PARTS:
        rows = [row for row in manifest.rows if row.split == part]
        if not rows:
            problems.append(Problem(1, "split", f"no row says {part!r}; each of {', '.join(PARTS)} needs some"))
            continue
        problems += [
            Problem(rows[0].line, "split", f"no row of {part!r} has ich {label}; each part needs both")
            for label in {row.ich for row in manifest.rows} - {row.ich for row in rows} - {None}
        ]
    return problems


def _said(record: Sequence[str]) -> tuple[str, str]:
    name, _, value = ",".join(record).lstrip("# ").partition(": ")
    return name, value


def _shared(manifest: Manifest, split: Split, first: int) -> list[Problem]:
    """Lines of a split that put a patient into a second part."""
    seen: dict[str, tuple[int, int]] = {}
    problems = []
    for number, (index, part) in enumerate(zip(split.rows.tolist(), split.parts.tolist(), strict=True), start=first):
        row = manifest.rows[index]
        before, line = seen.setdefault(row.patient_id, (part, row.line))
        if before != part:
            here, there = f"{PARTS[part]!r} for manifest row {row.line}", f"{PARTS[before]!r} for row {line}"
            text = f"{here}, but {there} of the same patient; a patient belongs to one part"
            problems.append(Problem(number, "part", text))
    return problems


def _strata(manifest: Manifest) -> dict[str, list[str]]:
    """Patients, each under the rarest thing that their slices show; the rarest stratum first."""
    shows: dict[str, set[str]] = {}
    for row in manifest.rows:
        shows.setdefault(row.patient_id, set()).add(kind(row))
    strata: dict[str, list[str]] = {name: [] for name in RARER_FIRST}
    for patient in sorted(shows):  # not in file order: a manifest sorted differently gets the same split
        strata[next(name for name in RARER_FIRST if name in shows[patient])].append(patient)
    return strata


def _sizes(count: int, random: np.random.Generator) -> NDArray[np.intp]:
    """`count` in SHARES, remainders to the largest fractions (ties by lot), none empty where three can be filled."""
    wanted = count * np.array(SHARES)
    sizes = np.floor(wanted + 1e-9).astype(np.intp)
    fraction = np.round(wanted - sizes, 9) + random.uniform(0, 1e-9, 3)
    for part in np.argsort(-fraction)[: count - sizes.sum()]:
        sizes[part] += 1
    for part in (2, 1):
        if sizes[part] == 0 and sizes.max() > 1:
            sizes[sizes.argmax()] -= 1
            sizes[part] = 1
    return sizes


def _of_patients(manifest: Manifest, kind_of_split: str, seed: int, part_of: dict[str, int]) -> Split:
    """The split in the manifest's order. Raises UnusableData if a part lacks slices of a class that others have."""
    parts = np.array([part_of[row.patient_id] for row in manifest.rows], np.int8)
    presence = np.array([row.presence for row in manifest.rows])
    for index, part in enumerate(PARTS):
        for label, name in ((1, "with"), (0, "without")):
            if (presence == label).any() and not ((parts == index) & (presence == label)).any():
                raise UnusableData(
                    f"{manifest.path}: no patient {name} hemorrhage is left for the {part} part;"
                    " it takes at least three patients with and three without (for folds, as many as there are folds)"
                )
    return Split(kind_of_split, seed, np.arange(len(parts), dtype=np.int32), parts, manifest.digest)
