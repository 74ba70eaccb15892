"""Bleeds and look-alikes of synthetic heads in slices of people who do not bleed: is blood seen in heads like these?

Synthetic heads alone (`train.audit.phantoms`) show how a model sees synthetic heads. Here the head is a real one, from
the scanner in question, and only what there is to see was made. No bleeding patient is needed, so that anyone can ask
it of their own. They are put in by the audit's own ways, which training never uses (`train.audit.transplanting`); the
sham is the same place of the same synthetic head without its bleed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dtvit.findings import LOCATIONS
from train.audit import sheets
from train.audit.distractors import DISTRACTORS
from train.audit.figures import Figure, Plate, Row, Section, Tell, area, mean
from train.audit.heads import Pairs
from train.audit.material import FRAME, some
from train.audit.phantoms import VOLUMES_ML, classes
from train.audit.subject import Subject
from train.audit.tissue import Anatomy, Picture, filled
from train.audit.transplanting import BLENDERS, Graft, graft
from train.audit.trust import LACKS_BRAIN, shows_brain
from train.dataset.pictures import Pictures
from train.errors import UnusableData
from train.making.bleeds import inside_skull

TRIED = 8  # donors most like a slice, of those drawn for it, before it is left out
DRAWN = 40
OFTEN = 12  # times that one slice may be used
THUMBNAIL = 24

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Implant:
    of: int
    """Which slice of the audit it lies in."""
    donor: int
    """Which of the pairs it comes from."""
    given: Graft
    plain: Graft
    """The same piece of the same head without it."""


def run(
    subject: Subject,
    slices: Pictures,
    anatomies: Sequence[Anatomy],
    bleeds: Pairs,
    others: Pairs,
    most: int,
    seed: int,
    folder: Path,
    tell: Tell,
) -> Section:
    """`bleeds`, `others`: of `train.audit.heads` and `distractors`. `most`: implants of each. Raises UnusableData."""
    rng = np.random.default_rng([seed, 80])
    plain = (slices.presence == 0) & np.array([shows_brain(each) for each in anatomies], bool)
    if not plain.any():
        raise UnusableData(
            f"none of the {int((slices.presence == 0).sum())} slices without hemorrhage (ich 0) {LACKS_BRAIN}"
        )
    normal = some(plain, slices.patient, most, rng)
    before = np.full(len(slices), np.nan)
    before[normal] = subject.presence(slices.pictures[normal])
    study = _Study(subject, slices, anatomies, before, seed)
    alarms = study.mean(before[normal] >= subject.cut, normal)
    rows = [Row("untouched.false_alarms", "Slices as they are: called hemorrhage", alarms)]
    plates = []
    counts = [("slices without hemorrhage that show brain, used", len(normal))]
    for number, (name, pairs, put_in) in enumerate(
        (("bleeds", bleeds, study.bleeds), ("look-alikes", others, study.others))
    ):
        tell("implants", number, 2)
        placed = study.placed(normal, pairs, most, np.random.default_rng([seed, 81, number]))
        counts.append((f"{name} that found room", len(placed)))
        if placed:
            more, plate = put_in(placed, pairs, folder)
            rows += more
            plates.append(plate)
    return Section(
        "implants",
        "Synthetic bleeds in real heads",
        "Slices without hemorrhage into which a bleed or a look-alike of a synthetic head of similar shape was put, in "
        "two ways that training never uses; and, as a sham, the same piece of that head without it. Called: a "
        f"probability of {subject.cut:.2f} or more. This needs no bleeding patients: what it says of slices from one's "
        "own scanner is what to expect there, as far as made bleeds can tell.",
        tuple(rows),
        tuple(plates),
        tuple(counts),
    )


@dataclass(frozen=True, eq=False)
class _Study:
    subject: Subject
    slices: Pictures
    anatomies: Sequence[Anatomy]
    before: Floats
    seed: int

    def placed(self, normal: NDArray[np.intp], pairs: Pairs, most: int, rng: np.random.Generator) -> list[_Implant]:
        """As evenly over the slices as possible, each from one of the synthetic slices most like it."""
        if not len(pairs):
            return []
        donors = [
            Anatomy(picture, filled(inside_skull(without)), mask)
            for picture, without, mask in zip(pairs.with_it, pairs.without, pairs.mask, strict=True)
        ]
        looks = np.stack([_thumbnail(each) for each in pairs.without])
        found: list[_Implant] = []
        for _ in range(min(OFTEN, -(-most // len(normal)))):
            for of in normal:
                drawn = rng.permutation(len(donors))[:DRAWN]
                likeness = looks[drawn] @ _thumbnail(self.slices.pictures[of])
                one = self._fitting(int(of), drawn[np.argsort(-likeness)][:TRIED], donors, pairs)
                found += [] if one is None else [one]
        return found[:most]

    def _fitting(self, of: int, tried: NDArray[Any], donors: Sequence[Anatomy], pairs: Pairs) -> _Implant | None:
        """From the first of those tried that has room there."""
        for number in map(int, tried):
            donor = donors[number]
            if not (donor.blood.any() and donor.inside.any()):  # what it shows was lost in the picture
                continue
            bare = replace(donor, picture=pairs.without[number])
            given, plain = (graft(each, donor.blood, self.anatomies[of]) for each in (donor, bare))
            if given is not None and plain is not None:
                return _Implant(of, number, given, plain)
        return None

    def bleeds(self, placed: Sequence[_Implant], pairs: Pairs, folder: Path) -> tuple[list[Row], Plate]:
        rows: list[Row] = []
        columns = self._columns(placed, pairs)
        for name in BLENDERS:
            kept, found, after, after_sham = self._made(placed, name)
            of = np.array([each.of for each in kept], np.intp)
            donors = [each.donor for each in kept]
            said, key = f"Bleeds ({name})", f"bleeds.{name}"
            called = after >= self.subject.cut
            scores, patients = np.concatenate((after, self.before[of])), np.tile(self.slices.patient[of], 2)
            against = area(scores, np.arange(len(scores)) < len(of), patients, self.seed)
            rows += [
                Row(f"{key}.called", f"{said}: called hemorrhage", self.mean(called, of)),
                Row(f"{key}.sham_called", f"Sham of {name}: called", self.mean(after_sham >= self.subject.cut, of)),
                Row(f"{key}.auc", f"{said} against the same slices untouched: AUC", against),
            ]
            for label, own in classes(pairs.volume_ml[donors], VOLUMES_ML, "ml"):
                share = self.mean(called[own], of[own])
                rows.append(Row(f"{key}.called_{label.replace(' ', '_')}", f"{said} {label}: called", share))
            for number, place in enumerate(LOCATIONS):
                own = pairs.kind[donors] == number
                share = self.mean(called[own], of[own])
                rows.append(Row(f"{key}.called_{place}", f"{said}, {place} in the synthetic head: called", share))
            columns[name] = sheets.changed(placed, kept, found, after)
        path = sheets.write(folder / "implanted-bleeds.png", columns)
        return rows, Plate(path, "Slices without hemorrhage; the synthetic head with its bleed; the bleed put in.")

    def others(self, placed: Sequence[_Implant], pairs: Pairs, folder: Path) -> tuple[list[Row], Plate]:
        rows: list[Row] = []
        columns = self._columns(placed, pairs)
        for name in BLENDERS:
            kept, found, after, _ = self._made(placed, name)
            of = np.array([each.of for each in kept], np.intp)
            kinds = pairs.kind[[each.donor for each in kept]]
            for kind, each in enumerate(DISTRACTORS):
                own = kinds == kind
                key = f"lookalikes.{each.what.lower().replace(' ', '_')}.{name}"
                share = self.mean((after >= self.subject.cut)[own], of[own])
                rows.append(Row(f"{key}.called", f"{each.what} ({name}): called hemorrhage", share))
            columns[name] = sheets.changed(placed, kept, found, after)
        path = sheets.write(folder / "implanted-lookalikes.png", columns)
        return rows, Plate(path, "Slices without hemorrhage; the synthetic head with a look-alike; that put in.")

    def _made(
        self, placed: Sequence[_Implant], blender: str
    ) -> tuple[list[_Implant], NDArray[np.uint8], Floats, Floats]:
        """Those that could be put in, their pictures, their probabilities, and the probabilities of their shams."""
        rng = np.random.default_rng([self.seed, 82, list(BLENDERS).index(blender)])
        done: list[tuple[_Implant, Picture, Picture]] = []
        for each in placed:
            recipient = self.anatomies[each.of]
            given, plain = (BLENDERS[blender](piece, recipient, rng) for piece in (each.given, each.plain))
            if given is not None and plain is not None:
                done.append((each, given, plain))
        pictures, shams = (np.array([one[at] for one in done], np.uint8).reshape(-1, FRAME, FRAME) for at in (1, 2))
        return [each for each, _, _ in done], pictures, self.subject.presence(pictures), self.subject.presence(shams)

    def mean(self, values: NDArray[Any], of: NDArray[Any]) -> Figure:
        return mean(values, self.slices.patient[of], self.seed)

    def _columns(self, placed: Sequence[_Implant], pairs: Pairs) -> dict[str, list[tuple[Picture, str]]]:
        untouched, donors = [], []
        for each in sheets.few(placed):
            picture, donor = self.slices.pictures[each.of], pairs.with_it[each.donor]
            untouched.append((picture[sheets.cut_out(picture)], f"p {self.before[each.of]:.2f}"))
            outlined = sheets.outlined(donor, pairs.mask[each.donor])[sheets.cut_out(donor)]
            donors.append((outlined, _named(pairs, each.donor)))
        return {"recipient": untouched, "synthetic head": donors}


def _named(pairs: Pairs, number: int) -> str:
    volume = pairs.volume_ml[number]
    return f"{volume:.1f} ml" if volume else DISTRACTORS[pairs.kind[number]].what


def _thumbnail(picture: Picture) -> NDArray[np.float32]:
    """The head alone, small, as a vector of length 1: how alike two slices are, whatever their size."""
    cut = np.ascontiguousarray(picture[sheets.cut_out(picture)])
    small = cv2.resize(cut, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6), np.float32)
