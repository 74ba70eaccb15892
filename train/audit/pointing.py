"""The pointing game: does the map of what the presence head looked at fall on the bleed?

Source: Zhang et al. 2016, "Top-down neural attention by excitation backprop" (the game). The maps are those of
`dtvit.vit.relevance`, with its limits; patches are 16 pixels wide, so a maximum within one patch of the bleed counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtvit.vit.relevance import NoAttention
from train.audit import sheets
from train.audit.figures import Plate, Row, Section, Tell, mean
from train.audit.heads import Pairs
from train.audit.material import some
from train.audit.subject import Subject
from train.audit.tissue import Anatomy, dilated
from train.audit.trust import GOOD, verdict
from train.dataset.pictures import Pictures

PATCH = 16
SHOWN = 6

Masks = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Game:
    name: str
    what: str
    pictures: NDArray[np.uint8]
    masks: Masks
    patients: NDArray[np.int32]


def run(
    subject: Subject,
    slices: Pictures,
    anatomies: Sequence[Anatomy],
    bleeds: Pairs,
    most: int,
    seed: int,
    folder: Path,
    tell: Tell,
) -> Section:
    """On patients' segmented bleeds, and on `bleeds` of phantoms where the truth is known."""
    games = [_patients(subject, slices, anatomies, most, seed), _phantoms(subject, bleeds, most, seed)]
    rows: list[Row] = []
    plates: list[Plate] = []
    try:
        for number, game in enumerate(games):
            tell("pointing", number, len(games))
            played, path = _play(subject, game, seed, folder)
            rows += played
            plates.append(
                Plate(path, f"{game.what}: the bleed outlined, and the relevance (its maximum is 1 in every slice).")
            )
    except NoAttention as exc:
        return Section("pointing", "Pointing game", f"Left out: {exc}.", ())
    return Section(
        "pointing",
        "Pointing game",
        "The relevance map of slices that the model calls hemorrhage, against the bleed: how often its maximum lies in "
        "the bleed or within one patch of it, and how much of it lies in the bleed; beside each, what a map that knows "
        "nothing would reach.",
        tuple(rows),
        tuple(plates),
        tuple((f"slices, {game.what.lower()}", len(game.pictures)) for game in games),
    )


def _patients(subject: Subject, slices: Pictures, anatomies: Sequence[Anatomy], most: int, seed: int) -> _Game:
    trusted = np.array([slices.presence[i] == 1 and verdict(a) == GOOD for i, a in enumerate(anatomies)], bool)
    called = trusted.copy()
    called[trusted] = subject.presence(slices.pictures[trusted]) >= subject.cut
    chosen = some(called, slices.patient, most, np.random.default_rng([seed, 80]))
    masks = np.array([anatomies[i].blood for i in chosen], bool).reshape(-1, *slices.pictures.shape[1:])
    return _Game("patients", "Segmented bleeds", slices.pictures[chosen], masks, slices.patient[chosen])


def _phantoms(subject: Subject, bleeds: Pairs, most: int, seed: int) -> _Game:
    called = subject.presence(bleeds.with_it) >= subject.cut
    chosen = some(called, bleeds.head, most, np.random.default_rng([seed, 81]))
    return _Game("phantoms", "Phantoms", bleeds.with_it[chosen], bleeds.mask[chosen], bleeds.head[chosen])


def _play(subject: Subject, game: _Game, seed: int, folder: Path) -> tuple[list[Row], Path]:
    inputs, maps, masks = subject.relevance(game.pictures, game.masks)
    hits, by_chance, inside, share = (np.zeros(len(maps)) for _ in range(4))
    for i, (picture, relevance, mask) in enumerate(zip(inputs, maps, masks, strict=True)):
        head, near = picture > 0, dilated(mask, PATCH)
        hits[i] = near.flat[int(relevance.argmax())]
        by_chance[i] = (near & head).sum() / max(1, head.sum())
        inside[i] = relevance[mask].sum() / max(float(relevance.sum()), 1e-9)
        share[i] = mask.sum() / max(1, head.sum())

    def row(key: str, what: str, values: NDArray[Any]) -> Row:
        return Row(f"{game.name}.{key}", f"{game.what}: {what}", mean(values, game.patients, seed))

    rows = [
        row("hits", "maximum in the bleed or one patch off", hits > 0),
        row("hits_by_chance", "the same by chance", by_chance),
        row("relevance_inside", "share of the relevance in the bleed", inside),
        row("area", "share of the head that is bleed (chance)", share),
    ]
    columns: dict[str, list[tuple[NDArray[np.uint8], str]]] = {"bleed": [], "relevance": []}
    for i in sheets.few(range(len(maps)), SHOWN):
        window = sheets.cut_out(inputs[i])
        columns["bleed"].append((sheets.outlined(inputs[i], masks[i])[window], ""))
        columns["relevance"].append((sheets.warmed(inputs[i], maps[i])[window], "hit" if hits[i] else "missed"))
    return rows, sheets.write(folder / f"pointing-{game.name}.png", columns)
