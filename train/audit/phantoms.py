"""Phantom pairs: the same head with its bleed and without, and the same head with a look-alike and without.

Nothing but blood tells the two of a pair apart, down to the noise; the truth is known in every pixel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtvit.findings import LOCATIONS
from train.audit import sheets
from train.audit.distractors import DISTRACTORS
from train.audit.figures import Figure, Goal, Plate, Row, Section, area, mean
from train.audit.heads import Pairs
from train.audit.subject import Subject

LARGE_ML = 5.0
GOAL = Goal(0.98, at_most=False)
VOLUMES_ML = (0, 2, 5, 15, math.inf)
DENSITIES_HU = (0, 55, 65, math.inf)

Floats = NDArray[np.float64]


def run(subject: Subject, bleeds: Pairs, others: Pairs, count: int, seed: int, folder: Path) -> Section:
    """`bleeds`, of `count` heads, and `others`: of `train.audit.heads` and `distractors`."""
    found, before = subject.predict(bleeds.with_it), subject.presence(bleeds.without)
    rows = _pairs(bleeds, found.presence, before, seed)
    rows += _places(bleeds, found.location, seed)
    after, plain = subject.presence(others.with_it), subject.presence(others.without)
    alarms: dict[str, list[tuple[str, Figure]]] = {}
    for kind, each in enumerate(DISTRACTORS):
        own = others.kind == kind
        name = each.what.lower().replace(" ", "_")
        shares = [mean(p[own] >= subject.cut, others.head[own], seed) for p in (after, plain)]
        rows += [
            Row(f"lookalikes.{name}.false_alarms", f"{each.what}: called hemorrhage", shares[0]),
            Row(f"lookalikes.{name}.without", f"{each.what}: the same slices without it", shares[1]),
        ]
        alarms[each.what] = [("with", shares[0]), ("without", shares[1])]
    plates = (
        Plate(_by_size(rows, folder), "AUC by volume and by density of the bleed, with 95 % intervals."),
        Plate(
            sheets.bars(folder / "lookalikes-alarms.png", alarms, "share called hemorrhage"),
            "False alarms with look-alikes and without.",
        ),
        Plate(
            _sheet(folder / "phantoms.png", bleeds, found.presence, before),
            "Phantoms with their bleed (outlined) and without.",
        ),
        Plate(
            _sheet(folder / "lookalikes.png", others, after, plain, every=True),
            "Phantoms with a look-alike (outlined) and without.",
        ),
    )
    return Section(
        "phantoms",
        "Phantom pairs",
        "Synthetic heads with a bleed and without, the same down to the noise, and with dense things that are not "
        "blood. Slices show at least 20 mm² of blood that stands out by 8 HU. Phantoms are a guess at the real "
        "world; a model that was trained on them does better here than elsewhere.",
        tuple(rows),
        plates,
        (("slices with a bleed", len(bleeds)), ("of heads", count), ("slices with a look-alike", len(others))),
    )


def _pairs(bleeds: Pairs, found: Floats, before: Floats, seed: int) -> list[Row]:
    def of(chosen: NDArray[np.bool_]) -> Figure:
        """Slices with their bleed against the same slices without."""
        scores = np.concatenate((found[chosen], before[chosen]))
        truth = np.arange(len(scores)) < chosen.sum()
        return area(scores, truth, np.tile(bleeds.head[chosen], 2), seed)

    volume, density = bleeds.volume_ml, bleeds.density_hu
    rows = [
        Row("auc", "All bleeds: AUC", of(np.ones(len(bleeds), bool))),
        Row("auc_over_5_ml", "Bleeds over 5 ml: AUC", of(volume > LARGE_ML), GOAL),
        Row(
            "ranked_right", "Pairs in which the slice with blood scores higher", mean(found > before, bleeds.head, seed)
        ),
    ]
    for name, unit, values, edges in (("volume", "ml", volume, VOLUMES_ML), ("density", "HU", density, DENSITIES_HU)):
        for label, own in classes(values, edges, unit):
            rows.append(Row(f"auc_by_{name}.{label.replace(' ', '_')}", f"Bleeds {label}: AUC", of(own)))
    return rows


def classes(values: NDArray[Any], edges: Sequence[float], unit: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """What each class is called, and which values are in it: above its lower edge, up to its upper one."""
    for low, high in itertools.pairwise(edges):
        label = f"over {low:g} {unit}" if high == math.inf else f"{low:g} to {high:g} {unit}"
        yield label, (values > low) & (values <= high)


def _places(bleeds: Pairs, location: Floats, seed: int) -> list[Row]:
    hits = location.argmax(1) == bleeds.kind
    rows = [Row("location.accuracy", "Location right, slices with blood", mean(hits, bleeds.head, seed))]
    for number, name in enumerate(LOCATIONS):
        own = bleeds.kind == number
        share = mean(hits[own], bleeds.head[own], seed)
        rows.append(Row(f"location.{name}", f"Location right, {name} bleeds", share))
    return rows


def _by_size(rows: list[Row], folder: Path) -> Path:
    groups = {
        title: [
            (row.what.removeprefix("Bleeds ").removesuffix(": AUC"), row.figure)
            for row in rows
            if row.key.startswith(key)
        ]
        for title, key in (("volume", "auc_by_volume."), ("density", "auc_by_density."))
    }
    return sheets.bars(folder / "phantoms-auc.png", groups, "AUC", goal=GOAL.bound, chance=0.5)


def _sheet(path: Path, pairs: Pairs, found: Floats, before: Floats, *, every: bool = False) -> Path:
    """Some slices, or (`every`) one of each kind."""
    if every:
        chosen = np.array([np.flatnonzero(pairs.kind == kind)[0] for kind in np.unique(pairs.kind)], int)
    else:
        chosen = sheets.few(np.arange(len(pairs)))
    columns: dict[str, list[tuple[NDArray[np.uint8], str]]] = {"with": [], "outlined": [], "without": []}
    for i in chosen:
        window = sheets.cut_out(pairs.with_it[i])
        what = (
            DISTRACTORS[pairs.kind[i]].what if every else f"{pairs.volume_ml[i]:.1f} ml, {pairs.density_hu[i]:.0f} HU"
        )
        columns["with"].append((pairs.with_it[i][window], f"p {found[i]:.2f}"))
        columns["outlined"].append((sheets.outlined(pairs.with_it[i], pairs.mask[i])[window], what))
        columns["without"].append((pairs.without[i][window], f"p {before[i]:.2f}"))
    return sheets.write(path, columns)
