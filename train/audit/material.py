"""What an audit works on: slices of a manifest, drawn so that every patient and every level of the head has its share.

Pictures are 256 x 256, as the papers' Resize leaves them, and are changed at that size; `subject.Subject` brings them
into the geometry of the checkpoint last, as the node does with what comes from a scanner.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from train.dataset import filed
from train.dataset.manifest import Manifest, Row
from train.dataset.pictures import PARTS, Pictures
from train.dataset.splits import Split
from train.errors import UnusableData

_LABELS = ("without hemorrhage (ich 0)", "with hemorrhage (ich 1)")
FRAME = 256  # pixels; `train.dataset.filed` in its own geometry


def gather(
    manifest: Manifest,
    split: Split,
    patients: int | None,
    per_patient: int,
    seed: int,
    needed: Collection[int] = (0, 1),
) -> Pictures:
    """`per_patient` slices, evenly spaced along the head, of `patients` patients (None: all), half of them bleeding.

    Only the test part of `split` is used. `needed`: labels that must be there. Raises UnusableData.
    """
    test = np.unique(split.rows[split.parts == PARTS.index("test")])
    rows = {int(index): manifest.rows[index] for index in test}
    missing = set(needed) - {row.ich for row in rows.values()}
    if missing:
        other = "; --only implants and --only phantoms do without" if missing == {1} else ""
        raise UnusableData(
            f"{manifest.path}: an audit needs slices {_LABELS[min(missing)]} in its test part; "
            f"leave the split out to audit all rows{other}"
        )
    chosen = _spread(_some(rows, patients, np.random.default_rng([seed, 0])), per_patient)
    index = np.array(sorted(chosen), np.int32)
    return filed.load(manifest, Split("audit", seed, index, np.full(len(index), 2, np.int8), manifest.digest))


def _some(rows: dict[int, Row], patients: int | None, rng: np.random.Generator) -> dict[int, Row]:
    """Rows of `patients` patients; all of the rarer kind, if those are less than half."""
    ill = {row.patient_id for row in rows.values() if row.ich == 1}
    kinds = [sorted(ill), sorted({row.patient_id for row in rows.values()} - ill)]
    if patients is None or patients >= sum(map(len, kinds)):
        return rows
    for kind in kinds:
        rng.shuffle(kind)
    few = min(len(kinds[0]), max(patients // 2, patients - len(kinds[1])))
    chosen = {*kinds[0][:few], *kinds[1][: patients - few]}
    return {index: row for index, row in rows.items() if row.patient_id in chosen}


def _spread(rows: dict[int, Row], per_patient: int) -> list[int]:
    """Of each patient, slices with equal gaps in the order of the series; of those who bleed, one that shows it."""
    by_patient: dict[str, list[int]] = {}
    for index, row in rows.items():
        by_patient.setdefault(row.patient_id, []).append(index)
    return [
        index
        for own in by_patient.values()
        for index in _of_patient(sorted(own, key=lambda i: _order(rows[i])), rows, per_patient)
    ]


def _of_patient(own: Sequence[int], rows: dict[int, Row], count: int) -> list[int]:
    """In a manifest that labels slices, blood may lie between the equally spaced ones: a slice with blood then replaces
    the nearest of them, or its patient would pass for one who does not bleed."""
    chosen, bleeding = _evenly(own, count), [index for index in own if rows[index].ich == 1]
    if bleeding and not set(bleeding) & set(chosen):
        middle = bleeding[len(bleeding) // 2]
        nearest = min(chosen, key=lambda index: abs(own.index(index) - own.index(middle)))
        chosen[chosen.index(nearest)] = middle
    return chosen


def _order(row: Row) -> tuple[str, str, int, int]:
    return row.study, row.series, row.slice or 0, row.line


def _evenly(items: Sequence[int], count: int) -> list[int]:
    places = (np.arange(min(count, len(items))) + 0.5) * len(items) / min(count, len(items))
    return [items[int(place)] for place in places]


def some(
    where: NDArray[np.bool_], patients: NDArray[np.int32], count: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Indices of at most `count` slices of `where`, in order, spread as evenly over the patients as possible."""
    found = rng.permutation(np.flatnonzero(where))
    turn = np.zeros(len(found), int)  # each slice's rank among those of its patient
    met: dict[int, int] = {}
    for place, index in enumerate(found):
        turn[place] = met[int(patients[index])] = met.get(int(patients[index]), -1) + 1
    return np.asarray(np.sort(found[np.argsort(turn, kind="stable")][:count]))
